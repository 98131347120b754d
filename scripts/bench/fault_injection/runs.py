"""The runs that faults are injected into: tiny models, a few steps each, of every backend and kind of training."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

STEPS = 5  # of every run; checkpoints after 2, 4 and 5
VERIFIER = """
import time


def compute_score(data_source, solution_str, ground_truth, extra_info):
    time.sleep(0.004)
    found = [letter for letter in solution_str if letter in "aeiou"]
    return {"score": 1.0 if found else -1.0, "acc": bool(found), "pred": found[0] if found else None}
"""


@dataclass(frozen=True, slots=True)
class Run:
    """A command of `reasoner-rl` that writes into a folder; each trial chooses which."""

    name: str
    command: tuple[str, ...]  # arguments, with {output} for the folder
    trains: bool = True  # False: a command of data or evaluation, without checkpoints
    ray: bool = False  # whether its workers are Ray's
    needs: tuple[str, ...] = ()  # packages without which it cannot run
    after: str = ""  # the run whose undisturbed folder it reads, {before} in ``command``

    def words(self, output: Path, before: Path | None = None) -> list[str]:
        """The arguments of the command that begins the run in a folder, or resumes it there."""
        return [word.format(output=output, before=before) for word in self.command]

    @property
    def missing(self) -> list[str]:
        """The packages that it needs and that are not installed."""
        return [name for name in self.needs if not _installed(name)]


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def make_runs(folder: Path) -> dict[str, Run]:
    """Write the model, the data and the recipes into ``folder`` unless they are there; return the runs by name."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model").exists():
        from reasoner_rl.commands.make_tiny_model import make_tiny_model

        make_tiny_model(folder / "model", layers=2, width=32)
    (folder / "verifier.py").write_text(VERIFIER)
    _write_rows(folder)
    (folder / "evaluate.yaml").write_text(yaml.safe_dump(_evaluation(folder)))
    runs = {}
    for name, (command, tree, needs) in _recipes(folder).items():
        recipe = folder / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump(tree))
        words = (command, str(recipe), "run.output_dir={output}")
        runs[name] = Run(name, words, ray=tree.get("cluster", {}).get("kind") == "ray", needs=needs)
    return runs | {run.name: run for run in _commands(folder)}


def _commands(folder: Path) -> tuple[Run, ...]:
    """What writes files besides training: evaluations, answers in parts, prepared data, exports."""
    evaluation = str(folder / "evaluate.yaml")
    online = str(folder / "online-fsdp.yaml")
    prepare = ("data", "prepare", str(folder / "train.jsonl"), "--out", "{output}", "--template", "dapo")
    return (
        Run("evaluate", ("eval", "run", evaluation, "run.output_dir={output}"), trains=False),
        Run("make-preferences", ("data", "make-preferences", online, "--out", "{output}"), trains=False),
        Run("prepare", prepare, trains=False),
        Run(
            "export", ("export", "{before}", "--out", "{output}/exported"), trains=False, after="online-fsdp"
        ),
    )


def _write_rows(folder: Path) -> None:
    files: dict[str, list[dict[str, Any]]] = {
        name: [{"problem": f"{name} {n} plus {n}?", "answer": str(2 * n)} for n in range(count)]
        for name, count in (("train", 12), ("heldout", 5))
    }
    examples = [{"q": f"{n} plus 1?", "a": n + 1, "work": f"{n}+1={n + 1}"} for n in range(9)]
    pairs = [{"prompt": f"{n} plus 1?", "chosen": f"{n + 1}", "rejected": f"it is {n}"} for n in range(9)]
    files |= {"examples": examples, "pairs": pairs}
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _recipes(folder: Path) -> Mapping[str, tuple[str, dict[str, Any], tuple[str, ...]]]:
    """Name -> command, recipe, packages."""
    common: dict[str, Any] = {
        "run": {"steps": STEPS, "seed": 3, "threads": 1, "output_dir": str(folder / "unused")},
        "model": {"path": str(folder / "model")},
        "checkpoint": {"every_steps": 2, "keep_last": 2},
        "logging": {"progress": False, "tensorboard": False},
    }
    online = common | _online(folder)
    offline = common | {"batch": {"examples_per_step": 4, "micro_batch_tokens": 100}}
    cluster = {"kind": "ray", "workers_per_node": 2, "device": "cpu"}
    megatron = online | {"training": online["training"] | {"backend": {"kind": "megatron"}}}
    ahead = online | {
        "data": online["data"] | {"selection": {"half_life_steps": 2, "importance_weights": True}},
        "batch": online["batch"] | {"put_off": {"budget_tokens": 5, "until": "next_step"}},
        "rollout": online["rollout"] | {"engine": {"kind": "hf", "max_batch_sequences": 9}},
    }
    ray = ("ray", "verl")
    return {
        "online-fsdp": ("train", online, ()),
        "online-megatron": ("train", megatron, ("megatron.core", "mbridge")),
        "critic": ("train", online | _ppo(folder), ()),
        "offline-dpo": ("train", offline | _dpo(folder), ()),
        "offline-sft": ("sft", offline | _sft(folder), ()),
        "put-off": ("train", ahead, ()),
        "ray": ("train", online | {"cluster": cluster}, ray),
    }


def _online(folder: Path) -> dict[str, Any]:
    """DAPO with surplus groups and evaluations."""
    function = {"fn": f"{folder / 'verifier.py'}:compute_score", "name": "vowel"}
    return {
        "recipe": "online",
        "data": {"train": {"path": str(folder / "train.jsonl")}, "prompts": {"max_tokens": 32}},
        "rollout": {"responses_per_prompt": 4, "sampling": {"max_response_tokens": 12}},
        "reward": {
            "functions": [function],
            "overlong": {"buffer_tokens": 4},
            "workers": 1,
            "timeout_seconds": 2.0,
        },
        "batch": {
            "prompts_per_step": 4,
            "prompts_per_update": 2,
            "prompts_per_generation": 7,
            "micro_batch_tokens": 200,
        },
        "training": {"optimizer": {"lr": 1.0e-3}, "schedule": {"kind": "linear", "warmup_steps": 1}},
        "evaluation": {"datasets": [{"path": str(folder / "heldout.jsonl")}], "every_steps": 2},
    }


def _ppo(folder: Path) -> dict[str, Any]:
    """A critic, a reference, and supervised examples beside the responses."""
    examples = {
        "train": {"path": str(folder / "train.jsonl")},
        "response_template": "{answer}",
    }
    return {
        "algorithm": {
            "kind": "ppo",
            "kl_in_reward": {"coefficient": 0.1, "controller": "adaptive", "target": 0.01, "horizon": 100},
            "ptx": {"coefficient": 0.5, "examples_per_update": 3, "data": examples},
        },
        "critic": {"optimizer": {"lr": 3.0e-3}},
        "rollout": {"responses_per_prompt": 1, "sampling": {"max_response_tokens": 12}},
        "batch": {"prompts_per_step": 6, "prompts_per_update": 3, "micro_batch_tokens": 100},
        "evaluation": {},
    }


def _dpo(folder: Path) -> dict[str, Any]:
    return {
        "recipe": "preference",
        "data": {"train": {"path": str(folder / "pairs.jsonl")}},
        "algorithm": {"kind": "dpo", "beta": 0.5, "reference": "precomputed"},
        "training": {"optimizer": {"lr": 3.0e-3}, "schedule": {"kind": "constant"}},
    }


def _sft(folder: Path) -> dict[str, Any]:
    columns = {"problem": "q", "answer": "a", "solution": "work"}
    return {
        "recipe": "sft",
        "data": {
            "train": {"path": str(folder / "examples.jsonl"), "columns": columns},
            "response_template": "{solution}\nAnswer: {answer}",
            "max_response_tokens": 40,
        },
        "training": {"optimizer": {"lr": 0.01}, "schedule": {"kind": "cosine", "warmup_steps": 2}},
    }


def _evaluation(folder: Path) -> dict[str, Any]:
    """A recipe of kind eval, of problems in three parts."""
    online = _online(folder)
    return {
        "recipe": "eval",
        "run": {"seed": 3, "threads": 1, "output_dir": str(folder / "unused")},
        "model": {"path": str(folder / "model")},
        "reward": online["reward"],
        "data": {"prompts": {"max_tokens": 32}},
        "rollout": {"sampling": {"max_response_tokens": 12}},
        "evaluation": {"datasets": [{"path": str(folder / "heldout.jsonl")}], "samples_per_prompt": 2},
        "logging": {"progress": False},
    }
