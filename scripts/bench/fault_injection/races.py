"""Several runs ask for one folder at the same time: exactly one has it, and the others say why they do not go on."""

from __future__ import annotations

import signal

from fault_injection.bench import Bench, Outcome, Trial, wait_for
from fault_injection.processes import TrialFailed

USER_ERROR = 2
_REFUSED = "another run is writing there; wait for it, or choose another folder"


def race(bench: Bench, trial: Trial) -> Outcome:
    """Start two or three commands at once; in every second trial while another is killed that has the folder."""
    run, output, choose = bench.runs[trial.run], bench.place(trial) / "run", bench.random(trial)
    seconds, while_killed = bench.reference(trial.run).seconds, trial.number % 2 == 1
    first = bench.start(run, output) if while_killed else None
    if first:
        first.sleep(choose.random() * seconds)
    count = choose.choice((2, 3))
    others = []
    for number in range(count):
        others.append(bench.start(run, output, log=output.with_name(f"log_{number}.txt")))
        others[-1].sleep(choose.choice((0.0, 0.0, 0.02)))
    if first:
        others[-1].sleep(choose.random() * 0.5)
        first.send(signal.SIGKILL)
        first.ended(60.0)
    endings = [wait_for(other, run) for other in others]
    winners = [ended for ended in endings if ended.status == 0]
    for ended in endings:
        refused = ended.status == USER_ERROR and _REFUSED in ended.output and "Traceback" not in ended.output
        if not (ended.status == 0 or refused):
            raise TrialFailed(f"one of {count} commands ended with status {ended.status}: {ended.tail()}")
    # With the first killed after they had asked, none may be left; and one may begin when another has ended.
    if not winners and not first:
        raise TrialFailed(f"none of {count} commands had the folder")
    began = [ended for ended in winners if "all 5 steps were made before" not in ended.output]
    if len(began) > 1:
        raise TrialFailed(f"{len(began)} of {count} commands say that they made the steps")
    bench.finish(run, output)
    had = f"{len(winners)} of {count} had the folder{', the first killed' if first else ''}"
    return Outcome(1, f"{had}, {count - len(winners)} refused")
