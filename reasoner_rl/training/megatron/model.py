"""Hugging Face checkpoints as Megatron models, and back, through mbridge.

mbridge maps Megatron's weights to Hugging Face's. Overridden here is what does not fit our use: its mapping of tied
embeddings is shared between all models of a process, it reads the rotary embedding's base where transformers 5 no
longer has it, and it builds on TransformerEngine alone.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from mbridge.core.parallel_states import ParallelStates
from mbridge.models.llama import LLaMABridge
from mbridge.models.qwen2 import Qwen2Bridge
from mbridge.models.qwen3 import Qwen3Bridge
from mbridge.models.qwen3moe import Qwen3MoEBridge
from megatron.core import parallel_state
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.models.common.embeddings import rope_utils
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from torch import Tensor
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from reasoner_rl.config.model import GradientCheckpointing, ModelConfig
from reasoner_rl.config.training import MegatronBackendConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.training.backend import Head, path_key
from reasoner_rl.training.megatron import moe
from reasoner_rl.training.megatron.layer_choice import Layers
from reasoner_rl.training.megatron.local_layers import WITHOUT_FUSED_KERNELS, layer_spec
from reasoner_rl.training.megatron.value import add_head, drop_output_layer
from reasoner_rl.training.policy import require_checkpoint

BRIDGES = {"qwen2": Qwen2Bridge, "qwen3": Qwen3Bridge, "llama": LLaMABridge, "qwen3_moe": Qwen3MoEBridge}


class _BridgeMixin:
    """What is overridden whatever the layers are made of."""

    def _adjust_mapping_for_shared_weights(self: Any) -> None:
        self._DIRECT_MAPPING = dict(self._DIRECT_MAPPING)  # of this instance alone
        if self.hf_config.tie_word_embeddings:
            self._DIRECT_MAPPING["output_layer.weight"] = "model.embed_tokens.weight"

    def _get_gptmodel_args(self: Any) -> dict[str, Any]:
        return {
            "vocab_size": self.hf_config.vocab_size,
            "max_sequence_length": self.hf_config.max_position_embeddings,
            "position_embedding_type": "rope",
            "rotary_base": self.hf_config.rope_parameters["rope_theta"],
        }


class _LocalMixin(_BridgeMixin):
    """What is overridden besides where TransformerEngine is not used."""

    def _get_transformer_layer_spec(self: Any, vp_stage: int | None = None) -> Any:
        self.has_vp_stage = True
        return layer_spec(self.config, vp_stage)


def initialise(config: MegatronBackendConfig, seed: int) -> None:
    """Divide the ranks of the process group into Megatron's groups, once per process."""
    if not torch.cuda.is_available():
        from reasoner_rl.training.megatron.cpu import install

        install()
    if not parallel_state.model_parallel_is_initialized():
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=config.tensor_parallel,
            pipeline_model_parallel_size=config.pipeline_parallel,
            virtual_pipeline_model_parallel_size=(
                config.virtual_stages if config.virtual_stages > 1 else None
            ),
            context_parallel_size=config.context_parallel,
            **moe.sizes(config),
        )
        model_parallel_cuda_manual_seed(seed)


def build_bridge(
    model: ModelConfig,
    config: MegatronBackendConfig,
    layers: Layers,
    head: Head = "policy",
    sizes: dict[str, int] | None = None,
) -> Any:
    """The bridge for a checkpoint. Raises ConfigError for an architecture that was not brought to parity.

    sizes: tensor-parallel sizes in mbridge's words, for converting weights alone; unless given, those of Megatron's
    groups, which must be there.
    """
    require_checkpoint(model.path, head)
    try:
        hf_config = AutoConfig.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path_key(head)}={model.path!r} cannot be loaded: {error}") from error
    if head != "policy":  # there is no output embedding that could be the input's
        hf_config.tie_word_embeddings = False
    base: Any = BRIDGES.get(hf_config.model_type)
    if base is None:
        raise ConfigError(
            f"training.backend.kind=megatron trains {', '.join(BRIDGES)}; {model.path} is of type "
            f"{hf_config.model_type}. Use fsdp"
        )
    _check_layout(hf_config, config)
    experts = moe.options(hf_config, config, model.path)
    local = layers == "local"
    names = _local_names(base) if local else {}
    made: Any = type(base.__name__, (_LocalMixin if local else _BridgeMixin, base), names)
    bridge = made(
        hf_config,
        dtype=getattr(torch, model.dtype),
        parallel_states=None if sizes is None else ParallelStates(vpp_size=None, **sizes),
        make_vocab_size_divisible_by=config.tensor_parallel * config.vocabulary_multiple,
    )
    bridge.set_extra_args(
        sequence_parallel=config.tensor_parallel > 1,
        finalize_model_grads_func=finalize_model_grads,
        gradient_accumulation_fusion=False,
        use_cpu_initialization=not torch.cuda.is_available(),
        **experts,
        **(WITHOUT_FUSED_KERNELS if local else {"apply_rope_fusion": has_fused_rope()}),
        **_RECOMPUTE[model.gradient_checkpointing],
    )
    return bridge


def _check_layout(hf_config: Any, config: MegatronBackendConfig) -> None:
    """Raise ConfigError where the model cannot be divided so."""
    stages = config.pipeline_parallel * config.virtual_stages
    parts = {
        "pipeline_parallel x virtual_stages": (stages, "num_hidden_layers"),
        "tensor_parallel": (config.tensor_parallel, "num_key_value_heads"),
    }
    for keys, (size, name) in parts.items():
        if (whole := getattr(hf_config, name)) % size:
            raise ConfigError(
                f"training.backend.{keys} must divide the model's {name}: {size} does not divide {whole}"
            )


def _local_names(base: Any) -> dict[str, Any]:
    """Names in the layers without TransformerEngine, where norms are modules of their own."""
    return {
        "_OTHER_MAPPING": {"input_layernorm.weight": ["model.layers.{layer_number}.input_layernorm.weight"]},
        "_MLP_MAPPING": {
            **base._MLP_MAPPING,
            "pre_mlp_layernorm.weight": ["model.layers.{layer_number}.post_attention_layernorm.weight"],
        },
    }


def has_fused_rope() -> bool:
    """Whether megatron-core found TransformerEngine's kernel for rotary embeddings of packed sequences."""
    return rope_utils.fused_apply_rotary_pos_emb_thd is not None


# By model.gradient_checkpointing. Megatron computes whole modules again: with keep_attention the feed-forward, or the
# layer of experts, and nothing of attention.
_RECOMPUTE: dict[GradientCheckpointing, dict[str, Any]] = {
    False: {},
    True: {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
    "keep_attention": {
        "recompute_granularity": "selective",
        "recompute_modules": ["mlp", "moe"],
    },
}


def build_model(
    bridge: Any, path: str, dtype: str, head: Head = "policy", *, needs_head: bool = False
) -> list[Any]:
    """This rank's part of the model, with the checkpoint's weights: a list of its stages.

    needs_head: see `load_critic`.
    """
    callbacks: list[Callable[..., None]] = [_use_exact_rotary_frequencies]
    if head != "policy":
        callbacks.append(drop_output_layer)
    with contextlib.redirect_stdout(io.StringIO()):  # mbridge prints the number of parameters
        models: list[Any] = bridge.get_model(
            path, bf16=dtype == "bfloat16", post_model_creation_callbacks=callbacks
        )
    if head != "policy":
        add_head(bridge, models, path, head, needs_head=needs_head)
    return models


def _use_exact_rotary_frequencies(model: Any, *, hf_config: Any, **kwargs: Any) -> None:
    """Those of transformers, computed on the CPU as there: a GPU rounds powers otherwise, and positions multiply that.

    Megatron itself has the constants of Llama 3.1's scaling built in, and knows no other scaling.
    """
    kind, rotary = hf_config.rope_parameters["rope_type"], model.rotary_pos_emb
    if kind == "default":
        width = 2 * len(rotary.inv_freq)
        exponents = torch.arange(0, width, 2, dtype=torch.float32, device="cpu") / width
        frequencies, scale = 1.0 / hf_config.rope_parameters["rope_theta"] ** exponents, 1.0
    else:
        frequencies, scale = ROPE_INIT_FUNCTIONS[kind](hf_config, "cpu")
    if scale != 1.0:
        raise ConfigError(
            f"model: rope_type {kind!r} scales attention by {scale}, which training.backend.kind=megatron does not do"
        )
    rotary.inv_freq = frequencies.to(rotary.inv_freq.device)


def wrap_for_training(bridge: Any, models: list[Any], config: MegatronBackendConfig) -> list[Any]:
    """Give the parts buffers for gradients that are reduced over the data-parallel ranks."""
    options = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=config.distributed_optimizer,
        overlap_grad_reduce=config.overlap_reduction,
        bucket_size=None,
    )
    wrapped = [
        DistributedDataParallel(config=bridge.config, ddp_config=options, module=model) for model in models
    ]
    if config.overlap_reduction:  # not before the last micro-batch of an update
        silent = [chunk.no_sync for chunk in wrapped]
        bridge.config.no_sync_func = silent if len(silent) > 1 else silent[0]
    return wrapped


def stream_weights(bridge: Any, models: list[Any]) -> Iterator[tuple[str, Tensor]]:
    """Whole tensors under Hugging Face names, each once, without padding. Collective."""
    seen: set[str] = set()
    for name, tensor in bridge.export_weights(models):
        if name not in seen:  # tied embeddings are on the first and the last stage
            seen.add(name)
            yield name, tensor.detach()


def reports_metrics() -> bool:
    """Whether this rank is the one of its data-parallel replica that reports: first of the last stage."""
    return (
        bool(parallel_state.is_pipeline_last_stage())
        and parallel_state.get_tensor_model_parallel_rank() == 0
        and parallel_state.get_context_parallel_rank() == 0
    )


def broadcast_from_last_stage(tensors: list[Tensor]) -> None:
    """Give every stage the last stage's values, in place. Collective."""
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        source = parallel_state.get_pipeline_model_parallel_last_rank()
        for tensor in tensors:
            dist.broadcast(tensor, source, group=parallel_state.get_pipeline_model_parallel_group())
