"""What of a decoder layer's activations is kept for backward, and what is made again (arXiv 1604.06174, 2205.05198).

With `model.gradient_checkpointing=true` a layer keeps its input and computes all else again. With ``keep_attention`` it
also keeps what the attention operator made, its output and the normalisers of its softmax, so that backward computes
projections, norms and the feed-forward again and not attention, which at long sequences costs as much as they do.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import PreTrainedModel

from reasoner_rl.config.model import GradientCheckpointing

# By the names under which PyTorch dispatches them: scaled dot-product attention on a CPU and by each of its kernels for
# GPUs, PyTorch's flash kernel for packed sequences, and that of the package flash-attn. Where none of the kernels can
# run, attention is written out in products and a softmax, and is computed again like all else.
ATTENTION_OPERATORS = frozenset(
    {
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_flash_attention",
        "aten::_scaled_dot_product_efficient_attention",
        "aten::_scaled_dot_product_cudnn_attention",
        "torch_attn::_varlen_attn",
        "flash_attn::_flash_attn_varlen_forward",
    }
)


def checkpoint_activations(model: PreTrainedModel, choice: GradientCheckpointing) -> None:
    """Let the layers of a model keep less for backward, as chosen; nothing changes with False."""
    if choice is False:
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if choice == "keep_attention":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _keep_attention)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def _keep_attention(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    del context, args, kwargs
    kept = operator.name() in ATTENTION_OPERATORS
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
