"""How long the page of a large run takes: 20,000 responses of at least 500 tokens, made up, opened in Chromium.

    python scripts/bench/report.py FOLDER [--responses 20000] [--tokens 500] [--page-limit MIB ...]

Makes a run in FOLDER once, writes its page once per limit (64, the default: with a folder beside it; 256: all in one
file), and opens each page three times in a headless Chromium, until the last step's responses are listed and one is
shown; then searches all steps for a text.
Tokens are Zipf-distributed made-up words of a vocabulary of 32,000, logprobs and gaps are random.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch

from reasoner_rl.commands.report import report
from reasoner_rl.observability.rollout_table import write_rollouts
from reasoner_rl.observability.summary import write_json, write_jsonl
from reasoner_rl.report.page import MEBI, data_folder
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup, TrainSample

VOCABULARY = 32_000
GROUP = 8
GROUPS_PER_STEP = 64
CHROMIUM = "/usr/bin/chromium"


def words(random: numpy.random.Generator) -> list[str]:
    """A vocabulary of made-up words with spaces before them, the frequent ones short."""
    letters = numpy.array(list("etaoinshrdlucmfwypvbgk"))
    lengths = 1 + (numpy.log2(numpy.arange(1, VOCABULARY + 1)) / 2).astype(int)
    return [" " + "".join(random.choice(letters, length)) for length in lengths]


def groups_of_step(
    random: numpy.random.Generator, vocabulary: Sequence[str], step: int, count: int, tokens: int
) -> Iterator[tuple[ScoredGroup, list[TrainSample]]]:
    """Groups of `GROUP` responses with ``tokens`` to twice as many tokens each."""
    for number in range(count):
        prompt = Prompt(
            f"synthetic/{(step * 7 + number) % 2000}", (1, 2, 3), "What is $2 + 2$?", "4", "synthetic"
        )
        rollouts, rewards, samples = [], [], []
        for _ in range(GROUP):
            length = int(random.integers(tokens, 2 * tokens))
            ids = (random.zipf(1.2, length) - 1) % VOCABULARY
            logprobs = -random.exponential(0.4, length)
            right = bool(random.random() < 0.2 + step / 80)
            text = (
                "".join(vocabulary[token] for token in ids)
                + f" so $x = \\frac{{{number}}}{{2}}$. \\boxed{{4}}"
            )
            rollouts.append(Rollout(ids.tolist(), logprobs.tolist(), "stop", step, text))
            rewards.append(Reward(float(right), float(right), {"answer": float(right)}, extracted="4"))
            samples.append(
                TrainSample(
                    prompt_ids=torch.tensor([1, 2, 3]),
                    response_ids=torch.tensor(ids),
                    loss_mask=torch.ones(length, dtype=torch.bool),
                    advantages=torch.full((length,), random.normal()),
                    rollout_logprobs=torch.tensor(logprobs),
                    old_logprobs=torch.tensor(logprobs + random.normal(0, 0.01, length)),
                )
            )
        yield ScoredGroup(prompt, tuple(rollouts), tuple(rewards)), samples


def make_run(folder: Path, responses: int, tokens: int) -> None:
    """A run's folder as training leaves it, with this many responses."""
    random = numpy.random.default_rng(0)
    vocabulary = words(random)
    steps, left = 0, responses // GROUP
    while left > 0:
        steps, count = steps + 1, min(left, GROUPS_PER_STEP)
        made = list(groups_of_step(random, vocabulary, steps, count, tokens))
        path = folder / "rollouts" / f"step_{steps:06d}.parquet"
        write_rollouts(
            path, steps, [group for group, _ in made], [sample for _, own in made for sample in own]
        )
        left -= count
    rows = [
        {"step": step, "reward/accuracy": 0.2 + step / 80, "time/step": 60.0} for step in range(1, steps + 1)
    ]
    write_jsonl(folder / "metrics.jsonl", rows)
    write_json(folder / "run.json", {"started": "made up"})
    vocab = {"model": {"vocab": {word: number for number, word in enumerate(vocabulary)}}, "decoder": None}
    (folder / "final").mkdir()
    (folder / "final" / "tokenizer.json").write_text(json.dumps(vocab))
    (folder / "recipe.yaml").write_text("recipe: online\n")


def seconds_to_open(page_file: Path, responses: int, repeats: int = 3) -> list[tuple[float, float]]:
    """Seconds until the responses of the last step are listed and one is shown, and until all steps are searched."""
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for _ in range(repeats):
            page: Any = browser.new_page()
            page.set_default_timeout(300_000)
            started = time.perf_counter()
            page.goto(f"{page_file.resolve().as_uri()}#responses")
            page.wait_for_selector("#list .item")
            page.wait_for_selector("#pane .response")
            opened = time.perf_counter()
            page.select_option("#filter-scope", "all")
            page.fill("#search", "etao")
            while not page.inner_text("#count").endswith(f" of {responses:,} responses"):
                page.wait_for_timeout(20)
            found.append((opened - started, time.perf_counter() - opened))
            page.close()
        browser.close()
    return found


def main() -> None:
    """Make, write, open, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--responses", type=int, default=20_000)
    parser.add_argument(
        "--tokens", type=int, default=500, help="the fewest of a response; the most are twice as many"
    )
    parser.add_argument("--page-limit", type=float, nargs="+", default=[64.0, 256.0])
    arguments = parser.parse_args()
    run = arguments.folder / "run"
    if not run.exists():
        make_run(run, arguments.responses, arguments.tokens)
    for limit in arguments.page_limit:
        started = time.perf_counter()
        page = report([run], arguments.folder / f"limit_{limit:g}.html", 1, limit)
        wrote = time.perf_counter() - started
        beside = data_folder(page)
        size = sum(file.stat().st_size for file in beside.glob("*")) / MEBI if beside.exists() else 0.0
        opened = seconds_to_open(page, arguments.responses)
        print(f"limit {limit:g}: written in {wrote:.1f} s")
        print(f"  page {page.stat().st_size / MEBI:.1f} MiB, beside it {size:.1f} MiB")
        for first, search in opened:
            print(f"  open {first:.2f} s, search of all steps {search:.2f} s")


if __name__ == "__main__":
    main()
