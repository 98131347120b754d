"""Who waits for whom, from the stacks of all ranks as faulthandler and py-spy give them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from reasoner_rl.distributed.stacks import (
    Frame,
    Place,
    compressed,
    place_of,
    read_stacks,
    seen_from_outside,
    spied_stacks,
    tell_hang,
)

TORCH = "/venv/lib/python3.11/site-packages/torch"
PACKAGE = "/work/reasoner_rl"
ENTRY = f"""\
  File "{PACKAGE}/distributed/ray/group.py", line 128 in call
  File "/venv/lib/python3.11/site-packages/verl/single_controller/base/decorator.py", line 462 in inner
  File "/venv/lib/python3.11/site-packages/ray/_private/worker.py", line 1083 in main_loop
  File "<stdin>", line 1 in <module>
"""
WAITS_FOR_GRADIENTS = f"""\
Timeout (0:00:15)!
Thread 0x00007f9031000b80 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 331 in wait
  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap

Thread 0x00007f90313bcb80 (most recent call first):
  File "{TORCH}/distributed/distributed_c10d.py", line 3252 in all_reduce
  File "{TORCH}/distributed/c10d_logger.py", line 83 in wrapper
  File "{PACKAGE}/training/fsdp.py", line 210 in clip_grad_norm
  File "{PACKAGE}/distributed/worker.py", line 140 in update
{ENTRY}"""
# In a forward pass of FSDP2, as it was written on two ranks over gloo with torch 2.13.
WAITS_FOR_PARAMETERS = f"""\
Timeout (0:00:15)!
Thread 0x00007ff0cf20fb80 (most recent call first):
  File "{TORCH}/distributed/distributed_c10d.py", line 4394 in all_gather_single
  File "{TORCH}/distributed/c10d_logger.py", line 83 in wrapper
  File "{TORCH}/distributed/fsdp/_fully_shard/_fsdp_collectives.py", line 119 in __call__
  File "{TORCH}/distributed/fsdp/_fully_shard/_fsdp_collectives.py", line 364 in foreach_all_gather
  File "{TORCH}/utils/_contextlib.py", line 124 in decorate_context
  File "{TORCH}/distributed/fsdp/_fully_shard/_fsdp_param_group.py", line 407 in unshard
  File "{TORCH}/distributed/fsdp/_fully_shard/_fsdp_state.py", line 314 in _pre_forward
  File "{TORCH}/nn/modules/module.py", line 1811 in inner
  File "{TORCH}/nn/modules/module.py", line 1778 in _wrapped_call_impl
  File "{PACKAGE}/training/policy.py", line 88 in logprobs
{ENTRY}"""
SLEEPS = f"""\
Timeout (0:00:15)!
Thread 0x00007f90313bcb80 (most recent call first):
  File "/home/me/losses/mine.py", line 12 in my_loss
  File "{PACKAGE}/training/fsdp.py", line 190 in update
{ENTRY}"""
COMPUTES = f"""\
Timeout (0:00:15)!
Thread 0x00007f90313bcb80 (most recent call first):
  File "{TORCH}/nn/functional.py", line 2567 in linear
  File "{PACKAGE}/training/policy.py", line 90 in logprobs
{ENTRY}"""
NO_CALL = """\
Timeout (0:00:15)!
Thread 0x00007f9031000b80 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 331 in wait
"""


def place(text: str) -> Place:
    found = place_of(read_stacks(text))
    assert found is not None
    return found


def test_a_place_is_the_innermost_known_call_and_the_frame_that_called_it() -> None:
    fsdp = Frame(f"{PACKAGE}/training/fsdp.py", 210, "clip_grad_norm")
    call = Frame(f"{TORCH}/distributed/distributed_c10d.py", 3252, "all_reduce")
    assert place(WAITS_FOR_GRADIENTS) == Place(call, fsdp, waits=True)
    assert str(place(WAITS_FOR_PARAMETERS)) == "all_gather_single (called by logprobs, training/policy.py:88)"
    assert place(SLEEPS) == Place(None, Frame("/home/me/losses/mine.py", 12, "my_loss"), waits=False)
    assert str(place(COMPUTES)) == (
        "linear (torch/nn/functional.py:2567, called by logprobs, training/policy.py:90)"
    )
    assert not place(COMPUTES).waits
    assert place_of(read_stacks(NO_CALL)) is None
    assert place_of(read_stacks("")) is None


def test_the_last_dump_of_a_file_counts() -> None:
    assert place(WAITS_FOR_GRADIENTS + SLEEPS) == place(SLEEPS)


def test_autograds_own_thread_is_where_a_rank_waits_on_a_gpu() -> None:
    backward = f"""\
Timeout (0:00:15)!
Thread 0x00007f9031000b80 (most recent call first):
  File "{TORCH}/distributed/distributed_c10d.py", line 4394 in reduce_scatter_tensor
  File "{TORCH}/distributed/fsdp/_fully_shard/_fsdp_param_group.py", line 520 in post_backward

Thread 0x00007f90313bcb80 (most recent call first):
  File "{TORCH}/autograd/graph.py", line 829 in _engine_run_backward
  File "{TORCH}/_tensor.py", line 647 in backward
  File "{PACKAGE}/training/fsdp.py", line 200 in _backward
{ENTRY}"""
    assert str(place(backward)) == "reduce_scatter_tensor (called by _backward, training/fsdp.py:200)"


def test_one_line_says_who_waits_in_which_call_for_whom() -> None:
    reduces, gathers, sleeps = place(WAITS_FOR_GRADIENTS), place(WAITS_FOR_PARAMETERS), place(SLEEPS)
    assert tell_hang({0: reduces, 1: reduces, 2: sleeps, 3: reduces}) == (
        "ranks 0, 1 and 3 wait in all_reduce (called by clip_grad_norm, training/fsdp.py:210) for rank 2, "
        "which is in my_loss (losses/mine.py:12)"
    )
    many = dict.fromkeys(range(128), reduces)
    assert tell_hang({**many, 5: "has written no stack"}) == (
        "ranks 0-127 but 5 wait in all_reduce (called by clip_grad_norm, training/fsdp.py:210) for rank 5, "
        "which has written no stack"
    )
    assert tell_hang({0: gathers, 1: reduces, 2: reduces}) == (
        "ranks 1 and 2 wait in all_reduce (called by clip_grad_norm, training/fsdp.py:210) and rank 0 waits in "
        "all_gather_single (called by logprobs, training/policy.py:88): not in the same call"
    )
    assert tell_hang({0: reduces, 1: reduces}) == (
        "ranks 0 and 1 wait in all_reduce (called by clip_grad_norm, training/fsdp.py:210), and no rank is elsewhere"
    )
    assert tell_hang({0: sleeps, 1: "has answered"}) == (
        "rank 0 is in my_loss (losses/mine.py:12); rank 1 has answered"
    )
    assert tell_hang({0: reduces, 1: "has written no stack", 2: "has written no stack", 3: sleeps}) == (
        "rank 0 waits in all_reduce (called by clip_grad_norm, training/fsdp.py:210) for ranks 1 and 2, which "
        "have written no stack and rank 3, which is in my_loss (losses/mine.py:12)"
    )
    assert tell_hang({0: "is stopped", 1: "is stopped"}) == "ranks 0 and 1 are stopped"


@pytest.mark.parametrize(
    ("ranks", "text"),
    [
        ([4], "4"),
        ([0, 1], "0 and 1"),
        ([0, 1, 3], "0, 1 and 3"),
        ([0, 1, 2, 3, 5, 6], "0-3, 5 and 6"),
        ([rank for rank in range(128) if rank != 5], "0-127 but 5"),
        ([rank for rank in range(64) if rank not in (5, 6, 7, 40)], "0-63 but 5-7 and 40"),
        ([0, 100], "0 and 100"),
    ],
)
def test_ranks_are_compressed(ranks: list[int], text: str) -> None:
    assert compressed(ranks) == text


STUCK = """\
import time
class RayWorker:
    def call(self):
        print("there", flush=True)
        self.work()
    def work(self):
        time.sleep(60)
RayWorker().call()
"""


def test_a_process_that_cannot_write_its_own_stack_is_seen_from_outside(tmp_path: Path) -> None:
    program = tmp_path / "distributed" / "ray" / "group.py"
    program.parent.mkdir(parents=True)
    program.write_text(STUCK)
    process = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        while psutil.Process(process.pid).status() != psutil.STATUS_SLEEPING:
            time.sleep(0.01)
        running = seen_from_outside(process.pid)
        process.send_signal(signal.SIGSTOP)
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        stopped, threads = seen_from_outside(process.pid), spied_stacks(process.pid)
    finally:
        process.kill()
        process.communicate()
    assert seen_from_outside(process.pid) == "has no process any more"
    if not threads:
        assert (running, stopped) == ("has written no stack", "is stopped")
        pytest.skip("py-spy is not installed, or may not read other processes")
    assert threads == [
        [Frame(str(program), line, name) for line, name in ((7, "work"), (5, "call"), (8, "<module>"))]
    ]
    assert running == "has written no stack and is in work (ray/group.py:7)"
    assert stopped == "is stopped and is in work (ray/group.py:7)"
