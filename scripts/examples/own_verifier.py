"""Train with a verifier of your own: the function `compute_score` in this file.

The model is tiny and untrained: it writes random characters, and learns to write vowels. To train a real one, change
two keys, model.path and data.train.path, and the rule. README.md in this folder says which numbers suit it.

    python scripts/examples/own_verifier.py [--out FOLDER]
    reasoner-rl verify FOLDER/trial.jsonl --fn scripts/examples/own_verifier.py:compute_score  # what it tries first
"""

import argparse
import json
from pathlib import Path
from typing import Any


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The score is the share of vowels; a response is right if most of its characters are vowels."""
    share = sum(letter in ground_truth for letter in solution_str) / max(len(solution_str), 1)
    return {"score": share, "acc": share > 0.5}


def main(out: Path) -> None:
    """Try the verifier on three responses, train with it, and print the accuracy before and after."""
    # Imported here: the processes that call compute_score read this file too, and need no torch.
    from reasoner_rl import train
    from reasoner_rl.commands.make_tiny_model import make_tiny_model
    from reasoner_rl.commands.verify import verify

    make_tiny_model(out / "model", layers=2, width=64)
    rows = [{"problem": f"Vowels for {letter}", "answer": "aeiou"} for letter in "bcdfghjklm"]
    (out / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trial = [{"response": response, "ground_truth": "aeiou"} for response in ("xyz", "hello", "aeixou")]
    (out / "trial.jsonl").write_text("".join(json.dumps(row) + "\n" for row in trial))
    report = verify([out / "trial.jsonl"], f"{__file__}:compute_score", workers=1, timeout=10)
    for row, reward in zip(trial, report.scored[0].rewards, strict=True):
        print(f"trial: {row['response']} has score {reward.score:.2f} and accuracy {reward.accuracy}")
    recipe = {
        "run": {"output_dir": out / "run", "steps": 20},
        "model": {"path": out / "model"},
        "data": {"train": {"path": out / "train.jsonl"}},
        "rollout": {"responses_per_prompt": 8, "sampling": {"max_response_tokens": 12}},
        "reward": {"functions": [{"fn": f"{__file__}:compute_score", "name": "vowels"}]},
        "algorithm": {"kind": "grpo"},
        "batch": {"prompts_per_step": 10},
        "training": {"optimizer": {"lr": 3e-3}},
        "evaluation": {"datasets": [{"path": out / "train.jsonl"}], "samples_per_prompt": 8},
    }
    if summary := train(recipe):
        print(f"\naccuracy: {summary['accuracy_before']:.0%} -> {summary['accuracy_after']:.0%}")
        print(f"{out}/run/curves.png\n{out}/run/rollouts\n{out}/run/final")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Training with a verifier of your own.")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/own_verifier"))
    main(parser.parse_args().out)
