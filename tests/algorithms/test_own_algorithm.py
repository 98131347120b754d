"""Algorithms, advantages and losses in a user's file: that they train, and what is said of one that is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_models import OWN_ALGORITHM, Batch, online_config, prepared_columns

from reasoner_rl.algorithms import custom_template
from reasoner_rl.algorithms.build import build_algorithm, check_custom_parts
from reasoner_rl.algorithms.custom_template import QuantileBaseline
from reasoner_rl.batching.plan import plan_mini_batch
from reasoner_rl.errors import ConfigError
from reasoner_rl.metrics import values
from reasoner_rl.types import TokenOutputs


@pytest.fixture
def template(tmp_path: Path) -> str:
    """A copy of the template, as the guide says."""
    path = tmp_path / "my_algorithm.py"
    shutil.copy(str(custom_template.__file__), path)
    return str(path)


def check(algorithm: dict[str, Any]) -> None:
    check_custom_parts(online_config(algorithm))


def message_of(path: Path, body: str, algorithm: dict[str, Any] | None = None) -> str:
    """What is said of a file with this body; the recipe names its function ``build`` unless told otherwise."""
    (path / "mine.py").write_text(OWN_ALGORITHM + body)
    with pytest.raises(ConfigError) as error:
        check(algorithm or {"kind": "custom", "fn": f"{path}/mine.py:build"})
    return str(error.value).replace(str(path), "FOLDER")


@pytest.mark.slow
def test_the_template_trains_from_the_command_line(
    template: str, write_recipe: Callable[..., Path], tmp_path: Path, repository: Path
) -> None:
    recipe = write_recipe(
        algorithm={"kind": "custom", "fn": "my_algorithm.py:build", "parameters": {"quantile": 0.25}},
        evaluation={},
        batch={"prompts_per_step": 2, "prompts_per_update": 1, "micro_batch_tokens": 100},
        training={"optimizer": {"lr": 1.0e-2}},
    )
    command = [sys.executable, "-m", "reasoner_rl.cli", "train", str(recipe), "run.steps=2"]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    finished = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
    )
    assert finished.returncode == 0, finished.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert row["train/grad_norm"] > 0
        lines = (tmp_path / "run" / "rollouts" / f"step_{row['step']:06d}.jsonl").read_text().splitlines()
        responses = [json.loads(line) for line in lines]
        assert len(responses) == 8
        for start in (0, 4):
            group = responses[start : start + 4]
            rewards = torch.tensor([each["score"] for each in group], dtype=torch.float64)
            expected = (rewards - rewards.quantile(0.25)).tolist()
            assert [each["advantage"] for each in group] == pytest.approx(expected, abs=1e-5)
        above = sum(each["advantage"] > 0 for each in responses) / 8
        assert row["advantage/above_baseline"] == pytest.approx(above)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["algorithm"] == "custom"


def test_the_template_as_advantage_and_as_loss(template: str) -> None:
    section = {"kind": "grpo", "advantage": f"{template}:advantages", "loss": {"fn": f"{template}:loss"}}
    check(section)
    algorithm = build_algorithm(online_config(section, updates=2))
    batch = Batch([2, 3, 1, 2], [1.0, 0.0, -1.0, 3.0], [0, 0, 1, 1])
    samples, _ = algorithm.prepare(batch.samples, batch.models())
    # The median of two is their mean.
    assert [s.advantages.tolist() for s in samples] == [[0.5] * 2, [-0.5] * 3, [-2.0], [2.0] * 2]
    packed = plan_mini_batch(samples, 1000, 8).micro_batches[0]
    logprobs = torch.arange(8.0, requires_grad=True)
    loss, metrics = algorithm.losses["policy"](TokenOutputs(logprobs, torch.zeros(8)), packed)
    loss.backward()
    # GRPO's aggregation: each of 4 responses counts the same, whatever its length.
    lengths = torch.bincount(packed.sequence_ids)[packed.sequence_ids]
    expected = -packed.advantages / lengths / 4
    torch.testing.assert_close(logprobs.grad, expected)
    assert values(metrics) == {"policy/loss": pytest.approx(float((expected * torch.arange(8.0)).sum()))}


def test_advantages_may_be_per_token(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("""
import torch
def advantages(samples): return [torch.arange(len(s.response_ids)) * s.reward for s in samples]
""")
    section = {"kind": "dapo", "advantage": f"{tmp_path}/mine.py:advantages"}
    check(section)
    batch = Batch([2, 3], [1.0, -1.0], [0, 0])
    found = prepared_columns(build_algorithm(online_config(section)), batch, "advantages")
    assert found == [[0.0, 1.0], [0.0, -1.0, -2.0]]


def test_parameters_of_the_template(template: str) -> None:
    section = {"kind": "custom", "fn": f"{template}:build", "parameters": {"quantile": 1.0}}
    check(section)
    algorithm = build_algorithm(online_config(section))
    assert any(base.__name__ == QuantileBaseline.__name__ for base in type(algorithm).__mro__)
    batch = Batch([1, 1], [1.0, -1.0], [0, 0])
    assert prepared_columns(algorithm, batch, "advantages") == [[0.0], [-2.0]]


def test_trying_out_leaves_the_algorithm_of_the_run_as_it_was(template: str) -> None:
    kl = {"coefficient": 0.2, "controller": "adaptive", "target": 0.01, "horizon": 10}
    config = online_config({"kind": "grpo", "loss": {"fn": f"{template}:loss"}, "kl_in_reward": kl})
    algorithm = build_algorithm(config)
    check_custom_parts(config)
    assert algorithm.state() == {"kl_coefficient": 0.2}


WRONG_ALGORITHMS = {
    "no such file": ("", "nowhere.py:build", "algorithm 'FOLDER/nowhere.py:build': there is no file"),
    "no such function": ("", "mine.py:biuld", "has no 'biuld'. Did you mean 'build'?"),
    "does not import": (
        "import no_such_module",
        "mine.py:build",
        "importing FOLDER/mine.py failed: ModuleNotFound",
    ),
    "other arguments": (
        "def build(config): pass",
        "mine.py:build",
        "algorithm 'FOLDER/mine.py:build' cannot be called as build(config, updates_per_step): too many",
    ),
    "raises": (
        "def build(config, updates_per_step): return {}['clip']",
        "mine.py:build",
        "algorithm 'FOLDER/mine.py:build' raised KeyError: 'clip' (FOLDER/mine.py, line",
    ),
    "no algorithm": (
        "def build(config, updates_per_step): return Mine",
        "mine.py:build",
        "must return a reasoner_rl.algorithms.base.Algorithm; it returned a ABCMeta",
    ),
    "no losses": (
        "Mine.__init__ = lambda self, config, updates: None",
        "mine.py:build",
        "algorithm 'FOLDER/mine.py:build' has no loss for the policy: set losses = {'policy': ...}",
    ),
    "a role that there is not": (
        "Mine.roles = ('policy', 'reward_model')",
        "mine.py:build",
        "asks for the role 'reward_model'; the roles of models are policy, reference, teacher, critic",
    ),
    "a loss for a model that was not asked for": (
        "def build(config, updates):\n"
        "    mine = Mine(config, updates)\n    mine.losses['critic'] = None\n    return mine",
        "mine.py:build",
        "has a loss for 'critic', and the models that it asks for and that can be trained are policy",
    ),
    "a critic without a loss": (
        "Mine.roles = ('policy', 'critic')",
        "mine.py:build",
        "asks for a critic and has no loss for it",
    ),
}


@pytest.mark.parametrize("case", WRONG_ALGORITHMS)
def test_what_is_said_of_a_wrong_build(case: str, tmp_path: Path) -> None:
    body, fn, message = WRONG_ALGORITHMS[case]
    said = message_of(tmp_path, body, {"kind": "custom", "fn": f"{tmp_path}/{fn}"})
    assert message in said
    assert said.startswith("algorithm 'FOLDER/")


WRONG_PREPARATIONS = {
    "a sample is dropped": (
        "return Prepared(list(samples)[1:], {})",
        "prepare must return the samples that it was given, in the same order; it was given 8 and returned a list of 7",
    ),
    "another order": (
        "return Prepared(list(samples)[::-1], {})",
        "prepare must return the samples that it was given, in the same order; it was given 8, and what it returned in "
        "place 0 is another sample",
    ),
    "no samples": (
        "return Prepared([1.0] * 8, {})",
        "in the same order; it was given 8 and returned 1.0 (float) in place 0",
    ),
    "no metrics": ("return samples", "prepare returns (samples, metrics); it returned a list of 8"),
    "metrics that are plain": (
        "return Prepared(samples, {'mine/share': 0.5})",
        "the metric 'mine/share' must be made by reasoner_rl.metrics (mean, total or maximum)",
    ),
    "metrics that are no dict": (
        "return Prepared(samples, [mean(1)])",
        "metrics must be a dict by name; they are a list of 1",
    ),
    "advantages of another shape": (
        "return Prepared([s.replace(advantages=torch.ones(3)) for s in samples], {})",
        "advantages must be one finite number per response token; for a response of 4 tokens it is a tensor of shape "
        "[3] and torch.float32",
    ),
    "advantages that are not finite": (
        "return Prepared([s.replace(advantages=s.advantages / 0) for s in samples], {})",
        "advantages must be one finite number per response token; for a response of 3 tokens it is a tensor of shape "
        "[3] and torch.float32, and holds nan",
    ),
    "raises": (
        "return samples[0].rewards",
        "prepare raised on a test batch: AttributeError: 'TrainSample' object has no attribute 'rewards'",
    ),
    "a model that was not asked for": (
        "return Prepared([s.replace(old_values=v) for s, v in zip(samples, models.critic.values(samples))], {})",
        "prepare raised on a test batch: AttributeError: 'NoneType' object has no attribute 'values'",
    ),
}


@pytest.mark.parametrize("case", WRONG_PREPARATIONS)
def test_what_is_said_of_a_wrong_preparation(case: str, tmp_path: Path) -> None:
    line, message = WRONG_PREPARATIONS[case]
    said = message_of(tmp_path, f"def prepare(self, samples, models):\n    {line}\nMine.prepare = prepare")
    assert said.startswith("algorithm 'FOLDER/mine.py:build': ")
    assert message in said


def test_a_model_that_was_asked_for_is_there(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        OWN_ALGORITHM
        + """
import json
from pathlib import Path
def prepare(self, samples, models):
    values, others = models.critic.values(samples), models.reference.logprobs(samples)
    lengths = [[len(column) for column in found] for found in (values, others)]
    Path(__file__).with_name("lengths.json").write_text(json.dumps(lengths))
    return Prepared([s.replace(old_values=v, reference_logprobs=o) for s, v, o in zip(samples, values, others)], {})
def build(config, updates_per_step):
    mine = Mine(config, updates_per_step)
    mine.losses["critic"] = lambda outputs, batch: (aggregate(outputs.values, batch, "token-mean"), {})
    return mine
Mine.prepare, Mine.roles = prepare, ("policy", "reference", "critic")
"""
    )
    check({"kind": "custom", "fn": f"{tmp_path}/mine.py:build"})
    lengths = [3 + number % 3 for number in range(8)]  # of the made-up responses
    assert json.loads((tmp_path / "lengths.json").read_text()) == [lengths, lengths]


WRONG_LOSSES = {
    "no scalar": (
        "return -batch.advantages * outputs.logprobs, {}",
        "the loss of the policy must be a scalar tensor with a gradient; it is a tensor of shape [",
    ),
    "no tensor": (
        "return 0.5, {}",
        "the loss of the policy must be a scalar tensor with a gradient; it is 0.5 (float)",
    ),
    "no gradient": (
        "return (batch.advantages * outputs.logprobs.detach()).sum(), {}",
        "the loss of the policy must be a scalar tensor with a gradient; it is a tensor of shape [] and torch.float32, "
        "without a gradient",
    ),
    "it depends on the cut": (
        "return outputs.logprobs[batch.loss_mask].sum() / max(int(batch.loss_mask.sum()), 1), {}",
        "the loss of the policy depends on how a batch is cut: ",
    ),
    "nan": (
        "return (outputs.logprobs * float('nan')).sum(), {}",
        "the loss of the policy is nan on a test batch",
    ),
    "plain metrics": (
        "return aggregate(outputs.logprobs, batch, 'token-mean'), {'policy/mine': 0.5}",
        "the metric 'policy/mine' must be made by reasoner_rl.metrics (mean, total or maximum), which say how it is "
        "merged over micro-batches",
    ),
    "no metrics": (
        "return aggregate(outputs.logprobs, batch, 'token-mean')",
        "a loss returns (loss, metrics); it returned a tensor of shape []",
    ),
    "raises": (
        "return outputs.values",
        "the loss of the policy raised on a test batch: AttributeError: 'TokenOutputs' object has no attribute",
    ),
}


@pytest.mark.parametrize("case", WRONG_LOSSES)
def test_what_is_said_of_a_wrong_loss(case: str, tmp_path: Path) -> None:
    line, message = WRONG_LOSSES[case]
    body = f"def loss(outputs, batch, config):\n    {line}\n"
    section = {"kind": "dapo", "loss": {"fn": f"{tmp_path}/mine.py:loss"}}
    said = message_of(tmp_path, body, section)
    assert said.startswith("loss 'FOLDER/mine.py:loss': ")
    assert message in said


def test_what_is_said_of_a_loss_that_depends_on_the_cut_has_both_numbers_and_the_remedy(
    tmp_path: Path,
) -> None:
    body = "def loss(outputs, batch, config): return 1.0 + 0 * outputs.logprobs.sum(), {}"
    said = message_of(tmp_path, body, {"kind": "dapo", "loss": {"fn": f"{tmp_path}/mine.py:loss"}})
    assert (
        "1 in one micro-batch and 8 in several. Divide sums by batch.denominators, which count the whole mini-batch, "
        "and not by what is in the micro-batch (reasoner_rl.losses.reduce.aggregate does so)"
    ) in said


WRONG_ADVANTAGES = {
    "too few": (
        "return [1.0]",
        "must return one entry per sample, and there are 8; it returned a list of 1",
    ),
    "a number": ("return 1.0", "must return one entry per sample, and there are 8; it returned 1.0 (float)"),
    "another shape": (
        "return [torch.ones(3) for s in samples]",
        "must return a number or a tensor of 4 numbers for a response of 4 tokens; it returned a tensor of shape [3]",
    ),
    "words": (
        "return ['good'] * 8",
        "must return a number or a tensor of 3 numbers for a response of 3 tokens; it returned 'good' (str)",
    ),
    "nan": (
        "return [float('nan')] * 8",
        "advantages must be one finite number per response token; for a response of 3 tokens",
    ),
}


@pytest.mark.parametrize("case", WRONG_ADVANTAGES)
def test_what_is_said_of_wrong_advantages(case: str, tmp_path: Path) -> None:
    line, message = WRONG_ADVANTAGES[case]
    body = f"def advantages(samples):\n    {line}\n"
    said = message_of(tmp_path, body, {"kind": "rloo", "advantage": f"{tmp_path}/mine.py:advantages"})
    assert said.startswith("advantage 'FOLDER/mine.py:advantages'")
    assert message in said


def test_a_wrong_token_mask_is_told_at_the_start(tmp_path: Path) -> None:
    section = {"kind": "ppo", "token_mask": {"kind": "custom", "fn": f"{tmp_path}/mine.py:mask"}}
    said = message_of(tmp_path, "def mask(samples): return [True] * 8", section)
    assert said == (
        "token mask 'FOLDER/mine.py:mask' must return, for each sample, one bool per response token, as a tensor"
    )


def test_both_functions_are_named_where_the_recipe_has_two(tmp_path: Path) -> None:
    section = {
        "kind": "grpo",
        "advantage": f"{tmp_path}/mine.py:advantages",
        "loss": {"fn": f"{tmp_path}/mine.py:loss"},
    }
    body = "def advantages(samples): return [1.0] * 8\ndef loss(outputs, batch, config): return 1, {}"
    said = message_of(tmp_path, body, section)
    assert said.startswith(
        "advantage 'FOLDER/mine.py:advantages' with loss 'FOLDER/mine.py:loss': the loss of "
    )


@pytest.mark.parametrize("part", ["advantage", "token_mask"])
def test_an_edit_of_the_file_does_not_change_a_run(part: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("""
import torch
def advantage(samples): return [2.0 for s in samples]
def token_mask(samples): return [torch.arange(len(s.response_ids)) == 0 for s in samples]
""")
    fn = f"{file}:{part}"
    changes = {"advantage": fn} if part == "advantage" else {"token_mask": {"kind": "custom", "fn": fn}}
    algorithm = build_algorithm(online_config({"kind": "dapo", **changes}))
    batch = Batch([2, 2], [1.0, 0.0], [0, 0])
    before = prepared_columns(algorithm, batch, "advantages")
    file.write_text(f"def {part}(samples): raise ValueError('a later edit')")
    assert prepared_columns(algorithm, batch, "advantages") == before
    assert before[0][0] > 0


WRONG_SIGNATURES = {
    "prepare": (
        "def prepare(self, samples): pass\nMine.prepare = prepare",
        {"kind": "custom", "fn": "FOLDER/mine.py:build"},
        "algorithm 'FOLDER/mine.py:build': prepare cannot be called as prepare(samples, models): too many",
    ),
    "a loss of a whole algorithm": (
        "def build(config, updates_per_step):\n"
        "    mine = Mine(config, updates_per_step)\n"
        "    mine.losses['policy'] = lambda outputs, batch, config: None\n"
        "    return mine",
        {"kind": "custom", "fn": "FOLDER/mine.py:build"},
        "algorithm 'FOLDER/mine.py:build': the loss of the policy cannot be called as loss(outputs, batch): missing a "
        "required argument: 'config'",
    ),
    "a loss": (
        "def mine(outputs, batch): pass",
        {"kind": "grpo", "loss": {"fn": "FOLDER/mine.py:mine"}},
        "loss 'FOLDER/mine.py:mine' cannot be called as mine(outputs, batch, config=...): got an unexpected keyword "
        "argument 'config'",
    ),
    "advantages": (
        "def mine(samples, quantile): pass",
        {"kind": "grpo", "advantage": "FOLDER/mine.py:mine"},
        "advantage 'FOLDER/mine.py:mine' cannot be called as mine(samples): missing a required argument: 'quantile'",
    ),
    "a token mask": (
        "def mine(): pass",
        {"kind": "grpo", "token_mask": {"kind": "custom", "fn": "FOLDER/mine.py:mine"}},
        "token mask 'FOLDER/mine.py:mine' cannot be called as mine(samples): too many positional arguments",
    ),
}


@pytest.mark.parametrize("case", WRONG_SIGNATURES)
def test_what_is_said_of_other_arguments(case: str, tmp_path: Path) -> None:
    body, section, message = WRONG_SIGNATURES[case]
    section = json.loads(json.dumps(section).replace("FOLDER", str(tmp_path)))
    assert message_of(tmp_path, body, section).startswith(message)


def test_a_type_error_inside_build_is_not_taken_for_a_wrong_signature(tmp_path: Path) -> None:
    body = "def build(config, updates_per_step): return 1 + 'a'"
    said = message_of(tmp_path, body)
    assert said.startswith("algorithm 'FOLDER/mine.py:build' raised TypeError: unsupported operand")


def test_a_section_and_a_role_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN_ALGORITHM)
    custom = {"kind": "custom", "fn": f"{tmp_path}/mine.py:build"}
    for section, keys in (("critic", {}), ("teacher", {"path": "t"})):
        said = rf"the section {section} is set, and algorithm .* asks for no {section}"
        with pytest.raises(ConfigError, match=said):
            build_algorithm(online_config(custom, **{section: keys}))
    (tmp_path / "taught.py").write_text(OWN_ALGORITHM + "Mine.roles = ('policy', 'teacher')\n")
    taught = custom | {"fn": f"{tmp_path}/taught.py:build"}
    with pytest.raises(ConfigError, match=r"algorithm .* asks for a teacher: set teacher\.path"):
        build_algorithm(online_config(taught))
    assert build_algorithm(online_config(taught, teacher={"path": "t"})).roles == ("policy", "teacher")
