"""Stopping a run: the first Ctrl-C asks for it, the second interrupts."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from reasoner_rl.trainer.stop import graceful_stop


def interrupted_write() -> None:
    """End in the error that comes of a Ctrl-C during `torch.distributed.checkpoint.save`, as the saving rank gets it.

    The interrupted file cannot be finished, which is an error of its own, and pickling between ranks drops its cause.
    """
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        received = pickle.loads(pickle.dumps(RuntimeError("unexpected pos 704 vs 598")))
    raise received


def run_until(second: Callable[[], None]) -> None:
    """A run that is interrupted once, and ends in what ``second`` does."""
    with graceful_stop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert (stop.requested, stop.interrupted) == (True, False)
        second()


def test_a_second_interruption_stays_one_when_a_library_makes_another_error_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(KeyboardInterrupt) as raised:
        run_until(interrupted_write)
    assert str(raised.value.__cause__) == "unexpected pos 704 vs 598"
    assert "stopping after this step, with a checkpoint; once more to stop at once" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_thread_leaves_signals_as_they_are() -> None:
    def run() -> tuple[bool, object]:
        with graceful_stop() as stop:
            return stop.requested, signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run).result() == (False, signal.default_int_handler)


def test_an_error_after_the_first_interruption_stays_what_it_is() -> None:
    def fail() -> None:
        raise ValueError("of the step")

    with pytest.raises(ValueError, match="of the step"):
        run_until(fail)
