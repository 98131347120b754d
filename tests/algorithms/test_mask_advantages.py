"""Training on chosen tokens alone: which they are, and that others have no policy gradient. The models are fakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fake_models import Batch, online_config
from pydantic import ValidationError

from reasoner_rl.algorithms.base import Algorithm, Prepared
from reasoner_rl.algorithms.build import build_algorithm
from reasoner_rl.batching.plan import plan_mini_batch
from reasoner_rl.errors import ConfigError
from reasoner_rl.metrics import values
from reasoner_rl.types import TokenOutputs

TOKENS = 14
MASKS = """
import torch
def first(samples): return [torch.arange(len(s.response_ids)) == 0 for s in samples]
def floats(samples): return [m.float() for m in first(samples)]
def short(samples): return [m[1:] for m in first(samples)]
def few(samples): return first(samples)[1:]
def lists(samples): return [m.tolist() for m in first(samples)]
"""


@pytest.fixture
def masks(tmp_path: Path) -> str:
    path = tmp_path / "masks.py"
    path.write_text(MASKS)
    return str(path)


def make_batch() -> Batch:
    return Batch([4, 1, 6, 3], [1.0, 0.0, -1.0, 1.0], [0, 0, 1, 1])


def built(**algorithm: Any) -> Algorithm:
    return build_algorithm(online_config({"kind": "grpo", "loss": {"kl": {"coefficient": 0}}, **algorithm}))


def prepare(algorithm: Algorithm, batch: Batch) -> Prepared:
    return algorithm.prepare(batch.samples, batch.models())


@pytest.mark.parametrize("kind", ["grpo", "ppo", "reinforce_plus_plus"])
def test_the_share_of_highest_entropy_is_trained(kind: str) -> None:
    batch = make_batch()
    batch.samples = batch.masked(1)
    whole, _ = prepare(build_algorithm(online_config({"kind": kind})), batch)
    batch.calls.clear()
    token_mask = {"kind": "entropy", "share": 0.3}
    samples, metrics = prepare(
        build_algorithm(online_config({"kind": kind, "token_mask": token_mask})), batch
    )
    assert batch.calls[-1] == "policy.entropies"
    assert batch.calls.count("policy.entropies") == 1
    # 13 tokens may be trained, and 0.3 of them are 4, rounded up.
    allowed = sorted(
        (float(e) for i, each in enumerate(batch.entropies) if i != 1 for e in each), reverse=True
    )
    for number, (sample, before) in enumerate(zip(samples, whole, strict=True)):
        kept = batch.entropies[number] >= allowed[3]
        expected = torch.where(kept & sample.loss_mask, before.advantages, 0.0)
        assert sample.advantages.tolist() == expected.tolist()
        assert torch.equal(sample.loss_mask, before.loss_mask)
    assert values(metrics)["policy/trained_token_share"] == pytest.approx(4 / 13)


def test_a_function_of_the_users_chooses(masks: str) -> None:
    batch = make_batch()
    samples, metrics = prepare(built(token_mask={"kind": "custom", "fn": f"{masks}:first"}), batch)
    assert values(metrics) == {"policy/trained_token_share": pytest.approx(4 / TOKENS)}
    for sample in samples:
        assert sample.advantages[0].item() != 0
        assert sample.advantages[1:].tolist() == [0.0] * (len(sample.advantages) - 1)
    assert batch.calls == []


@pytest.mark.parametrize("wrong", ["floats", "short", "few", "lists"])
def test_a_function_that_returns_no_masks(wrong: str, masks: str) -> None:
    algorithm = built(token_mask={"kind": "custom", "fn": f"{masks}:{wrong}"})
    message = rf"token mask '.*masks\.py:{wrong}' must return, for each sample, one bool per response token"
    with pytest.raises(ConfigError, match=message):
        prepare(algorithm, make_batch())


def test_a_function_that_is_missing(masks: str) -> None:
    with pytest.raises(ConfigError, match=r"token mask .* has no 'frist'\. Did you mean 'first'\?"):
        built(token_mask={"kind": "custom", "fn": f"{masks}:frist"})


@pytest.mark.parametrize("section", [{"kind": "custom"}, {"kind": "entropy", "fn": "mine.py:first"}])
def test_a_function_goes_with_kind_custom(section: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=r"token_mask\.fn must be set if and only if kind is 'custom'"):
        built(token_mask=section)


def test_a_token_that_is_left_out_has_no_gradient_and_counts_in_the_denominator(masks: str) -> None:
    gradients = {}
    for name, section in (("all", {}), ("first", {"token_mask": {"kind": "custom", "fn": f"{masks}:first"}})):
        algorithm = built(loss={"kl": {"coefficient": 0}, "aggregation": "token-mean"}, **section)
        samples, _ = prepare(algorithm, make_batch())
        batch = plan_mini_batch(samples, 1000, 8).micro_batches[0]
        assert batch.denominators.tokens == TOKENS
        logprobs = torch.full((TOKENS,), -1.0, requires_grad=True)
        loss, _ = algorithm.losses["policy"](TokenOutputs(logprobs, torch.zeros(TOKENS)), batch)
        loss.backward()
        assert logprobs.grad is not None
        gradients[name] = logprobs.grad
        # Every ratio is 1, so a token's gradient is its advantage over the number of all tokens.
        torch.testing.assert_close(logprobs.grad, -batch.advantages / TOKENS)
    first = torch.cat([torch.tensor([True, False, False, False, False, False])[:n] for n in (6, 4, 3, 1)])
    assert torch.equal(gradients["first"], torch.where(first, gradients["all"], 0.0))
    assert gradients["all"].count_nonzero() == TOKENS
