"""What trials share: their names and records, undisturbed runs to compare with, and folders to work in."""

from __future__ import annotations

import json
import random
import shutil
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fault_injection.comparing import differences, unreadable
from fault_injection.moments import Operation, Record, read_operations
from fault_injection.processes import Command, Ended, Injection, TrialFailed, warm_up
from fault_injection.runs import Run, make_runs

RAY_SECONDS, SECONDS = 600.0, 300.0  # that a command may take
_START_SHARE = 0.4  # of a run's time until its first row of metrics


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial; its random choices depend on the seed and on these."""

    kind: str
    run: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.run}:{self.number}"

    @classmethod
    def parse(cls, text: str) -> Trial:
        """Read KIND:RUN:NUMBER. Raises ValueError if it is none."""
        kind, run, number = text.split(":")
        return cls(kind, run, int(number))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial found that is as it should be; otherwise it raises TrialFailed."""

    faults: int  # that took effect: a command may end before its fault comes
    what: str  # what happened, for people
    kind_of_fault: str = ""  # such as the operation before which the disk became full


@dataclass(frozen=True, slots=True)
class Reference:
    """An undisturbed run."""

    output: Path
    seconds: float
    operations: list[Operation]  # on its output folder, in order; none over Ray


@dataclass(slots=True)
class Bench:
    """A folder: ``runs/`` has models, data and recipes, ``references/`` undisturbed runs, ``work/`` those of trials.

    mistakes: called in every forked process of a trial, and not of undisturbed runs: what trials must find.
    """

    folder: Path
    seed: int
    mistakes: Sequence[Injection] = ()
    runs: Mapping[str, Run] = field(default_factory=dict)
    _locks: dict[str, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()
        self.runs = make_runs(self.folder / "runs")

    def random(self, trial: Trial) -> random.Random:
        """The trial's own generator."""
        return random.Random(f"{self.seed}:{trial}")

    def place(self, trial: Trial) -> Path:
        """An empty folder for a trial; it is removed when the trial is passed, and otherwise kept."""
        place = self.folder / "work" / str(trial).replace(":", "-")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        return place

    def reference(self, name: str) -> Reference:
        """The undisturbed run of a name, which is made if it is not there."""
        with self._locks[name]:
            folder, run = self.folder / "references" / name, self.runs[name]
            output, log, file = folder / "run", folder / "operations", folder / "reference.json"
            if not file.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                warm_up()
                record = [] if run.ray else [Record(output, log)]
                command = Command(self.words(run, output), folder / "log.txt", record, cold=run.ray)
                ended = wait_for(command, run)
                if ended.status != 0:
                    raise TrialFailed(f"the undisturbed run ended with status {ended.status}: {ended.tail()}")
                file.write_text(json.dumps({"seconds": ended.seconds}))
            seconds = json.loads(file.read_text())["seconds"]
            return Reference(output, seconds, read_operations(log) if log.exists() else [])

    def words(self, run: Run, output: Path) -> list[str]:
        """The arguments of a run's command with this folder for its output."""
        return run.words(output, self.reference(run.after).output if run.after else None)

    def start(
        self, run: Run, output: Path, *injections: Injection, cold: bool = False, log: Path | None = None
    ) -> Command:
        """Begin or resume the run of a trial in a folder; its log is beside that unless it is named."""
        cold = cold or run.ray
        more = () if cold else self.mistakes
        log = log or output.with_name("log.txt")
        return Command(self.words(run, output), log, (*injections, *more), cold=cold)

    def end(
        self, run: Run, output: Path, *injections: Injection, cold: bool = False, log: Path | None = None
    ) -> Ended:
        """Begin or resume the run of a trial, and wait for its end; nothing that it started may outlive it."""
        command = self.start(run, output, *injections, cold=cold, log=log)
        return wait_for(command, run)

    def finish(self, run: Run, output: Path, *, cold: bool = False, log: Path | None = None) -> Ended:
        """Begin or resume the run of a trial, wait for its end, and compare all it leaves with the undisturbed run."""
        ended = self.end(run, output, cold=cold, log=log)
        if ended.status != 0:
            raise TrialFailed(f"the command ended with status {ended.status}, not 0: {ended.tail()}")
        self.compare(run, output)
        return ended

    def compare(self, run: Run, output: Path) -> None:
        """Raise TrialFailed unless the finished run in a folder equals the undisturbed one, to the bit on one rank."""
        reference = self.reference(run.name).output
        if found := differences(output, reference, trains=run.trains, rounding=run.ray):
            raise TrialFailed(f"the finished run differs from the undisturbed one: {'; '.join(found[:5])}")


def wait_for(command: Command, run: Run) -> Ended:
    """Wait until a command of a run has ended. Raises TrialFailed if it hangs, or if processes of it outlive it."""
    ended = command.ended(RAY_SECONDS if run.ray else SECONDS)
    if found := command.left_behind():
        command.discard()
        raise TrialFailed(f"the command ended with status {ended.status}, and processes outlive it: {found}")
    return ended


def sleep_until(
    command: Command, output: Path, reference: Reference, choose: random.Random, share: float
) -> str:
    """Wait until a run has logged this share of its rows of metrics, and a little longer. Returns when that was.

    By rows and not by time, so that a busy machine does not end the run before.
    """
    rows = _rows(reference.output)
    wanted = int(share * (rows + 1))
    steps = json.loads((reference.output / "summary.json").read_text(encoding="utf-8"))["seconds"]
    pause = choose.random() * (_START_SHARE * reference.seconds if wanted == 0 else steps / rows)
    command.wait_until(lambda: _rows(output) >= wanted, RAY_SECONDS)
    command.sleep(pause)
    return f"{pause:.2f} s after row {wanted} of {rows}"


def _rows(output: Path) -> int:
    file = output / "metrics.jsonl"
    with suppress(FileNotFoundError):
        return file.read_bytes().count(b"\n")
    return 0


def require_readable(output: Path) -> None:
    """Raise TrialFailed if a checkpoint or a record of a run that was killed cannot be read."""
    if found := unreadable(output):
        raise TrialFailed(f"the killed run left what cannot be read: {'; '.join(found[:5])}")


def newest_step(output: Path) -> int:
    """Step of the newest checkpoint; 0 if there is none."""
    return max((int(path.name[5:]) for path in output.glob("checkpoints/step_*")), default=0)
