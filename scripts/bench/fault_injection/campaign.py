"""Which trials are made, in which order, what is kept of each, and the table at the end."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fault_injection import disks, flips, kills, races, signals, verifiers, workers
from fault_injection.bench import Bench, Outcome, Trial
from fault_injection.processes import TrialFailed, preload
from reasoner_rl.observability.summary import write_json
from reasoner_rl.observability.versions import versions

TrialFunction = Callable[[Bench, Trial], Outcome]
_TRIALS_PER_FAULT = 3  # at most; a run may end before its fault comes
LOCAL = ("online-fsdp", "online-megatron", "critic", "offline-dpo", "offline-sft", "put-off")
WRITING = (*LOCAL, "evaluate", "make-preferences", "prepare", "export")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault."""

    inject: TrialFunction
    runs: tuple[str, ...]
    faults: int  # wanted, over all runs; 0: one for each kind of write
    alone: bool = False  # its trials follow one another, as those over Ray, which need all cores


KINDS: Mapping[str, Kind] = {
    "kill": Kind(kills.kill, (*LOCAL, "ray"), 100),
    "signal": Kind(signals.stop, ("online-fsdp", "critic", "offline-sft", "ray"), 20),
    "flip": Kind(flips.flip, ("online-fsdp", "online-megatron", "critic", "offline-sft", "put-off"), 50),
    "race": Kind(races.race, ("online-fsdp", "offline-sft"), 20),
    "verifiers": Kind(verifiers.strike, ("online-fsdp", "critic"), 20),
    "disk": Kind(disks.fill, WRITING, 0),
    "workers": Kind(workers.worker_deaths, ("ray",), 14, alone=True),
    "machines": Kind(workers.machine_deaths, ("ray",), 6, alone=True),
}


@dataclass(frozen=True, slots=True)
class Record:
    """One line of faults.json."""

    trial: str
    passed: bool
    faults: int
    what: str
    kind_of_fault: str
    seconds: float
    time: str


@dataclass(slots=True)
class Campaign:
    """Trials of some kinds in a folder; those that faults.json has are not made again.

    faults: wanted by kind; over Ray a share of them. limit: seconds after which no trial is begun.
    """

    bench: Bench
    faults: Mapping[str, int]
    limit: float
    tell: Callable[[str], None]
    records: list[Record] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ends: float = 0.0

    def __post_init__(self) -> None:
        self._ends = time.monotonic() + self.limit
        if self.file.exists():
            found = json.loads(self.file.read_text(encoding="utf-8"))
            if found["seed"] != self.bench.seed:
                raise SystemExit(
                    f"{self.file} is of seed {found['seed']}, not {self.bench.seed}: choose another --out"
                )
            self.records = [Record(**each) for each in found["trials"]]

    @property
    def file(self) -> Path:
        """Where the records are."""
        return self.bench.folder / "faults.json"

    @property
    def failed(self) -> list[Record]:
        """Trials in which reasoner_rl did not do what it should."""
        return [record for record in self.records if not record.passed]

    def run(self, kinds: Sequence[str], parallel: int) -> None:
        """Make the trials of these kinds, of ``parallel`` runs at a time."""
        megatron = "online-megatron"
        if any(megatron in KINDS[kind].runs for kind in kinds) and not self.bench.runs[megatron].missing:
            preload("megatron.core", "mbridge", "reasoner_rl.training.megatron.backend")
        together, alone = list[tuple[str, str]](), list[tuple[str, str]]()
        for kind in kinds:
            for run in KINDS[kind].runs:
                over_ray = self.bench.runs[run].ray
                (alone if KINDS[kind].alone or over_ray else together).append((kind, run))
        with ThreadPoolExecutor(parallel) as pool:
            for done in [pool.submit(self._trials_of, *each) for each in together]:
                done.result()
        for each in alone:
            self._trials_of(*each)

    def _trials_of(self, kind: str, run: str) -> None:
        """Make trials of one kind with one run until so many faults took effect as are wanted."""
        if missing := self.bench.runs[run].missing:
            self._leave_out(f"{kind}:{run}: {', '.join(missing)} is not installed")
            return
        if kind == "disk" and not disks.can_mount():
            self._leave_out(f"{kind}:{run}: a small disk needs root, to mount a tmpfs")
            return
        made = {record.trial for record in self.records}
        for trial in self._planned(kind, run):
            if str(trial) in made:
                continue
            if time.monotonic() > self._ends:
                self._leave_out(f"{kind}:{run} from number {trial.number} on: the time was over")
                return
            self.one(trial)

    def _planned(self, kind: str, run: str) -> Iterator[Trial]:
        if kind == "disk":
            numbers = disk_numbers(self.bench, run)
            yield from (Trial(kind, run, number) for number in numbers[: self.faults.get(kind) or None])
            return
        wanted = share_of(self.faults[kind], KINDS[kind].runs, run)
        for number in range(_TRIALS_PER_FAULT * wanted):
            prefix = f"{kind}:{run}:"
            if sum(record.faults for record in self.records if record.trial.startswith(prefix)) >= wanted:
                return
            yield Trial(kind, run, number)

    def one(self, trial: Trial) -> Record:
        """Make one trial and record it."""
        started = time.monotonic()
        try:
            outcome, passed = KINDS[trial.kind].inject(self.bench, trial), True
        except TrialFailed as error:
            outcome, passed = Outcome(0, str(error)), False
        except Exception as error:
            outcome, passed = Outcome(0, f"the trial itself failed: {type(error).__name__}: {error}"), False
        seconds = round(time.monotonic() - started, 1)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        record = Record(str(trial), passed, outcome.faults, outcome.what, outcome.kind_of_fault, seconds, now)
        with self._lock:
            self.records = [each for each in self.records if each.trial != record.trial] + [record]
            self._write()
            self.tell(f"{'ok    ' if passed else 'FAILED'} {trial} ({seconds:g} s): {record.what}")
        if passed:
            shutil.rmtree(self.bench.folder / "work" / str(trial).replace(":", "-"), ignore_errors=True)
        return record

    def _leave_out(self, what: str) -> None:
        with self._lock:
            self.left_out.append(what)
            self.tell(f"left out {what}")

    def _write(self) -> None:
        trials = [dataclasses.asdict(record) for record in self.records]
        write_json(self.file, {"seed": self.bench.seed, "versions": versions(), "trials": trials})

    def table(self) -> list[list[str]]:
        """One row per kind and run: trials, faults that took effect, trials that failed, seconds per trial."""
        groups: dict[str, list[Record]] = {}
        for record in sorted(self.records, key=lambda record: record.trial):
            groups.setdefault(record.trial.rpartition(":")[0], []).append(record)
        rows = []
        for name, records in groups.items():
            kinds = Counter(record.kind_of_fault for record in records if record.faults)
            seconds = sum(record.seconds for record in records) / len(records)
            rows.append(
                [
                    *name.split(":"),
                    str(len(records)),
                    str(sum(record.faults for record in records)),
                    str(sum(not record.passed for record in records)),
                    str(len(kinds.keys() - {""}) or ""),
                    f"{seconds:.1f}",
                ]
            )
        return rows


COLUMNS = ("kind", "run", "trials", "faults", "failed trials", "kinds of faults", "seconds per trial")


def share_of(faults: int, runs: Sequence[str], run: str) -> int:
    """How many faults of all are one run's; the first runs have one more where they do not come out even."""
    each, more = divmod(faults, len(runs))
    return each + (runs.index(run) < more)


def disk_numbers(bench: Bench, run: str) -> list[int]:
    """Numbers of a run's kinds of writes that no run before it in `WRITING` has."""
    seen: set[str] = set()
    for earlier in WRITING[: WRITING.index(run)]:
        if not bench.runs[earlier].missing:
            seen.update(disks.kinds_of_writes(bench.reference(earlier).operations))
    kinds = disks.kinds_of_writes(bench.reference(run).operations)
    return [number for number, kind in enumerate(kinds) if kind not in seen]


def default_faults() -> dict[str, Any]:
    """The full campaign."""
    return {name: kind.faults for name, kind in KINDS.items()}
