"""DPO on pairs of a model's own answers, a right and a wrong one to the same problem.

The model is tiny and untrained. A short SFT teaches it to write "Answer: " and some digit, DPO ten answers by heart. To
use a trained one, without SFT, change two keys: model.path, and data.train.path of `answers` (README.md, here).

    python scripts/examples/dpo_from_own_answers.py [--out FOLDER]
"""

import argparse
import json
from pathlib import Path
from typing import cast

from reasoner_rl import load_recipe, train
from reasoner_rl.commands.make_data import make_preferences
from reasoner_rl.commands.make_tiny_model import make_tiny_model
from reasoner_rl.config.recipes import OnlineConfig


def main(out: Path) -> None:
    """Make the model, sample and judge answers, train on pairs, and print the accuracy before and after."""
    make_tiny_model(out / "model", layers=2, width=64)
    sums = [{"problem": f"9 - {n} = ?\n", "answer": 9 - n} for n in range(10)]
    for name, rows in ("train", sums), ("form", [row | {"answer": n} for row in sums for n in range(10)]):
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    form = {
        "recipe": "sft",
        "run": {"output_dir": out / "form", "steps": 40},
        "model": {"path": out / "model"},
        "data": {"train": {"path": out / "form.jsonl"}, "response_template": "Answer: {answer}"},
        "training": {"optimizer": {"lr": 3e-3}, "schedule": {"kind": "linear"}},
    }
    answers = {
        "recipe": "online",
        "run": {"output_dir": out / "answers"},
        "model": {"path": out / "form" / "final"},
        "data": {"train": {"path": out / "train.jsonl"}},
        "rollout": {"responses_per_prompt": 32, "sampling": {"max_response_tokens": 8}},
    }
    dpo = {
        "run": {"output_dir": out / "dpo", "steps": 40},
        "model": {"path": out / "form" / "final"},
        "data": {"train": {"path": out / "answers" / "pairs.jsonl"}},
        "algorithm": {"kind": "dpo", "nll_coefficient": 1.0},
        "training": {"optimizer": {"lr": 2e-3}},
        "rollout": {"sampling": {"max_response_tokens": 8}},
        "evaluation": {"datasets": [{"path": out / "train.jsonl"}], "samples_per_prompt": 8},
    }
    if train(form, {"logging.console_every_steps": 10}):
        make_preferences(cast(OnlineConfig, load_recipe(answers)), out / "answers", "all", margin=0.0)
        if summary := train(dpo, {"logging.console_every_steps": 5}):
            print(f"\naccuracy: {summary['accuracy_before']:.0%} -> {summary['accuracy_after']:.0%}")
            print(f"{out}/answers/pairs.jsonl\n{out}/dpo/curves.png\n{out}/dpo/final")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="DPO on pairs of a model's own answers.")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/dpo_from_own_answers"))
    main(parser.parse_args().out)
