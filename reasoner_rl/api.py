"""What the commands do, as functions: ``from reasoner_rl import train, evaluate, load_recipe``.

    summary = train("quickstart", {"run.steps": 10, "run.seed": 1}, on_metrics=lambda step, metrics: ...)
    result = evaluate("quickstart", {"run.seed": 1})

A recipe is the name of a shipped one, the path of a YAML file, a mapping with the sections that such a file has, or
what `load_recipe` returned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasoner_rl.commands.evaluate import as_evaluation, evaluate_checkpoint
from reasoner_rl.commands.train_iterated import train_iterated
from reasoner_rl.config import load
from reasoner_rl.config.iterated import IteratedConfig
from reasoner_rl.config.kinds import AnyRecipe
from reasoner_rl.config.recipes import EvalConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.evaluation.result import EvaluationResult
from reasoner_rl.observability.sinks import OnMetrics
from reasoner_rl.trainer.reference import load_reference
from reasoner_rl.trainer.train import Observers
from reasoner_rl.trainer.train import train as _train

Recipe = str | Path | Mapping[str, Any] | AnyRecipe
Overrides = Mapping[str, Any]


def load_recipe(recipe: Recipe, overrides: Overrides | None = None) -> AnyRecipe:
    """Return a checked recipe. ``overrides``: key.path -> value, such as {"run.seed": 1}; a section is a mapping.

    Raises ConfigError with one line for each problem.
    """
    if not isinstance(overrides, Mapping | None):
        raise ConfigError(
            f'overrides must map key.path to value, such as {{"run.seed": 1}}; it is {overrides!r}'
        )
    given = [f"{key}={json.dumps(_plain(value))}" for key, value in (overrides or {}).items()]
    if isinstance(recipe, str | Path):
        return load.load_recipe(recipe, given)
    if isinstance(recipe, Mapping):
        return load.check_tree(_plain(recipe), given)
    if not isinstance(recipe, AnyRecipe):
        raise ConfigError(
            "a recipe is the name of a shipped one, the path of a YAML file, a mapping of sections, or what "
            f"load_recipe returned; it is {recipe!r}"
        )
    return load.change_recipe(recipe, given) if given else recipe


def train(
    recipe: Recipe,
    overrides: Overrides | None = None,
    *,
    on_metrics: OnMetrics | None = None,
    compare_to: str | None = None,
) -> dict[str, Any] | None:
    """Run a training recipe of any kind to its end, resuming from its newest checkpoint.

    on_metrics: called with the step and its metrics, and those of evaluations. compare_to: name or file of a reference
    (`reasoner-rl reference list`), along which the run is followed; the summary has what was found.
    Returns what stands in summary.json, or None if the run was stopped before its end, as by an interruption.
    """
    config = load_recipe(recipe, overrides)
    if isinstance(config, EvalConfig):
        raise ConfigError("train needs a recipe that trains; this one is of kind 'eval', for evaluate")
    if isinstance(config, IteratedConfig):
        if on_metrics is not None or compare_to is not None:
            raise ConfigError(
                "on_metrics and compare_to are of one run; a recipe of kind iterated has one per round"
            )
        return train_iterated(config)
    reference = None if compare_to is None else load_reference(compare_to)
    return _train(config, Observers(compare_to=reference, on_metrics=on_metrics))


def evaluate(
    recipe: Recipe, overrides: Overrides | None = None, *, out: str | Path | None = None
) -> EvaluationResult:
    """Measure accuracy on held-out problems, by an eval recipe or by the evaluation of a training recipe.

    For a training recipe the weights are those that its run has made, unless ``overrides`` choose a model. out: folder
    for the result, which another evaluation must not have. Returns what stands in evaluation.json.
    """
    chosen = bool({"model", "model.path"} & set(overrides or ()))
    config = as_evaluation(load_recipe(recipe, overrides), model_chosen=chosen)
    if out is not None:
        config = config.model_copy(update={"run": config.run.model_copy(update={"output_dir": Path(out)})})
    return evaluate_checkpoint(config)


def _plain(value: Any) -> Any:
    """A value as JSON holds it; paths as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
