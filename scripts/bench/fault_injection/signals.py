"""SIGTERM and SIGINT, once or twice, at random moments: the run stops as documented, and is resumed."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from fault_injection.bench import Bench, Outcome, Trial, newest_step, require_readable, sleep_until, wait_for
from fault_injection.processes import Ended, TrialFailed

COLD_EVERY = 4
INTERRUPTED = 130


def stop(bench: Bench, trial: Trial) -> Outcome:
    """Send a run SIGTERM or SIGINT at a random moment, in every second pair of trials twice; then let it end."""
    run, output, choose = bench.runs[trial.run], bench.place(trial) / "run", bench.random(trial)
    number = (signal.SIGTERM, signal.SIGINT)[trial.number % 2]
    twice = trial.number // 2 % 2 == 1
    cold = run.ray or trial.number % COLD_EVERY == COLD_EVERY - 1
    command = bench.start(run, output, cold=cold)
    moment = sleep_until(command, output, bench.reference(trial.run), choose, choose.random())
    command.send(number)
    if twice:
        command.sleep(choose.random() * 0.3)
        command.send(number)
    ended = wait_for(command, run)
    require_readable(output)
    how = _how_it_stopped(ended, number, output)
    if ended.status == 0:
        bench.compare(run, output)
    else:
        bench.finish(run, output)
    sent = f"{number.name}{' twice' if twice else ''}, {moment}"
    return Outcome(int(ended.status != 0), f"{sent}: {how}", number.name + (" twice" if twice else ""))


def _how_it_stopped(ended: Ended, number: signal.Signals, output: Path) -> str:
    """What the command did, which must be one of the ways that are documented."""
    said, status = ended.output, ended.status
    begun = (output / "metrics.jsonl").exists()  # which is the last before signals are handled
    stopped = re.search(r"stopped after step (\d+); the same command resumes from there", said)
    if status == 0:
        return "the run had ended, or was at its end"
    if status == -number and not begun:
        return f"it had not begun, and ended by {number.name}"  # as any program does while it is loading
    if "Traceback" in said:
        raise TrialFailed(f"{number.name} was answered by a traceback: {ended.tail()}")
    if status != INTERRUPTED:
        raise TrialFailed(f"{number.name} ended the command with status {status}: {ended.tail()}")
    if stopped:
        step = int(stopped[1])
        if step != newest_step(output):
            raise TrialFailed(
                f"it says {stopped[0]!r}, and the newest checkpoint is of step {newest_step(output)}"
            )
        return f"stopped after step {step}, with a checkpoint"
    if not re.search(r"^interrupted", said, re.MULTILINE):
        raise TrialFailed(f"status {INTERRUPTED} without a message: {ended.tail()}")
    return f"interrupted at once; the newest checkpoint is of step {newest_step(output)}"
