"""What Megatron's layers are made of; that both kinds compute the same is for a GPU to say (scripts/gpu_check.py)."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_torch_varlen import flash_on_a_cpu
from torch import Tensor

from reasoner_rl.errors import ConfigError
from reasoner_rl.training import torch_varlen
from reasoner_rl.training.megatron import layer_choice
from reasoner_rl.training.megatron.layer_choice import choose_layers, settle_layers

ABSENT = ModuleNotFoundError("No module named 'transformer_engine'", name="transformer_engine")
BROKEN = OSError("libcudnn.so.9: cannot open shared object file")
GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    names = ("transformer_engine", "transformer_engine.pytorch")
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    monkeypatch.setattr(layer_choice, "_told", set())
    yield
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(before)


@pytest.fixture
def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that is found first, empty."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "transformer_engine").mkdir()
    (tmp_path / "transformer_engine" / "__init__.py").write_text("")
    importlib.invalidate_caches()
    return tmp_path / "transformer_engine"


def test_on_a_gpu_transformer_engine_is_used_where_it_is() -> None:
    assert choose_layers("auto", True, None) == ("transformer_engine", None)
    assert choose_layers("transformer_engine", True, None) == ("transformer_engine", None)
    assert choose_layers("local", True, None) == ("local", None)


def test_without_transformer_engine_the_local_layers_are_told_of_or_refused() -> None:
    layers, notice = choose_layers("auto", True, ABSENT)
    assert layers == "local"
    assert notice is not None
    assert notice.startswith(
        "TransformerEngine is not installed: Megatron's layers are those of megatron-core"
    )
    assert "docs/how_to/megatron.md" in notice
    with pytest.raises(
        ConfigError, match=r"layers=transformer_engine needs the package 'transformer_engine'.*megatron\.md"
    ):
        choose_layers("transformer_engine", True, ABSENT)


@pytest.mark.parametrize("wanted", ["auto", "transformer_engine"])
@pytest.mark.parametrize("error", [BROKEN, ModuleNotFoundError("No module named 'onnx'", name="onnx")])
def test_a_broken_transformer_engine_is_reported_with_its_error(wanted: str, error: Exception) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_layers(wanted, True, error)  # type: ignore[arg-type]
    assert f"raises {type(error).__name__}: {error}." in str(caught.value)
    assert caught.value.__cause__ is error
    assert choose_layers("local", True, error) == ("local", None)


def test_on_a_cpu_the_layers_are_local() -> None:
    for wanted in ("auto", "local"):
        assert choose_layers(wanted, False, None) == ("local", None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="layers=transformer_engine needs a CUDA device"):
        choose_layers("transformer_engine", False, None)


def test_a_part_for_pytorch_that_cannot_be_loaded_is_found(fake_package: Path) -> None:
    (fake_package / "pytorch.py").write_text("raise FileNotFoundError('no shared object for torch')")
    with pytest.raises(ConfigError, match="raises FileNotFoundError: no shared object for torch"):
        settle_layers("auto", GPU)


def test_with_local_layers_nothing_of_transformer_engine_is_imported(fake_package: Path) -> None:
    (fake_package / "__init__.py").write_text("raise RuntimeError('imported')")
    assert settle_layers("local", GPU) == "local"
    with pytest.raises(ModuleNotFoundError, match="transformer_engine"):
        importlib.import_module("transformer_engine")
    with pytest.raises(ConfigError, match="was built with local layers"):
        settle_layers("transformer_engine", GPU)


def test_the_fallback_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(layer_choice, "_import_error", lambda: ABSENT)
    with caplog.at_level(logging.WARNING):
        assert [settle_layers("auto", GPU) for _ in range(2)] == ["local", "local"]
    assert [record.getMessage()[:36] for record in caplog.records] == [
        "TransformerEngine is not installed: "[:36]
    ]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("flash", [False, True])
def test_local_attention_is_causal_within_each_sequence(
    ranks: int, flash: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one rank or of two that share each sequence; on a GPU the flash kernel's definition stands in for it."""
    pytest.importorskip("megatron.core")
    from reasoner_rl.training.megatron import local_layers
    from reasoner_rl.training.megatron.share import own_tokens

    lengths, heads, groups, width = (4, 12, 8), 4, 2, 8
    bounds = [0, *accumulate(lengths)]
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(bounds[-1], count, width, dtype=torch.float64, generator=generator)
        for count in (heads, groups, groups)
    )
    places = [own_tokens(bounds, rank, ranks) for rank in range(ranks)]

    def gathered(part: Tensor, group: Any) -> Tensor:
        [whole] = [x for x in (key, value) if torch.equal(x[places[group.rank()]], part)]
        return torch.cat([whole[own] for own in places])

    monkeypatch.setattr(local_layers, "gather_from_sequence_parallel_region", gathered)
    monkeypatch.setattr(local_layers, "can_attend", lambda query, value: flash)
    monkeypatch.setattr(torch_varlen, "_kernel", lambda: (flash_on_a_cpu, {}))
    found = torch.empty(bounds[-1], heads * width, dtype=torch.float64)
    for rank, own in enumerate(places):
        group = SimpleNamespace(size=lambda: ranks, rank=lambda rank=rank: rank)
        monkeypatch.setattr(
            local_layers.parallel_state, "get_context_parallel_group", lambda group=group: group
        )
        cu_seqlens = torch.tensor(bounds, dtype=torch.int32)
        packed = SimpleNamespace(cu_seqlens_q=cu_seqlens, max_seqlen_q=max(lengths))
        attention = local_layers.PackedAttention(None)
        found[own] = attention(query[own], key[own], value[own], packed_seq_params=packed)
    for first, last in pairwise(bounds):
        shared = (x[first:last].repeat_interleave(heads // groups, dim=1) for x in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query[first:last], next(shared)) / width**0.5
        scores = scores.masked_fill(torch.ones(scores.shape[1:]).triu(1) > 0, -torch.inf)
        expected = torch.einsum("hqk,khd->qhd", scores.softmax(-1), next(shared)).flatten(1)
        torch.testing.assert_close(found[first:last], expected, atol=1e-12, rtol=0)
