"""Where the numbers of a step go: a JSONL file (always), TensorBoard, Weights & Biases, the console."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console

from reasoner_rl.config.run import LoggingConfig, WandbConfig
from reasoner_rl.errors import ConfigError, DataError, MissingExtraError
from reasoner_rl.observability.console import is_of_evaluation, step_line
from reasoner_rl.observability.messages import plain_console
from reasoner_rl.observability.summary import atomic_writer, json_ready, naming

logger = logging.getLogger(__name__)


WIDTH_OF_LOGS = 160  # of lines that are not printed on a terminal, in characters


class Sink(Protocol):
    """Takes the numbers of one step. Several writes for the same step add to each other."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record ``values`` by metric name."""
        ...

    def close(self) -> None:
        """Finish writing; no write may follow."""
        ...


class JsonlSink:
    """Appends ``{"step": n, "<metric>": number, ...}`` lines, each on the disk before `write` returns.

    A file that is deleted or replaced meanwhile is written anew, with all its lines, and a warning is logged.

    Args:
        path: the file, metrics.jsonl of a run.
        resume_step: the step of the checkpoint that the run resumes from. Lines of later steps are dropped,
            for those steps will be run again; so is a last line that was torn when the process was killed.
            None: a new run, which replaces any file of a run that never reached a checkpoint.

    Raises:
        DataError: when resuming, if a line other than the last is not a JSON object with a step.
    """

    def __init__(self, path: Path, resume_step: int | None = None) -> None:
        kept = [] if resume_step is None else [row for row in read_jsonl(path) if row["step"] <= resume_step]
        with atomic_writer(path) as file:
            file.writelines(json.dumps(row) + "\n" for row in kept)
        self._path = path
        self._file = path.open("a+", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if not self._is_there():
            self._write_anew()
        with naming(self._path):
            self._file.write(json.dumps(json_ready({"step": step, **values}), allow_nan=False) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except OSError:
            return False

    def _write_anew(self) -> None:
        """A deleted file can be read as long as it is open."""
        logger.warning("%s was deleted or replaced while the run was writing; it is written anew", self._path)
        self._file.seek(0)
        with self._file as gone, atomic_writer(self._path) as file:
            shutil.copyfileobj(gone, file)
        self._file = self._path.open("a+", encoding="utf-8")

    def close(self) -> None:
        with naming(self._path):
            self._file.close()


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics file in order, without a torn last line; no rows if the file is absent.

    Raises DataError if any other line is not a JSON object with an integer ``step``.
    """
    lines = path.read_bytes().splitlines() if path.exists() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
        elif number < len(lines):
            text = line[:80].decode(errors="replace")
            raise DataError(f'{path}, line {number}: {text!r} is not a JSON object with an integer "step"')
    return rows


class TensorBoardSink:
    """Writes TensorBoard events; hides events after ``resume_step``, and in a new run all old ones."""

    def __init__(self, folder: Path, resume_step: int | None = None) -> None:
        # Imported here: it takes a second, and most commands write no events.
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=0 if resume_step is None else resume_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, global_step=step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    """Logs to Weights & Biases. A resumed run keeps the id of its first start, in ``folder/wandb_id.txt``.

    Raises:
        MissingExtraError: if wandb is not installed.
        ConfigError: if it cannot log, as without a key or a way to its server.
    """

    def __init__(self, config: WandbConfig, folder: Path, resume_step: int | None = None) -> None:
        try:
            import wandb
        except ModuleNotFoundError:
            raise MissingExtraError("wandb", "wandb", "logging.wandb") from None
        folder.mkdir(parents=True, exist_ok=True)
        id_file = folder / "wandb_id.txt"
        known = id_file.read_text() if resume_step is not None and id_file.exists() else None
        try:
            self._run = wandb.init(
                project=config.project,
                name=config.name or folder.name,
                mode=config.mode,
                dir=str(folder),
                id=known,
                resume="allow",
            )
        except wandb.Error as error:
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            raise ConfigError(
                f"logging.wandb: Weights & Biases cannot log: {reason}. Log in with `wandb login`, or set "
                "WANDB_API_KEY; logging.wandb.mode=offline writes into output_dir for a later `wandb sync`, and "
                "logging.wandb=null goes without"
            ) from error
        id_file.write_text(self._run.id)
        # Plotted over our own step: wandb's counter refuses to go back when a resumed run repeats steps.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()


class ConsoleSink:
    """Prints one line per step; a step without any of the numbers that the line shows prints nothing.

    every: of the steps only each so many-th, and the last one, have a line; evaluations always do.
    """

    def __init__(self, total_steps: int, console: Console | None = None, every: int = 1) -> None:
        self._total_steps = total_steps
        self._console = console or plain_console()
        self._every = every

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if not (step % self._every == 0 or step == self._total_steps or any(map(is_of_evaluation, values))):
            return
        line = step_line(step, self._total_steps, values, self._width())
        if line is not None:
            # soft_wrap: what must be shown stays on one line, however narrow rich takes it to be.
            self._console.print(line, soft_wrap=True, highlight=False)

    def _width(self) -> int:
        """The terminal's width, or COLUMNS; without either, that of lines in files."""
        columns = os.environ.get("COLUMNS", "")
        if self._console.is_terminal or columns.isdecimal():
            return self._console.width
        return WIDTH_OF_LOGS

    def close(self) -> None:
        """Nothing to finish."""


OnMetrics = Callable[[int, Mapping[str, float]], None]


class CallbackSink:
    """Calls a user's function with the step and its metrics."""

    def __init__(self, on_metrics: OnMetrics) -> None:
        self._on_metrics = on_metrics

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._on_metrics(step, values)

    def close(self) -> None:
        """Nothing to finish."""


class MetricLogger:
    """Writes to several sinks, or to none; closes all of them when its ``with`` block ends."""

    def __init__(self, sinks: Iterable[Sink] = ()) -> None:
        self._sinks = tuple(sinks)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Pass the numbers of a step on; NaN is left out, for it says nothing and some sinks refuse it."""
        numbers = {name: value for name, value in values.items() if not math.isnan(value)}
        for sink in self._sinks:
            sink.write(step, numbers)

    def close(self) -> None:
        """Close every sink, also when closing one of them fails."""
        with ExitStack() as stack:
            for sink in self._sinks:
                stack.callback(sink.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_logger(
    config: LoggingConfig,
    folder: Path,
    *,
    total_steps: int,
    resume_step: int | None = None,
    more: Iterable[Sink] = (),
) -> MetricLogger:
    """Open the sinks that ``config`` names in the run's output_dir ``folder``; always JSONL and the console.

    ``resume_step`` is the step of the checkpoint that the run resumes from, None in a new run. ``more``: further sinks.
    """
    sinks: list[Sink] = []
    if config.wandb is not None:  # first: it is the one that can be missing, before anything is replaced
        sinks.append(WandbSink(config.wandb, folder, resume_step))
    sinks.append(JsonlSink(folder / "metrics.jsonl", resume_step))
    if config.tensorboard:
        sinks.append(TensorBoardSink(folder / "tensorboard", resume_step))
    sinks += [ConsoleSink(total_steps, every=config.console_every_steps), *more]
    return MetricLogger(sinks)
