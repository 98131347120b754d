"""The hybrid engine: a rollout engine and the models of a run that take turns on the same device.

    generate phase --take_turn(role)--> train phase, one model at a time --publish(version)--> generate phase

Every phase change is made here and nowhere else, in this order:

    take_turn   rollout.sleep, where it generated -> other models: offload_optimizer, offload_weights
                -> the model of the role: reload
    publish     the policy takes its turn -> it scores the check's text -> policy.offload_optimizer
                -> rollout.wake_weights -> rollout.load_weights, bucket by bucket (rollout.use_shared_weights, where
                storage is shared) -> policy.offload_weights -> rollout.wake_cache
                -> rollout scores the check's text, compare

What a model moves to host memory while another has its turn, or generation has, is its own ``offload``. So the device
holds one whole copy of the weights, one rank's shards of the models that stay, and what is in transit, two buckets and
one whole tensor at most (`training.gather`); the key-value cache comes only once the trainer has made room. Before each
wake torch gives its cached blocks back: vLLM maps device memory itself and cannot use them. A call that does not belong
to the present phase raises RuntimeError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch

from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.hybrid.layers import PartGap, part_gaps, weights_hash
from reasoner_rl.hybrid.meter import SwitchMeter
from reasoner_rl.hybrid.streaming import Bucket, ReceivedWeights, SentWeights, in_buckets, in_format
from reasoner_rl.hybrid.sync_check import SyncCheck, WeightSyncError, any_rank
from reasoner_rl.metrics import Metrics, merge
from reasoner_rl.rollout.engine import GenerationRequest, Generator, RolloutEngine, StepOutput
from reasoner_rl.training.backend import TrainBackend
from reasoner_rl.training.gather import Transfer
from reasoner_rl.types import Role

Phase = Literal["train", "generate"]
Offload = Literal["none", "optimizer", "all"]


class HybridEngine(Generator):
    """Owns a rollout engine, or none, and the backends of a run's models by role, or none.

    Starts in the train phase, with every model on the device: nothing can be generated before weights were published.
    Without a model it is in the generate phase for good, with the weights of the rollout engine's checkpoint.

    Args:
        offload: what each model moves to host memory while it has no turn.
        shared: rollout engine and policy use the same storage, so a sync moves nothing.
        sync_bucket_bytes: size of the buckets in which weights are gathered.
        sent_dtype: number format of engines that weights are sent to; see `send_weights`.
    """

    def __init__(
        self,
        models: Mapping[Role, TrainBackend],
        rollout: RolloutEngine | None,
        check: SyncCheck | None,
        offload: Mapping[Role, Offload],
        *,
        shared: bool = False,
        sync_bucket_bytes: int = 2**29,
        sent_dtype: torch.dtype | None = None,
    ) -> None:
        self.models = models
        self._rollout = rollout
        self.check = check
        self._offload = offload
        self._shared, self._sync_bucket_bytes, self._sent_dtype = shared, sync_bucket_bytes, sent_dtype
        self.phase: Phase = "train" if models else "generate"
        self._version = 0
        self._here = set(models)  # the roles whose models are on the device, whole
        self._meter = SwitchMeter()
        if models and rollout is not None:
            rollout.sleep()

    @property
    def rollout(self) -> RolloutEngine:
        """The rollout engine. Raises RuntimeError if the run has none."""
        if self._rollout is None:
            raise RuntimeError("this run generates nothing: it has no rollout engine")
        return self._rollout

    def take_turn(self, role: Role) -> TrainBackend:
        """The model of a role, on the device; generation and the other models make room for it.

        Raises RuntimeError if the run has no model of that role, or responses are in flight.
        """
        if role not in self.models:
            raise RuntimeError(f"this run has no {role}; its models are {', '.join(self.models) or 'none'}")
        if self.phase == "train" and role in self._here and not self._in_the_way(role):
            return self.models[role]
        with self._meter.change("switch"):
            if self.phase == "generate":
                self.rollout.sleep()
            for other in self._in_the_way(role):
                self._move_away(other)
            if role not in self._here:
                self.models[role].reload()
                self._here.add(role)
        self.phase = "train"
        return self.models[role]

    def _in_the_way(self, role: Role) -> list[Role]:
        """The other models on the device that are to be moved when they have no turn."""
        return [
            other for other in self.models if other in self._here - {role} and self._offload[other] != "none"
        ]

    def _move_away(self, role: Role) -> None:
        model = self.models[role]
        model.offload_optimizer()
        if self._offload[role] == "all":
            model.offload_weights()
        self._here.remove(role)

    def publish(self, version: int) -> Metrics:
        """Wake the rollout engine, give it the policy's weights as ``version``, and check that it has them.

        Returns what this phase change and the ones before it cost. Raises WeightSyncError, naming the tensors that
        differ, if they do.
        """
        policy, rollout, check = self.take_turn("policy"), self.rollout, self._required_check()
        meter, offload = self._meter, self._offload["policy"]
        with meter.change("sync"):
            with meter.part("sync_check"):
                expected = check.expected(policy)
            with meter.part("sync_offload"):
                if offload != "none":
                    policy.offload_optimizer()
                    self._here.remove("policy")
                _give_back_cached_memory()
            with meter.part("sync_wake"):
                rollout.wake_weights()
            with meter.part("sync_load"):
                if self._shared:
                    rollout.use_shared_weights(version)
                else:
                    transfer = Transfer(rollout.weight_dtype, self._sync_bucket_bytes)
                    rollout.load_weights(meter.counted(policy.full_weights(transfer)), version)
            with meter.part("sync_check"):
                check.compare_tensors(policy, rollout)
            with meter.part("sync_offload"):
                if offload == "all":
                    policy.offload_weights()
                _give_back_cached_memory()
            with meter.part("sync_wake"):
                rollout.wake_cache()
            with meter.part("sync_check"):
                self._compare_scores(expected)
        self.phase, self._version = "generate", version
        return merge([meter.take(), check.metrics()])

    def send_weights(
        self, version: int, keep: Callable[[Bucket], Any] | None
    ) -> tuple[SentWeights | None, Metrics]:
        """Hand the policy's weights to ``keep`` in buckets, for engines that only generate; see `receive_weights`.

        keep: None on ranks that only help to gather them, which return no weights. Collective.
        """
        policy, meter, buckets = self.take_turn("policy"), self._meter, []
        with meter.change("sync"):
            with meter.part("sync_check"):
                expected = self._required_check().expected(policy)
            with meter.part("sync_load"):
                transfer = Transfer(self._sent_dtype, self._sync_bucket_bytes)
                whole = in_format(policy.full_weights(transfer), self._sent_dtype)
                for bucket in in_buckets(meter.counted(whole), self._sync_bucket_bytes):
                    if keep is not None:
                        buckets.append(keep(bucket))
        sent = SentWeights(version, expected, tuple(buckets)) if keep is not None else None
        return sent, meter.take()

    def receive_weights(self, weights: ReceivedWeights) -> Metrics:
        """Give the rollout engine weights that were sent, while nothing is in flight, and check that it has them.

        Raises WeightSyncError, naming the tensors that differ, if they do.
        """
        rollout, check, meter = self.rollout, self._required_check(), self._meter
        sent = weights.sent
        with meter.change("receive"):
            rollout.load_weights(weights.full_weights(), sent.version)
            check.compare_tensors(weights, rollout)
            try:
                check.compare_scores(sent.expected, rollout)
            except WeightSyncError as error:
                raise WeightSyncError(f"{error}; {check.differing_tensors(weights, rollout)}") from None
        self._version = sent.version
        return merge([meter.take(), check.metrics()])

    def policy_hash(self) -> str:
        """What tells whether the policy's weights have changed by a bit; ends the generate phase. Collective."""
        return weights_hash(self.take_turn("policy"))

    def part_gaps(self, token_ids: Sequence[int]) -> list[PartGap]:
        """Where the engines part on these tokens: see `hybrid.layers`; ends the generate phase. Collective."""
        self._require_generating()
        return part_gaps(self.rollout, lambda: self.take_turn("policy"), token_ids)

    def _required_check(self) -> SyncCheck:
        if self.check is None:
            raise RuntimeError("publishing needs a check of the weight sync")
        return self.check

    def each_on_device(self, roles: Iterable[Role]) -> Iterator[tuple[Role, TrainBackend]]:
        """Each model with its weights on the device, to write them, in whatever phase; the phase stays what it is.

        Where they are in host memory while the rollout engine generates, they take turns, and after the last one the
        weights are published once more: there may be no room for both. To be iterated to the end.
        """
        before = self.phase
        for role in roles:
            here = role in self._here or self._offload[role] != "all"
            yield role, self.models[role] if here else self.take_turn(role)
        if before == "generate" and self.phase == "train":
            self.publish(self._version)

    def _compare_scores(self, expected: Sequence[float]) -> None:
        """Every rank looks at its own copy; if any is wrong, all take part in finding out what differs."""
        check, policy, wrong = self._required_check(), self.models["policy"], None
        try:
            check.compare_scores(expected, self.rollout)
        except WeightSyncError as error:
            wrong = error
        if not any_rank(wrong is not None):
            return
        try:
            if self._offload["policy"] == "all":
                policy.reload()
            names = check.differing_tensors(policy, self.rollout)
        except RuntimeError as error:  # such as a full device
            names = f"which tensors differ could not be found out: {error}"
        if wrong is not None:
            raise WeightSyncError(f"{wrong}; {names}")

    def submit(self, requests: Sequence[GenerationRequest], sampling: SamplingConfig) -> None:
        """Generate with the published weights: see `Generator.submit`."""
        self._require_generating()
        self.rollout.submit(requests, sampling)

    def step(self) -> StepOutput:
        """See `Generator.step`."""
        self._require_generating()
        return self.rollout.step()

    def cancel(self) -> None:
        """See `Generator.cancel`."""
        self.rollout.cancel()

    def interrupt(self) -> StepOutput:
        """See `Generator.interrupt`."""
        return self.rollout.interrupt()

    def _require_generating(self) -> None:
        if self.phase != "generate":
            raise RuntimeError("this call belongs to the generate phase; the engine is in the train phase")


def _give_back_cached_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
