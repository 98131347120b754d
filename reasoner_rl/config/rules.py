"""Rules that tie sections of several kinds of recipe together. Each raises ValueError naming the keys."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from reasoner_rl.config.algorithm import AlgorithmConfig, DynamicSamplingConfig, GroupAlgorithmConfig
from reasoner_rl.config.base import Section, refuse_without_effect
from reasoner_rl.config.batch import BatchConfig
from reasoner_rl.config.cluster import ClusterConfig, RayClusterConfig, with_nodes
from reasoner_rl.config.data import PromptConfig, PromptSelectionConfig
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.preference import (
    DpoConfig,
    KtoConfig,
    PreferenceAlgorithmConfig,
    PreferenceBatchConfig,
    ReferenceConfig,
)
from reasoner_rl.config.reward import RewardConfig
from reasoner_rl.config.rollout import EngineConfig, SamplingConfig, VllmEngineConfig
from reasoner_rl.config.run import RunConfig
from reasoner_rl.config.training import (
    BackendConfig,
    FsdpBackendConfig,
    MegatronBackendConfig,
    ScheduleConfig,
)


def check_one_template(prompts: PromptConfig, datasets: Mapping[str, Section]) -> None:
    """Raise ValueError where both data.prompts.template and a dataset say how to ask. datasets: by their keys."""
    if prompts.template is None:
        return
    reason = f"with data.prompts.template {prompts.template!r}, which says it itself"
    for key, dataset in datasets.items():
        refuse_without_effect(dataset, ["prompt_template"], reason, f"{key}.")


def check_tensor_parallel(engine: EngineConfig, cluster: ClusterConfig, key: str) -> None:
    """Raise ValueError where workers on different machines would have to share a copy of the model."""
    if not isinstance(engine, VllmEngineConfig):
        return
    size = engine.tensor_parallel
    if not isinstance(cluster, RayClusterConfig):
        if size > 1:
            raise ValueError(
                f"{key}.tensor_parallel={size} needs several workers: set cluster.kind to ray and "
                f"cluster.workers_per_node to a multiple of {size}"
            )
        return
    apart = cluster.generation
    workers, place = (
        (cluster.workers_per_node, "cluster")
        if apart is None
        else (apart.workers_per_node, "cluster.generation")
    )
    if workers % size:
        raise ValueError(
            f"{key}.tensor_parallel must divide {place}.workers_per_node, so that a copy of the model stays on one "
            f"machine: {size} does not divide {workers}"
        )


def check_spread(reward: RewardConfig, cluster: ClusterConfig) -> None:
    """Raise ValueError where verifier processes would be spread over one machine."""
    if reward.spread and not isinstance(cluster, RayClusterConfig):
        raise ValueError(
            "reward.spread needs machines to divide the verifier processes among: set cluster.kind to ray, or leave "
            "reward.spread out"
        )


def check_profile(run: RunConfig, cluster: ClusterConfig) -> None:
    """Raise ValueError where training steps are to be traced that other processes make."""
    if isinstance(cluster, RayClusterConfig):
        refuse_without_effect(
            run,
            ["profile"],
            "with cluster.kind 'ray': it traces the run's own process, and the work is done in workers",
            "run.",
        )


def check_ranks(backend: BackendConfig, model: ModelConfig, cluster: ClusterConfig) -> None:
    """Raise ValueError where the workers cannot be divided as the backend says, also on fewer machines after a failure.

    Of the fewer numbers of machines that cluster.min_nodes allows, at least one must do.
    """
    _check_division(backend, model, cluster)
    if (
        isinstance(cluster, RayClusterConfig)
        and (fewest := cluster.min_nodes or cluster.nodes) < cluster.nodes
    ):
        most = cluster.nodes - 1
        if usable_nodes(backend, model, cluster, most) is None:
            try:
                _check_division(backend, model, with_nodes(cluster, most))
            except ValueError as error:
                raise ValueError(
                    f"cluster.min_nodes={fewest}: training could go on with no number of machines from {fewest} to "
                    f"{most}; with {most}, {error}"
                ) from error


def usable_nodes(
    backend: BackendConfig, model: ModelConfig, cluster: RayClusterConfig, there: int
) -> int | None:
    """The most machines, of those that are there, that a model can be trained on; None if too few are there.

    They are at least ``cluster.min_nodes``, or all of ``cluster.nodes`` if that is unset.
    """
    for nodes in range(min(there, cluster.nodes), (cluster.min_nodes or cluster.nodes) - 1, -1):
        with suppress(ValueError):
            _check_division(backend, model, with_nodes(cluster, nodes))
            return nodes
    return None


def _check_division(backend: BackendConfig, model: ModelConfig, cluster: ClusterConfig) -> None:
    if isinstance(backend, MegatronBackendConfig):
        check_megatron(backend, model, cluster)
    elif isinstance(backend, FsdpBackendConfig) and cluster.ranks % (backend.shard_ranks or cluster.ranks):
        raise ValueError(
            "training.backend.shard_ranks must divide the number of workers (cluster.nodes x workers_per_node): "
            f"{backend.shard_ranks} does not divide {cluster.ranks}"
        )


def check_megatron(backend: MegatronBackendConfig, model: ModelConfig, cluster: ClusterConfig) -> None:
    """Raise ValueError where the workers cannot be divided so, or where a setting needs fsdp."""
    tensor = backend.tensor_parallel
    size = tensor * backend.pipeline_parallel * backend.context_parallel
    if cluster.ranks % size:
        raise ValueError(
            "training.backend.tensor_parallel x pipeline_parallel x context_parallel must divide the number of workers "
            f"(cluster.nodes x workers_per_node): {size} does not divide {cluster.ranks}"
        )
    if backend.virtual_stages > 1 and backend.pipeline_parallel == 1:
        raise ValueError(
            f"training.backend.virtual_stages={backend.virtual_stages} needs pipeline_parallel above 1"
        )
    stage = cluster.ranks // backend.pipeline_parallel
    if stage % backend.expert_parallel:
        raise ValueError(
            "training.backend.expert_parallel must divide the number of workers of a pipeline stage (cluster.nodes x "
            f"workers_per_node / pipeline_parallel): {backend.expert_parallel} does not divide {stage}"
        )
    if isinstance(cluster, RayClusterConfig) and cluster.workers_per_node % tensor:
        raise ValueError(
            "training.backend.tensor_parallel must divide cluster.workers_per_node, so that a layer stays on one "
            f"machine: {tensor} does not divide {cluster.workers_per_node}"
        )
    wanted = {
        "model.lora must be unset": model.lora is None,
        "model.freeze_first_fraction must be 0": model.freeze_first_fraction == 0,
    }
    if broken := [rule for rule, holds in wanted.items() if not holds]:
        raise ValueError(f"training.backend.kind=megatron: {'; '.join(broken)}")


def check_overlong(reward: RewardConfig, sampling: SamplingConfig, key: str) -> None:
    """Raise ValueError where the punishment would begin before the first token."""
    buffer, limit = reward.overlong.buffer_tokens, sampling.max_response_tokens
    if buffer >= limit:
        raise ValueError(
            f"reward.overlong.buffer_tokens must be smaller than {key}.max_response_tokens: "
            f"{buffer} is not smaller than {limit}"
        )


def check_warmup(schedule: ScheduleConfig, steps: int, steps_key: str, key: str) -> None:
    """Raise ValueError where the learning rate would never reach its value. 0 steps train nothing.

    steps: in which the model is trained; steps_key: what they are called in a message.
    """
    warmup = schedule.warmup_steps
    if 0 < steps < warmup:
        raise ValueError(f"{key}.warmup_steps must not exceed {steps_key}: {warmup} exceeds {steps}")


def with_stale_defaults(given: Any) -> Any:
    """A recipe as it was given, in which responses of several policies are weighted unless the loss says otherwise."""
    if not isinstance(given, Mapping):
        return given
    batch, algorithm = given.get("batch"), given.get("algorithm", {"kind": "dapo"})  # the default of a recipe
    if not isinstance(batch, Mapping) or not isinstance(algorithm, Mapping) or not _mixes_policies(batch):
        return given
    loss = algorithm.get("loss", {})
    decided = ("stale_old_logprobs", "importance_sampling", "old_logprobs")
    if not isinstance(loss, Mapping) or any(key in loss for key in decided):
        return given
    weighted = {**loss, "stale_old_logprobs": "trainer", "importance_sampling": {"kind": "truncated"}}
    return {**given, "algorithm": {**algorithm, "loss": weighted}}


def _mixes_policies(batch: Mapping[str, Any]) -> bool:
    ahead = batch.get("ahead")
    steps = ahead.get("steps", 1) if isinstance(ahead, Mapping) else 0
    return batch.get("put_off") is not None or (ahead is not None and steps != 0)


def check_put_off(batch: BatchConfig, sampling: SamplingConfig) -> None:
    """Raise ValueError where no response could be put off."""
    if batch.put_off is None:
        return
    budget, limit = batch.put_off.budget_tokens, sampling.max_response_tokens
    if budget >= limit:
        raise ValueError(
            "batch.put_off.budget_tokens must be smaller than rollout.sampling.max_response_tokens, or nothing is put "
            f"off: {budget} is not smaller than {limit}"
        )


def check_ahead(batch: BatchConfig, dynamic: DynamicSamplingConfig, cluster: ClusterConfig) -> None:
    """Raise ValueError where batch.ahead decides what another key is set to decide, or needs workers of its own."""
    if batch.steps_ahead:
        reason = "with batch.ahead, which keeps what the next steps need"
        refuse_without_effect(dynamic, ["max_staleness"], reason, "algorithm.dynamic_sampling.")
    apart = isinstance(cluster, RayClusterConfig) and cluster.generation is not None
    if batch.ahead is not None and batch.ahead.in_flight == "finish" and not apart:
        raise ValueError(
            "batch.ahead.in_flight 'finish' needs cluster.generation: where generation and training take turns on the "
            "same devices, responses in flight are interrupted in any case"
        )


def check_no_generation_workers(cluster: ClusterConfig, recipe: str) -> None:
    """Raise ValueError where workers would be kept for generation that does not go on beside training."""
    if isinstance(cluster, RayClusterConfig) and cluster.generation is not None:
        raise ValueError(f"cluster.generation is for recipe 'online'; it is {recipe!r}")


def check_selection(
    selection: PromptSelectionConfig | None, algorithm: AlgorithmConfig, responses_per_prompt: int
) -> None:
    """Raise ValueError where no group can be mixed, or importance weights would have no effect."""
    if selection is None:
        return
    if responses_per_prompt < 2:
        raise ValueError(
            "rollout.responses_per_prompt must be at least 2 with data.selection, which draws prompts by their chance "
            f"that some responses are right and some wrong; it is {responses_per_prompt}"
        )
    if selection.importance_weights and not isinstance(algorithm, GroupAlgorithmConfig):
        raise ValueError(
            "data.selection.importance_weights is for algorithms whose advantages are within the group (grpo, dapo, "
            f"dr_grpo, rloo, gspo, cispo); algorithm.kind is {algorithm.kind}"
        )


def check_preference_step(algorithm: PreferenceAlgorithmConfig, batch: PreferenceBatchConfig) -> None:
    """Raise ValueError where no step could have answers to other prompts, which KTO compares with."""
    if isinstance(algorithm, KtoConfig) and batch.examples_per_step < 2:
        raise ValueError(
            "batch.examples_per_step must be at least 2 with algorithm.kind kto, which compares with answers to "
            "other prompts; it is 1"
        )


def check_reference(reference: ReferenceConfig | None, algorithm: PreferenceAlgorithmConfig) -> None:
    """Raise ValueError where a reference is named, and the algorithm has none, or the policy stands in its place."""
    if reference is None:
        return
    if not isinstance(algorithm, DpoConfig | KtoConfig):
        raise ValueError(f"reference is for algorithm.kind dpo or kto; it is {algorithm.kind}")
    if isinstance(algorithm, DpoConfig) and algorithm.reference != "live":
        raise ValueError(
            f"algorithm.reference must be 'live' with reference.path; it is {algorithm.reference!r}, for which the "
            "policy computes the logprobs itself before its first step"
        )
