"""The sizes of a model, counted on transformers' own modules without storage (the meta device)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from reasoner_rl.config.model import ModelConfig
from reasoner_rl.errors import ConfigError, did_you_mean
from reasoner_rl.plan.published import names, published_sizes
from reasoner_rl.tokenizer import require_folder


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer inside a decoder layer, which can have an adapter."""

    name: str  # such as q_proj
    inputs: int
    outputs: int


@dataclass(frozen=True, slots=True)
class Architecture:
    """What memory and work of a decoder-only model depend on. Counts are of numbers, not bytes."""

    name: str
    source: str  # where its sizes were read, for people
    model_type: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    intermediate: int  # of a dense feed-forward, or of one expert
    vocabulary: int
    context: int  # most tokens that it is made for
    tied: bool  # whether one matrix is input and output embedding
    experts: int  # 0: dense
    experts_per_token: int
    parameters: int  # all of them, a tied matrix once
    layer_parameters: int  # of all decoder layers
    expert_parameters: int  # of all experts of all layers
    linears: tuple[Linear, ...]  # of one decoder layer; experts are not among them
    normed_heads: bool = False  # whether queries and keys have norms of their own, as in Qwen3
    has_head: bool = True  # whether there is an output embedding

    @property
    def embedding_parameters(self) -> int:
        """Of input and output embedding together, a tied matrix once."""
        return self.vocabulary * self.hidden * self.embeddings

    @property
    def embeddings(self) -> int:
        """Matrices of vocabulary x hidden."""
        return 1 if self.tied or not self.has_head else 2

    def without_head(self) -> Architecture:
        """The same as a critic or reward model, which has a linear map to one number for an output embedding."""
        own_matrix = 0 if self.tied else self.vocabulary * self.hidden
        return replace(self, parameters=self.parameters - own_matrix, tied=False, has_head=False)

    @property
    def query_width(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_width

    @property
    def kv_width(self) -> int:
        """Width of all keys, or of all values, of a token."""
        return self.kv_heads * self.head_width

    @property
    def feed_forward(self) -> int:
        """Width of the feed-forward activations of a token: of all experts that it is sent to."""
        return self.intermediate * max(1, self.experts_per_token)

    @property
    def expert_copies(self) -> int:
        """Numbers in the copies of a token that its experts read; 0 in a dense model."""
        return self.hidden * self.experts_per_token

    @property
    def multiplied_parameters(self) -> int:
        """Parameters in matrix products with one token: of its experts alone, and the output embedding once."""
        active = self.layer_parameters - self.expert_parameters
        if self.experts:
            active += self.expert_parameters * self.experts_per_token // self.experts
        return active + (self.vocabulary * self.hidden if self.has_head else 0)

    def adapter_parameters(self, rank: int, targets: str | list[str]) -> int:
        """Parameters of low-rank adapters (arXiv 2106.09685): rank x (inputs + outputs) of every target, all layers."""
        chosen = [x for x in self.linears if targets == "all-linear" or x.name in targets]
        return self.layers * sum(rank * (x.inputs + x.outputs) for x in chosen)

    def trained_parameters(self, model: ModelConfig) -> int:
        """How many are trained, by model.lora and model.freeze_first_fraction."""
        if model.lora is not None:
            return self.adapter_parameters(model.lora.rank, model.lora.target_modules)
        if model.freeze_first_fraction == 0:
            return self.parameters
        frozen = int(self.layers * model.freeze_first_fraction)
        embedding = 0 if self.tied else self.vocabulary * self.hidden
        return self.parameters - frozen * self.layer_parameters // self.layers - embedding


def read_architecture(path: str, *, trust_remote_code: bool = False) -> Architecture:
    """The sizes of a checkpoint in a folder, in the hub's cache, or in the package's table; nothing is downloaded.

    Raises ConfigError if it is in none of them, or is no decoder-only language model.
    """
    config, source = _read_config(path, trust_remote_code)
    return _count(path, source, config.get_text_config(), trust_remote_code)


def _read_config(path: str, trust_remote_code: bool) -> tuple[Any, str]:
    from transformers import AutoConfig

    require_folder("model.path", path)
    try:
        read = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, local_files_only=True)
    except (OSError, ValueError) as error:
        if (sizes := published_sizes(path)) is not None:
            given = dict(sizes)
            return AutoConfig.for_model(
                given.pop("model_type"), **given
            ), "the published sizes, from the package"
        raise ConfigError(
            f"model.path={path!r}: its sizes are not known: there is no readable config.json in a folder of that name "
            f"or in the Hugging Face cache ({str(error).splitlines()[0]}), and the table of this package has "
            f"{', '.join(names())}.{did_you_mean(path, names())} A plan downloads nothing: `hf download {path} "
            "config.json` does"
        ) from error
    return read, f"config.json of {path}"


def _count(path: str, source: str, config: Any, trust_remote_code: bool) -> Architecture:
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        layers = model.get_decoder().layers
        head: Any = model.get_output_embeddings()
        tied = head.weight is model.get_input_embeddings().weight
    except (AttributeError, ValueError) as error:
        raise ConfigError(
            f"model.path={path!r}: a plan needs a decoder-only language model with a list of layers; this is of type "
            f"{config.model_type}: {error}"
        ) from error
    named = [
        (name.rpartition(".")[2], x) for name, x in layers[-1].named_modules() if isinstance(x, nn.Linear)
    ]
    experts = int(getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None) or 0)
    heads = config.num_attention_heads
    return Architecture(
        name=path,
        source=source,
        model_type=config.model_type,
        hidden=config.hidden_size,
        layers=len(layers),
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_width=getattr(config, "head_dim", None) or config.hidden_size // heads,
        intermediate=(experts and getattr(config, "moe_intermediate_size", 0)) or config.intermediate_size,
        vocabulary=config.vocab_size,
        context=config.max_position_embeddings,
        tied=tied,
        experts=experts,
        experts_per_token=config.num_experts_per_tok if experts else 0,
        parameters=sum(p.numel() for p in model.parameters()),
        layer_parameters=sum(p.numel() for p in layers.parameters()),
        expert_parameters=sum(p.numel() for n, p in layers.named_parameters() if ".experts." in n),
        linears=tuple(Linear(name, x.in_features, x.out_features) for name, x in named),
        normed_heads=any(name.endswith("q_norm") for name, _ in layers[-1].named_modules()),
    )
