#!/usr/bin/env python3
"""Measure verifiers of math answers on the labelled cases in tests/reward_fns/cases.

Each system answers case by case in a process of its own, which is killed where a case takes longer than the deadline
or ends the process; both count as mistakes. The systems are this repository's `reward_fns.verify_math`, Math-Verify
with its default configuration, and verl's rules. A package that is not installed gives a row that says so.

A false positive is a wrong answer that was called right, which a policy learns to exploit; a false negative is the
opposite. Speed is answers per second of CPU time, over the cases themselves, start of the process not included: plain
integers against plain integers, and answers or truths in LaTeX.

    python scripts/bench/verifiers.py --json verifiers.json
    python scripts/bench/verifiers.py --systems ours math-verify --groups integers matrices
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from answer_cases import CASES, Case, load_cases

ROOT = Path(__file__).resolve().parents[2]
ADDRESS_SPACE = 8 * 2**30  # bytes; an answer that asks for more ends its process, not the machine
START_SECONDS = 120.0  # for imports
# Groups whose answers are made to be slow or to mislead; they say nothing about usual speed.
UNUSUAL = {"extraction", "reward_hacks", "injection_and_bombs"}

Check = Callable[[str, str, dict[str, Any]], bool]  # response, truth, options


# Systems: each maker imports the package and returns its check.


def ours() -> Check:
    verify_math = importlib.import_module("reward_fns").verify_math
    return lambda response, truth, options: bool(verify_math(response, truth, **options).correct)


def math_verify() -> Check:
    package = importlib.import_module("math_verify")

    def check(response: str, truth: str, options: dict[str, Any]) -> bool:
        return bool(package.verify(package.parse(f"${truth}$"), package.parse(response)))

    return check


def verl_rule(name: str, read: Callable[[Any], bool]) -> Callable[[], Check]:
    def make() -> Check:
        rule = importlib.import_module(f"verl.utils.reward_score.{name}")
        return lambda response, truth, options: read(rule.compute_score(response, truth))

    return make


@dataclass(frozen=True)
class System:
    make: Callable[[], Check]
    boxed: bool = True  # how answers are written for it; math_dapo's prompt asks for a line "Answer: ..."


SYSTEMS = {
    "ours": System(ours),
    "math-verify": System(math_verify),
    "verl math_reward": System(verl_rule("math_reward", lambda score: score > 0)),
    "verl math_dapo": System(verl_rule("math_dapo", lambda score: bool(score["acc"])), boxed=False),
    "verl prime_math": System(verl_rule("prime_math", lambda score: bool(score[0]))),
}


@dataclass
class Outcome:
    """What a system made of one case."""

    kind: str  # "verdict", "timeout" or "crash"
    correct: bool = False
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    error: str = ""


Pair = tuple[Case, Outcome]


def cpu_time() -> float:
    """CPU seconds of this process and of its processes that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def serve(name: str, groups: list[str] | None, connection: Connection) -> None:
    """The process of one system: reads numbers of cases, answers with outcomes."""
    os.setsid()  # so that it is killed with the processes that it started
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    sys.path.insert(0, str(ROOT))
    system = SYSTEMS[name]
    try:
        check = system.make()
        check("The sum is \\boxed{\\frac{1}{2}}", "0.5", {})  # what is loaded at the first call
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")
        return
    cases = load_cases(groups=groups)
    connection.send("")
    while True:
        case = cases[connection.recv()]
        response = case.response(boxed=system.boxed)
        outcome = Outcome("verdict")
        started, cpu_started = time.perf_counter(), cpu_time()
        try:
            outcome.correct = check(response, case.truth, case.options)
        except Exception as error:
            outcome = Outcome("crash", error=f"{type(error).__name__}: {error}"[:200])
        outcome.seconds, outcome.cpu_seconds = time.perf_counter() - started, cpu_time() - cpu_started
        connection.send(outcome)


class Worker:
    """A system's process, started again after each time that it had to be killed."""

    def __init__(self, name: str, groups: list[str] | None) -> None:
        self.name, self.groups = name, groups
        self.start()

    def start(self) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(self.name, self.groups, theirs))
        self.process.start()
        theirs.close()
        try:
            problem = self.connection.recv() if self.connection.poll(START_SECONDS) else "no answer"
        except EOFError:
            problem = "its process ended"
        if problem:
            self.stop()
            raise ImportError(problem)

    def stop(self) -> None:
        try:
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        except ProcessLookupError:
            self.process.kill()
        self.process.join()
        self.connection.close()

    def ask(self, number: int, deadline: float) -> Outcome:
        self.connection.send(number)
        try:
            if self.connection.poll(deadline):
                outcome: Outcome = self.connection.recv()
                return outcome
            outcome = Outcome("timeout", seconds=deadline)
        except (EOFError, OSError):
            outcome = Outcome("crash", error="its process ended")
        self.stop()
        self.start()
        return outcome


def run(name: str, cases: Sequence[Case], groups: list[str] | None, deadline: float) -> list[Outcome] | str:
    """The outcomes of all cases, or why the system could not run."""
    try:
        worker = Worker(name, groups)
    except ImportError as problem:
        missing = "No module named" in str(problem) or "no attribute" in str(problem)
        return "not installed" if missing else f"does not start: {problem}"
    try:
        return [worker.ask(number, deadline) for number in range(len(cases))]
    finally:
        worker.stop()


def count(pairs: Sequence[Pair]) -> dict[str, Any]:
    verdicts = [(case.correct, outcome.correct) for case, outcome in pairs if outcome.kind == "verdict"]
    return {
        "cases": len(pairs),
        "accuracy": sum(label == said for label, said in verdicts) / len(pairs),
        "false_positives": verdicts.count((False, True)),
        "false_negatives": verdicts.count((True, False)),
        "timeouts": sum(outcome.kind == "timeout" for _, outcome in pairs),
        "crashes": sum(outcome.kind == "crash" for _, outcome in pairs),
    }


def per_cpu_second(outcomes: Iterable[Outcome]) -> float | None:
    seconds = [outcome.cpu_seconds for outcome in outcomes if outcome.kind == "verdict"]
    return len(seconds) / max(sum(seconds), 1e-9) if seconds else None


def summarise(pairs: Sequence[Pair]) -> dict[str, Any]:
    slow_case, slow = max(pairs, key=lambda pair: pair[1].seconds)
    usual = [
        (case.answer, case.truth, o)
        for case, o in pairs
        if case.answer is not None and case.group not in UNUSUAL
    ]
    integer = re.compile(r"-?\d{1,9}")
    return count(pairs) | {
        "integers_per_cpu_second": per_cpu_second(
            o for answer, truth, o in usual if integer.fullmatch(answer) and integer.fullmatch(truth)
        ),
        "latex_per_cpu_second": per_cpu_second(o for answer, truth, o in usual if "\\" in answer + truth),
        "slowest_seconds": slow.seconds,
        "slowest_case": f"{slow_case.group}: {slow_case.short()}",
        "groups": {
            group: count([pair for pair in pairs if pair[0].group == group])
            for group in dict.fromkeys(case.group for case, _ in pairs)
        },
        "mistakes": [
            {"group": c.group, "case": c.short(), "label": c.correct, "outcome": o.kind, "error": o.error}
            for c, o in pairs
            if o.kind != "verdict" or o.correct != c.correct
        ],
    }


def markdown(rows: Iterable[Sequence[str]]) -> str:
    head, *body = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
    return "\n".join([head, "|---" * (head.count(" | ") + 1) + "|", *body])


def tables(results: dict[str, dict[str, Any] | str]) -> str:
    """One of systems, one of groups."""
    head = "system, accuracy, false positives, false negatives, timeouts, crashes, integers/CPU s, LaTeX/CPU s, slowest"
    rows = [[*head.split(", "), "slowest case"]]
    for name, result in results.items():
        if isinstance(result, str):
            rows.append([name, result, *[""] * 8])
            continue
        counts = [str(result[key]) for key in ("false_positives", "false_negatives", "timeouts", "crashes")]
        speeds = [result["integers_per_cpu_second"], result["latex_per_cpu_second"]]
        cells = [name, f"{result['accuracy']:.1%}", *counts, *(f"{speed or 0:,.0f}" for speed in speeds)]
        rows.append([*cells, f"{result['slowest_seconds']:.2f} s", f"`{result['slowest_case']}`"])
    ran = {name: result for name, result in results.items() if isinstance(result, dict)}
    groups = [["group", "cases", *ran]]
    for group, counts_of_first in next(iter(ran.values()))["groups"].items() if ran else ():
        found = [result["groups"][group] for result in ran.values()]
        cells = [
            f"{c['accuracy']:.1%} ({c['false_positives']}, {c['false_negatives']}, {c['timeouts'] + c['crashes']})"
            for c in found
        ]
        groups.append([group, str(counts_of_first["cases"]), *cells])
    legend = "Accuracy by group (false positives, false negatives, timeouts and crashes):"
    return f"{markdown(rows)}\n\n{legend}\n\n{markdown(groups)}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), metavar="NAME", help="which"
    )
    parser.add_argument(
        "--groups", nargs="+", metavar="GROUP", help="files of cases, without .jsonl; all if left out"
    )
    parser.add_argument("--deadline", type=float, default=10.0, help="seconds per case (default: 10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers and each mistake here")
    arguments = parser.parse_args(argv)
    cases = load_cases(groups=arguments.groups)
    if not cases:
        parser.error(f"no cases: there are {', '.join(sorted(path.stem for path in CASES.glob('*.jsonl')))}")
    results: dict[str, dict[str, Any] | str] = {}
    for name in arguments.systems:
        print(f"{name}: {len(cases)} cases", file=sys.stderr)
        outcomes = run(name, cases, arguments.groups, arguments.deadline)
        results[name] = (
            outcomes if isinstance(outcomes, str) else summarise(list(zip(cases, outcomes, strict=True)))
        )
    print(tables(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
