"""The models of a run as the driver sees them: one group per role, whose shards are on all workers.

Each group has the methods of its role alone, as `reasoner_rl.algorithms.base` asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from reasoner_rl.batching.plan import BatchLimits, Share, plan_shares, plan_updates
from reasoner_rl.config.training import BackendConfig
from reasoner_rl.distributed.transport import Transport
from reasoner_rl.distributed.worker import Worker
from reasoner_rl.metrics import Metrics, merge
from reasoner_rl.types import Role, TrainSample

T = TypeVar("T")
NextExamples = Callable[[], Sequence[TrainSample]]


@dataclass(frozen=True, slots=True)
class UpdatePlan:
    """How a batch becomes optimizer updates."""

    samples_per_update: int
    epochs: int
    limits: BatchLimits


class ModelGroup:
    """What all roles have in common: a batch is divided by length, and every data-parallel rank has its share."""

    role: Role

    def __init__(
        self, transport: Transport, backend: BackendConfig, plan: UpdatePlan, require_idle: Callable[[], None]
    ) -> None:
        """require_idle: raises if responses are in flight, which a call to a model would interrupt."""
        self._transport, self._backend, self._plan = transport, backend, plan
        self._require_idle = require_idle

    def _by_rank(self, by_share: Sequence[T]) -> list[T]:
        """What each rank gets of something that was divided into data-parallel shares."""
        ranks = self._transport.ranks
        return [by_share[self._backend.data_parallel_rank(rank, ranks)] for rank in range(ranks)]

    @property
    def _data_parallel_size(self) -> int:
        return self._backend.data_parallel_size(self._transport.ranks)

    def _of_each_sample(
        self, method: Callable[[Worker, Role, Share], dict[int, Tensor]], samples: Sequence[TrainSample]
    ) -> list[Tensor]:
        self._require_idle()
        shares = plan_shares(samples, self._plan.limits, self._data_parallel_size)
        arguments = self._by_rank([(self.role, share) for share in shares])
        found: dict[int, Tensor] = {}
        for answer in self._transport.call("train", method, arguments):
            found.update(answer)
        return [found[index] for index in range(len(samples))]

    def _update(self, samples: Sequence[TrainSample], next_examples: NextExamples | None = None) -> Metrics:
        self._require_idle()
        plan, size = self._plan, self._data_parallel_size
        planned = plan_updates(samples, plan.samples_per_update, plan.limits, size)
        updates = plan.epochs * len(planned[0]) if next_examples else 0
        mixed_in = [plan_shares(next_examples(), plan.limits, size) for _ in range(updates) if next_examples]
        arguments = [
            (self.role, tuple(own), plan.epochs, tuple(shares[rank] for shares in mixed_in))
            for rank, own in enumerate(planned)
        ]
        return merge(self._transport.call("train", Worker.update, self._by_rank(arguments)))


class PolicyGroup(ModelGroup):
    """The policy: see `reasoner_rl.algorithms.base.Policy`."""

    role = "policy"

    def logprobs(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        """Response logprobs [R] float32 of each sample, in order."""
        return self._of_each_sample(Worker.logprobs, samples)

    def entropies(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        """Entropies [R] float32 of the distributions over each sample's response tokens, in nats."""
        return self._of_each_sample(Worker.entropies, samples)

    def update(self, samples: Sequence[TrainSample], next_examples: NextExamples | None = None) -> Metrics:
        """Train on the samples: one optimizer update per mini-batch, all of them once per epoch.

        next_examples: see `reasoner_rl.algorithms.base.Policy.update`.
        """
        return self._update(samples, next_examples)


class ReferenceGroup(ModelGroup):
    """The frozen reference policy: see `reasoner_rl.algorithms.base.Reference`."""

    role = "reference"

    def logprobs(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        """Response logprobs [R] float32 of each sample, in order."""
        return self._of_each_sample(Worker.logprobs, samples)

    def refresh(self) -> None:
        """Make the reference what the policy is now."""
        self._require_idle()
        self._transport.call("sync", Worker.refresh_reference, [()] * self._transport.ranks)


class TeacherGroup(ModelGroup):
    """The frozen teacher: see `reasoner_rl.algorithms.base.Teacher`."""

    role = "teacher"

    def logprobs(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        """Response logprobs [R] float32 of each sample, in order."""
        return self._of_each_sample(Worker.logprobs, samples)


class RewardModelGroup(ModelGroup):
    """A reward model: see `reasoner_rl.algorithms.base.RewardModel`."""

    role = "reward_model"

    def values(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        """Values [R] float32 of the states before each sample's response tokens, in order."""
        return self._of_each_sample(Worker.values, samples)

    def logprobs(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        """Response logprobs [R] float32 of each sample, in order."""
        return self._of_each_sample(Worker.logprobs, samples)

    def update(self, samples: Sequence[TrainSample]) -> Metrics:
        """Train on the samples: one optimizer update per mini-batch, all of them once per epoch."""
        return self._update(samples)


class CriticGroup(ModelGroup):
    """The critic: see `reasoner_rl.algorithms.base.Critic`."""

    role = "critic"

    def values(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        """Values [R] float32 of the states before each sample's response tokens, in order."""
        return self._of_each_sample(Worker.values, samples)

    def update(self, samples: Sequence[TrainSample]) -> Metrics:
        """Train on the samples: one optimizer update per mini-batch, all of them once per epoch."""
        measured = self._update(samples)
        # Gradient norm and learning rate of the critic stand beside the policy's.
        return {name.replace("train/", "critic/", 1): metric for name, metric in measured.items()}
