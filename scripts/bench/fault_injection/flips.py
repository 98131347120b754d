"""A bit of a checkpoint turns over: the run refuses to resume, names the file, and its advice works."""

from __future__ import annotations

import random
import re
import shutil
import signal
import threading
from pathlib import Path

from fault_injection.bench import Bench, Outcome, Trial
from fault_injection.moments import KillAt
from fault_injection.processes import TrialFailed
from fault_injection.runs import STEPS, Run

USER_ERROR = 2
_making = threading.Lock()


def flip(bench: Bench, trial: Trial) -> Outcome:
    """Turn over a random bit of the newest of two checkpoints, resume, and do what the message says."""
    run, output, choose = bench.runs[trial.run], bench.place(trial) / "run", bench.random(trial)
    shutil.copytree(_killed_after_two_checkpoints(bench, run), output)
    newest = max((output / "checkpoints").glob("step_*"))
    file = _choose_file(choose, newest)
    where = _flip_bit(choose, file)
    name = str(file.relative_to(newest))
    ended = bench.end(run, output)
    if ended.status != USER_ERROR or "Traceback" in ended.output:
        raise TrialFailed(f"{name}, {where}: the command ended with status {ended.status}: {ended.tail()}")
    if f"checkpoint {newest} is damaged: {name}" not in ended.output and not (
        name == "manifest.json" and f"checkpoint {newest} is damaged: " in ended.output
    ):
        raise TrialFailed(f"{name}, {where}: the message does not name the file: {ended.tail()}")
    advice = re.search(r"Delete (step_\d+), and the same command resumes from (step_\d+)", ended.output)
    if advice is None or advice[1] != newest.name:
        raise TrialFailed(f"{name}, {where}: no advice how to go on: {ended.tail()}")
    shutil.rmtree(newest)
    if f"resuming after step {int(advice[2][5:])} from" not in bench.finish(run, output).output:
        raise TrialFailed(f"{name}, {where}: the run was not resumed from {advice[2]}")
    return Outcome(1, f"{name}, {where}: refused", name)


def _killed_after_two_checkpoints(bench: Bench, run: Run) -> Path:
    """The folder of a run that was killed in its last step, with the checkpoints of two others; made once."""
    with _making:
        folder = bench.folder / "references" / f"{run.name}-killed"
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            operations = bench.reference(run.name).operations
            named = [
                n for n, each in enumerate(operations) if each.what == "rename" and "/.partial_" in each.path
            ]
            last = named[-1]  # of the checkpoint of the last step, which is not named then
            injection = KillAt(folder / "run", last)
            ended = bench.end(run, folder / "run", injection)
            found = sorted(path.name for path in (folder / "run" / "checkpoints").glob("step_*"))
            if ended.status != -signal.SIGKILL or len(found) != 2 or f"step_{STEPS:06d}" in found:
                raise TrialFailed(f"a run killed before its last checkpoint: status {ended.status}, {found}")
            (folder / "made").touch()
        return folder / "run"


def _choose_file(choose: random.Random, checkpoint: Path) -> Path:
    """One of the files: each as likely as any other in half of the cases, else as likely as it is large."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.stat().st_size]
    if choose.random() < 0.5:
        return choose.choice(files)
    return choose.choices(files, [path.stat().st_size for path in files])[0]


def _flip_bit(choose: random.Random, file: Path) -> str:
    """Turn over one bit; returns which."""
    data = bytearray(file.read_bytes())
    byte, bit = choose.randrange(len(data)), choose.randrange(8)
    data[byte] ^= 1 << bit
    file.write_bytes(data)
    return f"byte {byte} of {len(data)}, bit {bit}"
