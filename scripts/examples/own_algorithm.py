"""Train with an advantage of your own: the function `advantages` in this file.

The reward is for short responses, and the model is tiny and untrained, so it learns to say nothing. To train a real
one, change two keys, model.path and data.train.path, and the reward (README.md in this folder).
docs/how_to/own_algorithm.md says how a loss or a whole algorithm is replaced.

    python scripts/examples/own_algorithm.py [--out FOLDER]
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from reasoner_rl import train
from reasoner_rl.commands.make_tiny_model import make_tiny_model
from reasoner_rl.types import TrainSample


def advantages(samples: Sequence[TrainSample]) -> list[float]:
    """By rank: the share of the other responses to the prompt with a lower reward, less that with a higher one."""
    rewards: dict[int, list[float]] = defaultdict(list)
    for sample in samples:
        rewards[sample.group].append(sample.reward)

    def by_rank(own: float, group: list[float]) -> float:
        return (sum(r < own for r in group) - sum(r > own for r in group)) / max(len(group) - 1, 1)

    return [by_rank(sample.reward, rewards[sample.group]) for sample in samples]


def main(out: Path) -> None:
    """Make the model and the data, train, and print the mean length of responses before and after."""
    make_tiny_model(out / "model", layers=2, width=64)
    rows = [{"problem": f"Say {letter}", "answer": letter} for letter in "abcdefghij"]
    (out / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    short = {"fn": "reward_fns.length_penalty:compute_score", "parameters": {"max_length": 12}}
    recipe = {
        "run": {"output_dir": out / "run", "steps": 12},
        "model": {"path": out / "model"},
        "data": {"train": {"path": out / "train.jsonl"}},
        "rollout": {"responses_per_prompt": 8, "sampling": {"max_response_tokens": 12}},
        "reward": {"functions": [short]},
        "algorithm": {"kind": "grpo", "advantage": f"{__file__}:advantages"},
        "batch": {"prompts_per_step": 10},
        "training": {"optimizer": {"lr": 3e-3}},
        "evaluation": {"datasets": [{"path": out / "train.jsonl"}], "samples_per_prompt": 8},
    }
    if summary := train(recipe):
        before, after = summary["response_tokens_before"], summary["response_tokens_after"]
        print(f"\nmean length: {before:.1f} -> {after:.1f} tokens")
        print(f"{out}/run/curves.png\n{out}/run/rollouts\n{out}/run/final")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Training with an advantage of your own.")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/own_algorithm"))
    main(parser.parse_args().out)
