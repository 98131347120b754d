"""What an algorithm is: which models it needs, what it prepares of a batch, and which losses it minimises.

The trainer calls, once per step,

    samples, metrics = algorithm.prepare(samples, models)     # logprobs, values, advantages: what the losses need
    metrics          = algorithm.update(samples, models)      # optimizer updates of the models that are trained

in the driver. Workers build the same algorithm from the recipe for its ``losses``, so that no function is sent to them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor

from reasoner_rl.metrics import Metrics
from reasoner_rl.training.backend import LossFunction
from reasoner_rl.types import Role, TrainSample


class Policy(Protocol):
    """The model that is trained to respond."""

    def logprobs(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        """Response logprobs [R] float32 of each sample, by the present weights, at the sampling temperature."""
        ...

    def entropies(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        """Entropies [R] float32 of the distributions over each sample's response tokens, in nats."""
        ...

    def update(
        self,
        samples: Sequence[TrainSample],
        next_examples: Callable[[], Sequence[TrainSample]] | None = None,
    ) -> Metrics:
        """Train on the samples as the recipe's ``batch`` says: one optimizer update per mini-batch, once per epoch.

        next_examples: called once per optimizer update, for supervised examples whose gradients are added to those of
        its mini-batch. They are in micro-batches of their own, with denominators of their own.
        """
        ...


class Reference(Protocol):
    """The policy as it was at the start, or when it was refreshed."""

    def logprobs(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        """Response logprobs [R] float32 of each sample."""
        ...

    def refresh(self) -> None:
        """Make it what the policy is now. An algorithm that does so sets ``refreshes_reference``."""
        ...


class Teacher(Protocol):
    """A frozen model that the policy learns from."""

    def logprobs(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        """Response logprobs [R] float32 of each sample, at the sampling temperature."""
        ...


class Critic(Protocol):
    """The model that predicts the return."""

    def values(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        """Values [R] float32 of the states before each sample's response tokens, in units of the reward."""
        ...

    def update(self, samples: Sequence[TrainSample]) -> Metrics:
        """Train on the samples: see `Policy.update`."""
        ...


class RewardModel(Protocol):
    """The model that judges answers, where it is trained."""

    def values(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        """Of a pointwise model, a value per response token: see `reasoner_rl.batching.reading` for scores."""
        ...

    def logprobs(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        """Of a pairwise model, response logprobs [R] float32 of each sample."""
        ...

    def update(self, samples: Sequence[TrainSample]) -> Metrics:
        """Train on the samples: see `Policy.update`."""
        ...


class Examples(Protocol):
    """Supervised examples in an endless order that is saved."""

    def take(self, count: int) -> list[TrainSample]:
        """The next ``count`` examples."""
        ...

    def state(self) -> dict[str, Any]:
        """What must be in a checkpoint, as JSON can hold it."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved `state`."""
        ...


@dataclass(frozen=True, slots=True)
class Models:
    """The models of a run by role; None: the algorithm did not ask for it.

    A run that trains a reward model has no policy: a call to one raises RuntimeError.
    """

    policy: Policy
    reference: Reference | None = None
    critic: Critic | None = None
    teacher: Teacher | None = None
    reward_model: RewardModel | None = None


class Prepared(NamedTuple):
    """A batch with all that the losses need."""

    samples: list[TrainSample]
    metrics: Metrics


class Algorithm(ABC):
    """The base of all algorithms.

    roles: the models it needs.
    losses: what each model that is trained minimises.
    product: the model whose weights are the result of a run.
    together: whether the samples of a group must be in the same micro-batch, as a pair must.
    entropy_gradient: whether the policy's loss differentiates the entropy.
    refreshes_reference: whether the reference changes, so that it must be in checkpoints.
    """

    roles: tuple[Role, ...] = ("policy",)
    losses: Mapping[Role, LossFunction]
    product: ClassVar[Role] = "policy"
    together: ClassVar[bool] = False
    entropy_gradient: bool = False
    refreshes_reference: bool = False

    @abstractmethod
    def prepare(self, samples: Sequence[TrainSample], models: Models) -> Prepared:
        """Return the samples of a step, in the same order, with what the losses need."""

    def update(self, samples: Sequence[TrainSample], models: Models) -> Metrics:
        """Train the models on prepared samples."""
        return models.policy.update(samples)

    def state(self) -> dict[str, Any]:
        """What must be in a checkpoint, as JSON can hold it."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved `state`."""
        del state
