"""Evaluate two models on the same held-out problems, and take the difference problem by problem.

They are two checkpoints of a short SFT, in which a tiny model learns to read the digit between two letters. To compare
real ones, change two keys: model.path, a folder, a run's checkpoint or a name on the Hugging Face hub, and
evaluation.datasets.0.path.

    python scripts/examples/evaluate_and_compare.py [--out FOLDER]

On the command line: `reasoner-rl eval RECIPE.yaml model.path=MODEL --out RESULT` for each model, then
`reasoner-rl eval diff RESULT OTHER`, which also shows the settings that differ.
"""

import argparse
import itertools
import json
import random
import string
from pathlib import Path

from reasoner_rl import evaluate, train
from reasoner_rl.commands.diff_evaluations import compare
from reasoner_rl.commands.make_tiny_model import make_tiny_model


def main(out: Path) -> None:
    """Make the model and the data, train, evaluate both checkpoints, and print the paired difference."""
    make_tiny_model(out / "model", layers=2, width=64)
    triples = list(itertools.product(string.ascii_lowercase, range(10), string.ascii_lowercase))
    random.Random(0).shuffle(triples)
    rows = [{"problem": f"{one}{digit}{other}\n", "answer": str(digit)} for one, digit, other in triples]
    for name, part in {"train": rows[:2000], "heldout": rows[2000:2040]}.items():
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    recipe = {
        "recipe": "sft",
        "run": {"output_dir": out / "run", "steps": 30},
        "model": {"path": out / "model"},
        "data": {"train": {"path": out / "train.jsonl"}, "response_template": "Answer: {answer}"},
        "batch": {"examples_per_step": 32},
        "training": {"optimizer": {"lr": 3e-3}},
        "checkpoint": {"every_steps": 20},
        "rollout": {"sampling": {"max_response_tokens": 8}},
        "evaluation": {"datasets": [{"path": out / "heldout.jsonl"}], "samples_per_prompt": 4},
        "logging": {"console_every_steps": 10},
    }
    if train(recipe):
        for step in (20, 30):
            changes = {"model.path": out / "run" / "checkpoints" / f"step_{step:06d}"}
            evaluate(recipe, changes, out=out / f"step_{step}")
        (found,) = compare(out / "step_20", out / "step_30").sets
        low, high = found.interval
        print(f"\naccuracy: step 20 {found.accuracy_before:.1%}, step 30 {found.accuracy_after:.1%}")
        print(f"difference: {found.difference.mean:+.1%}, 95 % interval {low:+.1%} to {high:+.1%}")
        print(f"{out}/step_20/evaluation.json\n{out}/step_30/evaluation.json")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Two models on the same problems.")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/evaluate_and_compare"))
    main(parser.parse_args().out)
