"""What hung: one line from the stacks of all ranks, which says who waits in which call for whom.

Each rank's faulthandler has written the stacks of its threads. Where a file is empty, because a process is stopped or
was stuck before it could arm faulthandler, py-spy reads them from outside, if it is installed and the process is here.
"""

from __future__ import annotations

import json
import linecache
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

_PACKAGE = "reasoner_rl/"
_ENTRY = ("distributed/ray/group.py", "call")  # where a rank takes up a call of the driver's
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)$')
_INSTALLED = ("/site-packages/", "/dist-packages/", "/lib/python3")
# Files of what communicates, and functions there in which a rank waits for others.
_COMMUNICATION = re.compile(
    r"(torch|vllm)/distributed/|ray/_private/|"
    r"megatron/core/(distributed/|tensor_parallel/|pipeline_parallel/|parallel_state\.py)"
)
_WAITING = re.compile(
    r"(all_)?reduce|(all_)?gather(_\w+)?|reduce_scatter(_\w+)?|all_to_all(_\w+)?|(broadcast|scatter)(_object_list)?|"
    r"(monitored_|_store_based_)?barrier|send|recv|batch_isend_irecv|_p2p_ops|_communicate|"
    r"init_process_group|new_group|rendezvous|wait(_tensor|_for_unshard)?|foreach_all_gather_copy_out|"
    r"finish_grad_sync|get_objects"
)
_SPY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Frame:
    """One level of a stack."""

    file: str
    line: int
    function: str

    @property
    def where(self) -> str:
        """File and line."""
        return f"{_short(self.file)}:{self.line}"


Stack = Sequence[Frame]  # of one thread, the innermost frame first


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank is. ``call``: what it waits in for others, or else the innermost function, if of a library."""

    call: Frame | None
    caller: Frame | None  # the innermost frame of this package or of a user's file
    waits: bool

    def __str__(self) -> str:
        called = f"called by {self.caller.function}, {self.caller.where}" if self.caller else ""
        if self.call is None:
            return f"{self.caller.function} ({self.caller.where})" if self.caller else ""
        if self.waits and self.caller:
            return f"{self.call.function} ({called})"
        return f"{self.call.function} ({', '.join(filter(None, (self.call.where, called)))})"


def read_stacks(text: str) -> Sequence[Stack]:
    """The threads of the last dump in a file that faulthandler wrote."""
    threads: list[list[Frame]] = []
    for line in text.rpartition("Timeout (")[2].splitlines():
        if frame := _FRAME.match(line):
            if threads:
                threads[-1].append(Frame(frame["file"], int(frame["line"]), frame["function"]))
        elif line.startswith(("Thread ", "Current thread ")):
            threads.append([])
    return threads


def spied_stacks(process: int) -> Sequence[Stack]:
    """The threads of a process on this machine, read by py-spy; none where that is not installed or not allowed."""
    beside = Path(sys.executable).with_name("py-spy")
    program = shutil.which("py-spy") or (str(beside) if beside.exists() else None)
    if program is None:
        return []
    try:  # without stopping the process, which may be stopped already
        command = [program, "dump", "--json", "--nonblocking", "--pid", str(process)]
        told = subprocess.run(command, capture_output=True, timeout=_SPY_SECONDS, check=True).stdout
        return [[_spied(frame) for frame in thread["frames"]] for thread in json.loads(told)]
    except (OSError, subprocess.SubprocessError, ValueError, LookupError, TypeError):
        return []


def _spied(frame: Mapping[str, Any]) -> Frame:
    """A method's name comes with its class."""
    return Frame(frame["filename"], frame["line"], frame["name"].rpartition(".")[2])


def seen_from_outside(process: int) -> str:
    """What can be said of a rank on this machine that has not written its stack, such as a process that is stopped."""
    try:
        stopped = psutil.Process(process).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return "has no process any more"
    state = "is stopped" if stopped else "has written no stack"
    place = place_of(spied_stacks(process))
    return state if place is None else f"{state} and is in {place}"


def place_of(threads: Sequence[Stack]) -> Place | None:
    """Where the thread is that works for the driver; None if there is none."""
    thread = next(filter(None, (_in_call(thread) for thread in threads)), None)
    if thread is None:
        return None
    place = _place(thread)
    if thread[0].function == "_engine_run_backward":  # on a GPU, autograd has a thread of its own
        for other in threads:
            if other and (there := _place(other)).waits:
                return Place(there.call, place.caller, waits=True)
    return place


def _in_call(thread: Stack) -> Stack | None:
    """The part of a thread's stack that is inside of the driver's call."""
    for depth, frame in enumerate(thread):
        if frame.file.endswith(_ENTRY[0]) and frame.function == _ENTRY[1]:
            return thread[: depth + 1]
    return None


def _place(thread: Stack) -> Place:
    depth = next((depth for depth, frame in enumerate(thread) if _is_own(frame)), len(thread))
    library, caller = thread[:depth], thread[depth] if depth < len(thread) else None
    for frame in library:
        if _WAITING.fullmatch(frame.function) and _COMMUNICATION.search(frame.file):
            return Place(frame, caller, waits=True)
    if library:
        return Place(library[0], caller, waits=False)
    assert caller is not None
    # A method of an extension module has no frame, so that of a work in flight shows in the source alone.
    waits = _PACKAGE in caller.file and "work.wait(" in linecache.getline(caller.file, caller.line)
    return Place(None, caller, waits)


def _is_own(frame: Frame) -> bool:
    """Whether a frame is of this package or of a user's file."""
    if frame.file.startswith("<"):
        return False
    return f"/{_PACKAGE}" in frame.file or not any(part in frame.file for part in _INSTALLED)


def _short(file: str) -> str:
    """Within this package, a package's path; else the last two names."""
    if f"/{_PACKAGE}" in file:
        return file.rpartition(f"/{_PACKAGE}")[2]
    for installed in _INSTALLED[:2]:
        if installed in file:
            return file.rpartition(installed)[2]
    return "/".join(Path(file).parts[-2:])


def tell_hang(places: Mapping[int, Place | str]) -> str:
    """One line on who waits for whom. places: by rank, or what else is known of it, such as "it has answered"."""
    waiting, others = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
    for rank, place in sorted(places.items()):
        told = waiting if isinstance(place, Place) and place.waits else others
        told[str(place) if not isinstance(place, Place) or place.waits else f"is in {place}"].append(rank)
    for_whom = " and ".join(
        f"{_ranks(ranks)}, which {_conjugated(what, ranks)}" for what, ranks in _largest_first(others)
    )
    if not waiting:
        return "; ".join(
            f"{_ranks(ranks)} {_conjugated(what, ranks)}" for what, ranks in _largest_first(others)
        )
    groups = [
        f"{_ranks(ranks)} {'waits' if len(ranks) == 1 else 'wait'} in {call}"
        for call, ranks in _largest_first(waiting)
    ]
    who = " and ".join(groups)
    if others:
        return f"{who} for {for_whom}"
    return f"{who}, and no rank is elsewhere" if len(groups) == 1 else f"{who}: not in the same call"


def _largest_first(groups: Mapping[str, list[int]]) -> list[tuple[str, list[int]]]:
    return sorted(groups.items(), key=lambda group: (-len(group[1]), group[1]))


def _ranks(ranks: Sequence[int]) -> str:
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {compressed(ranks)}"


def _conjugated(what: str, ranks: Sequence[int]) -> str:
    """``is stopped`` of one rank as ``are stopped`` of several."""
    verb, _, rest = what.partition(" ")
    plural = {"is": "are", "has": "have"}.get(verb, verb)
    return f"{verb if len(ranks) == 1 else plural} {rest}"


def compressed(ranks: Sequence[int]) -> str:
    """Ascending numbers as a short text, such as ``0, 1 and 3``, ``0-6`` or ``0-127 but 5``."""
    runs = _runs(ranks)
    missing = sorted(set(range(ranks[0], ranks[-1] + 1)) - set(ranks))
    if 0 < len(missing) < len(ranks) // 4:
        return f"{ranks[0]}-{ranks[-1]} but {_listed(_runs(missing))}"
    return _listed(runs)


def _runs(numbers: Iterable[int]) -> list[str]:
    """Stretches of three or more following numbers as ``first-last``, others one by one."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [
        text for run in runs for text in ([f"{run[0]}-{run[-1]}"] if len(run) > 2 else [str(n) for n in run])
    ]


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
