"""What a driver started ends with it, also when it is killed."""

from __future__ import annotations

import subprocess
import sys

import psutil  # type: ignore[import-untyped]

from reasoner_rl.distributed.fate import SharedFate

DRIVER = """
import subprocess, sys, time
import psutil
from reasoner_rl.distributed.fate import SharedFate
sleeper = [sys.executable, "-c", "import time; time.sleep(300)"]
included, other = (subprocess.Popen(sleeper, start_new_session=True) for _ in range(2))
SharedFate().include([psutil.Process(included.pid)])
print(included.pid, other.pid, flush=True)
time.sleep(300)
"""


def test_a_killed_driver_takes_along_what_it_named_and_nothing_else() -> None:
    with subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        included, other = (psutil.Process(int(pid)) for pid in driver.stdout.readline().split())
        try:
            driver.kill()
            gone, alive = psutil.wait_procs([included], timeout=30)
            assert (gone, alive) == ([included], [])
            assert other.is_running()
        finally:
            other.kill()


def test_closing_kills_them_too() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"]) as sleeper:
        fate = SharedFate()
        fate.include([psutil.Process(sleeper.pid)])
        fate.close()
        assert sleeper.wait(30) == -9


def test_a_process_that_is_told_of_while_the_clock_is_set_is_killed_all_the_same() -> None:
    """psutil's time of start moves with the machine's clock; here it does so by a second."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"]) as sleeper:
        process = psutil.Process(sleeper.pid)
        start = process.create_time()
        process.create_time = lambda: start - 1.0
        fate = SharedFate()
        fate.include([process])
        fate.close()
        try:
            assert sleeper.wait(10) == -9
        finally:
            sleeper.kill()


def test_a_run_survives_the_death_of_its_watcher() -> None:
    fate = SharedFate()
    fate._watcher.kill()
    fate._watcher.wait()
    fate.include([psutil.Process()])
    fate.close()
    assert fate._watcher.returncode == -9
