"""Training continues from a checkpoint with another backend, or on another layout of ranks, as it would have before."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from gloo_rank import gloo_rank
from parity import CLIP_HIGHER, MAX_RESPONSE, TEMPERATURE, TOTAL_UPDATES, TRAINING, make_samples
from test_backend_parity import by_sample, copied, forget_the_layout
from test_value_parity import LOSS as VALUE_LOSS
from test_value_parity import with_returns
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from reasoner_rl.batching.plan import BatchLimits, plan_shares
from reasoner_rl.config.model import LoraConfig, ModelConfig
from reasoner_rl.config.training import BackendConfig, FsdpBackendConfig, MegatronBackendConfig
from reasoner_rl.distributed.building import build_backend
from reasoner_rl.errors import ConfigError, UserError
from reasoner_rl.losses.policy import policy_loss
from reasoner_rl.metrics import merge, values
from reasoner_rl.training.saved import open_checkpoint
from reasoner_rl.training.whole import Kind
from reasoner_rl.types import IDLE, MiniBatch

pytest.importorskip("megatron.core")
pytest.importorskip("mbridge")

DENSE, EXPERTS = "qwen2-tied", "qwen3_moe-untied"
UPDATES = 2  # before the checkpoint
LAYOUTS: dict[str, BackendConfig] = {
    "fsdp": FsdpBackendConfig(),
    "whole": MegatronBackendConfig(),
    "tensor": MegatronBackendConfig(tensor_parallel=2, vocabulary_multiple=128),
    "tensor, anew": MegatronBackendConfig(tensor_parallel=2, vocabulary_multiple=128),  # by whole tensors too
    "pipeline": MegatronBackendConfig(pipeline_parallel=2, distributed_optimizer=False),
    "replicas": MegatronBackendConfig(distributed_optimizer=True),
    "experts": MegatronBackendConfig(expert_parallel=2),
}
TOLD = {
    "fsdp": "fsdp on 2 workers",
    "tensor": "megatron on 2 workers (tensor_parallel 2, vocabulary_multiple 128, distributed_optimizer)",
    "pipeline": "megatron on 2 workers (pipeline_parallel 2)",
    "replicas": "megatron on 2 workers (distributed_optimizer)",
    "experts": "megatron on 2 workers (expert_parallel 2, distributed_optimizer)",
}


@dataclass(frozen=True)
class Case:
    """A model, the layout of two ranks that makes a checkpoint, and those that go on with it on two ranks or on one."""

    model: str
    made: str
    two: tuple[str, ...]
    one: tuple[str, ...] = ()
    head: Any = "policy"
    dtype: Any = "float32"

    @property
    def folder(self) -> str:
        return f"{self.model}, {self.head}, {self.made}, {self.dtype}"


CASES = (
    Case(DENSE, "tensor", ("pipeline", "fsdp", "tensor, anew")),
    Case(DENSE, "pipeline", ("fsdp",), ("whole",)),
    Case(DENSE, "fsdp", ("tensor",)),
    Case(DENSE, "replicas", ("tensor",)),
    Case(EXPERTS, "experts", ("fsdp",), ("whole",)),
    Case(EXPERTS, "fsdp", ("experts",)),
    Case(DENSE, "tensor", ("fsdp",), head="value"),
    Case(DENSE, "fsdp", ("pipeline",), head="value"),
    Case(DENSE, "replicas", ("pipeline",), dtype="bfloat16"),
)


@pytest.mark.slow
def test_training_goes_on_with_another_backend_or_layout(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    paths = {name: tiny_checkpoint(name) for name in (DENSE, EXPERTS)}
    (tmp_path / "one").mkdir()
    spawn(make_and_go_on, (paths, tmp_path), nprocs=2)
    spawn(go_on_alone, (paths, tmp_path), nprocs=1)


def build(path: Path, layout: str, case: Case, *, frozen: bool = False, **model: Any) -> Any:
    return build_backend(
        ModelConfig(path=str(path), dtype=case.dtype, **model),
        TRAINING.model_copy(update={"backend": LAYOUTS[layout]}),
        temperature=TEMPERATURE,
        total_updates=TOTAL_UPDATES,
        head=case.head,
        frozen=frozen,
    )


def make_and_go_on(rank: int, paths: dict[str, Path], folder: Path) -> None:
    with gloo_rank(rank, 2, folder):
        for case in CASES:
            make(rank, paths[case.model], case, folder / case.folder)
            for layout in case.two:
                go_on(paths[case.model], case, layout, folder / case.folder)


def go_on_alone(rank: int, paths: dict[str, Path], folder: Path) -> None:
    with gloo_rank(rank, 1, folder / "one"):
        for case in CASES:
            for layout in case.one:
                go_on(paths[case.model], case, layout, folder / case.folder)
        go_on_before_the_first_update(paths[DENSE], folder)
        follow_without_an_optimizer(paths[DENSE], folder / CASES[0].folder)
        refuse_adapters(paths[DENSE], folder)
        refuse_what_would_execute_code(paths[DENSE], folder / CASES[0].folder / "checkpoint")
        refuse_what_cannot_be_told_apart(paths[DENSE], folder / CASES[0].folder / "checkpoint")


def make(rank: int, path: Path, case: Case, folder: Path) -> None:
    """Train, save, and write down what the run does next."""
    if rank == 0:
        (folder / "checkpoint").mkdir(parents=True)
    dist.barrier()
    backend, batch = build(path, case.made, case), share(case.made, case)
    for _ in range(UPDATES):
        update(backend, batch, case)
    backend.save(folder / "checkpoint")
    found = what_follows(backend, batch, case)
    if rank == 0:
        torch.save(found, folder / "expected.pt")
    dist.barrier()
    leave(case.made)


def go_on(path: Path, case: Case, layout: str, folder: Path) -> None:
    """Resume, and compare with what the run that made the checkpoint did."""
    from reasoner_rl.training.megatron import backend as megatron

    expected = torch.load(folder / "expected.pt", weights_only=True)
    backend, batch = build(path, layout, case), share(layout, case)
    with (
        patch.object(megatron, "is_of_layout", lambda made, own: False)
        if layout == "tensor, anew"
        else nullcontext()
    ):
        told = backend.load(folder / "checkpoint")
    assert told.startswith(
        f"the checkpoint was made by {TOLD[case.made]}; its tensors are divided anew for "
    ), told
    where = f"{case.folder} -> {layout}"
    if case.dtype != "float32":  # layouts round passes differently, which would hide what is read wrongly
        holds_the_same(backend, path, case, folder / "checkpoint", folder / layout)
    found = what_follows(backend, batch, case)
    assert found["weights"].keys() == expected["weights"].keys()
    for name, tensor in expected["weights"].items():  # FSDP2 has float32 alone, and Megatron rounds from it
        assert torch.equal(found["weights"][name].to(tensor.dtype), tensor), f"{name}: {where}"
    assert found["rate"] == pytest.approx(expected["rate"], rel=1e-12)
    if case.dtype == "float32":
        compare(found, expected, where)
    if layout == "tensor, anew":  # the same sums in the same order
        assert all(torch.equal(found["next"][name], tensor) for name, tensor in expected["next"].items())
    leave(layout)


def holds_the_same(backend: Any, path: Path, case: Case, checkpoint: Path, again: Path) -> None:
    """What was divided anew is what was saved, to the bit: float32 weights and moments."""
    if dist.get_rank() == 0:
        again.mkdir()
    dist.barrier()
    backend.save(again)
    dist.barrier()
    if dist.get_rank() == 0:
        model = ModelConfig(path=str(path), dtype=case.dtype)
        first, second = (open_checkpoint(folder, model, case.head) for folder in (checkpoint, again))
        assert first.updates == second.updates == UPDATES
        assert set(first.names()) == set(second.names())
        kinds: tuple[Kind, ...] = ("master", "exp_avg", "exp_avg_sq")
        for name, kind in product(first.names(), kinds):
            one, other = first.read(name, kind), second.read(name, kind)
            assert one.dtype == torch.float32
            assert one.any(), "to compare zeros would say nothing"
            assert torch.equal(one, other), f"{kind} of {name}"


def compare(found: dict[str, Any], expected: dict[str, Any], where: str) -> None:
    """Outputs within 1e-5, and the norm of an update's change within 1e-4 of itself."""
    for key in ("before", "after"):
        assert found[key].keys() == expected[key].keys()
        for index, tensor in expected[key].items():
            torch.testing.assert_close(found[key][index], tensor, atol=1e-5, rtol=0, msg=f"{key}: {where}")
    assert found["norm"] == pytest.approx(expected["norm"], rel=1e-4), where
    changes = [change(result) for result in (found, expected)]
    assert changes[0] == pytest.approx(changes[1], rel=1e-4), where
    assert changes[1] > 1e-3


def what_follows(backend: Any, batch: MiniBatch, case: Case) -> dict[str, Any]:
    """Weights and outputs now, and after another update."""
    found: dict[str, Any] = {"weights": copied(backend), "before": outputs(backend, batch, case)}
    metrics = update(backend, batch, case)
    found |= {"norm": metrics["train/grad_norm"], "rate": metrics["train/lr"]}
    return found | {"next": copied(backend), "after": outputs(backend, batch, case)}


def change(found: dict[str, Any]) -> float:
    """Norm of what the update changed."""
    squares = [(found["next"][name] - tensor).square().sum() for name, tensor in found["weights"].items()]
    return float(torch.stack(squares).sum().sqrt())


def share(layout: str, case: Case) -> MiniBatch:
    backend, ranks = LAYOUTS[layout], dist.get_world_size()
    samples = make_samples(100)
    if case.head != "policy":
        samples = with_returns(samples)
    limits = BatchLimits(micro_batch_tokens=40, max_response_tokens=MAX_RESPONSE)
    shares = plan_shares(samples, limits, backend.data_parallel_size(ranks))
    return shares[backend.data_parallel_rank(dist.get_rank(), ranks)].pack()


def update(backend: Any, batch: MiniBatch, case: Case) -> dict[str, float]:
    loss = partial(policy_loss, config=CLIP_HIGHER) if case.head == "policy" else VALUE_LOSS
    return values(merge([backend.update(batch, loss)]))


def outputs(backend: Any, batch: MiniBatch, case: Case) -> dict[int, Tensor]:
    """Logprobs or values of all samples, those of other replicas too."""
    if case.head == "policy":
        own = by_sample(backend, batch)
    else:
        own = {}
        for micro_batch, found in zip(batch.micro_batches, backend.values(batch.micro_batches), strict=True):
            own.update(micro_batch.split_responses(found))
        own.pop(IDLE, None)
    everywhere: list[dict[int, Tensor]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everywhere, own)
    return {index: tensor for part in everywhere for index, tensor in part.items()}


def leave(layout: str) -> None:
    if isinstance(LAYOUTS[layout], MegatronBackendConfig):
        forget_the_layout()


def go_on_before_the_first_update(path: Path, folder: Path) -> None:
    """As a policy does that is saved while its critic warms up: there are no moments, and none must be counted."""
    case = CASES[0]
    (folder / "new").mkdir()
    new, batch = build(path, "whole", case), share("whole", case)
    new.save(folder / "new")
    expected, resumed = what_follows(new, batch, case), build(path, "fsdp", case)
    assert resumed.load(folder / "new") is not None
    compare(what_follows(resumed, batch, case), expected, "before the first update")
    leave("whole")


def follow_without_an_optimizer(path: Path, folder: Path) -> None:
    """A frozen model takes the weights alone."""
    expected = torch.load(folder / "expected.pt", weights_only=True)["weights"]
    for layout in ("fsdp", "whole"):
        frozen = build(path, layout, CASES[0], frozen=True)
        assert frozen.load(folder / "checkpoint") is not None
        weights = copied(frozen)
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    leave("whole")


def refuse_adapters(path: Path, folder: Path) -> None:
    """They are FSDP2's alone, and what they are added to is not theirs."""
    lora = LoraConfig(rank=2, target_modules="all-linear")
    (folder / "adapters").mkdir()
    adapted = build(path, "fsdp", CASES[0], lora=lora)
    adapted.save(folder / "adapters")
    with pytest.raises(ConfigError, match=r"model\.lora is set, and .* was made by Megatron"):
        adapted.load(folder / CASES[0].folder / "checkpoint")
    with pytest.raises(
        ConfigError, match=r"holds LoRA's adapters, which FSDP2 alone trains: keep training\.backend"
    ):
        build(path, "whole", CASES[0]).load(folder / "adapters")
    leave("whole")


def refuse_what_would_execute_code(path: Path, checkpoint: Path) -> None:
    """Whatever layout reads it."""
    file, layout = checkpoint / "rank_0.pt", checkpoint / "layout.json"
    whole, described = file.read_bytes(), layout.read_text()
    state = torch.load(file, weights_only=True)
    state["updates"] = Trap()
    torch.save(state, file)
    for backend in ("fsdp", "whole"):
        with pytest.raises(
            UserError, match=r"rank_0\.pt holds something else than tensors, numbers and text"
        ):
            build(path, backend, CASES[0]).load(checkpoint)
    layout.unlink()  # as earlier versions, which had the layout in the same file
    with pytest.raises(UserError, match=r"rank_0\.pt holds something else than tensors, numbers and text"):
        build(path, "fsdp", CASES[0]).load(checkpoint)
    file.write_bytes(whole)
    layout.write_text(described)
    leave("whole")


class Trap:
    """What fails the test if it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("code in a checkpoint was executed",)


def refuse_what_cannot_be_told_apart(path: Path, checkpoint: Path) -> None:
    """Earlier versions did not save whose state is whose."""
    for file in checkpoint.glob("rank_*.pt"):
        state = torch.load(file, weights_only=True)
        del state["stretches"]
        torch.save(state, file)
    with pytest.raises(UserError, match=r"made by megatron on 2 workers .* and an earlier version"):
        build(path, "fsdp", CASES[0]).load(checkpoint)
