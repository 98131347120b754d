#!/usr/bin/env python3
"""The quickstart: a tiny model, a warm start, DAPO, and a held-out test before and after.

Everything goes to runs/quickstart. Started again after an interruption with the same settings, it resumes;
a finished run, or one with other settings, is moved aside to runs/quickstart.1 and so on.
"""

from __future__ import annotations

import argparse
import json
import runpy
import shutil
import time
from pathlib import Path
from typing import Any

from reasoner_rl.cli import exit_statuses
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig, SftConfig
from reasoner_rl.observability.summary import write_json

ROOT = Path(__file__).resolve().parent.parent
WARM_START = {"run.output_dir": "warm_start", "model.path": "base", "data.train.path": "data/sft.jsonl"}
DAPO = {
    "run.output_dir": "rl",
    "model.path": "warm_start/final",
    "data.train.path": "data/train.jsonl",
    "evaluation.datasets.0.path": "data/heldout.jsonl",
}
RESULTS = ("accuracy_before", "accuracy_after", "response_tokens_before", "response_tokens_after", "steps")


def read_json(path: Path) -> dict[str, Any]:
    """The file's content, or nothing."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def load_recipes(folder: Path, seed: int, overrides: list[str]) -> tuple[SftConfig, OnlineConfig]:
    """The shipped recipes, pointed at this run's folder and seed. Raises ConfigError for a mistake in ``overrides``."""

    def placed(paths: dict[str, str]) -> list[str]:
        return [f"run.seed={seed}", *(f"{key}={folder / path}" for key, path in paths.items())]

    warm_start = load_recipe("quickstart_sft", placed(WARM_START))
    dapo = load_recipe("quickstart", placed(DAPO) + overrides)
    assert isinstance(warm_start, SftConfig)
    assert isinstance(dapo, OnlineConfig)
    return warm_start, dapo


def make_room(folder: Path, settings: dict[str, Any]) -> None:
    """Keep an unfinished run with the same settings; move any other one aside."""
    if not folder.exists():
        return
    same = read_json(folder / "phases.json").get("settings") == settings
    if same and not (folder / "summary.json").exists():
        print(f"resuming the unfinished run in {folder}")
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
        self.seconds: dict[str, float] = read_json(folder / "phases.json").get("seconds", {})
        folder.mkdir(parents=True, exist_ok=True)
        self._save()

    def _save(self) -> None:
        write_json(self.folder / "phases.json", {"settings": self.settings, "seconds": self.seconds})

    def phase(self, name: str, action: Any) -> None:
        """Run ``action`` unless the phase is finished."""
        if name in self.seconds:
            return
        print(f"\n== {name}", flush=True)
        started = time.perf_counter()
        action()
        self.seconds[name] = round(time.perf_counter() - started, 1)
        self._save()

    def prepare(self, problems: str = "data/make_chains.py") -> None:
        """Generate problems by the script ``problems``, and a model and tokenizer with random weights."""
        seed = str(self.settings["seed"])
        for script, out in ((problems, "data"), ("scripts/make_tiny_model.py", "base")):
            shutil.rmtree(self.folder / out, ignore_errors=True)
            main = runpy.run_path(str(ROOT / script))["main"]
            main(["--out", str(self.folder / out), "--seed", seed])

    def train(self, config: SftConfig | OnlineConfig) -> None:
        """Supervised fine-tuning, or DAPO."""
        from reasoner_rl.trainer.train import train

        if train(config) is None:
            raise KeyboardInterrupt

    def summarise(self, rl_folder: Path) -> dict[str, Any]:
        """Write summary.json and the curves' pictures beside it."""
        rl = read_json(rl_folder / "summary.json")
        seconds_rl = max(self.seconds["DAPO"], rl["seconds"])
        total = sum(self.seconds.values()) - self.seconds["DAPO"] + seconds_rl
        summary = {
            **{name: rl.get(name) for name in RESULTS},  # accuracies are null where nothing was evaluated
            "seconds_total": round(total, 1),
            "seconds_rl": round(seconds_rl, 1),
            "seconds": self.seconds,
            "seeds": {"data": self.settings["seed"], "model": self.settings["seed"], "run": rl["seed"]},
        }
        shutil.copy(self.folder / "warm_start" / "curves.png", self.folder / "warm_start_curves.png")
        if (rl_folder / "curves.png").exists():  # not of a run of no steps that evaluated nothing
            shutil.copy(rl_folder / "curves.png", self.folder / "learning_curves.png")
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
    with exit_statuses():
        run_phases(options.out, options.seed, options.overrides)


def run_phases(folder: Path, seed: int, overrides: list[str]) -> None:
    """Run the phases that are not finished, and print accuracies, lengths and seconds."""
    warm_start, dapo = load_recipes(folder, seed, overrides)  # first: a mistake must not show after minutes
    settings = {"seed": seed, "overrides": overrides}
    make_room(folder, settings)
    quickstart = Quickstart(folder, settings)
    quickstart.phase("problems and model", quickstart.prepare)
    quickstart.phase("warm start", lambda: quickstart.train(warm_start))
    quickstart.phase("DAPO", lambda: quickstart.train(dapo))
    summary = quickstart.summarise(dapo.run.output_dir)
    if summary["accuracy_after"] is not None:
        print(
            f"\nheld-out accuracy {summary['accuracy_before']:.1%} -> {summary['accuracy_after']:.1%}, response length "
            f"{summary['response_tokens_before']:.1f} -> {summary['response_tokens_after']:.1f} tokens"
        )
    print(
        f"{summary['steps']} steps, {summary['seconds_total']:.0f} s\n{folder}/summary.json, learning_curves.png"
    )


if __name__ == "__main__":
    main()
