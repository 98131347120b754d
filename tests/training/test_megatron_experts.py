"""What of mixture-of-experts models Megatron is not given; that the rest is right is for the parity suite to say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from reasoner_rl.config.training import MegatronBackendConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.training.megatron.moe import options, sizes


def hf_config(**changed: Any) -> SimpleNamespace:
    settings = {
        "model_type": "qwen3_moe",
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "mlp_only_layers": [],
        "decoder_sparse_step": 1,
    }
    return SimpleNamespace(**settings | changed)


@pytest.mark.parametrize(
    ("settings", "expert_parallel", "message"),
    [
        (
            hf_config(),
            3,
            "training.backend.expert_parallel must divide the number of experts: 3 does not divide the 8",
        ),
        (
            SimpleNamespace(model_type="qwen3"),
            2,
            "training.backend.expert_parallel=2 is for mixture-of-experts models; m is of type qwen3, which has no",
        ),
        (
            hf_config(mlp_only_layers=[0]),
            1,
            "cannot train m: in its config.json mlp_only_layers must be empty. Use fsdp",
        ),
        (hf_config(decoder_sparse_step=2), 1, "decoder_sparse_step must be 1"),
        (
            hf_config(num_experts_per_tok=1),
            1,
            "num_experts_per_tok must be above 1 where norm_topk_prob is set",
        ),
    ],
)
def test_what_cannot_be_divided_or_is_not_built_is_refused(
    settings: Any, expert_parallel: int, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        options(settings, MegatronBackendConfig(expert_parallel=expert_parallel), "m")
    assert message in str(caught.value)


def test_the_router_is_told_how_the_checkpoint_weighs_experts() -> None:
    both = MegatronBackendConfig(expert_parallel=4)
    assert options(hf_config(), both, "m")["moe_router_pre_softmax"] is False
    assert (
        options(hf_config(norm_topk_prob=False, num_experts_per_tok=1), both, "m")["moe_router_pre_softmax"]
        is True
    )
    assert options(SimpleNamespace(model_type="qwen3"), MegatronBackendConfig(), "m") == {}


def test_experts_are_whole_on_a_worker_where_they_are_divided() -> None:
    names = ("expert_model_parallel_size", "expert_tensor_parallel_size")
    for config, expected in (
        (MegatronBackendConfig(tensor_parallel=2, expert_parallel=4), (4, 1)),
        (MegatronBackendConfig(tensor_parallel=2), (1, 2)),
    ):
        assert tuple(sizes(config)[name] for name in names) == expected
