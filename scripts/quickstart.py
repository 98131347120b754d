#!/usr/bin/env python3
"""The quickstart: a tiny model, a warm start, DAPO, and a held-out test before and after.

Everything goes to runs/quickstart. Started again after an interruption with the same settings, it goes on where it was;
a finished run, or one with other settings, is moved aside to runs/quickstart.1 and so on.
"""

from __future__ import annotations

import argparse
import json
import runpy
import shutil
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def read_json(path: Path) -> dict[str, Any]:
    """The file's content, or nothing."""
    return json.loads(path.read_text()) if path.is_file() else {}


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a file that is whole or absent."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(data, indent=2) + "\n")
    partial.replace(path)


def make_room(folder: Path, settings: dict[str, Any]) -> None:
    """Keep an unfinished run with the same settings; move any other one aside."""
    if not folder.exists():
        return
    same = read_json(folder / "quickstart.json").get("settings") == settings
    if same and not (folder / "summary.json").exists():
        print(f"going on with the unfinished run in {folder}")
        return
    number = next(n for n in range(1, 10**6) if not folder.with_name(f"{folder.name}.{n}").exists())
    aside = folder.with_name(f"{folder.name}.{number}")
    folder.rename(aside)
    print(f"the earlier run was moved to {aside}")


class Quickstart:
    """The phases, each done once; seconds are kept over interruptions."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.settings = settings
        self.seconds: dict[str, float] = read_json(folder / "quickstart.json").get("seconds", {})
        folder.mkdir(parents=True, exist_ok=True)
        self._save()

    def _save(self) -> None:
        write_json(self.folder / "quickstart.json", {"settings": self.settings, "seconds": self.seconds})

    def phase(self, name: str, action: Any) -> None:
        """Run ``action`` unless the phase is finished."""
        if name in self.seconds:
            return
        print(f"\n== {name}", flush=True)
        started = time.perf_counter()
        action()
        self.seconds[name] = round(time.perf_counter() - started, 1)
        self._save()

    def prepare(self) -> None:
        """Generate problems, and a model and tokenizer with random weights."""
        seed = str(self.settings["seed"])
        for script, out in (("data/make_chains.py", "data"), ("scripts/make_tiny_model.py", "base")):
            shutil.rmtree(self.folder / out, ignore_errors=True)
            main = runpy.run_path(str(ROOT / script))["main"]
            main(["--out", str(self.folder / out), "--seed", seed])

    def overrides(self, part: str) -> list[str]:
        """Overrides that point a shipped recipe at this run's folder and seed."""
        paths = {
            "warm_start": {
                "run.output_dir": "warm_start",
                "model.path": "base",
                "data.train.path": "data/sft.jsonl",
            },
            "rl": {
                "run.output_dir": "rl",
                "model.path": "warm_start/final",
                "data.train.path": "data/train.jsonl",
                "evaluation.datasets.0.path": "data/heldout.jsonl",
            },
        }[part]
        return [f"run.seed={self.settings['seed']}"] + [
            f"{key}={self.folder / path}" for key, path in paths.items()
        ]

    def warm_start(self) -> None:
        """Supervised fine-tuning."""
        from reasoner_rl.config.load import load_recipe
        from reasoner_rl.config.recipes import SftConfig
        from reasoner_rl.loops.offline import fine_tune

        config = load_recipe("quickstart_sft", self.overrides("warm_start"))
        assert isinstance(config, SftConfig)
        if fine_tune(config) is None:
            raise KeyboardInterrupt

    def reinforce(self) -> None:
        """DAPO."""
        from reasoner_rl.config.load import load_recipe
        from reasoner_rl.config.recipes import OnlineConfig
        from reasoner_rl.loops.online import train

        config = load_recipe("quickstart", self.overrides("rl") + self.settings["overrides"])
        assert isinstance(config, OnlineConfig)
        if train(config) is None:
            raise KeyboardInterrupt

    def summarise(self) -> dict[str, Any]:
        """Write summary.json and the curves' pictures beside it."""
        rl = read_json(self.folder / "rl" / "summary.json")
        seconds_rl = max(self.seconds["DAPO"], rl["seconds_rl"])
        total = sum(self.seconds.values()) - self.seconds["DAPO"] + seconds_rl
        summary = {
            "accuracy_before": rl["accuracy_before"],
            "accuracy_after": rl["accuracy_after"],
            "response_tokens_before": rl["response_tokens_before"],
            "response_tokens_after": rl["response_tokens_after"],
            "steps": rl["steps"],
            "seconds_total": round(total, 1),
            "seconds_rl": round(seconds_rl, 1),
            "seconds": self.seconds,
            "seeds": {"data": self.settings["seed"], "model": self.settings["seed"], "run": rl["seed"]},
        }
        shutil.copy(self.folder / "warm_start" / "curves.png", self.folder / "warm_start_curves.png")
        shutil.copy(self.folder / "rl" / "curves.png", self.folder / "learning_curves.png")
        write_json(self.folder / "summary.json", summary)
        return summary


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="decides problems, weights and sampling (default 0)"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "runs" / "quickstart", help="default: runs/quickstart"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key.path=value",
        help="changes to the DAPO recipe, such as run.steps=80",
    )
    options = parser.parse_args()
    settings = {"seed": options.seed, "overrides": options.overrides}
    make_room(options.out, settings)
    quickstart = Quickstart(options.out, settings)
    try:
        quickstart.phase("problems and model", quickstart.prepare)
        quickstart.phase("warm start", quickstart.warm_start)
        quickstart.phase("DAPO", quickstart.reinforce)
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")
    summary = quickstart.summarise()
    print(
        f"\nheld-out accuracy {summary['accuracy_before']:.1%} -> {summary['accuracy_after']:.1%}, "
        f"response length {summary['response_tokens_before']:.1f} -> {summary['response_tokens_after']:.1f} tokens, "
        f"{summary['steps']} steps, {summary['seconds_total']:.0f} s\n{options.out}/summary.json, learning_curves.png"
    )


if __name__ == "__main__":
    main()
