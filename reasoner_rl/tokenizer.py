"""The tokenizer, the vocabulary and the context length of a checkpoint, which several stages need and none owns."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from reasoner_rl.config.model import ModelConfig
from reasoner_rl.errors import ConfigError

# Arguments of loading that transformers 5 would save as if they were properties of the tokenizer.
_OF_LOADING = ("is_local", "local_files_only")


def load_tokenizer(config: ModelConfig, section: str = "model") -> PreTrainedTokenizerBase:
    """Load the tokenizer of ``model.tokenizer`` or ``model.path``, with the configured chat template.

    section: what messages call the section that ``config`` comes from. Raises ConfigError if the tokenizer cannot be
    loaded, has no end-of-sequence token, without which no response ends, or has tokens that the model of ``model.path``
    lacks. Special tokens that neither begin nor end a text and that the chat template does not name may be beyond the
    model's vocabulary: such tokenizers are published with text-only models.
    """
    key = f"{section}.tokenizer" if config.tokenizer else f"{section}.path"
    path = config.tokenizer or config.path
    require_folder(key, path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=config.trust_remote_code)
    except Exception as error:  # damaged files may raise any exception
        reason = str(error).partition("\n")[0]  # transformers appends advice for other cases
        place = "it" if Path(path).is_dir() else "the hub, and there is no such folder"
        raise ConfigError(
            f"{key}={path!r}: no tokenizer can be loaded from {place}: {type(error).__name__}: {reason}"
        ) from error
    for name in _OF_LOADING:
        tokenizer.init_kwargs.pop(name, None)
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"{key}={path!r}: the tokenizer has no end-of-sequence token")
    if config.chat_template is not None:
        tokenizer.chat_template = _read_template(config.chat_template)
    check_ids(config, tokenizer, _ids_in_use(tokenizer))
    return tokenizer


def text_config(config: ModelConfig) -> Any:
    """The configuration of the language model in ``model.path``, or None if it cannot be read."""
    require_folder("model.path", config.path)
    try:
        loaded = AutoConfig.from_pretrained(config.path, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError):
        return None  # loading the model will say what is wrong
    return loaded.get_text_config()


def context_length(config: ModelConfig) -> int | None:
    """Most tokens that the model of ``model.path`` is made for, or None if its configuration does not say."""
    return getattr(text_config(config), "max_position_embeddings", None)


def vocabulary_size(config: ModelConfig) -> int | None:
    """Number of rows of the embedding of ``model.path``, or None if its configuration does not say."""
    return getattr(text_config(config), "vocab_size", None)


def check_ids(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> None:
    """Raise ConfigError naming the token if one of ``ids`` is not below the size of the model's vocabulary."""
    size = vocabulary_size(config)
    if size is None or not (beyond := sorted({token_id for token_id in ids if token_id >= size})):
        return
    key, path = ("model.tokenizer", config.tokenizer) if config.tokenizer else ("model.path", config.path)
    others = f"; {len(beyond) - 1} more tokens are beyond it" if len(beyond) > 1 else ""
    raise ConfigError(
        f"{key}={path!r}: the token {tokenizer.convert_ids_to_tokens(beyond[0])!r} has id {beyond[0]}, and the "
        f"vocabulary of the model in {config.path!r} has {size} ids, 0 to {size - 1}{others}. Use the tokenizer that "
        "belongs to the model, or resize the model's embeddings"
    )


def unused_ids(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of the model's vocabulary that no token of the tokenizer has, in order.

    Models pad their embeddings beyond the tokenizer, and some tokenizers leave holes. No text has such an id, so it
    must not be sampled, and both engines and the trainer give it no probability.
    """
    size, known = vocabulary_size(config) or 0, set(tokenizer.get_vocab().values())
    if not tokenizer.is_fast:  # whose table may hold one text for several ids: only the end is certain
        known = set(range(max(known) + 1))
    return sorted(set(range(size)) - known)


def require_folder(key: str, path: str) -> None:
    """Raise ConfigError if ``path`` cannot be a name on the hub and is no folder either, or is that of a run."""
    place = Path(path)
    is_local = path.startswith((".", "~", "/")) or path.count("/") > 1
    if place.is_file():
        raise ConfigError(f"{key}={path!r} is a file; it must be the folder of a Hugging Face checkpoint")
    if is_local and not place.is_dir():
        raise ConfigError(f"{key}={path!r}: there is no such folder")
    if is_training_folder(place):
        raise ConfigError(
            f"{key}={path!r} is the folder of a run, or of a training checkpoint: `reasoner-rl export {path}` writes "
            "its weights as a Hugging Face checkpoint, and says where"
        )


def is_training_folder(place: Path) -> bool:
    """Whether a folder is that of a run, or of a training checkpoint, and no Hugging Face checkpoint."""
    of_training = (place / "driver.json").is_file() or (place / "checkpoints").is_dir()
    return of_training and not (place / "config.json").is_file()


def _ids_in_use(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that rendering a text can give, unless the text itself names a special token."""
    added = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    special = added | set(tokenizer.all_special_ids)
    named = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    template = str(tokenizer.chat_template or "")
    return [
        token_id
        for token, token_id in tokenizer.get_vocab().items()
        if token_id not in special or token_id in named or token in template
    ]


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"model.chat_template={path}: cannot be read: {error}") from error
