"""Comparisons of training methods: run each once per seed by its commands, and collect the results.

A method is a name and the commands that make one run of it, such as `reasoner-rl data make-preferences ...` and then
`reasoner-rl train dpo_...`. The run of a seed has the folder OUT/<method>/seed_<n>, where this module keeps

    commands.json   the commands, how many of them are finished, and the seconds of each
    log.txt         what they print

A finished command is not run again. One that was interrupted is started again with the same words, and reasoner-rl
resumes. comparison_report.py makes tables and pictures of what is collected here.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import FrameType
from typing import Any

from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.errors import ConfigError, DataError, UserError
from reasoner_rl.observability.rollout_table import read_rollouts
from reasoner_rl.observability.sinks import read_jsonl
from reasoner_rl.observability.summary import write_json
from reasoner_rl.trainer.stop import handling_signals

INTERRUPTED = 130
_STEP, _EVALUATE = "time/step", "time/evaluate"  # in metrics.jsonl
TAIL = 15  # lines of a failed command's output that are shown


@dataclass(frozen=True, slots=True)
class Command:
    """One call of a program: its words, and the folder that it writes to."""

    words: tuple[str, ...]
    folder: Path


@dataclass(frozen=True, slots=True)
class Method:
    """A way to train. ``commands(seed, folder)`` make one run, within ``folder``; the last one trains and evaluates.

    needs: what must be run before, such as data that several methods share; its cost counts for each of them.
    """

    name: str
    commands: Callable[[int, Path], Sequence[Command]]
    needs: Method | None = None

    def folder(self, seed: int, out: Path) -> Path:
        """Where a run keeps everything, such as OUT/clip_higher/seed_0 for "+ clip-higher"."""
        words = "".join(c if c.isalnum() else " " for c in self.name.lower()).split()
        return out / "_".join(words) / f"seed_{seed}"


@dataclass(slots=True)
class Progress:
    """How far a run is: commands.json."""

    commands: list[list[str]]
    finished: int
    seconds: list[float]  # of each command that was begun, over all attempts

    @classmethod
    def read(cls, folder: Path, commands: Sequence[Command]) -> Progress:
        """Progress of the run in ``folder``. Raises ConfigError if it is a run by other commands."""
        wanted, file = [list(command.words) for command in commands], folder / "commands.json"
        if not file.is_file():
            return cls(wanted, 0, [])
        found = cls(**json.loads(file.read_text(encoding="utf-8")))
        if found.commands != wanted:
            new, old = ({w for words in c for w in words} for c in (wanted, found.commands))
            words = ", ".join(sorted(new - old) or sorted(old - new)) or "the same words in another order"
            raise ConfigError(
                f"{folder} holds a run by other commands than asked for ({words}; see {file.name}): remove it, or "
                "choose another --out"
            )
        return found

    @property
    def complete(self) -> bool:
        """Whether all is finished."""
        return self.finished == len(self.commands)

    def write(self, folder: Path) -> None:
        """Write commands.json."""
        record = {"commands": self.commands, "finished": self.finished, "seconds": self.seconds}
        write_json(folder / "commands.json", record)


def seed_folder(pattern: str, seed: int) -> Path:
    """The folder that a pattern such as runs/ladder_{seed} names."""
    return Path(pattern.replace("{seed}", str(seed)))


def check_starts(pattern: str, seeds: Sequence[int], script: str) -> None:
    """Raise ConfigError if a seed's folder has no warm start, which ``script`` makes."""
    for seed in seeds:
        folder = seed_folder(pattern, seed)
        if not (folder / "warm_start" / "final").is_dir():
            own = f"--seed {seed} " if "{seed}" in pattern else ""
            raise ConfigError(
                f"--from {folder}: no warm_start/final in it; run first: bash {script} {own}--out {folder}"
            )


def parse_runs(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, count: int
) -> argparse.Namespace:
    """Parse the command line, to which --seeds, ``count`` of them unless given, and --jobs are added."""
    seeds = list(range(count))
    shown = " ".join(map(str, seeds))
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=seeds,
        help=f"one run of each method per seed (default {shown})",
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each (default 2)")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs}: must be at least 1")
    if min(options.seeds) < 0:
        parser.error(f"--seeds {min(options.seeds)}: must be at least 0")
    if len(set(options.seeds)) < len(options.seeds):
        parser.error(f"--seeds {' '.join(map(str, options.seeds))}: each seed once")
    return options


class Stopped(Exception):
    """A command was interrupted, or not begun for that reason."""


class Processes:
    """Programs that run at the same time. A signal to stop is passed on to all, and none is started after it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # between starting a program and noting it
        self._running: set[subprocess.Popen[bytes]] = set()
        self.stopping = False

    @contextmanager
    def passing_signals_on(self) -> Iterator[None]:
        """Handle signals while the block runs."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
            numbers.append(signal.SIGHUP)  # the terminal is closed, which the programs would not notice
        with handling_signals(self._stop, numbers):
            yield

    def _stop(self, number: int, frame: FrameType | None) -> None:
        first, self.stopping = not self.stopping, True
        for process in list(self._running):
            process.send_signal(signal.SIGINT)
        if first and number != signal.SIGHUP:  # then there is nobody to tell
            # Whatever reads the output may have been stopped too, or the signal came in the middle of a print.
            with suppress(OSError, RuntimeError):
                print("stopping the runs after their current step; once more to stop at once", flush=True)

    def run(self, words: Sequence[str], log: Path) -> None:
        """Run a program to its end. Raises Stopped if it was interrupted, UserError if it failed or is not there."""
        # The commands of this environment are found even if it is not activated.
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
        with log.open("ab") as file:
            with self._lock:
                if self.stopping:
                    raise Stopped
                try:
                    process = subprocess.Popen(
                        words,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                        env=os.environ | {"PATH": path},
                        start_new_session=True,  # Ctrl-C in a terminal reaches it once, through `_stop`
                    )
                except OSError as error:
                    raise UserError(f"{words[0]} cannot be started: {error.strerror}") from error
                self._running.add(process)
            if self.stopping:  # the signal came before the process was noted
                process.send_signal(signal.SIGINT)
            status = process.wait()
            self._running.discard(process)
        if status == INTERRUPTED or (status and self.stopping):
            raise Stopped
        if status:
            end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:])
            raise UserError(f"exit status {status} of: {' '.join(words)}\nThe end of {log}:\n{end}")


def run_once(method: Method, seed: int, out: Path, processes: Processes) -> float | None:
    """Run the commands of one run that are not finished; return the seconds of all, or None if nothing was left to do.

    Raises ConfigError if the folder holds a run by other commands, and what `Processes.run` raises.
    """
    folder = method.folder(seed, out)
    progress = Progress.read(folder, method.commands(seed, folder))
    if progress.complete:
        return None
    if processes.stopping:  # leave no trace of a run that never began
        raise Stopped
    folder.mkdir(parents=True, exist_ok=True)
    begun = "resumes" if progress.seconds else "begins"
    print(f"{method.name}, seed {seed} {begun}; log in {folder / 'log.txt'}", flush=True)
    while not progress.complete:
        if len(progress.seconds) == progress.finished:
            progress.seconds.append(0.0)
        progress.write(folder)
        started = time.perf_counter()
        try:
            processes.run(progress.commands[progress.finished], folder / "log.txt")
            progress.finished += 1
        finally:
            progress.seconds[-1] = round(progress.seconds[-1] + time.perf_counter() - started, 1)
            progress.write(folder)
    return sum(progress.seconds)


def check_runs(methods: Sequence[Method], seeds: Sequence[int], out: Path) -> None:
    """Raise ConfigError if a folder holds a run by other commands."""
    for method in methods:
        for seed in seeds:
            folder = method.folder(seed, out)
            Progress.read(folder, method.commands(seed, folder))


def run_all(methods: Sequence[Method], seeds: Sequence[int], out: Path, jobs: int) -> list[str]:
    """Run every method once per seed, ``jobs`` of them at a time; return which runs failed, in their order.

    All methods of a seed come before the next seed, so that an early end leaves comparable runs. A failure does not
    stop the others. Raises ConfigError, before anything is run, if a folder holds a run by other commands, and
    KeyboardInterrupt after a signal to stop, when the programs have stopped.
    """
    check_runs(methods, seeds, out)
    order = [(method, seed) for seed in seeds for method in methods]
    processes, failures, stopped = Processes(), dict[Future[float | None], str](), False
    with processes.passing_signals_on(), ThreadPoolExecutor(jobs) as pool:
        waiting = {
            pool.submit(run_once, method, seed, out, processes): (method, seed) for method, seed in order
        }
        for number, done in enumerate(as_completed(waiting), start=1):
            method, seed = waiting[done]
            start = f"[{number}/{len(order)}] {method.name}, seed {seed}"
            try:
                seconds = done.result()
                print(f"{start}: {'finished before' if seconds is None else f'{seconds:.0f} s'}", flush=True)
            except Stopped:
                stopped = True
            except UserError as error:
                failures[done] = f"{method.name}, seed {seed}; log in {method.folder(seed, out) / 'log.txt'}"
                print(f"{start}: {error}", file=sys.stderr, flush=True)
    if stopped:
        raise KeyboardInterrupt
    return [failures[run] for run in waiting if run in failures]


def stop_at(failures: Sequence[str]) -> None:
    """Raise UserError if runs failed."""
    if failures:
        raise UserError(
            f"{len(failures)} {'run' if len(failures) == 1 else 'runs'} failed; the same command tries again:\n"
            + "\n".join(failures)
        )


def complete_seeds(methods: Sequence[Method], seeds: Sequence[int], out: Path) -> list[int]:
    """The seeds of which every method's run is finished."""

    def complete(method: Method, seed: int) -> bool:
        folder = method.folder(seed, out)
        return Progress.read(folder, method.commands(seed, folder)).complete

    return [seed for seed in seeds if all(complete(method, seed) for method in methods)]


@dataclass(frozen=True, slots=True)
class Point:
    """A held-out evaluation, and what the run had cost by then."""

    step: int  # of all training commands together
    accuracy: float  # in [0, 1]
    tokens: int  # generated: training's own responses, dropped ones included, and sampled preference data
    seconds: float  # of all commands; without evaluations, and with a training's start and end before its first step


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one run. Held-out numbers are those after the last step; shares are in [0, 1]."""

    seed: int
    curve: tuple[Point, ...]  # from the start on
    before: Mapping[str, float]  # held-out problem -> accuracy at the start
    after: Mapping[str, float]  # and at the end
    response_tokens: float
    truncated_share: float
    used_share: float | None  # of the responses of online training; None: there are none

    @property
    def end(self) -> Point:
        """The last evaluation."""
        return self.curve[-1]


def collect(methods: Sequence[Method], seeds: Sequence[int], out: Path) -> dict[str, list[Outcome]]:
    """Read what finished runs left, by the name of the method. Raises DataError if a run evaluated nothing."""
    return {method.name: [read_outcome(method, seed, out) for seed in seeds] for method in methods}


def read_outcome(method: Method, seed: int, out: Path) -> Outcome:
    """Read one finished run. Raises DataError if it has no evaluation, or its verifier does not tell what is right."""
    curve: list[Point] = []
    evaluated, sampled = list[Path](), set[Path]()
    step, tokens, seconds, generated, kept = 0, 0, 0.0, 0.0, 0.0
    for command, spent in _finished(method, seed, out):
        if not (command.folder / "metrics.jsonl").is_file():
            seconds += spent
            if command.folder not in sampled:  # a second command makes other data of the same answers
                sampled.add(command.folder)
                tokens += _sampled_tokens(command.folder)
            continue
        rows, per_prompt, first_step = _by_step(command.folder), _responses_per_prompt(command.folder), step
        in_steps, evaluating = (sum(r.get(name, 0.0) for r in rows.values()) for name in (_STEP, _EVALUATE))
        seconds += max(0.0, spent - in_steps - evaluating)
        key = ""
        if _reports(command.folder):
            evaluated.append(command.folder)
            key = f"eval/{_dataset(command.folder)}/accuracy"
        for number in sorted(rows):
            row = rows[number]
            step = first_step + number
            seconds += row.get(_STEP, 0.0)
            if "groups/generated" in row:
                tokens += round(row["groups/generated"] * per_prompt * row["response/length_mean"])
                generated, kept = generated + row["groups/generated"], kept + row["groups/kept"]
            if key in row:
                curve.append(Point(step, row[key], tokens, seconds))
    if len(curve) < 2 or curve[-1].step != step:
        raise DataError(
            f"{method.folder(seed, out)}: the start and the end must both be evaluated; see evaluation.datasets"
        )
    last = _last_report(evaluated[-1])
    return Outcome(
        seed=seed,
        curve=tuple(curve),
        before=_by_problem(evaluated[0], first=True),
        after=_by_problem(evaluated[-1], first=False),
        response_tokens=last["mean_response_tokens"],
        truncated_share=last["truncated_share"],
        used_share=kept / generated if generated else None,
    )


def _finished(method: Method, seed: int, out: Path) -> Iterator[tuple[Command, float]]:
    """The commands of a finished run with their seconds, after those of what it needs."""
    if method.needs is not None:
        yield from _finished(method.needs, seed, out)
    folder = method.folder(seed, out)
    commands = method.commands(seed, folder)
    yield from zip(commands, Progress.read(folder, commands).seconds, strict=True)


def _sampled_tokens(folder: Path) -> int:
    """Tokens of the answers that a command such as `data make-preferences` sampled into ``folder``/answers."""
    files = sorted((folder / "answers").glob("*.parquet"))
    return sum(sum(read_rollouts(file)["tokens"].to_pylist()) for file in files)


def _by_step(folder: Path) -> dict[int, dict[str, Any]]:
    """The metrics of each step; of two numbers for one step the later counts."""
    rows: dict[int, dict[str, Any]] = {}
    for row in read_jsonl(folder / "metrics.jsonl"):
        rows.setdefault(row["step"], {}).update(row)
    return rows


def _responses_per_prompt(folder: Path) -> int:
    recipe = load_recipe(folder / "recipe.yaml")
    return recipe.rollout.responses_per_prompt if isinstance(recipe, OnlineConfig) else 0


def _reports(folder: Path) -> dict[int, dict[str, Any]]:
    """The evaluations of a training run by step: dataset -> numbers."""
    evaluations = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["evaluations"]
    return {int(step): reports for step, reports in evaluations.items() if reports}


def _dataset(folder: Path) -> str:
    """The first held-out set, which counts."""
    reports = _reports(folder)
    return str(next(iter(reports[min(reports)])))


def _last_report(folder: Path) -> dict[str, Any]:
    reports = _reports(folder)
    return dict(reports[max(reports)][_dataset(folder)])


def _by_problem(folder: Path, first: bool) -> dict[str, float]:
    """Mean accuracy of each held-out problem, by its prompt, in the first or the last evaluation."""
    step = min(_reports(folder)) if first else max(_reports(folder))
    file = folder / "evaluations" / f"step_{step:06d}_{_dataset(folder)}.jsonl"
    accuracies: dict[str, list[float]] = {}
    for row in read_jsonl(file):
        if row["accuracy"] is None:
            raise DataError(
                f"{file}: the verifier does not say whether the response to {row['uid']} is right"
            )
        accuracies.setdefault(row["prompt"], []).append(row["accuracy"])
    if not accuracies:
        raise DataError(f"{file}: there are no responses; see logging.rollouts and logging.rollout_format")
    return {prompt: fmean(numbers) for prompt, numbers in accuracies.items()}
