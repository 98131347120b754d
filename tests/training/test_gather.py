"""Weights gathered in buckets, on two ranks over gloo: what arrives, in how many collectives, and when they begin."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from gloo_rank import gloo_rank
from parity import TRAINING
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from transformers import AutoModelForCausalLM

from reasoner_rl.config.model import LoraConfig, ModelConfig
from reasoner_rl.config.training import FsdpBackendConfig
from reasoner_rl.hybrid.engine import HybridEngine
from reasoner_rl.hybrid.sync_check import SyncCheck, WeightSyncError
from reasoner_rl.metrics import values
from reasoner_rl.rollout.hf_engine import HfRolloutEngine
from reasoner_rl.training import gather as gathering
from reasoner_rl.training.fsdp import FsdpBackend
from reasoner_rl.training.gather import HERE, Part, Route, Transfer, gather, plan_buckets, travelling_dtype

CPU = torch.device("cpu")
F32, BF16 = torch.float32, torch.bfloat16


class TwoRanks:
    """Stands for a process group."""

    def size(self) -> int:
        return 2


def test_numbers_travel_in_the_narrower_format() -> None:
    assert travelling_dtype(F32, BF16) is BF16
    assert travelling_dtype(BF16, F32) is BF16, "widened by the reader, which loses nothing"
    assert travelling_dtype(F32, None) is F32
    assert travelling_dtype(torch.int64, BF16) is torch.int64, "no number format of weights"


def test_buckets_hold_neighbours_of_one_route_up_to_their_size() -> None:
    group: Any = TwoRanks()
    route, other = Route(group), Route(group, stages=group)

    def part(numbers: int, dtype: torch.dtype = F32, route: Route = route) -> Part:
        return Part(None, (numbers,), dtype, route)

    assert part(5).width == 32, "20 bytes, rounded up to a multiple of 16"
    assert part(5, BF16).gathered_bytes == 2 * 16
    sizes = [part(4), part(4), part(5), part(100), part(1), part(1, route=other), part(1, route=other)]
    for limit, cut in ((64, [2, 1, 1, 1, 2]), (31, [1] * 7), (2000, [5, 2])):
        buckets = plan_buckets(sizes, limit)
        assert [len(bucket) for bucket in buckets] == cut, limit
        assert [p for bucket in buckets for p in bucket] == sizes
    assert plan_buckets([], 64) == []


def test_what_does_not_travel_is_not_copied() -> None:
    tensor = torch.ones(3, 2)
    [found] = gather([Part(tensor, (3, 2), F32, HERE)], 1, CPU)
    assert found.data_ptr() == tensor.data_ptr()
    assert found.shape == (1, 3, 2)


@pytest.mark.slow
def test_two_ranks(tmp_path: Path, tiny_checkpoint: Callable[[str], Path]) -> None:
    paths = {name: tiny_checkpoint(name) for name in ("qwen2-tied", "qwen3_moe-untied")}
    spawn(on_a_rank, (paths, tmp_path), nprocs=2)
    assert sorted(path.name for path in tmp_path.glob("done_*")) == ["done_0", "done_1"]


def on_a_rank(rank: int, paths: dict[str, Path], folder: Path) -> None:
    with gloo_rank(rank, 2, folder):
        parts_of_all_sizes_arrive(rank)
        the_next_bucket_is_on_its_way(rank)
        for options in ({}, {"lora": LoraConfig(rank=4, alpha=8)}):
            a_backend_streams_what_it_holds(paths["qwen2-tied"], **options)
        a_backend_streams_what_it_holds(paths["qwen3_moe-untied"])
        an_engine_in_another_format_has_the_weights(paths["qwen2-tied"])
        (folder / f"done_{rank}").touch()


def parts_of_all_sizes_arrive(rank: int) -> None:
    """Rows that two ranks cannot divide evenly, a rank without any, two formats in one bucket."""
    wholes = [torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows)) for rows in (4, 5, 1, 7)]
    parts = []
    for index, whole in enumerate(wholes):
        rows = -(-len(whole) // 2)
        own = whole[rank * rows : (rank + 1) * rows]
        parts.append(Part(own, (rows, 3), (F32, BF16)[index % 2], Route(dist.group.WORLD)))
    for bucket_bytes in (1, 100, 10_000):
        found = [shards.flatten(0, 1).clone() for shards in gather(parts, bucket_bytes, CPU)]
        for index, (whole, gathered) in enumerate(zip(wholes, found, strict=True)):
            assert torch.equal(gathered[: len(whole)], whole.to((F32, BF16)[index % 2])), (
                index,
                bucket_bytes,
            )


def the_next_bucket_is_on_its_way(rank: int) -> None:
    """It begins before the reader gets the first tensor of one; of tensors larger than a bucket it does not."""
    numbers = torch.arange(16.0)
    parts = [Part(numbers + index, (16,), F32, Route(dist.group.WORLD)) for index in range(8)]
    with collectives() as buffers:
        begun, most = list[int](), 0
        for tensor in gather(parts, 2 * 128, CPU):  # two tensors in each
            begun.append(len(buffers))
            most = max(most, sum(reference() is not None for reference in buffers))
            assert tensor.shape == (2, 16)
        assert begun == [2, 2, 3, 3, 4, 4, 4, 4]
        assert most <= 3, "two, and the one whose last tensor the reader of this test still holds"
    with collectives() as buffers:
        begun = [len(buffers) for _ in gather(parts[:3], 64, CPU)]
        assert begun == [1, 2, 3]
    with collectives() as buffers:  # of the stage of rank 1, which rank 0 has no part of
        held = None if rank == 0 else numbers
        staged = Part(held, (16,), F32, Route(None, dist.group.WORLD, source=1))
        assert [found.tolist() for found in gather([staged, staged], 10_000, CPU)] == [[numbers.tolist()]] * 2
        assert len(buffers) == 0, "a broadcast alone"


@contextmanager
def collectives() -> Iterator[list[weakref.ref[Any]]]:
    """The storage of every buffer that is gathered into while the block runs."""
    buffers: list[weakref.ref[Any]] = []
    original = gathering.all_gather

    def counting(whole: Tensor, own: Tensor, **options: Any) -> Any:
        buffers.append(weakref.ref(whole))
        return original(whole, own, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathering, "all_gather", counting)
        yield buffers


def make_backend(path: Path, **model: Any) -> FsdpBackend:
    torch.manual_seed(0)  # new adapters
    return FsdpBackend(
        ModelConfig(path=str(path), **model),
        TRAINING,
        FsdpBackendConfig(),
        temperature=1.0,
        total_updates=1,
        updates_per_step=1,
    )


def a_backend_streams_what_it_holds(path: Path, **model: Any) -> None:
    """In as many collectives as there are buckets; merged adapters are added up before anything is rounded."""
    backend = make_backend(path, **model)
    for parameter in backend._policy.parameters():  # adapters begin at zero
        parameter.data.add_(0.01)
    plain = dict(backend.full_weights())
    with collectives() as buffers:
        whole = dict(backend.full_weights(Transfer(BF16, 2**30)))
    assert len(buffers) == 1
    assert list(whole) == list(plain), "FSDP2's order is kept"
    for bucket_bytes in (1, 30_000):
        whole |= backend.full_weights(Transfer(BF16, bucket_bytes))
        for name, tensor in whole.items():
            assert torch.equal(tensor.to(BF16), plain[name].to(BF16)), name
            adapted = "lora" in model and name.endswith("proj.weight")
            assert tensor.dtype is (F32 if adapted else BF16), name


def an_engine_in_another_format_has_the_weights(path: Path) -> None:
    """The check of every tensor gathers in float32, tensor by tensor, so it sees what buckets do wrong."""
    backend = make_backend(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=BF16)
    tokenizer: Any = type("Tokenizer", (), {"eos_token_id": 1})()
    rollout: Any = HfRolloutEngine(model, tokenizer, 4, CPU)
    assert rollout.weight_dtype is BF16
    engine = HybridEngine(
        {"policy": backend},
        rollout,
        SyncCheck("tensors", [1, 2], None),
        {"policy": "none"},
        sync_bucket_bytes=30_000,
    )
    backend._policy.model.get_input_embeddings().weight.data.mul_(1.5)
    metrics = values(engine.publish(1))
    state, plain = model.state_dict(), dict(backend.full_weights())
    assert metrics["sync/gib"] == sum(2 * tensor.numel() for tensor in plain.values()) / 2**30
    assert all(torch.equal(state[name], tensor.to(BF16)) for name, tensor in plain.items())
    original = backend.full_weights

    def broken(transfer: Transfer | None = None) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in original(transfer):
            yield name, tensor * 2 if transfer is not None and name.endswith("norm.weight") else tensor

    backend.full_weights = broken  # type: ignore[method-assign]
    with pytest.raises(WeightSyncError, match=r"these tensors differ: .*norm\.weight"):
        engine.publish(2)
