"""GRPO on ten lines of your own JSONL: each has a problem and its right answer.

The model is tiny and untrained, so a short SFT first teaches it to write "Answer: " and some digit; GRPO then finds
out which digit is right. Accuracy is that on the same ten problems, which are learnt by heart. A trained model needs no
SFT. To use one, change two keys: model.path, a folder or a name on the Hugging Face hub, and data.train.path. README.md
in this folder says which numbers suit it.

    python scripts/examples/grpo_on_own_jsonl.py [--out FOLDER]
"""

import argparse
import json
from pathlib import Path

from reasoner_rl import train
from reasoner_rl.commands.make_tiny_model import make_tiny_model

SUMS = {"2 + 3": 5, "9 - 1": 8, "3 * 3": 9, "8 / 4": 2, "7 - 6": 1}
SUMS |= {"4 + 3": 7, "5 - 5": 0, "2 * 3": 6, "9 - 5": 4, "6 / 2": 3}


def main(out: Path) -> None:
    """Make the model and the data, teach the form, run GRPO, and print the accuracy before and after."""
    make_tiny_model(out / "model", layers=2, width=64)
    rows = [{"problem": f"{problem} = ?\n", "answer": str(answer)} for problem, answer in SUMS.items()]
    (out / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{**row, "answer": str(digit)} for row in rows for digit in range(10)]
    (out / "form.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    form = {
        "recipe": "sft",
        "run": {"output_dir": out / "form", "steps": 40},
        "model": {"path": out / "model"},
        "data": {"train": {"path": out / "form.jsonl"}, "response_template": "Answer: {answer}"},
        "batch": {"examples_per_step": 50},
        "training": {"optimizer": {"lr": 3e-3}, "schedule": {"kind": "linear"}},
        "logging": {"console_every_steps": 10},
    }
    grpo = {
        "run": {"output_dir": out / "grpo", "steps": 40},
        "model": {"path": out / "form" / "final"},
        "data": {"train": {"path": out / "train.jsonl"}},
        "rollout": {"responses_per_prompt": 16, "sampling": {"max_response_tokens": 8}},
        "algorithm": {"kind": "grpo"},
        "batch": {"prompts_per_step": 10},
        "training": {"optimizer": {"lr": 3e-3}},
        "evaluation": {"datasets": [{"path": out / "train.jsonl"}], "samples_per_prompt": 8},
        "logging": {"console_every_steps": 5},
    }
    if train(form) and (summary := train(grpo)):  # None after Ctrl-C: the same command resumes
        print(f"\naccuracy: {summary['accuracy_before']:.0%} -> {summary['accuracy_after']:.0%}")
        print(f"{out}/grpo/curves.png\n{out}/grpo/rollouts\n{out}/grpo/final")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="GRPO on ten lines of JSONL.")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/grpo_on_own_jsonl"))
    main(parser.parse_args().out)
