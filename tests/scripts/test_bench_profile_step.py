"""The bench profile_step.py: seconds that do not overlap, and FLOPs against PyTorch's own counter."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from reasoner_rl.batching.plan import pack
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.plan.architecture import read_architecture
from reasoner_rl.training.policy import build_policy
from reasoner_rl.types import LossDenominators, TrainSample


@pytest.fixture
def bench(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(repository / "scripts" / "bench"))
    import profile_step

    yield profile_step
    for name in ("profile_step", "step_time"):
        sys.modules.pop(name, None)


def test_parts_do_not_overlap_and_the_first_step_does_not_count(bench: Any) -> None:
    now = [0.0]
    meter = bench.Meter(lambda: now[0])

    class Engine:
        def step(self, seconds: float) -> None:
            now[0] += seconds
            self.read(1.0)

        def read(self, seconds: float) -> None:
            now[0] += seconds

    def count(result: None, engine: Engine, seconds: float) -> None:
        now[0] += 100.0  # counting costs nothing
        meter.current.tokens += 7

    bench.measure(meter, Engine, "step", "decoding")
    bench.measure(meter, Engine, "read", "prefill", count)
    engine = Engine()
    engine.step(50.0)  # outside of a step
    for _ in range(3):
        meter.begin_step()
        with meter.part("driver"):
            now[0] += 0.5
            engine.step(2.0)
            with meter.part("sync"):
                engine.step(4.0)  # a sync is one part
    seconds = {name: part.seconds for name, part in meter.parts.items() if part.seconds}
    assert seconds == {"driver": 1.0, "decoding": 4.0, "prefill": 2.0, "sync": 10.0}
    assert meter.parts["prefill"].tokens == 14
    assert meter.parts["sync"].tokens == 14


def test_flops_are_those_that_pytorch_counts(bench: Any, tiny_checkpoint: Callable[[str], Path]) -> None:
    path = str(tiny_checkpoint("qwen2-tied"))
    policy = build_policy(ModelConfig(path=path), chunk_tokens=64, device=torch.device("cpu"))
    samples = [
        TrainSample(
            prompt_ids=torch.arange(5, 5 + prompt),
            response_ids=torch.arange(9, 9 + response),
            rollout_logprobs=torch.zeros(response),
            loss_mask=torch.ones(response, dtype=torch.bool),
            advantages=torch.zeros(response),
        )
        for prompt, response in ((3, 4), (6, 2))
    ]
    batch = pack(samples, [0, 1], LossDenominators(sequences=2, tokens=6, groups=2, max_response_tokens=4))
    meter = bench.Meter(lambda: 0.0)
    counts = bench.Counts(meter, architecture := read_architecture(path))
    with meter.part("forward"):
        counts.forward(None, policy, batch)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        policy(batch)
    products = sum(
        flops
        for operation, flops in counter.get_flop_counts()["Global"].items()
        if "attention" not in str(operation)
    )
    seen = (7 * 7 + 8 * 8) / 2  # causal: half of each square
    attention = 4 * architecture.layers * architecture.query_width * seen
    # multiplied_parameters counts biases and norms of the layers too, which are few.
    assert meter.parts["forward"].flops == pytest.approx(products + attention, rel=0.05)
    assert meter.parts["backward"].flops == 2 * meter.parts["forward"].flops
    assert meter.parts["forward"].tokens == 15


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cluster.kind=ray"], "cluster.kind=ray: the work is done in other processes"),
        (["rollout.engine.kind=vllm"], "rollout.engine.kind=vllm: the embedded engine"),
        (["training.backend.kind=megatron"], "training.backend.kind=megatron: fsdp is measured"),
    ],
)
def test_what_is_not_measured_is_refused(
    bench: Any, write_recipe: Callable[..., Path], tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        bench.profiled_recipe(str(write_recipe()), overrides, 2, tmp_path / "run", False)
