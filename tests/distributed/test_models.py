"""How a model's group divides a batch among the ranks, and puts together what they answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from reasoner_rl.algorithms.build import build_algorithm
from reasoner_rl.batching.plan import BatchLimits
from reasoner_rl.config.recipes import OnlineConfig, PreferenceConfig, SftConfig
from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.config.training import BackendConfig, FsdpBackendConfig, MegatronBackendConfig
from reasoner_rl.distributed.models import CriticGroup, PolicyGroup, ReferenceGroup, UpdatePlan
from reasoner_rl.distributed.worker import Worker
from reasoner_rl.distributed.workers import Workers, update_plan
from reasoner_rl.metrics import maximum, mean, total, values
from reasoner_rl.rollout.engine import GenerationRequest, StepOutput
from reasoner_rl.types import TrainSample

LIMITS = BatchLimits(micro_batch_tokens=8, max_response_tokens=16)
PLAN = UpdatePlan(samples_per_update=2, epochs=3, limits=LIMITS)
OFFSETS = {"policy": 0, "reference": 100, "critic": 200}


class FakeTransport:
    """Records calls; every token's logprob or value is the token itself, with an offset by role."""

    def __init__(self, ranks: int) -> None:
        self.ranks, self.generators = ranks, range(ranks)
        self.calls: list[tuple[str, Any, Any]] = []

    def call(self, phase: str, method: Any, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        assert len(arguments) == self.ranks
        self.calls.append((phase, method, arguments))
        if method in (Worker.logprobs, Worker.values):
            return [self._of_each_token(*given) for given in arguments]
        if method in (Worker.update, Worker.publish):
            return [
                {"a": mean(rank, 1), "b": total(1), "c": maximum(rank), "train/lr": mean(0.5)}
                for rank in range(self.ranks)
            ]
        return [None] * self.ranks

    def _of_each_token(self, role: str, share: Any) -> dict[int, torch.Tensor]:
        found: dict[int, torch.Tensor] = {}
        for micro_batch in share.pack().micro_batches:
            found.update(micro_batch.split_responses(micro_batch.targets.float() + OFFSETS[role]))
        return found

    def begin(self, phase: str, method: Any, ranks: Sequence[int], arguments: tuple[Any, ...]) -> str:
        [request] = arguments[0]
        self.begun = request
        return "ticket"

    def wait(self, tickets: Sequence[str]) -> list[tuple[str, StepOutput]]:
        return [("ticket", StepOutput([(self.begun.number, [])], self.begun.samples))]


def make(kind: Any, ranks: int, backend: BackendConfig | None = None, **changed: Any) -> tuple[Any, Any]:
    transport = FakeTransport(ranks)
    parts = {"backend": backend or FsdpBackendConfig(), "plan": PLAN, "require_idle": lambda: None, **changed}
    return kind(transport, **parts), transport


def samples(*lengths: int) -> list[TrainSample]:
    return [
        TrainSample(
            prompt_ids=torch.tensor([9]),
            response_ids=torch.full((length,), index),
            loss_mask=torch.ones(length, dtype=torch.bool),
            advantages=torch.zeros(length),
            rollout_logprobs=torch.zeros(length),
            group=index // 2,
        )
        for index, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_logprobs_and_values_come_back_in_the_order_of_the_samples(ranks: int) -> None:
    policy, transport = make(PolicyGroup, ranks)
    found = policy.logprobs(samples(3, 1, 6, 2))
    assert [values.tolist() for values in found] == [[0.0] * 3, [1.0], [2.0] * 6, [3.0] * 2]
    reference, _ = make(ReferenceGroup, ranks)
    assert reference.logprobs(samples(3, 1, 6, 2))[3].tolist() == [103.0] * 2
    critic, of_critic = make(CriticGroup, ranks)
    assert critic.values(samples(3, 1, 6, 2))[2].tolist() == [202.0] * 6
    for calls, method in ((transport.calls, Worker.logprobs), (of_critic.calls, Worker.values)):
        assert [(phase, called) for phase, called, _ in calls] == [("train", method)]


def test_metrics_of_the_ranks_are_reduced_and_not_averaged_again() -> None:
    policy, transport = make(PolicyGroup, 3)
    expected = {"a": 1.0, "b": 3.0, "c": 2.0, "train/lr": 0.5}
    assert values(policy.update(samples(1, 1, 1, 1, 1, 1))) == expected
    [(phase, method, arguments)] = transport.calls
    assert (phase, method) == ("train", Worker.update)
    assert [(role, epochs) for role, _, epochs, _ in arguments] == [("policy", 3)] * 3
    critic, _ = make(CriticGroup, 3)
    measured = values(critic.update(samples(1, 1, 1)))
    assert measured == {"a": 1.0, "b": 3.0, "c": 2.0, "critic/lr": 0.5}, "beside the policy's"


def test_a_batch_becomes_updates_of_which_every_rank_has_its_share() -> None:
    policy, transport = make(PolicyGroup, 2)
    policy.update(samples(1, 2, 3, 4, 5, 6))
    [(_, _, arguments)] = transport.calls
    by_rank = [[set(share.sample_indices) for share in shares] for _, shares, _, _ in arguments]
    assert [one | other for one, other in zip(*by_rank, strict=True)] == [{0, 1}] * 3
    of_update = [sorted(len(s.response_ids) for a in arguments for s in a[1][n].samples) for n in range(3)]
    assert of_update == [[1, 2], [3, 4], [5, 6]], "in the order of the samples"


def test_every_update_takes_examples_of_its_own_and_divides_them_among_the_ranks() -> None:
    policy, transport = make(PolicyGroup, 2)
    drawn = iter([samples(*[length, length]) for length in range(1, 10)])
    policy.update(samples(1, 2, 3, 4, 5, 6), lambda: next(drawn))
    [(_, _, arguments)] = transport.calls
    by_rank = [[[len(s.response_ids) for s in share.samples] for share in mixed] for *_, mixed in arguments]
    assert by_rank == [[[length] for length in range(1, 10)]] * 2, "3 updates in each of 3 epochs"
    assert {share.denominators.tokens for *_, mixed in arguments for share in mixed[:1]} == {2.0}
    policy.update(samples(1, 2))
    assert [mixed for *_, mixed in transport.calls[-1][2]] == [(), ()]


def test_ranks_of_a_model_parallel_replica_train_on_the_same_share() -> None:
    """Megatron counts tensor-parallel ranks first, then context ranks, then replicas, then pipeline stages.

    They are given the same tuple, of which a transport makes one message.
    """
    backend = MegatronBackendConfig(tensor_parallel=2, pipeline_parallel=2)
    policy, transport = make(PolicyGroup, 8, backend)
    for call in (policy.update, policy.logprobs):
        call(samples(1, 1))
        [(_, _, arguments)] = transport.calls
        first, second = arguments[0], arguments[2]
        assert first is not second
        expected = [first, first, second, second, first, first, second, second]
        assert all(given is wanted for given, wanted in zip(arguments, expected, strict=True))
        transport.calls.clear()
    policy, transport = make(PolicyGroup, 8, MegatronBackendConfig(context_parallel=4))
    policy.update(samples(1, 1))
    [(_, _, arguments)] = transport.calls
    assert [id(given) for given in arguments] == [id(arguments[0])] * 4 + [id(arguments[4])] * 4
    assert arguments[0] is not arguments[4]


def test_groups_that_are_to_stay_together_stay_on_one_rank() -> None:
    plan = UpdatePlan(4, 1, BatchLimits(100, 16, together=True))
    policy, transport = make(PolicyGroup, 2, plan=plan)
    policy.update(samples(1, 5, 2, 1))
    [(_, _, arguments)] = transport.calls
    assert sorted(sorted(share.sample_indices) for _, [share], _, _ in arguments) == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (PolicyGroup, "logprobs"),
        (PolicyGroup, "update"),
        (ReferenceGroup, "logprobs"),
        (CriticGroup, "values"),
        (CriticGroup, "update"),
    ],
)
def test_no_model_is_called_while_responses_are_in_flight(kind: Any, method: str) -> None:
    def refuse() -> None:
        raise RuntimeError("2 responses are in flight")

    group, transport = make(kind, 2, require_idle=refuse)
    with pytest.raises(RuntimeError, match="2 responses are in flight"):
        getattr(group, method)(samples(1, 1))
    assert transport.calls == []


def online(**sections: Any) -> OnlineConfig:
    tree = {
        "run": {"output_dir": Path("unused")},
        "model": {"path": "unused"},
        "data": {"train": {"path": "unused.jsonl"}},
        "rollout": {"responses_per_prompt": 4, "sampling": {"max_response_tokens": 32}},
        "reward": {"overlong": {"buffer_tokens": 4}},
        "batch": {"prompts_per_step": 8, "prompts_per_update": 2, "micro_batch_tokens": 64, "epochs": 2},
    }
    return OnlineConfig.model_validate({**tree, **sections})


def workers(config: Any, ranks: int = 3) -> tuple[Any, Any]:
    transport: Any = FakeTransport(ranks)
    return Workers(config, build_algorithm(config), transport), transport


def test_what_concerns_all_models_is_one_call_to_all_workers() -> None:
    all_workers, transport = workers(online())
    assert values(all_workers.publish(5)) == {"a": 1.0, "b": 3.0, "c": 2.0, "train/lr": 0.5}
    assert transport.calls[-1] == ("sync", Worker.publish, [(5,)] * 3)
    for method in ("save", "load", "export"):
        getattr(all_workers, method)(Path("folder"))
        assert transport.calls[-1] == ("checkpoint", getattr(Worker, method), [(Path("folder"),)] * 3)
        assert len({id(given) for given in transport.calls[-1][2]}) == 1, "one message"


def test_nothing_is_published_or_trained_while_responses_are_in_flight() -> None:
    all_workers, transport = workers(online(), ranks=1)
    all_workers.pool.submit([GenerationRequest((1,), 2, seed=0, number=7)], SamplingConfig())
    for call in (
        lambda: all_workers.publish(1),
        lambda: all_workers.models.policy.logprobs(samples(1)),
        lambda: all_workers.models.policy.update(samples(1)),
    ):
        with pytest.raises(RuntimeError, match="2 responses are in flight; wait for them, or cancel"):
            call()
    assert transport.calls == []
    assert all_workers.pool.step().finished == [(7, [])], "the responses still come"
    all_workers.publish(1)


def test_there_is_a_group_per_role_that_the_algorithm_needs() -> None:
    models = workers(online())[0].models
    assert (type(models.policy), models.reference, models.critic) == (PolicyGroup, None, None)
    algorithm = {"kind": "grpo", "loss": {"kl": {"coefficient": 0.1}}}
    models = workers(online(algorithm=algorithm))[0].models
    assert (type(models.policy), type(models.reference), models.critic) == (PolicyGroup, ReferenceGroup, None)


def test_how_the_recipes_cut_a_batch() -> None:
    config = online()
    limits = BatchLimits(64, 32, together=False)
    assert update_plan(config, build_algorithm(config)) == UpdatePlan(8, 2, limits)
    tuning = SftConfig.model_validate(
        {
            "run": {"output_dir": Path("unused")},
            "model": {"path": "unused"},
            "data": {"train": {"path": "unused.jsonl"}, "max_response_tokens": 48},
            "batch": {"examples_per_step": 6, "micro_batch_tokens": 50},
        }
    )
    assert update_plan(tuning, build_algorithm(tuning)) == UpdatePlan(6, 1, BatchLimits(50, 48))
    for kind, answers in (("dpo", 2), ("kto", 1)):
        tree = tuning.model_dump(exclude={"recipe", "algorithm", "data"}, exclude_defaults=True)
        preference = PreferenceConfig.model_validate(
            tree | {"data": {"train": {"path": "unused.jsonl"}}, "algorithm": {"kind": kind}}
        )
        limits = BatchLimits(50, 1024, together=answers == 2)
        assert update_plan(preference, build_algorithm(preference)) == UpdatePlan(answers * 6, 1, limits)
    all_workers, transport = workers(tuning)
    assert all_workers.pool is None
    assert all_workers.publish(1) == {}
    all_workers.models.policy.update(samples(1, 1))
    assert [method for _, method, _ in transport.calls] == [Worker.update], "there is nothing to publish to"
