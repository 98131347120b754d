"""Tokenizer and model have vocabularies of different sizes: what is refused, and what is masked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, Qwen3Config

from reasoner_rl.config.model import ModelConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.tokenizer import check_ids, load_tokenizer, unused_ids

WORDS = {"<end>": 0, "a": 1, "b": 2, "c": 3}


def saved(folder: Path, vocabulary: int, words: dict[str, int], **options: Any) -> ModelConfig:
    """A checkpoint's folder with a model of ``vocabulary`` ids and a tokenizer of ``words``."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="a")), eos_token="<end>", **options
    )
    tokenizer.save_pretrained(folder)
    Qwen3Config(vocab_size=vocabulary).save_pretrained(folder)
    return ModelConfig(path=str(folder))


def test_loading_and_saving_changes_no_file(tmp_path: Path) -> None:
    """An evaluation records the hash of the tokenizer's files, which is to be that of the model trained from it."""
    config, again = saved(tmp_path / "first", 4, WORDS), tmp_path / "again"
    load_tokenizer(config).save_pretrained(again)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (again / name).read_bytes() == (tmp_path / "first" / name).read_bytes()


@pytest.mark.parametrize(
    ("vocabulary", "words", "expected"),
    [
        (4, WORDS, []),
        (7, WORDS, [4, 5, 6]),
        (8, {"<end>": 0, "a": 1, "b": 3, "c": 6}, [2, 4, 5, 7]),
    ],
    ids=["as large", "padded", "holes"],
)
def test_ids_without_a_token_are_found(
    vocabulary: int, words: dict[str, int], expected: list[int], tmp_path: Path
) -> None:
    config = saved(tmp_path, vocabulary, words)
    assert unused_ids(config, load_tokenizer(config)) == expected


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    config = saved(tmp_path, 2, WORDS)
    with pytest.raises(ConfigError) as error:
        load_tokenizer(config)
    assert str(error.value).startswith(
        f"model.path={str(tmp_path)!r}: the token 'b' has id 2, and the vocabulary of the model in "
        f"{str(tmp_path)!r} has 2 ids, 0 to 1; 1 more tokens are beyond it. "
    )


def test_the_key_of_a_tokenizer_of_its_own_is_named(tmp_path: Path) -> None:
    model, other = saved(tmp_path / "model", 3, {"<end>": 0, "a": 1}), saved(tmp_path / "other", 9, WORDS)
    with pytest.raises(
        ConfigError, match=r"^model\.tokenizer='.*other': the token 'c' has id 3, and .*model' has 3"
    ):
        load_tokenizer(ModelConfig(path=model.path, tokenizer=other.path))


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"additional_special_tokens": ["<image>"]}, False),  # as of Gemma 3's text-only model
        ({"pad_token": "<image>"}, False),
        ({"bos_token": "<image>"}, True),
        ({"additional_special_tokens": ["<image>"], "chat_template": "<image>{{ messages }}"}, True),
        ({"extra": "<image>"}, True),  # a token of ordinary text
    ],
    ids=["unused", "padding", "begins texts", "in the template", "no special token"],
)
def test_special_tokens_beyond_the_model_may_be_there_but_not_be_used(
    options: dict[str, str], refused: bool, tmp_path: Path
) -> None:
    extra = options.get("extra")
    config = saved(tmp_path, 4, WORDS, **({} if extra else options))
    if extra is not None:
        tokenizer = load_tokenizer(config)
        tokenizer.add_tokens([AddedToken(extra)])
        tokenizer.save_pretrained(tmp_path)
    if refused:
        with pytest.raises(
            ConfigError, match=r"the token '<image>' has id 4, and the vocabulary .* has 4 ids, 0 to 3"
        ):
            load_tokenizer(config)
        return
    tokenizer = load_tokenizer(config)
    assert unused_ids(config, tokenizer) == []
    check_ids(config, tokenizer, [0, 3])
    with pytest.raises(ConfigError, match="the token '<image>' has id 4"):  # such as a text that names it
        check_ids(config, tokenizer, [0, 4])
