"""A function in a process of its own returns, fails and stops as if it were called in this one."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from reasoner_rl.commands.memory import run_phase
from reasoner_rl.commands.own_process import in_own_process
from reasoner_rl.config.recipes import EvalConfig
from reasoner_rl.errors import UserError, WorkerError, require_package

PROGRAM = """
import os, signal, sys, time
from pathlib import Path

from reasoner_rl.commands.own_process import in_own_process

def work(folder):
    caught = []
    assert os.getpgid(0) == os.getpid()
    if folder.name == "catches":
        signal.signal(signal.SIGINT, lambda *_: caught.append("SIGINT"))
    (folder / "pid").write_text(str(os.getpid()))
    deadline = time.monotonic() + 60
    while not caught and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)  # a second one would be here by now
    return caught

if __name__ == "__main__":
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    print(in_own_process("work", work, Path(sys.argv[1])))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
"""


def test_a_value_comes_from_another_process() -> None:
    assert in_own_process("work", os.getpid) != os.getpid()
    assert in_own_process("work", math.comb, 5, 2) == 10
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_errors_keep_their_type_and_text() -> None:
    with pytest.raises(ZeroDivisionError, match="modulo by zero") as raised:
        in_own_process("work", divmod, 1, 0)
    assert "In a process of its own:" in raised.value.__notes__[0]
    with pytest.raises(
        UserError, match=r"gifts needs the package 'nothing', .* pip install 'reasoner_rl\[all\]'"
    ):
        in_own_process(
            "work", require_package, "nothing_here", "nothing", "all", "gifts"
        )  # cannot be pickled
    with pytest.raises(KeyboardInterrupt):
        in_own_process("work", signal.raise_signal, signal.SIGINT)


def test_a_process_that_dies_is_told_of() -> None:
    with pytest.raises(
        WorkerError, match=r"^the process for work was killed by SIGKILL, perhaps for want of host memory$"
    ):
        in_own_process("work", signal.raise_signal, signal.SIGKILL)
    with pytest.raises(
        WorkerError, match=r"^the process for work ended with exit status 3 and without an answer$"
    ):
        in_own_process("work", os._exit, 3)


def start(folder: Path) -> tuple[subprocess.Popen[str], psutil.Process]:
    folder.mkdir()
    program = folder / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(folder)]
    parent = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    pid = folder / "pid"
    deadline = time.monotonic() + 60
    while not (pid.is_file() and pid.read_text()):
        assert time.monotonic() < deadline, "the process did not start"
        time.sleep(0.02)
    return parent, psutil.Process(int(pid.read_text()))


def test_ctrl_c_reaches_the_process_once(tmp_path: Path) -> None:
    parent, _ = start(tmp_path / "catches")
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does
    assert parent.communicate(timeout=60)[0] == "['SIGINT']\n"
    assert parent.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_ends_the_process_ends_its_parent(number: int, tmp_path: Path) -> None:
    parent, child = start(tmp_path / "dies")
    parent.send_signal(number)
    errors = parent.communicate(timeout=60)[1]
    assert parent.returncode == -number
    assert not child.is_running()
    assert ("KeyboardInterrupt" in errors) == (number == signal.SIGINT)


def wrap_an_interruption() -> None:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        raise RuntimeError("a rank failed") from error


def test_an_error_that_comes_of_an_interruption_is_one() -> None:
    with pytest.raises(KeyboardInterrupt) as raised:
        in_own_process("work", wrap_an_interruption)
    assert "a rank failed" in raised.value.__notes__[0]


def test_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    parent, child = start(tmp_path / "orphan")
    parent.kill()
    child.wait(timeout=30)
    assert not child.is_running()
    parent.communicate()


@pytest.mark.parametrize(
    ("engine", "cluster", "apart"), [("vllm", "local", True), ("vllm", "ray", False), ("hf", "local", False)]
)
def test_a_phase_with_vllm_on_this_machine_has_a_process(engine: str, cluster: str, apart: bool) -> None:
    config = EvalConfig.model_validate(
        {
            "run": {"output_dir": "out"},
            "model": {"path": "model"},
            "rollout": {"engine": {"kind": engine}},
            "cluster": {"kind": cluster},
            "evaluation": {"datasets": [{"path": "problems.jsonl"}]},
        }
    )
    assert (run_phase("work", config, os.getpid) != os.getpid()) == apart
