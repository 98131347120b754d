"""Runs that train a reward model, and runs that one judges: from files to weights, records and errors."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from reasoner_rl.commands.inspect_data import inspect_data
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.config.reward_recipe import RewardModelConfig
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.observability.rollout_table import read_rollouts
from reasoner_rl.trainer.export_checkpoint import export
from reasoner_rl.trainer.loop import Trainer
from reasoner_rl.trainer.train import train

pytest.importorskip("sklearn")

# The better answer is the sum; the worse one is longer in half of the pairs.
PAIRS = [
    {"prompt": f"{n} plus 1?", "chosen": f"{n + 1}", "rejected": f"{n}{'!' * (n % 2)}", "margin": 0.1 * n}
    for n in range(9)
]
Recipe = Callable[..., RewardModelConfig]


@pytest.fixture
def recipe(tmp_path: Path, tiny_checkpoint: Callable[[str], Path]) -> Recipe:
    """A function (name of the output folder, algorithm, sections) that makes a recipe of steps of 3 pairs."""
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))

    def make(name: str, kind: str = "pointwise", steps: int = 6, **sections: Any) -> RewardModelConfig:
        tree: dict[str, Any] = {
            "run": {"output_dir": tmp_path / name, "steps": steps, "threads": 1, "seed": 1},
            "model": {"path": str(tiny_checkpoint("qwen2-tied"))},
            "data": {"train": {"path": tmp_path / "pairs.jsonl"}},
            "algorithm": {"kind": kind},
            "batch": {"examples_per_step": 3, "micro_batch_tokens": 60},
            "training": {"optimizer": {"lr": 3.0e-3}, "schedule": {"kind": "constant"}},
            "evaluation": {
                "datasets": [{"path": tmp_path / "pairs.jsonl", "name": "held"}],
                "every_steps": 3,
            },
            "checkpoint": {"every_steps": 1},
            "logging": {"tensorboard": False, "progress": False},
        }
        return RewardModelConfig.model_validate(tree | sections)

    return make


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def learnt(output: Path) -> list[dict[str, Any]]:
    measured = ("time/", "speed/", "memory/")
    return [
        {k: v for k, v in row.items() if not k.startswith(measured)}
        for row in lines_of(output / "metrics.jsonl")
    ]


@pytest.mark.parametrize("kind", ["pointwise", "pairwise"])
def test_a_run_from_pairs_to_a_reward_model(
    kind: str,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    summary = train(recipe("run", kind))
    assert summary is not None
    out, output = capsys.readouterr().out, tmp_path / "run"
    assert "the chosen answer is the longer one in 0% of pairs" in out
    assert "6 steps of 3 examples: 2.00 passes over 9" in out
    assert "held: " in out
    rows = [row for row in learnt(output) if "reward_model/loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[0]["reward_model/loss"] == pytest.approx(math.log(2), abs=1e-5) or kind == "pairwise"
    assert sum(row["reward_model/loss"] for row in rows[3:]) < sum(
        row["reward_model/loss"] for row in rows[:3]
    )
    if kind == "pointwise":
        assert summary["accuracy_after"] > summary["accuracy_before"] == 0.5, "at first all scores are 0"
    assert set(summary["evaluations"]) == {"0", "3", "6"}
    verdicts = lines_of(output / "evaluations" / "step_000006_held.jsonl")
    assert [verdict["row"] for verdict in verdicts] == list(range(1, 10))
    right = [0.5 if v["lead"] == 0 else v["lead"] > 0 for v in verdicts]
    assert sum(right) / 9 == pytest.approx(summary["accuracy_after"])
    assert all(v["probability"] == pytest.approx(1 / (1 + math.exp(-v["lead"]))) for v in verdicts)
    assert (output / "reliability.png").stat().st_size > 5000
    described = json.loads((output / "final" / "reward_model.json").read_text())
    assert described["kind"] == kind

    # Interrupted and resumed, the run makes the same rows and weights.
    step = Trainer.step

    def step_and_fail(run: Trainer) -> None:
        step(run)
        if run.state.step == 2:
            monkeypatch.setattr(Trainer, "step", step)
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "step", step_and_fail)
    with pytest.raises(KeyboardInterrupt):
        train(recipe("resumed", kind))
    assert train(recipe("resumed", kind)) is not None
    assert learnt(tmp_path / "resumed") == learnt(output)
    weights = [load_file(tmp_path / name / "final" / "model.safetensors") for name in ("run", "resumed")]
    assert weights[0].keys() == weights[1].keys()
    exported = export(output)
    assert json.loads((exported / "reward_model.json").read_text()) == described
    weights.append(load_file(exported / "model.safetensors"))
    assert weights[2].keys() == weights[0].keys()
    assert all(torch.equal(weights[0][key], other[key]) for key in weights[0] for other in weights[1:])

    if kind == "pointwise":  # transformers reads it, and says of a text what was said in the run
        final = output / "final"
        model = AutoModelForSequenceClassification.from_pretrained(final, dtype=torch.float32)
        assert model.config.architectures == ["Qwen2ForSequenceClassification"]
        tokenizer = AutoTokenizer.from_pretrained(final)

        def score(answer: str) -> float:
            ids = tokenizer(PAIRS[4]["prompt"] + answer)["input_ids"] + [tokenizer.eos_token_id]
            return float(model(input_ids=torch.tensor([ids])).logits)

        lead = score(PAIRS[4]["chosen"]) - score(PAIRS[4]["rejected"])
        assert verdicts[4]["lead"] == pytest.approx(lead, abs=1e-5)


def test_margins_and_no_steps(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_margins = {"path": tmp_path / "pairs.jsonl", "columns": {"margin": "margin"}}
    whole = {"examples_per_step": 9, "micro_batch_tokens": 400}
    config = recipe("margins", steps=1, data={"train": with_margins}, batch=whole, evaluation={})
    assert train(config) is not None
    [row] = learnt(tmp_path / "margins")
    expected = sum(math.log1p(math.exp(pair["margin"])) for pair in PAIRS) / 9  # all scores are 0 as yet
    assert row["reward_model/loss"] == pytest.approx(expected, rel=1e-5)
    # Without a step a model is evaluated; here the one just made, on pairs alone.
    final = tmp_path / "margins" / "final"
    summary = train(recipe("evaluated", steps=0, model={"path": str(final)}))
    assert summary is not None
    assert list(summary["evaluations"]) == ["0"]
    capsys.readouterr()
    inspect_data(config)
    assert "9 rows read; 9 examples kept" in capsys.readouterr().out
    bad = [PAIRS[0], PAIRS[1] | {"margin": -1}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bad))
    with pytest.raises(DataError, match=r"pairs.jsonl, row 2: margin must be at least 0; it is -1"):
        train(recipe("bad", data={"train": with_margins}))
    for kind, sections, rule in [
        ("pairwise", {"data": {"train": with_margins}}, "data.train.columns.margin 'margin' has no effect"),
        ("pointwise", {"logging": {"rollouts": "none"}}, "logging.rollouts 'none' has no effect"),
        ("pointwise", {"evaluation": {"every_steps": 2}}, "evaluation.datasets is empty"),
        (
            "pairwise",
            {"algorithm": {"kind": "pairwise", "comparison": {"labels": ["A", "A"]}}},
            "labels must differ",
        ),
        (
            "pairwise",
            {"algorithm": {"kind": "pairwise", "comparison": {"template": "{prompt}"}}},
            "{first}, {second}",
        ),
    ]:
        with pytest.raises(ValueError, match=rule.replace("{", r"\{").replace("}", r"\}")):
            recipe("refused", kind, **sections)


def judged_recipe(write_recipe: Callable[..., Path], **sections: Any) -> OnlineConfig:
    config = load_recipe(
        str(write_recipe(**sections)),
        ["run.steps=1", "evaluation.datasets=[]", "evaluation.every_steps=null"],
    )
    assert isinstance(config, OnlineConfig)
    return config


def scores_of(output: Path) -> list[dict[str, Any]]:
    """Text, score and components of the responses of step 1."""
    return read_rollouts(output / "rollouts" / "step_000001.parquet").to_pylist()


def test_runs_that_a_reward_model_judges(
    recipe: Recipe, tmp_path: Path, write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("pointwise", "pairwise"):
        assert train(recipe(kind, kind, steps=3, evaluation={})) is not None
    paths = {kind: str(tmp_path / kind / "final") for kind in ("pointwise", "pairwise")}
    model = AutoModelForSequenceClassification.from_pretrained(paths["pointwise"], dtype=torch.float32).eval()

    def judged(name: str, **section: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        section.setdefault("path", paths[section["kind"]])
        config = judged_recipe(
            write_recipe,
            reward_model=section,
            training={"offload": "all", "optimizer": {"lr": 1.0e-3}, "schedule": {"warmup_steps": 0}},
        )
        run = config.run.model_copy(update={"output_dir": tmp_path / name})
        assert train(config.model_copy(update={"run": run})) is not None
        [row] = learnt(tmp_path / name)
        return row, scores_of(tmp_path / name)

    row, responses = judged("as sampled", kind="pointwise", weight=0.5)
    scores = []
    for response in responses:
        components = dict(response["components"])
        ids = torch.tensor([response["prompt_ids"] + response["token_ids"]])
        with torch.no_grad():
            expected = float(model(input_ids=ids).logits)
        assert components["reward_model"] == pytest.approx(expected, abs=1e-5)
        rest = components["vowel"] + components["overlong"]
        assert response["score"] == pytest.approx(rest + 0.5 * components["reward_model"], abs=1e-6)
        scores.append(components["reward_model"])
    assert row["reward_model/score"] == pytest.approx(sum(scores) / len(scores), abs=1e-6)
    assert len(scores) == 16
    assert 0 <= row["reward_model/accuracy"] <= 1

    again, read_again = judged("read again", kind="pointwise", retokenize=True)
    assert [r["token_ids"] for r in read_again] == [r["token_ids"] for r in responses]
    # Random responses may hold what the text does not; the same tokens are read where it says all.
    same = [
        (dict(one["components"])["reward_model"], dict(other["components"])["reward_model"])
        for one, other in zip(responses, read_again, strict=True)
    ]
    assert sum(one == pytest.approx(other, abs=1e-5) for one, other in same) >= len(same) // 2
    assert math.isfinite(again["reward_model/score"])

    row, responses = judged("compared", kind="pairwise", schedule="knockout")
    assert row["reward_model/comparisons"] == 4 * 3, "four groups of four"
    assert all(0 <= dict(r["components"])["reward_model"] <= 1 for r in responses)

    bare = str(shutil.copytree(paths["pairwise"], tmp_path / "bare"))
    (tmp_path / "bare" / "reward_model.json").unlink()
    for section, rule in [
        (
            {"kind": "pointwise", "path": paths["pairwise"]},
            "kind is pointwise, and .* is a pairwise reward model",
        ),
        ({"kind": "pointwise", "path": bare}, "holds no score.weight, so it gives no scores"),
        ({"kind": "pairwise", "path": bare}, "reward_model.comparison: set it"),
        ({"kind": "pairwise", "comparison": {"labels": ["B", "A"]}}, "leave reward_model.comparison out"),
        (
            {"kind": "pointwise", "path": "./nowhere"},
            "reward_model.path='./nowhere': there is no such folder",
        ),
    ]:
        with pytest.raises(ConfigError, match=rule):
            judged("refused", **section)
    (tmp_path / "bare" / "reward_model.json").write_text("[1]")
    with pytest.raises(ConfigError, match=r"reward_model.json: must hold a mapping"):
        judged("refused", kind="pairwise", path=bare)
    with pytest.raises(
        ConfigError, match=r"reward_model.kind: required, but not given: must be one of pointwise"
    ):
        judged_recipe(write_recipe, reward_model={"path": "rm"})
    with pytest.raises(
        ConfigError, match=r"opponents must be below rollout.responses_per_prompt: 4 is not below 4"
    ):
        judged_recipe(write_recipe, reward_model={"kind": "pairwise", "path": "rm", "opponents": 4})


def test_a_reward_model_with_other_tokens(
    recipe: Recipe, tmp_path: Path, write_recipe: Callable[..., Path], tiny_tokenizer: Any
) -> None:
    assert train(recipe("rm", steps=1, evaluation={})) is not None
    path = tmp_path / "rm" / "final"
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    section = {"kind": "pointwise", "path": str(path)}
    with pytest.raises(
        ConfigError, match=r"its tokenizer differs from the policy's, first at id .*retokenize=true"
    ):
        train(judged_recipe(write_recipe, reward_model=section))
    assert train(judged_recipe(write_recipe, reward_model=section | {"retokenize": True})) is not None
