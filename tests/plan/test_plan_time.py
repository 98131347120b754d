"""Work and seconds of a plan, by hand."""

from __future__ import annotations

import dataclasses
import functools

import pytest

from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.plan.architecture import read_architecture
from reasoner_rl.plan.hardware import HARDWARE, hardware
from reasoner_rl.plan.setup import Setup, make_setup
from reasoner_rl.plan.time import Efficiency, _gathering, decode_step_seconds, plan_time
from reasoner_rl.plan.work import Lengths, forward_flops, plan_work

MULTIPLIED = 31_985_303_552  # of Qwen2.5-32B: all but the input embedding and the last norm

read = functools.cache(read_architecture)


def setup_of(recipe: str, *overrides: str) -> Setup:
    config = load_recipe(recipe, overrides)
    assert isinstance(config, OnlineConfig)
    return make_setup(config, hardware("H100"), read)


def test_operations_of_the_32b_step() -> None:
    """2 N per token and pass, 4 x 64 layers x 5120 per token looked at; updates take three passes and one again."""
    setup, lengths = setup_of("dapo_qwen2.5_32b"), Lengths(200, 3800)
    work = plan_work(setup, lengths)
    tokens = 512 * 16 * 4000
    forward = tokens * (2 * MULTIPLIED + 4 * 64 * 5120 * 2000)
    assert [(each.name, each.tokens) for each in work.passes] == [
        ("logprobs or values, policy", tokens),
        ("update, policy", tokens),
    ]
    assert [each.flops for each in work.passes] == pytest.approx([forward, 4 * forward])
    assert work.generated_tokens == 1536 * 16 * 3800  # three times as many are in flight as are trained on
    assert work.prefill_flops == pytest.approx(1536 * 200 * (2 * MULTIPLIED + 4 * 64 * 5120 * 100))
    assert work.flops == pytest.approx(5 * forward + work.prefill_flops + work.decode_flops)


def test_attention_that_is_kept_is_not_computed_again() -> None:
    """Three passes, and one again: of the products with FSDP2, of those of the feed-forward with Megatron."""
    lengths, tokens = Lengths(200, 3800), 512 * 16 * 4000
    for recipe, again in (
        ("dapo_qwen2.5_32b", 2 * MULTIPLIED),
        ("dapo_qwen2.5_32b_megatron", 2 * 64 * 3 * 5120 * 27648),
    ):
        work = plan_work(setup_of(recipe, "model.gradient_checkpointing=keep_attention"), lengths)
        forward, update = work.passes[0].flops, work.passes[1].flops
        assert update == pytest.approx(3 * forward + tokens * again)


def test_copies_of_the_model_add_up_once_per_update() -> None:
    """Where links are slow, twice the micro-batches take twice as long to gather and no longer to add up copies."""
    slow = dataclasses.replace(Efficiency(), links=1e-3)
    setup = setup_of("dapo_qwen2.5_32b")
    [model] = setup.models
    one, two, four = (_gathering(setup, model, 16 * count, True, slow) for count in (1, 2, 4))
    assert four - two == pytest.approx(2 * (two - one))
    copies = setup.ranks // setup.sharing
    summed = 2 * (1 - 1 / copies) * model.trained * 4 / setup.sharing / setup.hardware.network_bandwidth
    assert 2 * one - two == pytest.approx(16 * summed / 1e-3)


def test_frozen_weights_have_no_gradient_of_their_own() -> None:
    """Adapters: forward, backward through the activations, and next to nothing for weights."""
    lengths = Lengths(100, 900)
    full = plan_work(setup_of("dapo_qwen2.5_7b", "model.gradient_checkpointing=false"), lengths)
    lora = plan_work(
        setup_of("dapo_qwen2.5_7b", "model.gradient_checkpointing=false", "model.lora={}"), lengths
    )
    assert full.passes[1].flops == pytest.approx(3 * full.passes[0].flops)
    assert 2 < lora.passes[1].flops / lora.passes[0].flops < 2.01


def test_a_small_batch_reads_the_weights_and_a_large_one_its_cache_too() -> None:
    """Four H100 read a quarter of 65.5 GB and 64 kB per token each, at 70 % of 3.35 TB/s."""
    setup = setup_of("dapo_qwen2.5_32b")
    ideal = dataclasses.replace(Efficiency(), decode_seconds=0.0, decode_seconds_per_sequence=0.0)
    weights = 32_763_876_352 * 2 / 4
    assert decode_step_seconds(setup, 1, 0, ideal) == pytest.approx(weights / (0.7 * 3.35e12))
    read = weights + 64 * 4000 * 65_536
    assert decode_step_seconds(setup, 64, 4000, ideal) == pytest.approx(read / (0.7 * 3.35e12))
    # With no cache to read, enough rows make the products the bound.
    rows, computed = 4096, 4096 * forward_flops(setup.policy.architecture, 0)
    assert decode_step_seconds(setup, rows, 0, ideal) == pytest.approx(computed / (4 * 0.3 * 989e12))


def test_seconds_of_an_update_are_operations_over_what_the_gpus_reach() -> None:
    setup, lengths = setup_of("dapo_qwen2.5_7b"), Lengths(200, 2000)
    work = plan_work(setup, lengths)
    seconds = dict(plan_time(setup, work, lengths, Efficiency()).parts)
    assert seconds["update, policy"] == pytest.approx(work.passes[1].flops / (8 * 0.3 * 989e12))
    half = dict(plan_time(setup, work, lengths, dataclasses.replace(Efficiency(), compute=0.15)).parts)
    assert half["update, policy"] == pytest.approx(2 * seconds["update, policy"])


def test_the_longest_response_bounds_generation() -> None:
    """With hardly anything to draw, a step takes as long as one response of the greatest length."""
    setup = setup_of("dapo_qwen2.5_7b", "batch.prompts_per_step=32", "batch.prompts_per_generation=null")
    lengths = Lengths(10, 10)
    seconds = dict(plan_time(setup, plan_work(setup, lengths), lengths, Efficiency()).parts)
    one = decode_step_seconds(setup, 1, (2048 + 8192) / 2, Efficiency())
    assert seconds["generation: responses"] == pytest.approx(8192 * one)


def test_a_pipeline_is_idle_while_it_fills() -> None:
    """Two stages with two parts each: half a micro-batch's time at both ends of an update's micro-batches."""
    setup, lengths = setup_of("dapo_qwen2.5_32b_megatron"), Lengths(200, 3800)
    work = plan_work(setup, lengths)
    seconds = dict(plan_time(setup, work, lengths, Efficiency()).parts)
    in_a_row = 512 * 4000 / 8 / 22_528  # of mean length; 64 if each were of the greatest
    computing = work.passes[1].flops / (128 * 0.3 * 989e12)
    exchanged = 4 * 512 * 16 * 4000 / 8 * 5120 * 2 * 64 * 4 * (7 / 8) / 2
    assert seconds["update, policy"] == pytest.approx(
        (computing + exchanged / (0.7 * 450e9)) * (1 + 1 / 2 / in_a_row)
    )


def test_copies_of_a_sharded_model_add_up_their_gradients() -> None:
    """Two machines of 8 with a copy each: the ring over the network is slower than gathering inside a machine."""
    options = (
        *("cluster.kind=ray", "cluster.nodes=2", "cluster.workers_per_node=8", "cluster.address=auto"),
        *("training.backend.shard_ranks=8", "batch.prompts_per_update=32", "batch.prompts_per_step=512"),
    )
    setup, lengths = setup_of("dapo_qwen2.5_7b", *options), Lengths(1, 1)  # hardly anything to compute
    parameters = 7_615_616_512
    inside = parameters * (2 * 2 + 4) / (0.7 * 450e9)
    between = 2 * (1 - 1 / 2) * parameters * 4 / 8 / (0.7 * 50e9)
    seconds = dict(plan_time(setup, plan_work(setup, lengths), lengths, Efficiency()).parts)
    # A micro-batch at least in each of the 16 updates, however short it is.
    assert seconds["update, policy"] == pytest.approx(16 * (inside + between))


def test_decoding_reads_the_experts_that_a_batch_reaches() -> None:
    """8 of 128 at one response, and with 16 responses each is missed by all with probability (15/16)^16."""
    setup = setup_of("dapo_qwen2.5_7b", "model.path=Qwen/Qwen3-30B-A3B", "rollout.engine.tensor_parallel=1")
    ideal = dataclasses.replace(Efficiency(), decode_seconds=0.0, decode_seconds_per_sequence=0.0)
    experts, every = 48 * 128 * 3 * 2048 * 768, 30_532_122_624
    for rows, reached in ((1, 1 / 16), (16, 1 - (15 / 16) ** 16)):
        read = 2 * (every - (1 - reached) * experts)
        assert decode_step_seconds(setup, rows, 0, ideal) == pytest.approx(read / (0.7 * 3.35e12))


def test_hardware_is_found_by_name() -> None:
    assert hardware("h100") is HARDWARE["H100"]
    assert all(each.flops / each.bandwidth > 1 for each in HARDWARE.values())
    with pytest.raises(ValueError, match=r"--hardware 'H1000': must be one of A100, H100, .*cpu$"):
        hardware("H1000")
