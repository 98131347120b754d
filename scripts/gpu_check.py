#!/usr/bin/env python3
"""Check on one GPU, in minutes, what only a GPU can show; on a CPU the same code runs with tiny sizes.

Each check runs in a process of its own under a time limit, in order of importance, so that one failure hides no other.
A check that needs a package which is not installed is skipped; the network is not needed.

    python scripts/gpu_check.py                          5 minutes at most; exit status 0 if all is well, 1 if not
    python scripts/gpu_check.py --everything             12 minutes at most
    python scripts/gpu_check.py --only attention fsdp    some checks; --list names them
    python scripts/gpu_check.py --only throughput --limit 1200   how fast training and generation are
    python scripts/gpu_check.py --size tiny              on a CPU

Every figure is in the JSON file, with the machine, the versions and the end of the log of each check that failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"
sys.path[:0] = [path for path in (str(ROOT), str(SCRIPTS)) if path not in sys.path]

from gpu_checks.common import Figures, Size, Verdict, read_outcome  # noqa: E402  # needs no torch


@dataclass(frozen=True)
class Check:
    """A function of a `Context` that returns `Figures`, raises `Skip` with a reason, or anything else for a failure."""

    name: str
    module: str
    function: str
    about: str
    limit_s: float
    essential: bool = True  # runs by default; others with --everything or by name
    group: str = ""  # of checks that run only where they or their group are named


SPEED = "gpu_checks.throughput"

# In order of importance: what is not reached within the limit is at the end.
# fmt: off
CHECKS: tuple[Check, ...] = (
    Check("versions", "gpu_checks.kernels", "versions", "versions, doctor, device, bandwidths", 90),
    Check("attention", "gpu_checks.kernels", "attention", "packed attention against float32, with gradients", 90),
    Check("logprobs", "gpu_checks.kernels", "logprobs", "chunked logprobs against float32 logits", 60),
    Check("fsdp", "gpu_checks.training", "fsdp", "FSDP2 updates: tokens/s, MFU, peak", 90),
    Check("parity", "gpu_checks.training", "parity", "FSDP2 against plain transformers in float32", 60),
    Check("offload", "gpu_checks.training", "offload", "offload and reload, and the update after them", 90),
    Check("resume", "gpu_checks.training", "resume", "save while offloaded, load, train again", 60),
    Check("hybrid", "gpu_checks.engines", "hybrid", "hybrid engine with the embedded engine: syncs, memory", 75),
    Check("vllm", "gpu_checks.engines", "vllm", "vLLM: sleep, memory, syncs, gaps, speed, faults", 120),
    Check("dapo", "gpu_checks.learning", "dapo_offload_all", "three DAPO steps with vLLM, offload all", 120, False),
    Check("quickstart", "gpu_checks.learning", "quickstart", "the quickstart, which must learn", 90),
    Check("ppo", "gpu_checks.learning", "ppo", "three PPO steps beside vLLM, with all four models", 150, False),
    Check("preferences", "gpu_checks.preferences", "fsdp", "answers, reward model, DPO, answers judged", 180, False),
    Check("dpo-megatron", "gpu_checks.preferences", "megatron", "reward model and DPO by Megatron", 120, False),
    Check("distillation", "gpu_checks.preferences", "distillation", "the quickstart taught by its result", 90, False),
    Check("megatron", "gpu_checks.megatron", "local", "Megatron without TransformerEngine", 90, False),
    Check("megatron-te", "gpu_checks.megatron", "transformer_engine", "Megatron with TransformerEngine", 90, False),
    Check("dapo-megatron", "gpu_checks.learning", "dapo_megatron", "DAPO with Megatron, offload all", 150, False),
    Check("quickstart-vllm", "gpu_checks.learning", "quickstart_vllm", "the quickstart with vLLM", 150, False),
    Check("vllm-graphs", "gpu_checks.engines", "vllm_graphs", "vLLM with CUDA graphs under new weights", 150, False),
    Check("vllm-float32", "gpu_checks.engines", "vllm_float32", "vLLM in float32: gaps", 75, False),
    Check("dapo-optimizer", "gpu_checks.learning", "dapo_offload_optimizer", "DAPO, offload optimizer", 120, False),
    Check("dapo-none", "gpu_checks.learning", "dapo_offload_none", "DAPO, offload none", 120, False),
    Check("throughput-options", SPEED, "options", "updates with each option, as ratios", 240, False, "throughput"),
    Check("throughput-updates", SPEED, "updates", "MFU of updates of 0.5B and 1.5B", 240, False, "throughput"),
    Check("throughput-embedded", SPEED, "generation", "embedded engine beside bandwidth", 150, False, "throughput"),
    Check("throughput-vllm", SPEED, "generation_vllm", "vLLM beside bandwidth", 180, False, "throughput"),
    Check("throughput-trl", SPEED, "beside_trl", "a step beside TRL's", 240, False, "throughput"),
)
# fmt: on

DEFAULTS = {  # of the checks' environment, where it does not say otherwise
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # or they fill the log
    "VLLM_HOST_IP": "127.0.0.1",
    "NCCL_SOCKET_IFNAME": "lo",
    "GLOO_SOCKET_IFNAME": "lo",
    "TOKENIZERS_PARALLELISM": "false",
}
MORE_PACKAGES = ("flashinfer-python", "triton", "nvidia-nccl-cu13", "nvidia-cudnn-cu13")
LIMIT_S, EVERYTHING_LIMIT_S = 300.0, 720.0
KILL_S = 10.0  # that processes may take to be gone after SIGKILL
LEAST_S = 5.0  # a check that has less time left than this does not start
AHEAD = 2  # checks that load their libraries while another runs; loading takes longer than many a check
CPU_SLACK = 4
LOG_LINES = 40
WIDTH = 118

Child = subprocess.Popen[str]


@dataclass(frozen=True)
class Result:
    """What became of a check."""

    verdict: Verdict
    seconds: float
    figures: Figures
    reason: str = ""  # of a failure or a skip, one line
    log: tuple[str, ...] = ()  # the end of a failure's log


@dataclass(frozen=True)
class Options:
    """How checks are run."""

    size: Size
    work: Path
    limit_s: float  # in all
    json: Path
    arguments: tuple[str, ...] = ()


def run(checks: Sequence[Check], options: Options) -> dict[str, Result]:
    """Run the checks one after the other, print the result of each, and keep the JSON file up to date."""
    options.work.mkdir(parents=True, exist_ok=True)
    began, facts = time.monotonic(), machine()
    results = {check.name: Result("not reached", 0.0, {}) for check in checks}
    children: dict[str, Child] = {}
    try:
        for index, check in enumerate(checks):
            left = options.limit_s - (time.monotonic() - began)
            if index and left < LEAST_S:
                break
            for soon in checks[index : index + 1 + AHEAD]:
                if soon.name not in children:
                    children[soon.name] = start(soon, options)
            limit = min(own_limit(check, options.size), left)
            print(f"{check.name}: {check.about} (at most {limit:.0f} s)", flush=True)
            results[check.name] = result = finish(check, children[check.name], options, limit)
            details = result.reason or abbreviate(result.figures)
            print(f"  {result.verdict} in {result.seconds:.1f} s  {details}"[: 2 * WIDTH], flush=True)
            write_report(options, facts, results, time.monotonic() - began)
    finally:
        for child in children.values():
            end(child)
    write_report(options, facts, results, time.monotonic() - began)
    return results


def own_limit(check: Check, size: Size) -> float:
    """Seconds that a check may take: more on a CPU, which loads libraries slowly where others use it too."""
    return check.limit_s * (1 if size == "full" else CPU_SLACK)


def start(check: Check, options: Options) -> Child:
    """Start a check's process, in a session of its own; it loads its libraries and waits for its time limit."""
    (options.work / f"{check.name}.json").unlink(missing_ok=True)
    command = [sys.executable, "-m", "gpu_checks", check.module, check.function, check.name]
    with (options.work / f"{check.name}.log").open("w") as log:
        return subprocess.Popen(
            [*command, options.size, str(options.work)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
            cwd=ROOT,
            start_new_session=True,
        )


def finish(check: Check, child: Child, options: Options, limit_s: float) -> Result:
    """Let a check run, and kill it and whatever it started when it has ended or its time is up."""
    began, status = time.monotonic(), None
    assert child.stdin is not None
    with suppress(BrokenPipeError):  # it has ended already, which its exit status shows
        child.stdin.write(f"{limit_s}\n")
        child.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        status = child.wait(limit_s)
    seconds = time.monotonic() - began
    end(child)
    outcome, log = options.work / f"{check.name}.json", options.work / f"{check.name}.log"
    return judge(check, options.size, limit_s, status, outcome, log, seconds)


def end(child: Child) -> None:
    """Kill what is left of a check's session, and wait for its leader as long as for the others."""
    kill_session(child.pid)
    # It expires where even SIGKILL does not end the process, such as one that is stuck in the GPU's driver.
    with suppress(subprocess.TimeoutExpired):
        child.wait(KILL_S)


def judge(
    check: Check, size: Size, limit_s: float, status: int | None, outcome: Path, log: Path, seconds: float
) -> Result:
    """The result of a child that ended with ``status``, or None where it was killed at its limit."""
    found = read_outcome(outcome)
    lines = [line.rstrip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    verdict: Verdict = found.get("verdict", "FAIL")
    reason = " ".join(found.get("reason", "").split())
    if "verdict" not in found and status is None:
        own = own_limit(check, size)
        reason = f"stopped after {limit_s:.3g} s"
        if limit_s < own:
            reason += f", when the limit of all checks was reached; its own is {own:.3g} s"
    elif "verdict" not in found:
        how = signal.strsignal(-status) if status and status < 0 else f"exit status {status}"
        reason = f"died ({how}): {lines[-1] if lines else 'nothing in its log'}"
    end_of_log = tuple(lines[-LOG_LINES:]) if verdict == "FAIL" else ()
    return Result(verdict, round(seconds, 2), found["figures"], reason, end_of_log)


def kill_session(leader: int) -> None:
    """Kill every process of a session and wait until they are gone, because some hold memory of the device."""
    deadline = time.monotonic() + KILL_S
    while time.monotonic() < deadline:
        members = [pid for pid in _session(leader) if not _is_zombie(pid)]
        if not members:
            return
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _session(leader: int) -> Iterable[int]:
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(int(entry.name)) == leader:
                yield int(entry.name)


def _is_zombie(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def environment() -> dict[str, str]:
    """The environment of a check: ours, with defaults for what it does not set, and this repository on the path."""
    defaults = dict(DEFAULTS)
    if importlib.util.find_spec("flashinfer") is None:
        defaults["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    path = [str(ROOT), str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return defaults | dict(os.environ) | {"PYTHONPATH": os.pathsep.join(path)}


# The machine.


def gpus() -> list[str]:
    """Name, driver version and memory of each GPU, as nvidia-smi reports them, without loading torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return []
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return _output(query).splitlines()


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    from reasoner_rl.observability.versions import installed_version, versions

    more = {name: version for name in MORE_PACKAGES if (version := installed_version(name)) is not None}
    commit = _output(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"])
    return {"gpus": gpus(), "commit": commit or None, **versions(), **more}


def _output(command: list[str]) -> str:
    """What a command prints; nothing if there is no such program or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


# The report.


def write_report(options: Options, facts: dict[str, Any], results: dict[str, Result], seconds: float) -> None:
    """Write the JSON file with everything that is known so far."""
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "arguments": options.arguments,
        "size": options.size,
        "limit_s": options.limit_s,
        "seconds": round(seconds, 1),
        "machine": facts,
        "ok": exit_status(results) == 0,
        "checks": {name: asdict(result) for name, result in results.items()},
    }
    temporary = options.json.with_suffix(".tmp")
    temporary.write_text(json.dumps(report, indent=2) + "\n")
    temporary.replace(options.json)


def exit_status(results: dict[str, Result]) -> int:
    """0 if everything is ok or skipped, else 1."""
    return int(any(result.verdict not in ("ok", "skipped") for result in results.values()))


def abbreviate(figures: Figures) -> str:
    """Figures in one line, with three digits each."""
    shown = {
        name: f"{value:.3g}" if isinstance(value, float) else str(value) for name, value in figures.items()
    }
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def table(results: dict[str, Result]) -> str:
    """One row per check: name, verdict, seconds, and figures or the reason of a failure, cut to the line's width."""
    lines = []
    for name, result in results.items():
        details = result.reason or abbreviate(result.figures)
        line = f"{name:<20}{result.verdict:<12}{result.seconds:>7.1f} s  {details}"
        lines.append(line if len(line) <= WIDTH else line[: WIDTH - 3] + "...")
    return "\n".join(lines)


# The command line.


def seconds(text: str) -> float:
    """A positive, finite number of the command line."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0 and finite, and it is {text}")
    return value


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Command line. Ends with status 2 where a check is not known, none is left, or a place cannot be written to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", metavar="NAME", default=[], help="run these checks or groups, by default or not")
    add("--skip", nargs="+", metavar="NAME", default=[], help="leave these checks out")
    add("--everything", action="store_true", help="also the checks that are not run by default")
    limits = f"default {LIMIT_S:.0f}, with --everything {EVERYTHING_LIMIT_S:.0f}"
    add("--limit", type=seconds, metavar="SECONDS", help=f"for all checks together ({limits})")
    add("--size", choices=["full", "tiny"], help="default: full where there is a GPU, else tiny")
    add("--json", type=Path, metavar="FILE", default=Path("gpu_check.json"), help="default gpu_check.json")
    kept = "for checkpoints and logs, which are kept (default: a temporary folder, removed at the end)"
    add("--work", type=Path, metavar="FOLDER", help=kept)
    add("--list", action="store_true", help="list the checks and end")
    options = parser.parse_args(arguments)
    known = list(dict.fromkeys([check.name for check in CHECKS] + [c.group for c in CHECKS if c.group]))
    for name in (*options.only, *options.skip):
        if name not in known:
            from reasoner_rl.errors import did_you_mean

            parser.error(f"there is no check {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}")
    if not choose(options):
        parser.error(f"no check is left to run: --skip names all of {', '.join(map(repr, options.skip))}")
    if not options.list:
        for flag, place in (("--json", options.json), ("--work", options.work)):
            if (problem := unwritable(place, folder=flag == "--work")) is not None:
                parser.error(f"{flag} {place}: {problem}")
    return options


def unwritable(place: Path | None, *, folder: bool) -> str | None:
    """Why a file (or folder) cannot be written, after making the folder that it is in; None if it can."""
    if place is None:
        return None
    if not folder and place.is_dir():
        return "it is a folder, and must be a file"
    parent = place if folder else place.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"the folder {parent} cannot be made: {error.strerror}"
    return None if os.access(parent, os.W_OK) else f"the folder {parent} cannot be written to"


def choose(options: argparse.Namespace) -> list[Check]:
    """The checks to run, in order of importance."""

    def named(check: Check, names: Sequence[str]) -> bool:
        return check.name in names or check.group in names

    def by_default(check: Check) -> bool:
        return check.essential or (options.everything and not check.group)

    wanted = [check for check in CHECKS if not named(check, options.skip)]
    return [check for check in wanted if (named(check, options.only) if options.only else by_default(check))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    given = tuple(sys.argv[1:] if arguments is None else arguments)
    options = parse(given)
    if options.list:
        for check in CHECKS:
            how = f" (by name, or --only {check.group})" if check.group else " (with --everything)"
            print(f"{check.name:<20}{check.about}{'' if check.essential else how}")
        return 0
    size: Size = options.size or ("full" if gpus() else "tiny")
    limit = options.limit or (EVERYTHING_LIMIT_S if options.everything else LIMIT_S)
    work = options.work or Path(tempfile.mkdtemp(prefix="gpu_check_"))
    # Whoever ends this with a signal ends the check that runs as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        results = run(choose(options), Options(size, work.resolve(), limit, options.json.resolve(), given))
    finally:
        if options.work is None:
            shutil.rmtree(work, ignore_errors=True)
    print(f"\n{table(results)}\n\nsize {size}; every figure is in {options.json}")
    return exit_status(results)


if __name__ == "__main__":
    sys.exit(main())
