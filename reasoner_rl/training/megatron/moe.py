"""Mixture-of-experts models: how their experts are divided, how Megatron is configured for them, what is refused.

With expert parallelism each expert is whole on one worker, tensor parallelism or not: the experts of today's models are
too narrow to be cut further. Without it tensor-parallel workers share each expert, as Megatron does by itself.
"""

from __future__ import annotations

from typing import Any

from reasoner_rl.config.training import MegatronBackendConfig
from reasoner_rl.errors import ConfigError

KEY = "training.backend.expert_parallel"


def sizes(config: MegatronBackendConfig) -> dict[str, int]:
    """How the experts are divided, in the words of Megatron's `initialize_model_parallel`."""
    whole = config.expert_parallel > 1
    return {
        "expert_model_parallel_size": config.expert_parallel,
        "expert_tensor_parallel_size": 1 if whole else config.tensor_parallel,
    }


def options(hf_config: Any, config: MegatronBackendConfig, path: str) -> dict[str, Any]:
    """The bridge's settings beside those that it reads from the model's config; none for a dense model.

    Raises ConfigError if the experts cannot be divided so, or if the checkpoint is of a kind that is not built.
    """
    experts = getattr(hf_config, "num_experts", None)
    if experts is None:
        if config.expert_parallel > 1:
            raise ConfigError(
                f"{KEY}={config.expert_parallel} is for mixture-of-experts models; {path} is of type "
                f"{hf_config.model_type}, which has no experts. Set it to 1"
            )
        return {}
    if experts % config.expert_parallel:
        raise ConfigError(
            f"{KEY} must divide the number of experts: {config.expert_parallel} does not divide the {experts} of {path}"
        )
    normalised, chosen = hf_config.norm_topk_prob, hf_config.num_experts_per_tok
    wanted = {
        "mlp_only_layers must be empty": not hf_config.mlp_only_layers,
        "decoder_sparse_step must be 1": hf_config.decoder_sparse_step == 1,
        "num_experts_per_tok must be above 1 where norm_topk_prob is set": chosen > 1 or not normalised,
    }
    if broken := [rule for rule, holds in wanted.items() if not holds]:
        raise ConfigError(
            f"training.backend.kind=megatron cannot train {path}: in its config.json {'; '.join(broken)}. Use fsdp"
        )
    # Softmax over the chosen is softmax over all, renormalised. The loss is the recipe's alone: nothing balances.
    return {
        "moe_router_dtype": "fp32",
        "moe_router_pre_softmax": not normalised,
        "moe_router_load_balancing_type": "none",
    }
