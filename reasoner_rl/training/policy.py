"""The policy as the trainer sees it: packed tokens in, response logprobs and entropy out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from reasoner_rl.config.model import LoraConfig, ModelConfig
from reasoner_rl.errors import ConfigError, did_you_mean
from reasoner_rl.tokenizer import require_folder, text_config
from reasoner_rl.training.attention import can_share_prompts, choose_attention, packed_arguments
from reasoner_rl.training.backend import Head, path_key
from reasoner_rl.training.recompute import checkpoint_activations
from reasoner_rl.training.shared_prompts import SharedPrompts
from reasoner_rl.training.token_logprobs import token_logprobs
from reasoner_rl.types import MicroBatch, TokenOutputs

TaskType = Literal["CAUSAL_LM", "SEQ_CLS"]  # peft's names
_ADAPTED = ".base_layer.weight"  # of a layer beside which peft puts an adapter


class Policy(nn.Module):
    """A transformers causal language model that never materialises its logits.

    The decoder runs over the flat tokens; only hidden states that predict a response token meet the output
    embedding, chunk by chunk. ``unused_ids`` of the vocabulary have no probability.
    """

    def __init__(
        self, model: PreTrainedModel, attention: str, chunk_tokens: int, unused_ids: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.model = model
        self.attention = attention
        self.chunk_tokens = chunk_tokens
        self.unused_ids = torch.tensor(unused_ids, dtype=torch.int64) if unused_ids else None
        config = model.config
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self.logit_scale = float(getattr(config, "logit_scale", None) or 1.0) / float(
            getattr(config, "logits_scaling", None) or 1.0
        )

    def forward(
        self, batch: MicroBatch, temperature: float = 1.0, entropy_gradient: bool = False
    ) -> TokenOutputs:
        """Return logprobs and entropy [N] of ``softmax(logits / temperature)`` at the response tokens."""
        head: Any = self.model.get_output_embeddings()
        return token_logprobs(
            predicting_states(self.model, self.attention, batch),
            head.weight,
            head.bias,
            batch.targets,
            temperature=temperature,
            chunk_tokens=self.chunk_tokens,
            entropy_gradient=entropy_gradient,
            logit_scale=self.logit_scale,
            softcap=self.softcap,
            unused_ids=None if self.unused_ids is None else self.unused_ids.to(batch.targets.device),
        )


def predicting_states(model: PreTrainedModel, attention: str, batch: MicroBatch) -> Tensor:
    """The decoder's last hidden states [N, hidden] from which the response tokens are predicted."""
    decoder: Any = model.get_decoder()
    input_ids, position_ids, predictors = batch.input_ids, batch.position_ids, batch.predictors
    shared = SharedPrompts.of(batch) if can_share_prompts(attention) else None
    if shared is not None:
        input_ids, position_ids = input_ids[shared.kept], position_ids[shared.kept]
        predictors = shared.stand_ins[predictors]
    hidden: Tensor = decoder(
        input_ids=input_ids[None],
        position_ids=position_ids[None],
        use_cache=False,
        **packed_arguments(attention, batch.cu_seqlens, batch.max_seqlen, shared),
    ).last_hidden_state[0]
    return hidden.index_select(0, predictors)


def load_causal_lm(
    config: ModelConfig, dtype: torch.dtype, attention: str, *, empty: bool = False
) -> PreTrainedModel:
    """Load a checkpoint, or with ``empty`` only its architecture: parameters then have no storage, buffers have.

    Raises ConfigError naming model.path if it cannot be read.
    """
    require_checkpoint(config.path)
    options: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": attention,
        "trust_remote_code": config.trust_remote_code,
    }
    try:
        if not empty:
            return AutoModelForCausalLM.from_pretrained(config.path, **options)
        read = AutoConfig.from_pretrained(config.path, trust_remote_code=config.trust_remote_code)
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(read, **options)
        model.tie_weights()
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.path={config.path!r} cannot be loaded: {error}") from error
    return model


def require_checkpoint(path: str, head: Head = "policy") -> None:
    """Raise ConfigError if ``path`` is a folder that holds no checkpoint, or is meant to be one and does not exist."""
    require_folder(path_key(head), path)
    folder = Path(path)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ConfigError(
            f"{path_key(head)}={path!r} holds no config.json, so it is not a Hugging Face checkpoint"
        )


def build_policy(
    config: ModelConfig,
    chunk_tokens: int,
    device: torch.device,
    *,
    empty: bool = False,
    unused_ids: Sequence[int] = (),
) -> Policy:
    """Load the model with float32 master weights, frozen and adapted as configured.

    The weights stay where they were read, on the CPU: `fully_shard` moves them to the device layer by layer. With
    ``empty`` they are not read at all: see `load_causal_lm`.
    """
    attention = choose_attention(config.attention, device, getattr(torch, config.dtype), text_config(config))
    model = load_causal_lm(config, torch.float32, attention, empty=empty)
    prepare(model, config)
    return Policy(model, attention, chunk_tokens, unused_ids)


def prepare(model: PreTrainedModel, config: ModelConfig) -> None:
    """Freeze, adapt and checkpoint activations as configured, in place. All embeddings train."""
    embeddings: Any = model.get_input_embeddings()
    # transformers leaves the row of config.pad_token_id out. Here there is no padding, and that token is often one that
    # ends a response.
    embeddings.padding_idx = None
    freeze_first_layers(model, config.freeze_first_fraction)
    if config.lora is not None:
        add_lora(model, config.lora)
    checkpoint_activations(model, config.gradient_checkpointing)


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The stack of decoder layers. Raises ConfigError if the model does not have the usual one."""
    layers = getattr(model.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ConfigError(
            f"model of type {type(model).__name__} has no list of decoder layers named 'layers'"
        )
    return layers


def freeze_first_layers(model: PreTrainedModel, fraction: float) -> None:
    """Stop training the first ``fraction`` of the layers, and the input embeddings unless they are the output's too."""
    if fraction == 0:
        return
    layers = decoder_layers(model)
    for layer in layers[: int(len(layers) * fraction)]:
        layer.requires_grad_(False)
    embeddings: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    if head is None or embeddings.weight is not head.weight:
        embeddings.requires_grad_(False)


def add_lora(model: PreTrainedModel, config: LoraConfig) -> None:
    """Put trainable low-rank adapters (arXiv 2106.09685) beside the chosen linear layers, in place."""
    from peft import inject_adapter_in_model

    _require_targets(model, config)
    # Tells peft which layer is the head, for all-linear leaves it out.
    task_type: TaskType = "SEQ_CLS" if model.get_output_embeddings() is None else "CAUSAL_LM"
    try:
        inject_adapter_in_model(peft_config(config, task_type), model)
    except ValueError as error:
        raise ConfigError(f"model.lora.target_modules={config.target_modules!r}: {error}") from error
    inside = {id(parameter) for parameter in decoder_layers(model).parameters()}
    for name, parameter in model.named_parameters():
        if ".lora_" in name and id(parameter) not in inside:
            # The output embedding is read past its module, chunk by chunk, and an adapter there would not be seen.
            raise ConfigError(
                f"model.lora.target_modules={config.target_modules!r} puts an adapter on "
                f"{name.partition('.lora_')[0]}; only linear layers inside the decoder layers can have one"
            )


def _require_targets(model: PreTrainedModel, config: LoraConfig) -> None:
    """Raise ConfigError for a listed name that no module ends with: peft passes it over if another one fits."""
    if isinstance(config.target_modules, str):
        return
    modules = dict(model.named_modules())
    linear = {name.rpartition(".")[2] for name, module in modules.items() if isinstance(module, nn.Linear)}
    for target in config.target_modules:
        if not any(name == target or name.endswith(f".{target}") for name in modules):
            raise ConfigError(
                f"model.lora.target_modules={config.target_modules!r}: no module is called {target!r}; linear layers "
                f"are {', '.join(sorted(linear))}.{did_you_mean(target, linear)}"
            )


def peft_config(config: LoraConfig, task_type: TaskType) -> Any:
    """The adapters as peft describes them."""
    from peft import LoraConfig as PeftConfig

    return PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.target_modules,
        task_type=task_type,
    )


@contextmanager
def adapters_off(policy: nn.Module) -> Iterator[None]:
    """Compute without LoRA's adapters while the block runs, by scaling what they add by 0."""
    # Public in peft, unlike the flag behind its own switch, which also changes which parameters are trained.
    layers: list[Any] = [module for module in policy.modules() if hasattr(module, "lora_A")]
    before = [dict(layer.scaling) for layer in layers]
    try:
        for layer in layers:
            layer.scaling.update(dict.fromkeys(layer.scaling, 0.0))
        yield
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling.update(scaling)


def tensor_names(model: PreTrainedModel) -> list[str]:
    """Names of a model's tensors that a checkpoint holds; tied ones appear once, under their first name."""
    saved = model.state_dict().keys()
    names = [name for name, _ in model.named_parameters()]
    # Persistent buffers too, such as a router's.
    return names + [name for name, _ in model.named_buffers() if name in saved]


def merged_weights(
    names: Sequence[str], read: Callable[[Sequence[str]], Iterator[Tensor]], lora: LoraConfig | None
) -> Iterator[tuple[str, Tensor]]:
    """Stream whole tensors under plain Hugging Face names, each adapter folded into the layer it sits beside.

    names: `tensor_names` of the model. read: gives the whole tensors of these names, in their order.
    """
    in_order = [part for name in names if not is_adapter(name) for part in (name, *_adapters_of(name))]
    wholes = read(in_order)
    for name in names:
        if is_adapter(name):
            continue
        whole = next(wholes)
        if lora is not None and is_adapted(name):
            down, up = next(wholes), next(wholes)
            whole = whole + (lora.alpha / lora.rank) * (up @ down)
        yield name.replace(".base_layer.", "."), whole
    for _ in wholes:  # let it end, as what is collective must
        pass


def is_adapter(name: str) -> bool:
    """Whether a tensor is a part of one of LoRA's adapters."""
    return ".lora_" in name


def is_adapted(name: str) -> bool:
    """Whether an adapter is added to a tensor when they are merged."""
    return name.endswith(_ADAPTED)


def _adapters_of(name: str) -> list[str]:
    if not is_adapted(name):
        return []
    stem = name.removesuffix(_ADAPTED)
    return [f"{stem}.lora_A.default.weight", f"{stem}.lora_B.default.weight"]
