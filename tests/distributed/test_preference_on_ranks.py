"""DPO, KTO and reward models on ranks: the same metrics and weights as in one process, and KTO's estimate too.

Every rank runs the driver's part too, and the ranks exchange what their workers answer: real workers, without Ray.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from gloo_rank import gloo_rank
from safetensors.torch import load_file
from torch.multiprocessing.spawn import spawn

from reasoner_rl.algorithms.build import build_algorithm
from reasoner_rl.batching.plan import plan_shares
from reasoner_rl.config.recipes import PreferenceConfig, TrainConfig
from reasoner_rl.config.reward_recipe import RewardModelConfig
from reasoner_rl.distributed.building import build_worker
from reasoner_rl.distributed.local import LocalTransport
from reasoner_rl.distributed.worker import Worker
from reasoner_rl.distributed.workers import Workers, update_plan
from reasoner_rl.metrics import values
from reasoner_rl.types import IDLE, TrainSample

STEPS = 3
ALGORITHMS: dict[str, dict[str, Any]] = {
    "dpo": {"kind": "dpo", "beta": 0.5, "nll_coefficient": 0.1, "kl_coefficient": 0.1},
    "kto": {"kind": "kto", "beta": 0.5},
    "pointwise": {"kind": "pointwise", "center": 0.1},
}
LOSSES = {"dpo": "preference/loss", "kto": "preference/loss", "pointwise": "reward_model/loss"}
BACKENDS: dict[str, dict[str, Any]] = {
    "fsdp": {"kind": "fsdp"},
    "megatron": {"kind": "megatron", "tensor_parallel": 2},
}


class EveryRankDrives:
    """A transport of which each rank has one: it calls the worker of its rank, and the ranks exchange the answers."""

    def __init__(self, worker: Worker) -> None:
        self._worker, self.ranks = worker, dist.get_world_size()
        self.generators = range(self.ranks)

    def call(self, phase: str, method: Any, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        answers: list[Any] = [None] * self.ranks
        dist.all_gather_object(answers, method(self._worker, *arguments[dist.get_rank()]))
        return answers


def recipe(model: Path, algorithm: str, backend: str, ranks: int) -> TrainConfig:
    kind: Any = RewardModelConfig if algorithm == "pointwise" else PreferenceConfig
    config: TrainConfig = kind.model_validate(
        {
            "run": {"output_dir": Path("unused"), "steps": STEPS, "threads": 1},
            "model": {"path": str(model)},
            "cluster": {"kind": "ray", "workers_per_node": ranks} if ranks > 1 else {"kind": "local"},
            "data": {"train": {"path": "unused.jsonl"}},
            "algorithm": ALGORITHMS[algorithm],
            "batch": {"examples_per_step": 10 if algorithm == "kto" else 5, "micro_batch_tokens": 8},
            "training": {
                # Adam divides by gradients that vanish: with a larger epsilon rounding is not blown up to whole steps.
                "optimizer": {"lr": 3.0e-3, "eps": 1.0e-3},
                "schedule": {"kind": "constant"},
                "backend": BACKENDS[backend],
            },
        }
    )
    return config


def samples(algorithm: str) -> list[TrainSample]:
    """Five pairs of random tokens to five prompts; each pair is longer than a micro-batch, so that one rank is idle.

    For KTO nine of the answers are good: all become likelier, and so do mismatched ones.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> torch.Tensor:
        return torch.randint(2, 20, (count,), generator=generator)

    made = []
    for group, lengths in enumerate([(4, 5), (6, 3), (5, 5), (3, 6), (4, 4)]):
        prompt = draw(3 + group % 2)
        of_second = 1.0 if algorithm == "kto" and group else 0.0
        for length, reward in zip(lengths, (1.0, of_second), strict=True):
            made.append(
                TrainSample(
                    prompt_ids=prompt,
                    response_ids=draw(length),
                    loss_mask=torch.ones(length, dtype=torch.bool),
                    advantages=torch.zeros(length),
                    rollout_logprobs=torch.zeros(length),
                    reward=reward,
                    group=group,
                )
            )
    return made


def learn(config: TrainConfig, transport: Any, folder: Path) -> list[dict[str, float]]:
    """The metrics of the steps, on the same batch each; the weights after them are exported to ``folder``."""
    algorithm = build_algorithm(config)
    workers = Workers(config, algorithm, transport)
    rows = []
    for _ in range(STEPS):
        prepared, metrics = algorithm.prepare(samples(config.algorithm.kind), workers.models)
        rows.append(values(metrics | algorithm.update(prepared, workers.models)))
    folder.mkdir(exist_ok=True, parents=True)
    workers.export(folder)
    return [{k: v for k, v in row.items() if not k.startswith(("memory/", "time/"))} for row in rows]


def learn_on_a_rank(
    rank: int, ranks: int, model: Path, folder: Path, backends: list[str], names: list[str]
) -> None:
    with gloo_rank(rank, ranks, folder):
        for backend in backends:
            for name in names:
                config = recipe(model, name, backend, ranks)
                rows = learn(config, EveryRankDrives(build_worker(config)), folder / f"{name} {backend}")
                torch.save(rows, folder / f"{name} {backend} {rank}.pt")


@pytest.mark.slow
def test_two_ranks_learn_what_one_process_learns(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model = tiny_checkpoint("llama-untied")
    megatron = all(importlib.util.find_spec(package) for package in ("megatron", "mbridge"))
    backends = ["fsdp", "megatron"] if megatron else ["fsdp"]
    spawn(learn_on_a_rank, (2, model, tmp_path, backends, list(ALGORITHMS)), nprocs=2)
    for name in ALGORITHMS:
        config = recipe(model, name, "fsdp", ranks=1)
        limits = update_plan(config, build_algorithm(config)).limits
        assert any(IDLE in share.sample_indices for share in plan_shares(samples(name), limits, 2)) == (
            name != "kto"
        )
        alone = learn(config, LocalTransport(build_worker(config)), tmp_path / f"{name} alone")
        assert len(alone) == STEPS
        assert name == "pointwise" or alone[-1]["preference/kl"] > 1e-3
        assert alone[-1][LOSSES[name]] < alone[0][LOSSES[name]]
        weights = load_file(tmp_path / f"{name} alone" / "model.safetensors")
        for backend in backends:
            for rank in range(2):
                rows = torch.load(tmp_path / f"{name} {backend} {rank}.pt")
                for one, two in zip(alone, rows, strict=True):
                    assert two == pytest.approx(one, rel=1e-4, abs=1e-5), (name, backend, rank)
            for key, tensor in load_file(tmp_path / f"{name} {backend}" / "model.safetensors").items():
                torch.testing.assert_close(tensor, weights[key], atol=2e-5, rtol=1e-4, msg=f"{backend} {key}")


@pytest.mark.slow
def test_ktos_estimate_is_one_number_on_four_ranks(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model = tiny_checkpoint("llama-untied")
    config = recipe(model, "kto", "fsdp", ranks=1)
    alone = learn(config, LocalTransport(build_worker(config)), tmp_path / "alone")
    spawn(learn_on_a_rank, (4, model, tmp_path, ["fsdp"], ["kto"]), nprocs=4)
    found = [torch.load(tmp_path / f"kto fsdp {rank}.pt") for rank in range(4)]
    for step, one in enumerate(alone):
        estimates = {rows[step]["preference/kl"] for rows in found}
        assert len(estimates) == 1, "the same number on all ranks"
        assert estimates.pop() == pytest.approx(one["preference/kl"], rel=1e-4, abs=1e-5)
    assert alone[-1]["preference/kl"] > 1e-3
