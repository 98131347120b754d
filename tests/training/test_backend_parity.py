"""Every training backend in every layout of ranks against the same plain transformers model in float32."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from gloo_rank import gloo_rank
from parity import (
    CLIP_HIGHER,
    MAX_RESPONSE,
    TEMPERATURE,
    TOTAL_UPDATES,
    TRAINING,
    UPDATES,
    as_saved,
    make_samples,
    plain_reference,
)
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from transformers import AutoModelForCausalLM

from reasoner_rl.batching.plan import BatchLimits, plan_shares
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.training import BackendConfig, FsdpBackendConfig, MegatronBackendConfig
from reasoner_rl.distributed.building import build_backend
from reasoner_rl.errors import ConfigError
from reasoner_rl.losses.policy import policy_loss
from reasoner_rl.metrics import merge, values
from reasoner_rl.training.gather import Transfer
from reasoner_rl.training.saved import saved_weights
from reasoner_rl.types import IDLE

DENSE = ("qwen2-tied", "qwen2-untied", "qwen3-untied", "llama-scaled-untied")
EXPERTS, RAW = "qwen3_moe-untied", "qwen3_moe-raw-tied"  # raw: the router's weights do not add up to 1
DEEP_MODELS = ("qwen2-deep-tied", "qwen2-deep-untied")  # where there are four stages
# Number of ranks, and backend. Layouts of one backend and as many ranks run in the same processes, which take long to
# start.
LAYOUTS: dict[str, tuple[int, BackendConfig]] = {
    "fsdp": (1, FsdpBackendConfig()),
    "fsdp, 2 ranks": (2, FsdpBackendConfig()),
    "megatron": (1, MegatronBackendConfig()),
    # The tiny vocabulary is padded, up to where a rank holds nothing but padding.
    "megatron, tensor parallel": (2, MegatronBackendConfig(tensor_parallel=2, vocabulary_multiple=128)),
    "megatron, pipeline": (2, MegatronBackendConfig(pipeline_parallel=2)),
    "megatron, context parallel": (2, MegatronBackendConfig(context_parallel=2)),
    "megatron, data parallel": (2, MegatronBackendConfig(distributed_optimizer=False)),
    "megatron, distributed optimizer": (
        2,
        MegatronBackendConfig(distributed_optimizer=True, overlap_reduction=True),
    ),
    "megatron, tensor parallel and pipeline": (
        4,
        MegatronBackendConfig(tensor_parallel=2, pipeline_parallel=2, vocabulary_multiple=64),
    ),
    "megatron, tensor and context parallel": (
        4,
        MegatronBackendConfig(tensor_parallel=2, context_parallel=2, distributed_optimizer=False),
    ),
    "megatron, virtual stages and replicas": (
        4,
        MegatronBackendConfig(
            pipeline_parallel=2, virtual_stages=2, distributed_optimizer=False, overlap_reduction=True
        ),
    ),
    # Of four ranks two have the same experts, and add up their gradients.
    "megatron, experts": (4, MegatronBackendConfig(expert_parallel=2)),
    "megatron, tensor parallel and experts": (
        4,
        MegatronBackendConfig(tensor_parallel=2, expert_parallel=4, distributed_optimizer=False),
    ),
}


def build(path: Path, backend: BackendConfig, *, frozen: bool = False, **model: Any) -> Any:
    return build_backend(
        ModelConfig(path=str(path), **model),
        TRAINING.model_copy(update={"backend": backend}),
        temperature=TEMPERATURE,
        total_updates=TOTAL_UPDATES,
        frozen=frozen,
    )


@pytest.fixture(scope="module")
def trained(
    tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, int], Path]:
    """A function that trains in all layouts of one kind of backend on so many ranks; returns the results' folder."""

    @cache
    def train(kind: str, ranks: int) -> Path:
        jobs = {
            layout: (backend, {name: tiny_checkpoint(name) for name in models_of(ranks, backend)})
            for layout, (count, backend) in LAYOUTS.items()
            if (backend.kind, count) == (kind, ranks)
        }
        folder = tmp_path_factory.mktemp("parity")
        spawn(train_all_layouts, (ranks, jobs, folder), nprocs=ranks)
        return folder

    return train


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_backend_computes_what_plain_transformers_computes(
    layout: str, trained: Callable[[str, int], Path], tiny_checkpoint: Callable[[str], Path]
) -> None:
    ranks, backend = LAYOUTS[layout]
    if backend.kind == "megatron":
        pytest.importorskip("megatron.core")
        pytest.importorskip("mbridge")
    for name in models_of(ranks, backend):
        folder = trained(backend.kind, ranks) / layout / name
        found = [torch.load(folder / f"result_{rank}.pt", weights_only=False) for rank in range(ranks)]
        compare(found, plain_reference(tiny_checkpoint(name)), backend)
        check_what_is_read_in_one_process(folder, tiny_checkpoint(name), found[0]["saved"])
        exported = AutoModelForCausalLM.from_pretrained(folder / "export", dtype=torch.float32)
        for key, tensor in as_saved(exported, dict(exported.named_parameters())).items():
            assert torch.equal(tensor, found[0]["weights"][key]), (name, key)


def check_what_is_read_in_one_process(folder: Path, path: Path, saved: dict[str, Tensor]) -> None:
    """The weights in the checkpoint are those that the ranks had when they wrote it, to the bit."""
    read = dict(saved_weights(folder / "checkpoint", ModelConfig(path=str(path))))
    assert read.keys() == saved.keys()
    assert all(torch.equal(read[name], saved[name]) for name in read)


def models_of(ranks: int, backend: BackendConfig) -> tuple[str, ...]:
    if isinstance(backend, MegatronBackendConfig) and backend.expert_parallel > 1:
        return (EXPERTS,)
    if isinstance(backend, MegatronBackendConfig) and backend.virtual_stages > 1:
        return DEEP_MODELS
    return (*DENSE, EXPERTS, RAW) if ranks == 1 else (*DENSE, EXPERTS)


def compare(found: list[dict[str, Any]], expected: Any, backend: BackendConfig) -> None:
    metrics = [values(merge(parts)) for parts in zip(*(rank["metrics"] for rank in found), strict=True)]
    assert [m["policy/loss"] for m in metrics] == pytest.approx(expected.losses, rel=1e-5, abs=1e-6)
    assert [m["train/grad_norm"] for m in metrics] == pytest.approx(expected.norms, rel=1e-5)
    assert [m["train/lr"] for m in metrics] == pytest.approx(expected.rates)
    for rank in found:
        for index, logprobs in rank["logprobs"].items():
            torch.testing.assert_close(logprobs, expected.logprobs[index], atol=1e-5, rtol=0)
        for index, logprobs in rank["reference"].items():
            torch.testing.assert_close(logprobs, expected.logprobs[index], atol=1e-5, rtol=0)
        assert rank["initial"].keys() == rank["weights"].keys() == expected.weights.keys()
        for key, tensor in expected.initial.items():
            assert torch.equal(rank["initial"][key], tensor), f"{key} is not what was loaded, to the bit"
        for key, tensor in expected.weights.items():
            torch.testing.assert_close(rank["weights"][key], tensor, atol=2e-6, rtol=0, msg=key)
            assert torch.equal(rank["resumed"][key], rank["weights"][key]), f"{key} after a resume"
        for key, gradient in rank["gradients"].items():
            error = (gradient - expected.gradients[key]).norm() / expected.gradients[key].norm()
            assert error < 1e-5, key
    covered = set().union(*(rank["logprobs"] for rank in found))
    assert covered == set(range(len(expected.logprobs)))
    divides_gradients = isinstance(backend, MegatronBackendConfig) and backend.distributed_optimizer
    assert bool(found[0]["gradients"]) == (not divides_gradients)


def train_all_layouts(
    rank: int, ranks: int, jobs: dict[str, tuple[BackendConfig, dict[str, Path]]], folder: Path
) -> None:
    with gloo_rank(rank, ranks, folder):
        for layout, (backend, paths) in jobs.items():
            train_all_models(rank, ranks, backend, paths, folder / layout)


def train_all_models(
    rank: int, ranks: int, backend: BackendConfig, paths: dict[str, Path], folder: Path
) -> None:
    limits = BatchLimits(micro_batch_tokens=40, max_response_tokens=MAX_RESPONSE)
    shares = plan_shares(make_samples(100), limits, backend.data_parallel_size(ranks))
    mine = shares[backend.data_parallel_rank(rank, ranks)].pack()
    loss = partial(policy_loss, config=CLIP_HIGHER)
    for name, path in paths.items():
        if rank == 0:
            (folder / name / "checkpoint").mkdir(parents=True)
            (folder / name / "export").mkdir()
        dist.barrier()
        trained, reference = build(path, backend), build(path, backend, frozen=True)
        result = {
            "initial": copied(trained),
            "logprobs": by_sample(trained, mine),
            "gradients": gradients(trained, mine, loss),
            "metrics": [trained.update(mine, loss)],
        }
        trained.save(folder / name / "checkpoint")
        result["saved"] = copied(trained)
        gather_in_buckets(trained, result["saved"])
        move_away_and_back(trained)
        move_away_and_back(reference)
        result["metrics"] += [trained.update(mine, loss) for _ in range(UPDATES - 1)]
        result |= {"weights": copied(trained), "reference": by_sample(reference, mine)}
        follow_and_return(reference, trained, mine, loss, folder / name)
        resumed = build(path, backend)
        resumed.load(folder / name / "checkpoint")
        for _ in range(UPDATES - 1):
            resumed.update(mine, loss)
        result["resumed"] = copied(resumed)
        trained.export_hf(folder / name / "export")
        torch.save(result, folder / name / f"result_{rank}.pt")
    if isinstance(backend, MegatronBackendConfig):
        refuse_what_cannot_be_divided(path, backend)
        go_on_with_another_layout(path, backend, folder / name / "checkpoint", result["saved"])
        read_what_earlier_versions_wrote(rank, path, backend, folder / name / "checkpoint", result["saved"])
        learn_in_bfloat16(path, backend, mine, loss)
        if ranks == 1:
            restore_random_states(path, backend, folder / name / "checkpoint")
        forget_the_layout()


def forget_the_layout() -> None:
    """Let the next backend of this process divide the ranks anew."""
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()


def copied(backend: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in backend.full_weights()}


def gather_in_buckets(backend: Any, plain: dict[str, Tensor]) -> None:
    """A sync's buckets, whatever their size, bring what is gathered tensor by tensor, in the reader's format."""
    for dtype in (torch.float32, torch.bfloat16):
        for bucket_bytes in (1, 20_000, 2**30):
            streamed = list(backend.full_weights(Transfer(dtype, bucket_bytes)))
            assert sorted(name for name, _ in streamed) == sorted(plain), "each once"
            for name, tensor in streamed:
                assert tensor.dtype in (dtype, torch.float32), "as it is held, where nothing travels"
                assert torch.equal(tensor.to(dtype), plain[name].to(dtype)), (name, bucket_bytes)


def by_sample(backend: Any, batch: Any) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    outputs = backend.logprobs(batch.micro_batches)
    for micro_batch, logprobs in zip(batch.micro_batches, outputs, strict=True):
        found.update(micro_batch.split_responses(logprobs))
    return {index: logprobs for index, logprobs in found.items() if index != IDLE}


def gradients(backend: Any, batch: Any, loss: Any) -> dict[str, Tensor]:
    """Whole gradients of the first update, which is not made; none where each rank has a part of them only."""
    caught: dict[str, Tensor] = {}

    class Caught(Exception):
        pass

    if isinstance(backend._training.backend, FsdpBackendConfig):

        def catch() -> None:
            for name, parameter in backend._policy.model.named_parameters():
                caught[name] = parameter.grad.full_tensor()
            raise Caught

        backend._clip_gradients, original = catch, backend._clip_gradients
        with pytest.raises(Caught):
            backend.update(batch, loss)
        backend._clip_gradients = original
        backend._optimizer.zero_grad(set_to_none=True)
        return as_saved(backend._policy.model, caught)
    if backend._training.backend.distributed_optimizer:
        return caught

    def catch_buffers() -> None:
        kept = {p: p.data for chunk in backend._models for p in chunk.parameters()}
        for parameter in kept:
            parameter.data = parameter.main_grad.clone()
        caught.update({name: tensor.clone() for name, tensor in backend.full_weights()})
        for parameter, data in kept.items():
            parameter.data = data
        raise Caught

    backend._optimizer.prepare_grads, original = catch_buffers, backend._optimizer.prepare_grads
    with pytest.raises(Caught):
        backend.update(batch, loss)
    backend._optimizer.prepare_grads = original
    return caught


def follow_and_return(frozen: Any, trained: Any, batch: Any, loss: Any, folder: Path) -> None:
    """A model without an optimizer refuses to be updated, takes over another's weights, and loads its own again."""
    with pytest.raises(
        RuntimeError, match=r"^update needs a model that is trained, and this one was built frozen"
    ):
        frozen.update(batch, loss)
    (folder / "frozen").mkdir(exist_ok=True)
    frozen.save(folder / "frozen")
    before, now = by_sample(frozen, batch), by_sample(trained, batch)
    frozen.set_shards(trained.host_shards())
    for wanted in (now, before):
        found = by_sample(frozen, batch)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[index], wanted[index]) for index in found)
        frozen.load(folder / "frozen")
    assert not any(torch.equal(before[index], now[index]) for index in before)


def move_away_and_back(backend: Any) -> None:
    """On a CPU FSDP has nowhere to move anything; Megatron's weights and gradients really go."""
    weights = [p for chunk in getattr(backend, "_models", []) for p in chunk.parameters()]
    backend.offload_optimizer()
    backend.offload_weights()
    emptied = [tensor for p in weights for tensor in (p, getattr(p, "main_grad", p))]  # a frozen one has none
    assert all(tensor.untyped_storage().nbytes() == 0 for tensor in emptied)
    backend.reload()


def refuse_what_cannot_be_divided(path: Path, backend: MegatronBackendConfig) -> None:
    too_many = {
        "tensor_parallel": "tensor_parallel must divide the model's num_key_value_heads: 3 does not divide 2",
        "pipeline_parallel": "pipeline_parallel x virtual_stages must divide the model's num_hidden_layers",
    }
    for key, rule in too_many.items():
        with pytest.raises(ConfigError, match=rule):
            build(path, backend.model_copy(update={key: 3}))


def go_on_with_another_layout(
    path: Path, backend: MegatronBackendConfig, checkpoint: Path, saved: dict[str, Tensor]
) -> None:
    """See test_resume_anywhere.py for what follows."""
    other = backend.model_copy(update={"distributed_optimizer": not backend.distributed_optimizer})
    resumed = build(path, other)
    assert "its tensors are divided anew for megatron on" in resumed.load(checkpoint)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in resumed.full_weights())


def read_what_earlier_versions_wrote(
    rank: int, path: Path, backend: MegatronBackendConfig, checkpoint: Path, saved: dict[str, Tensor]
) -> None:
    """They kept the layout beside the weights of rank 0, of fewer keys, and made no file of it."""
    from reasoner_rl.training.megatron.files import read_layout

    layout, file = dict(read_layout(checkpoint)), checkpoint / "rank_0.pt"
    assert layout["tensor_parallel"] == backend.tensor_parallel
    assert "layout" not in torch.load(file, weights_only=True, mmap=True)
    for key in ("layers", "vocabulary_multiple"):
        del layout[key]
    dist.barrier()
    if rank == 0:
        torch.save(torch.load(file, weights_only=True) | {"layout": layout}, file)
        (checkpoint / "layout.json").unlink()
    dist.barrier()
    assert read_layout(checkpoint) == layout
    go_on_with_another_layout(path, backend, checkpoint, saved)
    resumed = build(path, backend)
    assert resumed.load(checkpoint) is None
    assert all(torch.equal(tensor, saved[name]) for name, tensor in resumed.full_weights())


def restore_random_states(path: Path, backend: MegatronBackendConfig, checkpoint: Path) -> None:
    """Those of the device too; checkpoints from before they were saved are read as well."""
    from megatron.core.tensor_parallel import get_cuda_rng_tracker

    file, tracker, resumed = checkpoint / "rank_0.pt", get_cuda_rng_tracker(), build(path, backend)
    saved = torch.load(file, weights_only=False)
    states = saved.pop("device_rng")["megatron"]
    assert states.keys() == tracker.get_states().keys() != set()
    for present in (True, False):
        tracker.set_states({key: torch.zeros_like(state) for key, state in states.items()})
        torch.manual_seed(123)
        if not present:
            torch.save(saved, file)
        resumed.load(checkpoint)
        assert torch.equal(torch.get_rng_state(), saved["rng"])
        assert all(torch.equal(tracker.get_states()[key], states[key]) for key in states) is present
    tracker.set_states(states)


def learn_in_bfloat16(path: Path, backend: MegatronBackendConfig, batch: Any, loss: Any) -> None:
    """Roundings are large; that the same batch is fitted better and better shows that the pieces fit together."""
    half = build(path, backend, dtype="bfloat16", gradient_checkpointing=True)
    for tensor in copied(half).values():
        assert tensor.dtype == torch.bfloat16
    before = by_sample(half, batch)
    exact = by_sample(build(path, backend), batch)
    assert max((before[index] - exact[index]).abs().mean() for index in before) < 0.1
    for _ in range(UPDATES):
        half.update(batch, loss)
    moved = by_sample(half, batch)
    assert any(not torch.equal(moved[index], before[index]) for index in before)
