"""PPO-ptx (InstructGPT, arXiv 2203.02155, equation 2): a language-modelling loss mixed into policy-gradient updates.

minimise  policy gradient loss - gamma * sum_t log policy(y_t | x, y_<t) / number of trained tokens of the examples

in every optimizer update, over the update's own examples. They keep what the policy could do before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from reasoner_rl.algorithms.base import Examples
from reasoner_rl.config.ppo import PtxConfig
from reasoner_rl.losses.supervised import supervised_loss
from reasoner_rl.metrics import Metrics
from reasoner_rl.training.backend import PolicyLossFunction
from reasoner_rl.types import MicroBatch, TokenOutputs, TrainSample


class Ptx:
    """The examples of each update, and the loss that knows them apart from responses; None: there are no examples.

    examples: what to draw from; a worker, which only needs the loss, has None.
    """

    def __init__(self, config: PtxConfig | None, examples: Examples | None) -> None:
        self._config, self._examples = config, examples

    def mixed(self, loss: PolicyLossFunction) -> PolicyLossFunction:
        """The policy's loss, of micro-batches of responses and of examples."""
        if self._config is None:
            return loss
        return partial(_mixed_loss, policy_loss=loss, coefficient=self._config.coefficient)

    @property
    def next_examples(self) -> Callable[[], Sequence[TrainSample]] | None:
        """What returns the examples of one more optimizer update."""
        if self._config is None or self._examples is None:
            return None
        return partial(self._examples.take, self._config.examples_per_update)

    def state(self) -> dict[str, Any]:
        """What must be in a checkpoint."""
        return {} if self._examples is None else {"ptx": self._examples.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue the saved order, or begin it where the checkpoint was made without examples."""
        if self._examples is not None and "ptx" in state:
            self._examples.restore(state["ptx"])


def _mixed_loss(
    outputs: TokenOutputs, batch: MicroBatch, policy_loss: PolicyLossFunction, coefficient: float
) -> tuple[Tensor, Metrics]:
    """``ptx/loss`` is in nats, the mean over the examples' tokens, before it is multiplied by the coefficient."""
    if not batch.supervised:
        return policy_loss(outputs, batch)
    loss, metrics = supervised_loss(outputs, batch)
    return coefficient * loss, {"ptx/loss": metrics["sft/loss"]}
