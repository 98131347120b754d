"""`reasoner-rl plan`: the shipped recipes, refusals and proposals, prices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from reasoner_rl.cli.app import app
from reasoner_rl.commands.plan import Plan, Wish, calibrate, make_plan
from reasoner_rl.errors import ConfigError

# Recipes that say for which GPUs of 80 GB they are.
ON_80_GB = (
    *("dapo_qwen2.5_32b", "dapo_qwen2.5_32b_megatron", "dapo_qwen2.5_7b", "dapo_qwen2.5_1.5b"),
    *("grpo_qwen2.5_1.5b", "ppo_qwen2.5_7b", "ppo_qwen2.5_1.5b", "dpo_qwen2.5_7b", "sft_qwen2.5_7b"),
    *("kto_qwen2.5_7b", "orpo_qwen2.5_7b", "simpo_qwen2.5_7b", "gspo_qwen2.5_1.5b"),
)


@pytest.mark.parametrize("recipe", ON_80_GB)
@pytest.mark.parametrize("on", ["H100", "A100"])
def test_shipped_recipes_fit_the_gpus_that_they_are_for(recipe: str, on: str) -> None:
    plan = make_plan(recipe, [], Wish(on))
    assert plan.problems == ()
    assert plan.proposal is None
    assert plan.time.seconds > 0


def fits(recipe: str, *overrides: str) -> Plan:
    return make_plan(recipe, overrides, Wish("H100"))


def test_what_cannot_fit_is_refused_with_the_nearest_that_does() -> None:
    refused = fits("dapo_qwen2.5_7b", "cluster.workers_per_node=2")
    assert any(reason.startswith("generate: ") for reason in refused.problems)
    assert refused.proposal is not None
    proposed = fits("dapo_qwen2.5_7b", "cluster.workers_per_node=2", *refused.proposal)
    assert proposed.problems == ()
    # One change fewer does not do.
    for index in range(len(refused.proposal)):
        fewer = refused.proposal[:index] + refused.proposal[index + 1 :]
        assert fits("dapo_qwen2.5_7b", "cluster.workers_per_node=2", *fewer).problems != ()


def test_a_pool_that_is_too_small_for_one_response_is_refused() -> None:
    refused = fits("dapo_qwen2.5_32b", "rollout.engine.tensor_parallel=1")
    assert any(
        reason.startswith("generate: vLLM's pool of 63.3 GiB holds 61.0 GiB of weights")
        for reason in refused.problems
    )
    uneven = fits("dapo_qwen2.5_7b", "rollout.engine.tensor_parallel=8", "rollout.engine.kind=vllm")
    assert (
        "rollout.engine.tensor_parallel=8 does not divide the model's 28 attention heads" in uneven.problems
    )


def test_what_fits_nowhere_has_no_proposal() -> None:
    alone = ["cluster.kind=local", "rollout.engine.tensor_parallel=1", "training.backend.shard_ranks=null"]
    plan = make_plan("dapo_qwen2.5_32b", alone, Wish("H100"))
    assert plan.problems
    assert plan.proposal is None


def test_hours_and_dollars() -> None:
    plan = make_plan("dapo_qwen2.5_32b", ["run.steps=10"], Wish("H100", price=2.0, response_tokens=4000))
    assert plan.lengths.response == 4000
    assert plan.gpu_hours == pytest.approx(plan.time.seconds * 10 * 128 / 3600)
    assert plan.dollars == pytest.approx(2 * plan.gpu_hours)


def test_wrong_input_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="of kind 'eval'"):
        make_plan("aime", ["model.path=x", "evaluation.datasets.0.path=x.parquet"], Wish())
    with pytest.raises(ConfigError, match="--response-tokens 30000 is a mean"):
        make_plan("dapo_qwen2.5_32b", [], Wish(response_tokens=30000))
    with pytest.raises(ConfigError, match=r"add cluster\.generation=null"):
        make_plan("dapo_qwen2.5_7b", ["cluster.generation={nodes: 1, workers_per_node: 8}"], Wish("H100"))
    with pytest.raises(ConfigError, match="--hardware cpu plans"):
        make_plan("dapo_qwen2.5_1.5b", [], Wish("cpu"))


def test_the_command_prints_all_of_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a folder without data, offline."""
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, ["plan", "dapo_qwen2.5_32b", "--price", "2.5"])
    assert shown.exit_code == 0, shown.output
    for expected in (
        "Qwen/Qwen2.5-32B: 32,763,876,352 parameters",
        "the published sizes, from the package",
        "128 x H100",
        "vLLM's pool",
        "driver: responses of a step",
        "responses side by side, of the greatest length",
        "dollars at 2.5 per GPU and hour",
    ):
        assert expected in shown.output
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_ends_with_status_2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_checkpoint: Callable[[str], Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(
        app, ["plan", "dapo_qwen2.5_1.5b", f"model.path={tiny_checkpoint('qwen2-tied')}"]
    )
    assert shown.exit_code == 2
    assert "longer than the 256 tokens that" in shown.output
    assert "shorter prompts and responses" in shown.output


def test_a_probe_is_of_this_machine_and_one_process(tiny_checkpoint: Callable[[str], Path]) -> None:
    here = [f"model.path={tiny_checkpoint('qwen2-tied')}", "rollout.sampling.max_response_tokens=64"]
    with pytest.raises(ConfigError, match="which has none that PyTorch sees: add --hardware cpu"):
        calibrate(make_plan("quickstart", here, Wish("H100")))
    with pytest.raises(ConfigError, match="has 2 workers"):
        calibrate(
            make_plan(
                "quickstart",
                [*here, "cluster.kind=ray", "cluster.workers_per_node=2"],
                Wish("cpu", host_gib=1e3),
            )
        )
