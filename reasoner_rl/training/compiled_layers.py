"""Decoder layers by `torch.compile`: norms, rotary embeddings, activations and residuals fused into few kernels.

Only a layer's own computation is compiled. FSDP2's hooks, activation checkpointing and attention stay as they are:
attention is called between two compiled parts, so that no number of packed sequences and no length of theirs is part
of what is compiled. The number of tokens is dynamic, and layers that are alike share what was compiled.
"""

from __future__ import annotations

import torch
from transformers import AttentionInterface, PreTrainedModel

from reasoner_rl.training.policy import decoder_layers

COMPILER = "inductor"  # torch.compile's backend


def compile_layers(model: PreTrainedModel, attention: str) -> None:
    """Compile the decoder layers in place. ``attention``: the name by which the model's was registered.

    To be called when the layers are sharded. The first pass with and the first without gradients take the time of a
    compilation, some minutes on a few CPU cores.
    """
    kernel = AttentionInterface()[attention]
    AttentionInterface.register(attention, torch.compiler.disable(kernel))
    for layer in decoder_layers(model):
        # The method and not the module, whose hooks gather and free its weights.
        layer.forward = torch.compile(layer.forward, dynamic=True, backend=COMPILER)
