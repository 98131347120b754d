"""The embedded engine against plain transformers calls on tiny random models in float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.rollout import HfEngineConfig, SamplingConfig
from reasoner_rl.errors import UserError
from reasoner_rl.experts import as_in_checkpoints
from reasoner_rl.rollout import attention, decoding, kv_cache
from reasoner_rl.rollout.engine import GenerationRequest, StepOutput
from reasoner_rl.rollout.hf_engine import HfRolloutEngine, build_hf_engine
from reasoner_rl.types import Rollout

CPU = torch.device("cpu")
PROMPTS = [(5, 9, 20, 33), (7,), (40, 41, 42, 43, 44, 45, 46, 47, 48), (12, 13), (30, 8, 7, 60, 61)]
REQUESTS = [GenerationRequest(prompt, samples=3, seed=100 + i) for i, prompt in enumerate(PROMPTS)]
ENDINGS = list(
    range(70, 79)
)  # enough end-of-sequence tokens that random models stop at many different lengths

Checkpoint = Callable[[str], Path]


@pytest.fixture
def engine(tiny_checkpoint: Checkpoint, tiny_tokenizer: Any) -> Callable[..., HfRolloutEngine]:
    def make(
        name: str = "qwen2-tied", max_batch_sequences: int = 256, endings: list[int] | None = None
    ) -> HfRolloutEngine:
        model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint(name))
        model.generation_config.eos_token_id = endings
        return HfRolloutEngine(model, tiny_tokenizer, max_batch_sequences, CPU)

    return make


def flat(rollouts: list[list[Rollout]]) -> list[Rollout]:
    return [rollout for group in rollouts for rollout in group]


def tokens(rollouts: list[list[Rollout]]) -> list[tuple[int, ...]]:
    return [tuple(rollout.token_ids) for rollout in flat(rollouts)]


@torch.no_grad()
def plain_logprobs(model: Any, prompt: tuple[int, ...], response: tuple[int, ...], temperature: float) -> Any:
    """By one forward pass over prompt and response, without padding or cache."""
    logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(-1, torch.tensor(response).unsqueeze(-1)).squeeze(-1)


def assert_logprobs_match(model: Any, rollouts: list[list[Rollout]], temperature: float = 1.0) -> None:
    for request, group in zip(REQUESTS, rollouts, strict=True):
        for rollout in group:
            expected = plain_logprobs(model, request.prompt_ids, tuple(rollout.token_ids), temperature)
            torch.testing.assert_close(torch.tensor(rollout.logprobs), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("name", ["qwen2-tied", "qwen2-untied", "llama-untied", "qwen3-tied"])
def test_logprobs_are_those_of_a_plain_forward_pass(
    engine: Any, tiny_checkpoint: Checkpoint, name: str, temperature: float
) -> None:
    sampling = SamplingConfig(temperature=temperature, max_response_tokens=20)
    rollouts = engine(name, endings=ENDINGS).generate(REQUESTS, sampling)
    assert len({tuple(rollout.token_ids) for rollout in flat(rollouts)}) > 12
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint(name))
    assert_logprobs_match(model, rollouts, temperature)


def test_greedy_equals_transformers_generate(engine: Any, tiny_checkpoint: Checkpoint) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint("llama-untied"))
    rollouts = engine("llama-untied").generate(
        REQUESTS, SamplingConfig(temperature=0, max_response_tokens=25)
    )
    for prompt, group in zip(PROMPTS, rollouts, strict=True):
        whole = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=25)
        assert {tuple(rollout.token_ids) for rollout in group} == {tuple(whole[0, len(prompt) :].tolist())}
    assert_logprobs_match(model, rollouts)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (6, 1.0), (0, 0.6)])
def test_sampled_frequencies_follow_the_model(
    engine: Any, tiny_checkpoint: Checkpoint, top_k: int, top_p: float
) -> None:
    draws = 4000
    sampling = SamplingConfig(top_k=top_k, top_p=top_p, max_response_tokens=1)
    (group,) = engine(max_batch_sequences=4000).generate([GenerationRequest(PROMPTS[0], draws, 3)], sampling)
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint("qwen2-tied"))
    with torch.no_grad():
        probabilities = model(torch.tensor([PROMPTS[0]])).logits[0, -1].softmax(-1)
    ordered, order = probabilities.sort(descending=True)
    kept = order[: top_k or None] if top_p == 1 else order[ordered.cumsum(0) - ordered < top_p]
    expected = (
        draws
        * torch.zeros_like(probabilities).scatter(0, kept, probabilities[kept])
        / probabilities[kept].sum()
    )
    observed = torch.bincount(torch.tensor([r.token_ids[0] for r in group]), minlength=len(expected))
    assert observed[expected == 0].sum() == 0
    common = expected > 5
    chi_square = ((observed - expected)[common] ** 2 / expected[common]).sum().item()
    freedom = int(common.sum()) - 1
    assert freedom > 3
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)
    for rollout in group[:50]:
        assert math.exp(rollout.logprobs[0]) == pytest.approx(
            expected[rollout.token_ids[0]].item() / draws, rel=1e-4
        )


def test_a_response_depends_on_its_seed_and_nothing_else(engine: Any) -> None:
    sampling = SamplingConfig(max_response_tokens=20)
    whole = engine(endings=ENDINGS).generate(REQUESTS, sampling)
    assert whole == engine(endings=ENDINGS).generate(REQUESTS, sampling)
    assert tokens(whole) == tokens(
        engine(endings=ENDINGS, max_batch_sequences=4).generate(REQUESTS, sampling)
    )
    backwards = engine(endings=ENDINGS).generate(REQUESTS[::-1], sampling)
    assert tokens(whole) == tokens(backwards[::-1])
    for request, group in zip(REQUESTS, whole, strict=True):
        (alone,) = engine(endings=ENDINGS).generate(
            [GenerationRequest(request.prompt_ids, 1, request.seed)], sampling
        )
        assert tuple(alone[0].token_ids) == tuple(group[0].token_ids)
    other = [GenerationRequest(request.prompt_ids, 3, request.seed + 1000) for request in REQUESTS]
    assert tokens(whole) != tokens(engine(endings=ENDINGS).generate(other, sampling))


def test_retirement_growth_and_split_prefill_change_nothing(
    engine: Any, tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = SamplingConfig(max_response_tokens=40)
    rows_decoded: list[int] = []
    step = decoding.Decoder.step

    def counted_step(decoder: Any, chosen: torch.Tensor) -> None:
        rows_decoded.append(len(chosen))
        step(decoder, chosen)

    monkeypatch.setattr(decoding.Decoder, "step", counted_step)
    retiring = engine(endings=ENDINGS).generate(REQUESTS, sampling)
    lengths = sorted(len(rollout.token_ids) for rollout in flat(retiring))
    assert lengths[0] < 5
    assert lengths[-1] > 12  # mixed, or this test would show nothing
    assert rows_decoded[0] == 15
    assert rows_decoded[-1] <= 3
    monkeypatch.setattr(decoding, "REARRANGE_FROM", 1.0)
    monkeypatch.setattr(decoding, "PREFILL_TOKENS", 10)
    for module in (decoding, kv_cache):
        monkeypatch.setattr(module, "BLOCK_TOKENS", 3)
    rows_decoded.clear()
    plain = engine(endings=ENDINGS).generate(REQUESTS, sampling)
    assert set(rows_decoded) == {15}
    assert tokens(retiring) == tokens(plain)
    assert_logprobs_match(AutoModelForCausalLM.from_pretrained(tiny_checkpoint("qwen2-tied")), plain)


def test_finish_reasons_and_text(engine: Any, tiny_tokenizer: Any) -> None:
    rollouts = flat(engine(endings=ENDINGS).generate(REQUESTS, SamplingConfig(max_response_tokens=12)))
    endings = {*ENDINGS, tiny_tokenizer.eos_token_id}
    assert {rollout.finish_reason for rollout in rollouts} == {"stop", "length"}
    for rollout in rollouts:
        assert (rollout.token_ids[-1] in endings) == (rollout.finish_reason == "stop")
        assert not endings & set(tuple(rollout.token_ids)[:-1])
        assert len(rollout.token_ids) == len(rollout.logprobs)
        assert rollout.finish_reason == "stop" or len(rollout.token_ids) == 12
        assert rollout.text == tiny_tokenizer.decode(tuple(rollout.token_ids), skip_special_tokens=True)


def test_the_tokenizers_end_of_sequence_ends_too(engine: Any, tiny_tokenizer: Any) -> None:
    """It is forbidden, with the model's own, until min_response_tokens."""
    tiny_tokenizer_ends = engine(endings=None)
    requests = [GenerationRequest((5, 6), 400, 1)]
    (free,) = tiny_tokenizer_ends.generate(requests, SamplingConfig(max_response_tokens=3))
    ended = [rollout for rollout in free if rollout.finish_reason == "stop"]
    assert ended
    assert {rollout.token_ids[-1] for rollout in ended} == {tiny_tokenizer.eos_token_id}
    (held,) = tiny_tokenizer_ends.generate(
        requests, SamplingConfig(max_response_tokens=3, min_response_tokens=3)
    )
    assert {len(rollout.token_ids) for rollout in held} == {3}
    assert all(tiny_tokenizer.eos_token_id not in tuple(rollout.token_ids) for rollout in held)


def test_one_token_responses(engine: Any, tiny_checkpoint: Checkpoint) -> None:
    rollouts = engine().generate(
        [GenerationRequest((7,), samples=1, seed=0)], SamplingConfig(temperature=0, max_response_tokens=1)
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint("qwen2-tied"))
    with torch.no_grad():
        expected = model(torch.tensor([[7]])).logits[0, -1].argmax().item()
    assert [tuple(rollout.token_ids) for rollout in rollouts[0]] == [(expected,)]


def test_stop_strings_end_a_response_where_they_are_complete(engine: Any) -> None:
    free = flat(engine().generate(REQUESTS, SamplingConfig(max_response_tokens=30)))
    stop = free[0].text[5:7]
    stopped = flat(
        engine().generate(REQUESTS, SamplingConfig(max_response_tokens=30, stop=[stop, "never there"]))
    )
    assert stopped[0].finish_reason == "stop"
    for before, after in zip(free, stopped, strict=True):
        if stop in before.text:
            assert after.text.endswith(stop)
            assert after.text.count(stop) == 1
            assert tuple(after.token_ids) == tuple(before.token_ids)[: len(after.token_ids)]
            assert after.finish_reason == "stop"
        else:
            assert after == before


def test_progress_counts_every_response_and_token(engine: Any) -> None:
    told: list[tuple[int, ...]] = []

    def note(*progress: int) -> None:
        told.append(progress)

    for endings in (ENDINGS, None):
        told.clear()
        groups = engine(endings=endings, max_batch_sequences=6).generate(
            REQUESTS, SamplingConfig(max_response_tokens=9), note
        )
        tokens = sum(len(rollout.token_ids) for group in groups for rollout in group)
        assert [sum(column) for column in zip(*told, strict=True)] == [15, tokens]


def test_nothing_asked_nothing_given(engine: Any) -> None:
    assert engine().generate([], SamplingConfig()) == []


def test_empty_prompt_is_named(engine: Any) -> None:
    requests = [REQUESTS[0], GenerationRequest((), 1, 0)]
    with pytest.raises(ValueError, match="request 1 has an empty prompt"):
        engine().generate(requests, SamplingConfig())


@pytest.mark.parametrize("family", ["qwen2", "mistral"])
def test_sliding_windows(tiny_tokenizer: Any, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK_KEYS", 20)  # attended to apart from others
    shape: dict[str, Any] = {
        "vocab_size": 90, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 6, "initializer_range": 0.2,
        "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    torch.manual_seed(0)
    if family == "qwen2":
        config = Qwen2Config(
            **shape, use_sliding_window=True, layer_types=["full_attention", "sliding_attention"]
        )
        model: Any = Qwen2ForCausalLM(config)
    else:
        model = MistralForCausalLM(MistralConfig(**shape))
    plain = type(model)(model.config)
    plain.load_state_dict(model.state_dict())
    rollouts = HfRolloutEngine(model, tiny_tokenizer, 256, CPU).generate(
        REQUESTS, SamplingConfig(max_response_tokens=14)
    )
    plain.set_attn_implementation("eager")
    assert_logprobs_match(plain.eval(), rollouts)


def test_recurrent_layers_are_refused(tiny_tokenizer: Any, tiny_checkpoint: Checkpoint) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint("qwen2-tied"))
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(UserError, match="Qwen2ForCausalLM has linear_attention"):
        HfRolloutEngine(model, tiny_tokenizer, 4, CPU)


def test_models_with_their_own_attention_are_refused(tiny_tokenizer: Any) -> None:
    model = BloomForCausalLM(BloomConfig(vocab_size=90, hidden_size=8, n_layer=1, n_head=1))
    with pytest.raises(UserError, match="BloomForCausalLM"):
        HfRolloutEngine(model, tiny_tokenizer, 4, CPU)


def test_score_capping_is_refused(tiny_tokenizer: Any) -> None:
    config = Gemma2Config(
        vocab_size=90, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=1,
        num_key_value_heads=1, head_dim=8, eos_token_id=None, pad_token_id=None, bos_token_id=None,
    )  # fmt: skip
    engine = HfRolloutEngine(Gemma2ForCausalLM(config), tiny_tokenizer, 4, CPU)
    with pytest.raises(UserError, match="softcap"):
        engine.generate(REQUESTS, SamplingConfig(max_response_tokens=2))


@pytest.mark.parametrize("name", ["qwen2-tied", "qwen2-untied", "qwen3_moe-untied"])
def test_loaded_weights_are_the_ones_that_generate(
    engine: Any, tiny_checkpoint: Checkpoint, name: str
) -> None:
    sampling = SamplingConfig(max_response_tokens=10)
    rollout_engine = engine(name)
    before = rollout_engine.generate(REQUESTS, sampling)
    trained = AutoModelForCausalLM.from_pretrained(tiny_checkpoint(name))
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    rollout_engine.load_weights(as_in_checkpoints(trained.config, trained.named_parameters()), version=7)
    after = rollout_engine.generate(REQUESTS, sampling)
    assert tokens(after) != tokens(before)
    assert_logprobs_match(trained, after)
    assert {rollout.policy_version for rollout in flat(after)} == {rollout_engine.policy_version} == {7}
    # the state dict names a tied weight twice, and bfloat16 is cast
    rounded = {key: value.bfloat16() for key, value in trained.state_dict().items()}
    rollout_engine.load_weights(as_in_checkpoints(trained.config, rounded.items()), version=8)
    trained.load_state_dict(rounded)
    assert_logprobs_match(trained, rollout_engine.generate(REQUESTS, sampling))


def test_wrong_weights_are_named_and_stop_generation(engine: Any, tiny_checkpoint: Checkpoint) -> None:
    rollout_engine = engine("qwen2-untied")
    weights = dict(AutoModelForCausalLM.from_pretrained(tiny_checkpoint("qwen2-untied")).named_parameters())
    wrong = dict(weights)
    del wrong["lm_head.weight"]
    wrong["model.norm.weight"] = torch.zeros(3)
    wrong["surplus"] = torch.zeros(1)
    with pytest.raises(ValueError, match="do not fit") as caught:
        rollout_engine.load_weights(wrong.items(), version=1)
    for problem in (
        "lm_head.weight is missing",
        "model.norm.weight has shape (3,), not (32,)",
        "surplus is unknown",
    ):
        assert problem in str(caught.value)
    assert rollout_engine.policy_version == 0
    rollout_engine.sleep()
    rollout_engine.wake_weights()
    rollout_engine.wake_cache()
    with pytest.raises(RuntimeError, match="complete weights"):
        rollout_engine.generate(REQUESTS, SamplingConfig())
    rollout_engine.load_weights(weights.items(), version=1)
    assert rollout_engine.generate(REQUESTS[:1], SamplingConfig(max_response_tokens=2))


def test_asleep_nothing_is_generated_or_loaded(engine: Any) -> None:
    sampling = SamplingConfig(max_response_tokens=4)
    rollout_engine = engine()
    before = rollout_engine.generate(REQUESTS, sampling)
    rollout_engine.sleep()
    with pytest.raises(RuntimeError, match="generate needs an engine that is ready; it is asleep"):
        rollout_engine.generate(REQUESTS, sampling)
    with pytest.raises(
        RuntimeError, match="load_weights needs an engine that is weights or ready; it is asleep"
    ):
        rollout_engine.load_weights([], version=1)
    rollout_engine.wake_weights()
    with pytest.raises(RuntimeError, match="generate needs an engine that is ready; it is weights"):
        rollout_engine.generate(REQUESTS, sampling)
    rollout_engine.wake_cache()
    with pytest.raises(RuntimeError, match="wake_weights needs an engine that is asleep; it is ready"):
        rollout_engine.wake_weights()
    assert rollout_engine.generate(REQUESTS, sampling) == before


def test_scores_of_a_text_are_those_of_the_plain_model(engine: Any, tiny_checkpoint: Checkpoint) -> None:
    ids = [5, 9, 30, 31, 7, 7, 60]
    expected = plain_logprobs(
        AutoModelForCausalLM.from_pretrained(tiny_checkpoint("qwen2-tied")), ids[:1], ids[1:], 1.0
    )
    torch.testing.assert_close(torch.tensor(engine("qwen2-tied").score(ids)), expected, atol=1e-5, rtol=0)


def test_the_tensors_that_differ_are_named(engine: Any, tiny_checkpoint: Checkpoint) -> None:
    rollout_engine = engine("qwen2-tied")
    weights = dict(AutoModelForCausalLM.from_pretrained(tiny_checkpoint("qwen2-tied")).named_parameters())
    assert rollout_engine.differing_tensors(weights.items()) == []
    with torch.no_grad():
        weights["model.layers.1.self_attn.k_proj.weight"][3, 2] += 1e-6
    assert rollout_engine.differing_tensors(weights.items()) == ["model.layers.1.self_attn.k_proj.weight"]


def test_build_reads_the_checkpoint_in_the_right_format(
    tiny_checkpoint: Checkpoint, tiny_tokenizer: Any
) -> None:
    path = str(tiny_checkpoint("qwen2-tied"))
    sampling = SamplingConfig(temperature=0, max_response_tokens=6)
    built = build_hf_engine(ModelConfig(path=path), HfEngineConfig(), tiny_tokenizer, CPU)
    assert_logprobs_match(AutoModelForCausalLM.from_pretrained(path), built.generate(REQUESTS, sampling))
    half = build_hf_engine(ModelConfig(path=path), HfEngineConfig(dtype="bfloat16"), tiny_tokenizer, CPU)
    rounded = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).float()
    for prompt, group in zip(PROMPTS, half.generate(REQUESTS, sampling), strict=True):
        expected = plain_logprobs(rounded, prompt, tuple(group[0].token_ids), 1.0)
        torch.testing.assert_close(torch.tensor(group[0].logprobs), expected, atol=0.15, rtol=0.05)


def test_a_special_token_ends_a_response_as_end_of_sequence_does(engine: Any, tiny_tokenizer: Any) -> None:
    padding, eos = tiny_tokenizer.pad_token_id, tiny_tokenizer.eos_token_id
    requests = [GenerationRequest(PROMPTS[0], samples=64, seed=1)]
    plain = flat(engine().generate(requests, SamplingConfig(max_response_tokens=40)))
    assert sum(padding in tuple(r.token_ids)[:-1] for r in plain) > 5
    stopped = flat(
        engine().generate(requests, SamplingConfig(max_response_tokens=40, stop=["<|pad|>", "never written"]))
    )
    for before, after in zip(plain, stopped, strict=True):
        cut = (
            tuple(before.token_ids).index(padding) + 1
            if padding in tuple(before.token_ids)
            else len(before.token_ids)
        )
        assert tuple(after.token_ids) == tuple(before.token_ids)[:cut]
        assert after.logprobs == before.logprobs[:cut]
        assert (after.finish_reason == "stop") == (after.token_ids[-1] in (padding, eos))
        assert "<|pad|>" not in after.text
    late = SamplingConfig(max_response_tokens=40, min_response_tokens=10, stop=["<|pad|>"])
    assert min(len(r.token_ids) for r in flat(engine().generate(requests, late))) > 10


def test_ids_without_a_token_are_never_drawn(tiny_checkpoint: Checkpoint, tiny_tokenizer: Any) -> None:
    path = tiny_checkpoint("qwen2-padded-tied")
    model = AutoModelForCausalLM.from_pretrained(path)
    hole, size = 50, len(tiny_tokenizer)
    unused = [hole, *range(size, size + 42)]

    def generate(ids: list[int], **sampling: Any) -> list[list[Rollout]]:
        built = build_hf_engine(ModelConfig(path=str(path)), HfEngineConfig(), tiny_tokenizer, CPU, ids)
        return built.generate(REQUESTS, SamplingConfig(max_response_tokens=20, **sampling))

    drawn = [token for ids in tokens(generate([])) for token in ids]
    assert sum(token in unused for token in drawn) > len(drawn) / 10
    for sampling in ({}, {"temperature": 0.7}, {"top_p": 0.9, "min_response_tokens": 5}, {"temperature": 0}):
        found = generate(unused, **sampling)
        assert not {token for ids in tokens(found) for token in ids} & set(unused)
    plain = masked_logprobs(model, unused)
    for request, group in zip(REQUESTS, generate(unused, temperature=0.7), strict=True):
        for r in group:
            expected = plain(request.prompt_ids, tuple(r.token_ids), 0.7)
            torch.testing.assert_close(torch.tensor(r.logprobs), expected, atol=1e-5, rtol=1e-5)
    built = build_hf_engine(ModelConfig(path=str(path)), HfEngineConfig(), tiny_tokenizer, CPU, unused)
    scored = torch.tensor(built.score(PROMPTS[2]))
    torch.testing.assert_close(scored, plain(PROMPTS[2][:1], PROMPTS[2][1:], 1.0), atol=1e-5, rtol=1e-5)


def masked_logprobs(model: Any, unused: list[int]) -> Callable[..., Any]:
    """`plain_logprobs` of a model whose logits of ``unused`` are -inf."""

    def mask(module: Any, given: Any, output: Any) -> None:
        output.logits = output.logits.index_fill(-1, torch.tensor(unused), -torch.inf)

    model.register_forward_hook(mask)
    return lambda prompt, response, temperature: plain_logprobs(model, prompt, response, temperature)


@pytest.mark.parametrize("block_keys", [1, 4096])
def test_rows_of_ended_responses_are_given_to_waiting_ones(
    engine: Any, tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, block_keys: int
) -> None:
    """Also across requests, and in the middle of one, whose prompt is not read again.

    block_keys: 1: each row is attended to apart, without the longer contexts of others; 4096: all together.
    """
    apart = list[bool]()

    def noted_blocks(padding: list[int], columns: int) -> Any:
        apart.append((blocks := attention.row_blocks(padding, columns)) is not None)
        return blocks

    monkeypatch.setattr(attention, "BLOCK_KEYS", block_keys)
    monkeypatch.setattr(decoding, "row_blocks", noted_blocks)
    read: list[int] = []
    steps: list[int] = []
    prefill, step = decoding.Decoder._prefill, decoding.DecodingBatch.step

    def noted_prefill(decoder: Any, prompts: list[tuple[int, ...]]) -> Any:
        read.extend(PROMPTS.index(prompt) for prompt in prompts)
        return prefill(decoder, prompts)

    def noted_step(batch: Any) -> Any:
        steps.append(batch.going)
        return step(batch)

    sampling = SamplingConfig(max_response_tokens=40)
    whole = engine(endings=ENDINGS).generate(REQUESTS, sampling)
    monkeypatch.setattr(decoding.Decoder, "_prefill", noted_prefill)
    monkeypatch.setattr(decoding.DecodingBatch, "step", noted_step)
    refilled = engine(endings=ENDINGS, max_batch_sequences=4).generate(REQUESTS, sampling)
    assert any(apart) == (block_keys == 1)
    assert tokens(refilled) == tokens(whole)
    assert_logprobs_match(AutoModelForCausalLM.from_pretrained(tiny_checkpoint("qwen2-tied")), refilled)
    assert read == [0, 1, 2, 3, 4], "four rows hold the first prompt and a third of the second, and so on"
    lengths = [len(rollout.token_ids) for rollout in flat(refilled)]
    assert max(steps) == 4
    # Batches of four that wait for their longest response would take the sum of these maxima.
    waiting = sum(max(lengths[i : i + 4]) for i in range(0, 15, 4))
    assert len(steps) < 0.8 * waiting
    assert sum(steps) == sum(lengths)


def test_requests_join_those_that_are_being_answered(engine: Any) -> None:
    sampling = SamplingConfig(max_response_tokens=90, min_response_tokens=90)
    rollout_engine = engine()
    alone = engine().generate(REQUESTS, sampling)
    rollout_engine.submit(REQUESTS[:1], sampling)
    rollout_engine.step()
    later = [replace(request, number=number) for number, request in enumerate(REQUESTS)][1:]
    rollout_engine.submit(later, sampling)
    output = rollout_engine.step()
    assert [number for number, _ in output.finished] == [0]
    assert output.tokens == (90 - 64) * 15, "all have joined, at once"
    found = dict(output.finished)
    while len(found) < len(REQUESTS):
        found |= dict(rollout_engine.step().finished)
    assert tokens([found[number] for number in range(len(REQUESTS))]) == tokens(alone)


@pytest.mark.parametrize("limit", [1, 63, 64, 65, 128])
def test_nothing_of_earlier_requests_is_used_again(engine: Any, limit: int) -> None:
    """Neither their prompts under the same numbers nor what was read with other weights, wherever a step ends."""
    sampling = SamplingConfig(max_response_tokens=limit, min_response_tokens=limit, temperature=0)
    used, fresh = engine(), engine()

    def texts(generator: HfRolloutEngine, prompt: tuple[int, ...]) -> list[tuple[int, ...]]:
        return tokens(generator.generate([GenerationRequest(prompt, samples=2, seed=1)], sampling))

    texts(used, PROMPTS[0])
    assert texts(used, PROMPTS[2]) == texts(fresh, PROMPTS[2])
    changed = [(name, tensor.roll(1, 0)) for name, tensor in fresh._model.state_dict().items()]
    updated = engine()
    for each in (used, updated):
        each.load_weights(changed, version=1)
    assert texts(used, PROMPTS[2]) == texts(updated, PROMPTS[2])


def test_a_continued_response_is_that_of_one_piece(engine: Any, tiny_tokenizer: Any) -> None:
    """With the same weights; also where a stop string lies across the cut, and in the same batch as fresh ones."""
    free = engine(endings=ENDINGS).generate(REQUESTS, SamplingConfig(max_response_tokens=40))
    stop = next(rollout.text[8:11] for rollout in flat(free) if len(rollout.token_ids) > 20)
    sampling = SamplingConfig(max_response_tokens=40, min_response_tokens=6, stop=[stop])
    whole = engine(endings=ENDINGS).generate(REQUESTS, sampling)
    for cut in (1, 9):
        rollout_engine = engine(endings=ENDINGS, max_batch_sequences=4)
        begun = rollout_engine.generate([replace(r, max_tokens=cut) for r in REQUESTS], sampling)
        assert {len(rollout.token_ids) for rollout in flat(begun)} <= set(range(1, cut + 1))
        rest = [
            replace(request, samples=1, first_sample=sample, begun=tuple(rollout.token_ids))
            for request, group in zip(REQUESTS, begun, strict=True)
            for sample, rollout in enumerate(group)
            if rollout.finish_reason == "length"
        ]
        assert len(rest) > 5
        added = iter(flat(rollout_engine.generate(rest, sampling)))
        for first, expected in zip(flat(begun), flat(whole), strict=True):
            parts = [first] if first.finish_reason == "stop" else [first, next(added)]
            assert [token for part in parts for token in part.token_ids] == list(expected.token_ids)
            assert (parts[-1].text, parts[-1].finish_reason) == (expected.text, expected.finish_reason)
            logprobs = [logprob for part in parts for logprob in part.logprobs]
            torch.testing.assert_close(torch.tensor(logprobs), torch.tensor(expected.logprobs))


def test_what_is_interrupted_can_be_continued(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses of an interrupted request are whole, begun or without a token, and end as they would have ended."""
    monkeypatch.setattr("reasoner_rl.rollout.hf_engine.MAX_DECODING_STEPS", 9)
    sampling = SamplingConfig(max_response_tokens=40)
    whole = engine(endings=ENDINGS).generate(REQUESTS, sampling)
    rollout_engine = engine(endings=ENDINGS, max_batch_sequences=2)
    assert rollout_engine.interrupt() == StepOutput()
    rollout_engine.submit([replace(request, number=n) for n, request in enumerate(REQUESTS)], sampling)
    outputs = [rollout_engine.step(), rollout_engine.interrupt()]
    output = outputs[0].followed_by(outputs[1])
    assert rollout_engine.step() == StepOutput(), "nothing is left in flight"
    rollout_engine.sleep()
    rollout_engine.wake_weights()
    rollout_engine.wake_cache()
    groups = dict(output.finished) | dict(output.interrupted)
    lengths = {len(rollout.token_ids) for _, group in output.interrupted for rollout in group}
    assert 0 in lengths
    assert max(lengths) > 5
    assert len(groups) < len(REQUESTS), "of some requests nothing was drawn"
    for number, group in groups.items():
        for sample, (first, expected) in enumerate(zip(group, whole[number], strict=True)):
            parts = [first]
            if first.finish_reason == "length" and len(first.token_ids) < 40:
                begun = tuple(first.token_ids)
                rest = replace(REQUESTS[number], samples=1, first_sample=sample, begun=begun)
                [[added]] = rollout_engine.generate([rest], sampling)
                parts = [first, added]
            assert [token for part in parts for token in part.token_ids] == list(expected.token_ids)
            assert (parts[-1].text, parts[-1].finish_reason) == (expected.text, expected.finish_reason)


def test_what_cannot_be_continued_is_refused(engine: Any) -> None:
    sampling = SamplingConfig(max_response_tokens=3)
    with pytest.raises(ValueError, match="request 0 continues a response, and asks for 2"):
        engine().generate([GenerationRequest((5,), 2, 0, begun=(6,))], sampling)
    with pytest.raises(ValueError, match="request 0 has no room for a token: 3 are there"):
        engine().generate([GenerationRequest((5,), 1, 0, begun=(6, 7, 8))], sampling)
