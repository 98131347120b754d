"""Verifier processes die or stand still: the run goes on, an answer that it was at counts as failed, and is counted."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

from fault_injection.bench import Bench, Outcome, Trial, sleep_until, wait_for
from fault_injection.comparing import differences, half_written
from fault_injection.processes import Command, TrialFailed

_VERIFIER = "reasoner_rl.rewards.worker"
_LOADING = "loading the reward functions ended their process (signal 9)"
FAULTS_PER_TRIAL = 3


def strike(bench: Bench, trial: Trial) -> Outcome:
    """Send SIGKILL, in every second trial SIGSTOP, to the verifier process of a run, at three random moments."""
    run, output, choose = bench.runs[trial.run], bench.place(trial) / "run", bench.random(trial)
    reference = bench.reference(trial.run)
    number = (signal.SIGKILL, signal.SIGSTOP)[trial.number % 2]
    command = bench.start(run, output)
    # The verifiers are ready, so that no one waits two minutes for one that stands still before that.
    command.wait_until(lambda: (output / "metrics.jsonl").exists())
    struck = 0
    for turn in range(FAULTS_PER_TRIAL):
        share = (turn + choose.random()) / FAULTS_PER_TRIAL
        sleep_until(command, output, reference, choose, share)
        struck += _strike_one(command, number)
    ended = wait_for(command, run)
    if ended.status == 2 and _LOADING in ended.output and number == signal.SIGKILL:
        bench.finish(run, output)
        return Outcome(
            struck, f"{struck} killed, one while it loaded its functions: the run says so, and resumes"
        )
    if ended.status != 0:
        raise TrialFailed(f"the run ended with status {ended.status}: {ended.tail()}")
    failed = _failures(output)
    if failed > struck:
        raise TrialFailed(f"{failed} answers failed, and {struck} processes were struck")
    if failed == 0:  # between two answers: judged anew, and nothing has changed
        if found := differences(output, reference.output):
            raise TrialFailed(f"no answer failed, and the run differs: {'; '.join(found[:5])}")
    elif found := [path.name for path in half_written(output)]:
        raise TrialFailed(f"half-written: {found}")
    return Outcome(struck, f"{number.name} to {struck}: {failed} answers counted as failed", number.name)


def _strike_one(command: Command, number: signal.Signals) -> int:
    """Send a signal to the first verifier process of a command. Returns how many there were, 0 or 1."""
    for pid, text in command.processes().items():
        if _VERIFIER in text:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
                return 1
    return 0


def _failures(output: Path) -> int:
    """Answers of training and evaluations that a verifier failed at, as the records have them."""
    failed = 0
    for path in (*output.glob("rollouts/*.jsonl"), *output.glob("evaluations/*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        failed += sum(row.get("status", "ok") != "ok" for row in rows)
    return failed
