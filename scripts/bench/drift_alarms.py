#!/usr/bin/env python3
"""How soon a run that breaks is noticed, and whether a healthy one is left in peace.

Each broken run is of the recipe, in this process, and breaks on purpose when step --break-at is generated:

  sync       one weight matrix reaches the embedded engine with noise, and the check of the sync is off
  rotary     the embedded engine computes positions with another rotary base, and the check of the sync is off
  verifier   one in four responses kills the verifier's process
  entropy    updates minimise the policy's entropy in place of the loss, at 30 times the learning rate

A run ends with its first alarm of the trend that must notice (drift.on_alarm=stop). Healthy runs, one per seed, go on
to the end. --replay FOLDER replays every metrics.jsonl below a folder that is of a run of kind online instead.

    python scripts/bench/drift_alarms.py broken quickstart --json broken.json
    python scripts/bench/drift_alarms.py healthy quickstart --seeds 10 --steps 20 --json healthy.json
    python scripts/bench/drift_alarms.py replay runs --json replay.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.errors import DriftError
from reasoner_rl.observability.events import EVENTS, read_events
from reasoner_rl.rollout.hf_engine import HfRolloutEngine
from reasoner_rl.trainer.train import Observers, train
from reasoner_rl.trainer.watch import recorded_alarms
from reasoner_rl.training.fsdp import FsdpBackend

Row = dict[str, Any]
Broken = Callable[[int], AbstractContextManager[None]]  # of the step from which it is broken
MATRIX = "model.layers.1.mlp.down_proj.weight"
UNCHECKED = ("rollout.sync_check=none",)
CRASHING = """
import os, zlib
from pathlib import Path
from reasoner_rl.plugins import load_function

judge = load_function({fn!r}, "the verifier")

def compute_score(data_source, solution_str, ground_truth, extra_info, **parameters):
    if Path({flag!r}).exists() and zlib.crc32(solution_str.encode()) % 4 == 0:
        os._exit(1)
    return judge(data_source, solution_str, ground_truth, extra_info, **parameters)
"""


@contextmanager
def noisy_matrix(at: int) -> Iterator[None]:
    """One matrix arrives in the engine with noise of its own size, from the sync before step ``at`` on."""
    load = HfRolloutEngine.load_weights

    def broken(self: HfRolloutEngine, tensors: Any, version: int) -> None:
        def changed() -> Iterator[tuple[str, torch.Tensor]]:
            noise = torch.Generator().manual_seed(0)
            for name, tensor in tensors:
                wrong = name == MATRIX and version >= at - 1
                scale = float(tensor.std()) if wrong else 0.0
                yield name, tensor + scale * torch.randn(tensor.shape, generator=noise) if wrong else tensor

        load(self, changed(), version)

    with replaced(HfRolloutEngine, "load_weights", broken):
        yield


@contextmanager
def wrong_rotary_base(at: int) -> Iterator[None]:
    """The engine's rotary frequencies become those of the square root of the base, before step ``at``."""
    load = HfRolloutEngine.load_weights

    def broken(self: HfRolloutEngine, tensors: Any, version: int) -> None:
        load(self, tensors, version)
        if version == at - 1:
            rotary: Any = self._model.get_decoder().rotary_emb  # type: ignore[operator]
            rotary.inv_freq.sqrt_()  # theta ** (-2 i / d)

    with replaced(HfRolloutEngine, "load_weights", broken):
        yield


@contextmanager
def collapsing_entropy(at: int, rate: float = 30.0) -> Iterator[None]:
    """Updates minimise the entropy from step ``at`` on; needs algorithm.loss.entropy_coefficient above 0."""
    update = FsdpBackend.update

    def broken(self: FsdpBackend, mini_batch: Any, loss: Any) -> Any:
        if STEP[0] + 1 < at:
            return update(self, mini_batch, loss)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * self._training.optimizer.lr
        return update(
            self, mini_batch, lambda outputs, batch: (outputs.entropy.mean(), loss(outputs, batch)[1])
        )

    with replaced(FsdpBackend, "update", broken):
        yield


@contextmanager
def nothing(at: int) -> Iterator[None]:
    """What breaks the run is in its recipe."""
    del at
    yield


@contextmanager
def replaced(owner: type, name: str, function: Any) -> Iterator[None]:
    """Let a class have another method while the block runs."""
    before = getattr(owner, name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        setattr(owner, name, before)


STEP = [0]  # finished steps of the run that is being made
# kind -> what breaks it, what its recipe needs, and the trends that may notice
BROKEN: dict[str, tuple[Broken, tuple[str, ...], set[str]]] = {
    "sync": (noisy_matrix, UNCHECKED, {"gap"}),
    "rotary": (wrong_rotary_base, UNCHECKED, {"gap"}),
    "verifier": (nothing, (), {"failures"}),
    "entropy": (
        collapsing_entropy,
        # Every group is trained on: where all are right there would be no update, and no entropy to see.
        ("algorithm.loss.entropy_coefficient=1e-9", "algorithm.dynamic_sampling.enabled=false"),
        {"entropy"},
    ),
}


def break_run(kind: str, recipe: str, overrides: Sequence[str], at: int, folder: Path) -> Row:
    """Make a run that breaks at a step, and say when that was noticed and what was shown of it."""
    breaking, needed, noticing = BROKEN[kind]
    off = [f"drift.{name}=null" for name in OTHERS - noticing]
    settings = [*overrides, *needed, *off, "drift.on_alarm=stop", f"run.output_dir={folder / kind}"]
    flag = folder / f"{kind}_from_now_on"
    if kind == "verifier":
        settings.append(
            f"reward.functions.0.fn={crashing_verifier(recipe, overrides, folder, flag)}:compute_score"
        )
    config = online(recipe, settings)

    def count(step: int, _: Any) -> None:
        STEP[0] = step
        if step == at - 1:
            flag.touch()

    STEP[0] = 0
    try:
        with breaking(at):
            train(config, Observers(on_metrics=count))
        stopped = None
    except DriftError as error:
        stopped = str(error)
    alarms = [event.details for event in read_events(folder / kind / EVENTS) if event.kind == "alarm"]
    first = dict(alarms[0]) if alarms and alarms[0] else {}
    return {
        "kind": kind,
        "broken_at_step": at,
        "steps_to_alarm": first["step"] - at + 1 if first else None,
        "stopped": stopped,
        "alarm": first,
    }


OTHERS = {
    "gap",
    "sync_gap",
    "entropy",
    "length",
    "truncation",
    "dead_groups",
    "failures",
    "unparsed",
    "host_memory",
}


def crashing_verifier(recipe: str, overrides: Sequence[str], folder: Path, flag: Path) -> Path:
    """A file with the recipe's verifier, which crashes for one response in four once a file is there."""
    function = online(recipe, [*overrides, f"run.output_dir={folder}"]).reward.functions[0].fn
    file = folder / "crashing_verifier.py"
    file.write_text(CRASHING.format(fn=function, flag=str(flag)))
    return file


def healthy_run(recipe: str, overrides: Sequence[str], seed: int, folder: Path) -> Row:
    """Make a run with a seed, and return its alarms."""
    output = folder / f"healthy_{seed}"
    summary = train(online(recipe, [*overrides, f"run.seed={seed}", f"run.output_dir={output}"]))
    assert summary is not None, "the run was interrupted"
    return {"kind": "healthy", "seed": seed, "steps": summary["steps"], "alarms": dict(summary["alarms"])}


def replays(folder: Path) -> list[Row]:
    """The alarms that the limits of this version raise on every run of kind online below a folder."""
    rows = []
    for file in sorted(folder.rglob("metrics.jsonl")):
        try:
            config = load_recipe(str(file.with_name("recipe.yaml")))
        except Exception as error:
            print(f"{file}: not read: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        if isinstance(config, OnlineConfig):
            found = recorded_alarms(config, file)
            rows.append({"run": str(file.parent), "alarms": [f"step {a.step}: {a}" for a in found]})
    return rows


def online(recipe: str, overrides: Sequence[str]) -> OnlineConfig:
    config = load_recipe(recipe, overrides)
    assert isinstance(config, OnlineConfig), "the recipe must be of kind online"
    return config


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("broken", "healthy", "replay"))
    parser.add_argument("recipe", help="a recipe; for replay a folder")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--kinds", nargs="+", choices=BROKEN, default=list(BROKEN))
    parser.add_argument("--break-at", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    quiet = (
        "evaluation=null",
        "checkpoint.every_steps=2",
        "checkpoint.export_at_end=false",
        "logging.tensorboard=false",
    )
    overrides = [*quiet, f"run.steps={options.steps}", *options.overrides]
    with tempfile.TemporaryDirectory(prefix="drift_alarms_") as name:
        if options.what == "replay":
            rows = replays(Path(options.recipe))
        elif options.what == "healthy":
            rows = [healthy_run(options.recipe, overrides, seed, Path(name)) for seed in range(options.seeds)]
        else:
            rows = [
                break_run(kind, options.recipe, overrides, options.break_at, Path(name))
                for kind in options.kinds
            ]
    result = {"what": options.what, "recipe": options.recipe, "cpus": os.cpu_count(), "rows": rows}
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
