#!/usr/bin/env python3
"""Time the verifier processes: what isolation costs, what bad answers cost, and answers per second on real problems.

    python scripts/bench/reward_runner.py --answers 2000 --workers 2
    REASONER_RL_DATA=FOLDER python scripts/bench/reward_runner.py --rounds 3
    REASONER_RL_DATA=FOLDER python scripts/bench/reward_runner.py --rounds 3 --machines 2 --workers 8

The second table needs a folder with deepmath_train.jsonl, math500_test.jsonl and gsm8k_test_first1000.jsonl (rows with
`answer`); without them it is left out. Of each answer several responses are made: as it is, worked into a sentence,
changed, and none. With --machines the processes are spread over so many Ray nodes, all of them on this machine. Prints
Markdown. Milliseconds are those of the function, without the way to the process and back: by the clock, and as
processor time, which leaves out waiting for a core.
"""

# Verifier processes import this file, so everything heavy is imported where it is used.
from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reasoner_rl.rewards.runner import RewardTask
    from reasoner_rl.types import Reward

FILES = {
    "deepmath": "deepmath_train.jsonl",
    "math500": "math500_test.jsonl",
    "gsm8k": "gsm8k_test_first1000.jsonl",
}
# About 2,000 characters.
REASONING = "We look at the problem step by step, and write down what follows from what. " * 25
DEADLINE = 1.0  # seconds, in the first table


def judge(data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any]) -> Any:
    """A verifier that does what ``extra_info["misdeed"]`` says."""
    from reward_fns import compute_score

    misdeed = extra_info.get("misdeed")
    if misdeed == "raise":
        raise RuntimeError("as asked")
    if misdeed == "exit":
        os._exit(1)
    if misdeed == "memory":
        return bytearray(20 << 30)
    if misdeed == "hang":
        return sum(range(10**13))
    return compute_score(data_source, solution_str, ground_truth, extra_info)


def timed_compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any]
) -> Any:
    """The default verifier, and the processor time that it took: with fewer cores than processes it waits besides."""
    from reward_fns import compute_score

    begun = time.thread_time()
    result = compute_score(data_source, solution_str, ground_truth, extra_info)
    return {**result, "cpu_ms": 1e3 * (time.thread_time() - begun)}


def simple_tasks(answers: int, misdeed: str | None) -> list[RewardTask]:
    """Different answers, every hundredth of them a bad one if there is a misdeed."""
    from reasoner_rl.rewards.runner import RewardTask

    return [
        RewardTask(
            "math500",
            f"{REASONING}The answer is \\boxed{{{number}}}.",
            str(number - number % 2),
            {"misdeed": misdeed if number % 100 == 50 else None},
        )
        for number in range(answers)
    ]


def real_tasks(folder: Path, of_each: int) -> list[RewardTask]:
    """Responses to the first problems of each file, in the order in which training would mix them."""
    from reasoner_rl.rewards.runner import RewardTask

    by_source = []
    for source, name in FILES.items():
        with (folder / name).open(encoding="utf-8") as file:
            truths = [json.loads(line)["answer"] for line in itertools.islice(file, of_each)]
        by_source.append([(source, str(truth)) for truth in truths])
    mixed = [pair for row in itertools.zip_longest(*by_source) for pair in row if pair]
    return [RewardTask(source, text, truth) for source, truth in mixed for text in responses(source, truth)]


def responses(source: str, truth: str) -> list[str]:
    """Responses with the answer as it is, in another form, changed, and without one."""
    mark: Callable[[str], str] = (
        (lambda text: f"#### {text}") if source == "gsm8k" else (lambda text: f"\\boxed{{{text}}}")
    )
    changed = re.sub(r"[0-9]", lambda digit: str((int(digit[0]) + 1) % 10), truth, count=1)
    others = [f"x = {truth}", changed if changed != truth else f"{truth} + 1"]
    return [REASONING + mark(text) for text in (truth, *others)] + [REASONING]


@contextmanager
def ray_nodes(machines: int) -> Iterator[None]:
    """Ray with so many nodes on this machine; nothing without any."""
    if machines == 0:
        yield
        return
    import ray
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(machines - 1):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="warning")
    try:
        cluster.wait_for_nodes()
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def timed(
    function: str, tasks: Sequence[RewardTask], workers: int, rounds: int, deadline: float, *, spread: bool
) -> Any:
    """Median seconds of scoring the tasks, and the rewards."""
    from reasoner_rl.config.reward import RewardConfig, RewardFunctionConfig
    from reasoner_rl.distributed.launch import launch_rewards

    config = RewardConfig(
        functions=[RewardFunctionConfig(fn=function)],
        workers=workers,
        timeout_seconds=deadline,
        spread=spread,
    )
    seconds = []
    with launch_rewards(config, 1) as runner:
        runner.score(tasks[:100])  # what is imported on the first call is not counted
        for _ in range(rounds):
            begun = time.perf_counter()
            rewards = runner.score(tasks)
            seconds.append(time.perf_counter() - begun)
    return median(seconds), rewards


def overhead(answers: int, workers: int, rounds: int, *, spread: bool) -> list[list[str]]:
    """Rows of the first table."""
    plain = simple_tasks(answers, None)
    for task in plain[:100]:
        judge(task.data_source, task.response, task.ground_truth, {})
    begun = time.perf_counter()
    for task in plain:
        judge(task.data_source, task.response, task.ground_truth, {})
    rows = [["in this process, one after the other", *_figures(time.perf_counter() - begun, answers), "-"]]
    script = f"{Path(__file__).resolve()}:judge"
    for name, misdeed in (
        ("all good", None),
        ("1 % raise", "raise"),
        ("1 % end their process", "exit"),
        ("1 % want 20 GiB", "memory"),
        (f"1 % hang, deadline {DEADLINE:g} s", "hang"),
    ):
        seconds, rewards = timed(
            script, simple_tasks(answers, misdeed), workers, rounds, DEADLINE, spread=spread
        )
        rows.append([name, *_figures(seconds, answers), _statuses(rewards)])
    return rows


def _figures(seconds: float, answers: int) -> list[str]:
    return [f"{seconds:.2f}", f"{answers / seconds:,.0f}"]


def _statuses(rewards: Sequence[Reward]) -> str:
    counts = {status: sum(reward.status == status for reward in rewards) for status in ("ok", "unparsed")}
    counts |= {status: sum(reward.status == status for reward in rewards) for status in ("timeout", "crash")}
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)


def throughput(folder: Path, of_each: int, workers: int, rounds: int, *, spread: bool) -> list[list[str]]:
    """Rows of the second table."""
    tasks = real_tasks(folder, of_each)
    script = f"{Path(__file__).resolve()}:timed_compute_score"
    seconds, rewards = timed(script, tasks, workers, rounds, 10.0, spread=spread)
    rows = []
    for name in ("all", *FILES):
        chosen = [
            reward for task, reward in zip(tasks, rewards, strict=True) if name in ("all", task.data_source)
        ]
        each = [1e3 * reward.seconds for reward in chosen]
        speed = f"{len(tasks) / seconds:,.0f}" if name == "all" else "-"
        slow = quantiles(each, n=100)[98]
        right = f"{sum(reward.accuracy for reward in chosen) / len(chosen):.1%}"
        work = quantiles([value for reward in chosen for value in _cpu_ms(reward)], n=100)[98]
        figures = [f"{median(each):.3f}", f"{slow:.3f}", f"{work:.3f}", f"{max(each):.1f}", right]
        rows.append([name, str(len(chosen)), speed, *figures, _statuses(chosen)])
    return rows


def _cpu_ms(reward: Reward) -> list[float]:
    """What `timed_compute_score` returned; nothing of an answer that it did not finish."""
    return [value for name, value in reward.components.items() if name.endswith("/cpu_ms")]


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--answers", type=int, default=2000, help="of the first table (default 2000)")
    parser.add_argument(
        "--of-each", type=int, default=500, help="problems of each file, second table (default 500)"
    )
    parser.add_argument("--workers", type=int, default=2, help="verifier processes (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many is shown (default 3)")
    parser.add_argument("--machines", type=int, default=0, help="Ray nodes to spread them over; 0: no Ray")
    options = parser.parse_args(arguments)
    over = f" on {options.machines} Ray nodes" if options.machines else ""
    print(f"{options.workers} workers{over}, {os.cpu_count()} cores, median of {options.rounds}\n")
    with ray_nodes(options.machines):
        show(options)


def show(options: argparse.Namespace) -> None:
    """Make and print the tables."""
    spread = options.machines > 0
    rows = overhead(options.answers, options.workers, options.rounds, spread=spread)
    print(markdown([f"{options.answers:,} answers", "seconds", "answers/s", "statuses"], rows))
    folder = Path(os.environ.get("REASONER_RL_DATA", ""))
    if "REASONER_RL_DATA" not in os.environ or not all((folder / name).is_file() for name in FILES.values()):
        print(f"\nno second table: REASONER_RL_DATA names no folder with {', '.join(FILES.values())}")
        return
    rows = throughput(folder, options.of_each, options.workers, options.rounds, spread=spread)
    columns = [
        "problems",
        "answers",
        "answers/s",
        "p50, ms",
        "p99, ms",
        "p99, CPU ms",
        "slowest, ms",
        "right",
    ]
    print("\n" + markdown([*columns, "statuses"], rows))


if __name__ == "__main__":
    main()
