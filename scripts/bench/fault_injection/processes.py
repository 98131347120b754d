"""Commands of `reasoner-rl` as processes that a trial starts, kills and waits for.

Most of them are forked off a process that has imported everything (multiprocessing's fork server), since importing
takes longer than a tiny run; the others are the command line in a fresh interpreter. Either way a command writes into a
log file, and leads a session of its own. Linux only.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
# An environment variable of a command and of whatever it starts, by which what it leaves behind is found.
_MARK = "REASONER_RL_FAULT_TRIAL"
# What runs import, some of it late, so that the forked process need not.
_preloaded = [
    *(
        "reasoner_rl.cli.app",
        "reasoner_rl.trainer.train",
        "reasoner_rl.training.fsdp",
        "reasoner_rl.hybrid.engine",
    ),
    *("transformers.models.qwen2.modeling_qwen2", "pyarrow.pandas_compat", "PIL.PngImagePlugin"),
    *("torch.distributed.checkpoint", "matplotlib.pyplot"),
]
_ENDING_SECONDS = 15.0  # that what a dead command started has to end by itself

Injection = Callable[[], None]  # of a module, and picklable; called in the process of the command, before it


class TrialFailed(Exception):
    """What reasoner_rl did is not what it should do; the text says how."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    status: int  # exit status; minus the number of the signal that killed it
    output: str  # standard output and error
    seconds: float

    def tail(self, lines: int = 6) -> str:
        """The last lines of the output on one line."""
        return " | ".join(line.strip() for line in self.output.strip().splitlines()[-lines:])


class Command:
    """A `reasoner-rl` command that has been started.

    Args:
        words: the arguments of the command.
        log: file for its output, which may exist; this command's is appended.
        injections: called in the process before the command. Forked commands only.
        cold: a fresh interpreter rather than a forked one.
    """

    def __init__(
        self, words: Sequence[str], log: Path, injections: Sequence[Injection] = (), *, cold: bool = False
    ) -> None:
        assert not (cold and injections)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        self._log, self._begins = log, log.stat().st_size
        self._mark = str(log.resolve())
        self.started = time.monotonic()
        self._process: BaseProcess | subprocess.Popen[bytes]
        if cold:
            self._process = _fresh(words, log, self._mark)
        else:
            self._process = _fork_server().Process(
                target=_run, args=(list(words), log, self._mark, injections)
            )
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def output(self) -> str:
        """What it has written up to now."""
        return self._log.read_bytes()[self._begins :].decode(errors="replace")

    @property
    def status(self) -> int | None:
        """Exit status, or minus the number of a signal; None while it runs."""
        process = self._process
        return process.exitcode if isinstance(process, BaseProcess) else process.poll()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its process alone, if that is running."""
        with suppress(ProcessLookupError):
            if self.status is None:
                os.kill(self.pid, number)

    def ended(self, seconds: float) -> Ended:
        """Wait until it has ended. Kills it and raises TrialFailed if that takes longer than this."""
        deadline = time.monotonic() + seconds
        while self.status is None:
            if time.monotonic() > deadline:
                tail = Ended(0, self.output, 0.0).tail()
                self.discard()
                raise TrialFailed(f"the command did not end within {seconds:g} s; it had written: {tail}")
            self._wait(0.02)
        assert self.status is not None
        return Ended(self.status, self.output, time.monotonic() - self.started)

    def sleep(self, seconds: float) -> None:
        """Wait for this long, or until it has ended."""
        deadline = time.monotonic() + seconds
        while self.status is None and (left := deadline - time.monotonic()) > 0:
            self._wait(min(left, 0.1))

    def wait_until(self, happened: Callable[[], bool], seconds: float = 120.0) -> bool:
        """Wait until something has happened; False if the command ended before, or after so many seconds."""
        deadline = time.monotonic() + seconds
        while not happened():
            if self.status is not None or time.monotonic() > deadline:
                return False
            self._wait(0.01)
        return True

    def left_behind(self, patience: float = _ENDING_SECONDS) -> list[str]:
        """Processes that it started and that still run after this many seconds, with their command lines."""
        deadline = time.monotonic() + patience
        while (found := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return [f"{pid}: {text}" for pid, text in found.items()]

    def processes(self) -> dict[int, str]:
        """Processes that it started in fresh interpreters, itself among them if it is one: number -> command line."""
        wanted = f"{_MARK}={self._mark}".encode()
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    text = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if text:  # a zombie has none
                        found[int(folder.name)] = text
        return found

    def discard(self) -> None:
        """Kill it and all that it started."""
        self.send(signal.SIGKILL)
        for pid in self.processes():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        while self.status is None:
            self._wait(0.1)

    def _wait(self, seconds: float) -> None:
        if isinstance(self._process, BaseProcess):
            self._process.join(seconds)
        else:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)


def _environment(mark: str) -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", _MARK: mark}


def _fresh(words: Sequence[str], log: Path, mark: str) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "reasoner_rl.cli", *words],
            env=os.environ | _environment(mark),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def preload(*modules: str) -> None:
    """Have the fork server import further modules. To be called before the first command."""
    _preloaded.extend(modules)


def _fork_server() -> multiprocessing.context.ForkServerContext:
    """The server; it is started by the first process that is asked of it, with this environment."""
    os.environ |= {name: value for name, value in _environment("").items() if name != _MARK}
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(_preloaded)
    return server


def warm_up() -> None:
    """Start the fork server, and wait until it has imported everything."""
    process = _fork_server().Process(target=_nothing)
    process.start()
    process.join()


def _nothing() -> None:
    """What the first forked process does."""


def _run(words: Sequence[str], log: Path, mark: str, injections: Sequence[Injection]) -> None:
    """Be the command, in a forked process."""
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    os.environ[_MARK] = mark
    # As in a fresh interpreter, whatever the server has made of them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.argv = ["reasoner-rl", *words]
    from reasoner_rl.cli import main

    for injection in injections:
        injection()
    main()
