"""The disk becomes full before each kind of write: a clear error, nothing half-written, and the run is resumed.

The run's folder lies on a tmpfs of its own, which takes root. When the command comes to a chosen operation on its
files, a file takes all that is free there, so that what it writes next fails as on any full disk, in libraries too.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fault_injection.bench import Bench, Outcome, Trial
from fault_injection.comparing import half_written, unreadable
from fault_injection.moments import FillBefore, Operation
from fault_injection.processes import Ended, TrialFailed

DISK_MIB = 64
USER_ERROR, SYSTEM_ERROR = 2, 4
_FULL = ("No space left on device", "does not fit on the disk")
_PAGE = 4096


def can_mount() -> bool:
    """Whether this user may mount a tmpfs."""
    if os.geteuid() != 0:
        return False
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def kinds_of_writes(operations: Sequence[Operation]) -> list[str]:
    """The kinds of operations that come before writes, each once, in order. Flushing a file writes nothing."""
    return list(dict.fromkeys(each.kind for each in operations if each.what != "fsync"))


def fill(bench: Bench, trial: Trial) -> Outcome:
    """Fill the disk before an operation of the kind that the trial's number says; then make room, and resume."""
    run, place, choose = bench.runs[trial.run], bench.place(trial), bench.random(trial)
    operations = bench.reference(trial.run).operations
    kinds = kinds_of_writes(operations)
    kind = kinds[trial.number % len(kinds)]
    number = choose.choice([n for n, each in enumerate(operations) if each.kind == kind])
    with _small_disk(place / "disk"):
        output, filler = place / "disk" / "run", place / "disk" / "filler"
        injection = FillBefore(output, number, filler, choose.choice((0, 0, _PAGE, 4 * _PAGE)))
        log = place / "log.txt"
        ended = bench.end(run, output, injection, log=log)
        how = _how_it_ended(ended, output, kind, trains=run.trains)
        filler.unlink(missing_ok=True)
        if ended.status != 0:
            bench.finish(run, output, log=log)
        else:
            bench.compare(run, output)
    return Outcome(int(ended.status != 0 or bool(_said(ended))), f"full before {kind}: {how}", kind)


def _how_it_ended(ended: Ended, output: Path, kind: str, *, trains: bool) -> str:
    """What the command did, which must be an error that names a path on the disk, or its whole work."""
    said = _said(ended)
    if "Traceback" in ended.output:
        raise TrialFailed(f"full before {kind}: a traceback: {ended.tail(3)}")
    if ended.status == 0:
        return f"it went on, and says: {said[:160]}" if said else "nothing needed room"
    if ended.status not in (USER_ERROR, SYSTEM_ERROR) or not said:
        raise TrialFailed(f"full before {kind}: it ended with status {ended.status}: {ended.tail()}")
    if str(output) not in said and output.name not in said:
        raise TrialFailed(f"full before {kind}: the message names nothing there: {said}")
    if found := [str(path.relative_to(output)) for path in half_written(output)]:
        raise TrialFailed(f"full before {kind}: left half-written: {found}")
    if trains and (problems := unreadable(output)):
        raise TrialFailed(f"full before {kind}: left unreadable: {problems[:3]}")
    return f"status {ended.status}: {said.replace(str(output), 'OUTPUT')[:240]}"


def _said(ended: Ended) -> str:
    """The line of the output about a full disk."""
    lines = [line for line in ended.output.splitlines() if any(text in line for text in _FULL)]
    return lines[-1].strip() if lines else ""


@contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
