"""Checks of a user's algorithm: on a made-up batch, before models are loaded, and of what it prepares in each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reasoner_rl.algorithms.base import Algorithm, Models, Prepared
from reasoner_rl.algorithms.custom import describe_value
from reasoner_rl.batching.plan import BatchLimits, plan_shares
from reasoner_rl.errors import ConfigError, UserError
from reasoner_rl.metrics import Metric, Metrics
from reasoner_rl.plugins import check_call, describe
from reasoner_rl.training.backend import LossFunction
from reasoner_rl.types import MicroBatch, Role, TokenOutputs, TrainSample, ValueOutputs

_TOLERANCE = 1e-4


class _Model:
    """Stands for any model: repeatable numbers, different for every token."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def logprobs(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        return [_made_up(sample.response_ids, self._seed) for sample in samples]

    def refresh(self) -> None:
        pass

    def entropies(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        return [-values for values in self.logprobs(samples)]

    def values(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        return self.logprobs(samples)

    def update(
        self,
        samples: Sequence[TrainSample],
        next_examples: Callable[[], Sequence[TrainSample]] | None = None,
    ) -> Metrics:
        del samples, next_examples
        return {}


def check_algorithm(algorithm: Algorithm, name: str) -> None:
    """Prepare a made-up batch, and compute each loss on it whole and cut in two.

    name: the function that the recipe names, for messages. Raises ConfigError saying what is wrong: another number or
    order of samples, columns that do not fit their responses, numbers that are not finite, a loss that is no scalar
    with a gradient, or one that depends on how the batch is cut.
    """
    samples = _made_up_samples()
    seeds = {"reference": 2, "critic": 3, "teacher": 4}
    models = Models(
        _Model(1), **{role: _Model(seed) for role, seed in seeds.items() if role in algorithm.roles}
    )
    returned = _call(name, "prepare", "prepare(samples, models)", algorithm.prepare, samples, models)
    prepared = check_prepared(name, samples, returned).samples
    for role, loss in algorithm.losses.items():
        whole, parts = (_total(name, role, loss, prepared, budget, algorithm) for budget in (10_000, 1))
        if abs(whole - parts) > _TOLERANCE * max(1.0, abs(whole)):
            raise ConfigError(
                f"{name}: the loss of the {role} depends on how a batch is cut: {whole:.6g} in one micro-batch and "
                f"{parts:.6g} in several. Divide sums by batch.denominators, which count the whole mini-batch, and not "
                "by what is in the micro-batch (reasoner_rl.losses.reduce.aggregate does so)"
            )


def check_prepared(name: str, given: Sequence[TrainSample], returned: Any) -> Prepared:
    """Return what ``prepare`` returned for the samples ``given``.

    name: as in `check_algorithm`. Raises ConfigError for another number or order of samples, for advantages or a mask
    that do not fit a response or are not finite, and for metrics that are none.
    """
    samples, metrics = _pair(name, "prepare returns (samples, metrics)", returned)
    _check_samples(name, given, samples)
    _check_metrics(name, metrics)
    return Prepared(samples, metrics)


def _call(name: str, what: str, call: str, function: Any, *arguments: Any) -> Any:
    check_call(f"{name}: {what}", function, call, *arguments)
    try:
        return function(*arguments)
    except UserError:
        raise
    except Exception as error:
        raise ConfigError(f"{name}: {what} raised on a test batch: {describe(error)}") from error


def _pair(name: str, rule: str, returned: Any) -> tuple[Any, Any]:
    if not (isinstance(returned, tuple) and len(returned) == 2):
        raise ConfigError(f"{name}: {rule}; it returned {describe_value(returned)}")
    return returned


def _check_metrics(name: str, metrics: Any) -> None:
    if not isinstance(metrics, Mapping):
        raise ConfigError(f"{name}: metrics must be a dict by name; they are {describe_value(metrics)}")
    wrong = [key for key, metric in metrics.items() if not isinstance(metric, Metric)]
    if wrong:
        raise ConfigError(
            f"{name}: the metric {wrong[0]!r} must be made by reasoner_rl.metrics (mean, total or maximum), which say "
            "how it is merged over micro-batches"
        )


def _check_samples(name: str, given: Sequence[TrainSample], prepared: Any) -> None:
    rule = f"{name}: prepare must return the samples that it was given, in the same order; it was given {len(given)}"
    if not isinstance(prepared, Sequence) or len(prepared) != len(given):
        raise ConfigError(f"{rule} and returned {describe_value(prepared)}")
    for place, (new, old) in enumerate(zip(prepared, given, strict=True)):
        if not isinstance(new, TrainSample):
            raise ConfigError(f"{rule} and returned {describe_value(new)} in place {place}")
        if not _is_same(new, old):
            raise ConfigError(f"{rule}, and what it returned in place {place} is another sample")
    for sample in prepared:
        for column in ("advantages", "loss_mask"):
            values = getattr(sample, column)
            if values.shape != sample.response_ids.shape or not torch.isfinite(values.float()).all():
                raise ConfigError(
                    f"{name}: {column} must be one finite number per response token; for a response of "
                    f"{len(sample.response_ids)} tokens it is {describe_value(values)}"
                )


def _is_same(new: TrainSample, old: TrainSample) -> bool:
    return (
        new.group == old.group
        and torch.equal(new.prompt_ids, old.prompt_ids)
        and torch.equal(new.response_ids, old.response_ids)
    )


def _total(
    name: str,
    role: Role,
    loss: LossFunction,
    samples: Sequence[TrainSample],
    budget: int,
    algorithm: Algorithm,
) -> float:
    """The loss of all samples, cut into micro-batches of ``budget`` tokens."""
    [share] = plan_shares(samples, BatchLimits(budget, 8, algorithm.together), 1)
    return sum(_value(name, role, loss, batch) for batch in share.pack().micro_batches)


def _value(name: str, role: Role, loss: LossFunction, batch: MicroBatch) -> float:
    said = _made_up(batch.targets, 4).requires_grad_()
    outputs = ValueOutputs(said) if role == "critic" else TokenOutputs(said, -said.detach())
    returned = _call(name, f"the loss of the {role}", "loss(outputs, batch)", loss, outputs, batch)
    value, metrics = _pair(name, "a loss returns (loss, metrics)", returned)
    if not isinstance(value, Tensor) or value.ndim > 0 or not value.requires_grad:
        detached = isinstance(value, Tensor) and not value.requires_grad
        raise ConfigError(
            f"{name}: the loss of the {role} must be a scalar tensor with a gradient; it is {describe_value(value)}"
            f"{', without a gradient' if detached else ''}"
        )
    if not torch.isfinite(value):
        raise ConfigError(f"{name}: the loss of the {role} is {value.item()} on a test batch")
    _check_metrics(name, metrics)
    return float(value.detach())


def _made_up(token_ids: Tensor, seed: int) -> Tensor:
    """Logprobs between -2 and 0 that depend on the token alone, so that cutting does not change them."""
    return -1.0 - torch.sin(token_ids.double() * (1.3 + seed)).float()


def _made_up_samples() -> list[TrainSample]:
    """Two groups of four responses of different lengths and rewards; one is masked out."""
    samples = []
    for number in range(8):
        ids = torch.arange(3 + number % 3) + 5 * number + 10
        samples.append(
            TrainSample(
                prompt_ids=torch.arange(4) + number // 4,
                response_ids=ids,
                loss_mask=torch.full((len(ids),), number != 5),
                advantages=torch.zeros(len(ids)),
                rollout_logprobs=_made_up(ids, 1),
                reward=float(number % 3 == 0) - 0.1 * (number % 2),
                group=number // 4,
            )
        )
    return samples
