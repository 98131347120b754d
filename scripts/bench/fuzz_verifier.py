"""Give the verifier malformed answers, through the real runner: nothing may crash, hang or be executed.

    python scripts/bench/fuzz_verifier.py --count 200000

Half of the answers are pieces of LaTeX thrown together, the others are the labelled cases of the tests, mutated. Exits
with status 1 if an answer crashed or took longer than the deadline, or if a file appeared in the working folder.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from answer_cases import load_cases

from reasoner_rl.config.reward import RewardConfig, RewardFunctionConfig
from reasoner_rl.rewards.runner import RewardRunner, RewardTask

LONGEST = 2000  # characters of a case that is worth mutating; longer ones repeat themselves
PIECES = [
    *(
        "1",
        "2",
        "9",
        "42",
        "1000",
        "0.5",
        "1e9",
        "x",
        "y",
        "e",
        "i",
        "n",
        "A",
        "+",
        "-",
        "*",
        "/",
        "^",
        "_",
        "!",
        "%",
        "|",
        "'",
    ),
    *(
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ";",
        ":",
        "=",
        "<",
        ">",
        "&",
        "$",
        " ",
        "\n",
        ".",
        "...",
        "#",
        "~",
        "\\",
        "\\\\",
    ),
    *(
        r"\frac",
        r"\sqrt",
        r"\{",
        r"\}",
        r"\cup ",
        r"\cap ",
        r"\setminus ",
        r"\pi ",
        r"\infty ",
        r"\pm ",
        r"\text{",
        r"\%",
    ),
    *(
        r"^\circ",
        r"\le ",
        r"\ne ",
        r"\in ",
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        r"\sin ",
        r"\log_",
        r"\binom",
        r"\sum_{k=1}^",
    ),
    *(
        r"\prod_{k=1}^{9}",
        r"\left",
        r"\right",
        r"\boxed{",
        r"\overline",
        r"\mathbb{R}",
        r"\det",
        r"\lfloor ",
        r"\rfloor ",
        "^{9^{9",
    ),
    *(
        "and ",
        "or ",
        "cm ",
        "dollars ",
        "mod ",
        "Answer:",
        "</think>",
        "<think>",
        "\x00",
        "\u202e",
        "\u200b",
        "²",
        "½",
        "٣",
        "\ud800",
    ),
    *("__import__('os')", "open('fuzz', 'w')", "{0.__class__}", "%s", "exec(", "lambda: "),
]


def main() -> None:
    """Run the fuzz and print its counts as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200_000, help="answers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=10.0, help="deadline of an answer in seconds")
    parser.add_argument("--workers", type=int, default=2, help="verifier processes")
    arguments = parser.parse_args()
    report = fuzz(arguments.count, arguments.seed, arguments.timeout, arguments.workers)
    print(json.dumps(report, indent=2))
    sys.exit(bool(report["timeouts"] or report["crashes"] or report["files_created"]))


def fuzz(count: int, seed: int, timeout: float, workers: int, batch: int = 5000) -> dict[str, object]:
    """Score ``count`` answers in a folder of their own, and count what happened."""
    config = RewardConfig(
        functions=[RewardFunctionConfig(fn="reward_fns.math_answer:compute_score")],
        workers=workers,
        timeout_seconds=timeout,
    )
    statuses: Counter[str] = Counter()
    correct = 0
    answers = generate(random.Random(seed))
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            with RewardRunner(config, max_response_tokens=1) as runner:
                begun = time.perf_counter()
                for start in range(0, count, batch):
                    tasks = [next(answers) for _ in range(min(batch, count - start))]
                    rewards = runner.score(tasks)
                    statuses.update(reward.status for reward in rewards)
                    correct += sum(reward.accuracy == 1 for reward in rewards)
                    print(f"{start + len(tasks):,} of {count:,}", file=sys.stderr)
                seconds = time.perf_counter() - begun
            created = sorted(path.name for path in Path(folder).iterdir())
        finally:
            os.chdir(home)
    return {
        "answers": count,
        "seed": seed,
        "correct": correct,
        "timeouts": statuses["timeout"],
        "crashes": statuses["crash"],
        "files_created": created,
        "answers_per_second": round(count / seconds),
    }


def generate(chance: random.Random) -> Iterator[RewardTask]:
    """Endlessly many answers."""
    cases = [
        (case.answer, case.truth)
        for case in load_cases()
        if case.answer is not None and len(case.answer) + len(case.truth) <= LONGEST
    ]
    while True:
        answer, truth = chance.choice(cases)
        if chance.random() < 0.5:
            answer = "".join(chance.choices(PIECES, k=chance.randint(1, 25)))
        else:
            answer = mutated(answer, chance)
        if chance.random() < 0.2:
            truth = mutated(truth, chance)
        form = chance.choice((r"so \boxed{%s}", "Answer: %s", "%s"))
        yield RewardTask("fuzz", form.replace("%s", answer), truth)


def mutated(text: str, chance: random.Random) -> str:
    """The text with some characters dropped, doubled, swapped or replaced by a piece."""
    characters = list(text)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(characters) + 1)
        match chance.randrange(4):
            case 0:
                characters[place : place + 1] = []
            case 1:
                characters[place:place] = characters[place : place + 3] * chance.choice((1, 1, 1, 40))
            case 2:
                characters[place : place + 2] = reversed(characters[place : place + 2])
            case _:
                characters.insert(place, chance.choice(PIECES))
    return "".join(characters)


if __name__ == "__main__":
    main()
