"""SIGKILL of a run at random moments, again and again, until it is let go on: it ends as if nothing had happened."""

from __future__ import annotations

import random
import signal
from pathlib import Path

from fault_injection.bench import (
    Bench,
    Outcome,
    Trial,
    newest_step,
    require_readable,
    sleep_until,
    wait_for,
)
from fault_injection.moments import KillAt
from fault_injection.processes import TrialFailed
from fault_injection.runs import STEPS, Run

KILLS_PER_TRIAL = 3
COLD_EVERY = 6  # each so many-th trial is the command line in fresh interpreters
_START_SHARE = 0.4  # of a whole run's time that starting takes, which a resumed one does not save


def kill(bench: Bench, trial: Trial) -> Outcome:
    """Kill a run up to three times, before or some time after random operations on its files; then let it end."""
    run, output, choose = bench.runs[trial.run], bench.place(trial) / "run", bench.random(trial)
    reference, moments = bench.reference(trial.run), list[str]()
    cold = run.ray or trial.number % COLD_EVERY == COLD_EVERY - 1
    for turn in range(KILLS_PER_TRIAL):
        # Every second kill comes while the run computes, so long after an operation as a few of them take.
        delay = choose.random() * reference.seconds / 8 if (trial.number + turn) % 2 else 0.0
        done = newest_step(output) / STEPS
        share = choose.random() * (1 - done * (1 - _START_SHARE))
        status, moment = _kill_once(bench, run, output, choose, share, delay, cold)
        if status == 0:  # it ended before
            bench.compare(run, output)
            return Outcome(len(moments), "; ".join(moments))
        if status != -signal.SIGKILL:
            raise TrialFailed(f"a command that was to be killed ended with status {status}")
        require_readable(output)
        moments.append(f"{moment}, at step {newest_step(output)}")
    bench.finish(run, output, cold=cold)
    return Outcome(len(moments), "; ".join(moments))


def _kill_once(
    bench: Bench, run: Run, output: Path, choose: random.Random, share: float, delay: float, cold: bool
) -> tuple[int, str]:
    """Begin or resume the run and kill it after a share of an undisturbed run. Returns how it ended, and when."""
    reference = bench.reference(run.name)
    if cold:
        command = bench.start(run, output, cold=True)
        moment = f"{sleep_until(command, output, reference, choose, share)} of the command line"
        command.send(signal.SIGKILL)
    else:
        number = int(share * len(reference.operations))
        command = bench.start(run, output, KillAt(output, number, delay))
        after = f"{delay:.2f} s after" if delay else "before"
        moment = f"{after} operation {number} of {len(reference.operations)}"
    return wait_for(command, run).status, moment
