"""The tokenizer and the context length of a checkpoint, which several stages need and none owns."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from reasoner_rl.config.model import ModelConfig
from reasoner_rl.errors import ConfigError


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """Load the tokenizer of ``model.tokenizer`` or ``model.path``, with the configured chat template.

    Raises ConfigError if it cannot be loaded or has no end-of-sequence token, without which no response ends.
    """
    key = "model.tokenizer" if config.tokenizer else "model.path"
    path = config.tokenizer or config.path
    require_folder(key, path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=config.trust_remote_code)
    except Exception as error:  # damaged files raise whatever comes of reading them
        reason = str(error).partition("\n")[0]  # transformers goes on with advice for other cases
        place = "it" if Path(path).is_dir() else "the hub, and there is no such folder"
        raise ConfigError(
            f"{key}={path!r}: no tokenizer can be loaded from {place}: {type(error).__name__}: {reason}"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"{key}={path!r}: the tokenizer has no end-of-sequence token")
    if config.chat_template is not None:
        tokenizer.chat_template = _read_template(config.chat_template)
    return tokenizer


def context_length(config: ModelConfig) -> int | None:
    """Most tokens that the model of ``model.path`` is made for, or None if its configuration does not say."""
    require_folder("model.path", config.path)
    try:
        loaded = AutoConfig.from_pretrained(config.path, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError):
        return None  # loading the model will say what is wrong
    return getattr(loaded.get_text_config(), "max_position_embeddings", None)


def require_folder(key: str, path: str) -> None:
    """Raise ConfigError if ``path`` cannot be a name on the hub and is no folder either."""
    place = Path(path)
    is_local = path.startswith((".", "~", "/")) or path.count("/") > 1
    if place.is_file():
        raise ConfigError(f"{key}={path!r} is a file; it must be the folder of a Hugging Face checkpoint")
    if is_local and not place.is_dir():
        raise ConfigError(f"{key}={path!r}: there is no such folder")


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"model.chat_template={path}: cannot be read: {error}") from error
