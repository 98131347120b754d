"""Models with fixed answers, which note who was asked for what, and the batches that they are asked about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reasoner_rl.algorithms.base import Algorithm, Models
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.metrics import Metrics, mean
from reasoner_rl.types import TrainSample

_FIRST = (
    10  # the first response token of sample 0; that of sample i is i more, so that models know their samples
)

# A user's file with a whole algorithm, for tests that change or extend it.
OWN_ALGORITHM = """
import torch
from functools import partial
from reasoner_rl.algorithms.base import Algorithm, Prepared
from reasoner_rl.losses.policy import policy_loss
from reasoner_rl.losses.reduce import aggregate
from reasoner_rl.metrics import mean

class Mine(Algorithm):
    def __init__(self, config, updates_per_step):
        self.losses = {"policy": partial(policy_loss, config=config.loss)}
    def prepare(self, samples, models):
        return Prepared(list(samples), {})

def build(config, updates_per_step):
    return Mine(config, updates_per_step)
"""


class FakeModel:
    """Answers with the columns [R] that it was given for each sample; the name of each call goes to ``calls``."""

    def __init__(self, name: str, calls: list[str], **columns: Sequence[Tensor]) -> None:
        self._name, self._calls, self._columns = name, calls, columns
        self.updated: list[TrainSample] = []

    def _answer(self, what: str, samples: Sequence[TrainSample]) -> list[Tensor]:
        self._calls.append(f"{self._name}.{what}")
        return [self._columns[what][int(sample.response_ids[0]) - _FIRST] for sample in samples]

    def logprobs(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        return self._answer("logprobs", samples)

    def entropies(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        return self._answer("entropies", samples)

    def values(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        return self._answer("values", samples)

    def update(self, samples: Sequence[TrainSample], next_examples: Any = None) -> Metrics:
        self._calls.append(f"{self._name}.update")
        self.updated = list(samples)
        return {f"{self._name}/updates": mean(1)}


class Batch:
    """Samples of random columns, and the models that know them."""

    def __init__(self, lengths: Sequence[int], scores: Sequence[float], groups: Sequence[int], seed: int = 0):
        generator = torch.Generator().manual_seed(seed)

        def draw() -> list[Tensor]:
            return [torch.rand(length, generator=generator) for length in lengths]

        self.policy, self.reference = ([-each for each in draw()] for _ in range(2))
        self.values, self.entropies = draw(), draw()
        self.teacher = [-each for each in draw()]
        self.calls: list[str] = []
        self.samples = [
            TrainSample(
                prompt_ids=torch.tensor([1, 2]),
                response_ids=torch.arange(length) * 20 + _FIRST + number,
                loss_mask=torch.ones(length, dtype=torch.bool),
                advantages=torch.zeros(length),
                rollout_logprobs=-torch.rand(length, generator=generator),
                reward=score,
                group=group,
            )
            for number, (length, score, group) in enumerate(zip(lengths, scores, groups, strict=True))
        ]

    def models(self) -> Models:
        return Models(
            FakeModel("policy", self.calls, logprobs=self.policy, entropies=self.entropies),
            FakeModel("reference", self.calls, logprobs=self.reference),
            FakeModel("critic", self.calls, values=self.values),
            FakeModel("teacher", self.calls, logprobs=self.teacher),
        )

    def masked(self, number: int) -> list[TrainSample]:
        """The samples, with nothing trained of one of them."""
        changed = list(self.samples)
        changed[number] = changed[number].replace(loss_mask=torch.zeros_like(changed[number].loss_mask))
        return changed


def online_config(
    algorithm: dict[str, Any], *, updates: int = 1, responses: int = 2, **sections: Any
) -> OnlineConfig:
    """A recipe with this section ``algorithm``, of 2 prompts per step, which needs no files."""
    return OnlineConfig.model_validate(
        {
            "run": {"output_dir": Path("unused")},
            "model": {"path": "unused"},
            "data": {"train": {"path": "unused.jsonl"}},
            "rollout": {"responses_per_prompt": responses},
            "algorithm": algorithm,
            "batch": {"prompts_per_step": 2, "prompts_per_update": 2 // updates},
            **sections,
        }
    )


def pad(columns: Sequence[Tensor]) -> Tensor:
    """Columns [R] of several lengths as one float tensor [samples, longest], padded with 0."""
    return torch.nn.utils.rnn.pad_sequence([column.float() for column in columns], batch_first=True)


def prepared_columns(algorithm: Algorithm, batch: Batch, name: str) -> list[list[float]]:
    """A column of every sample after ``prepare``, as lists."""
    samples, _ = algorithm.prepare(batch.samples, batch.models())
    return [getattr(sample, name).tolist() for sample in samples]
