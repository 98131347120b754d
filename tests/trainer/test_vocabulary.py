"""Whole runs where tokenizer and model have vocabularies of different sizes, and special tokens as stops."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2Config

from reasoner_rl.commands.evaluate import evaluate_checkpoint
from reasoner_rl.commands.inspect_data import inspect_data
from reasoner_rl.config.recipes import EvalConfig, OnlineConfig, SftConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.rollout.decoding import Ended
from reasoner_rl.rollout.hf_engine import HfRolloutEngine
from reasoner_rl.trainer.train import train

TABLE = "model.embed_tokens.weight"


@pytest.fixture
def online(tiny_run: dict[str, Any], tmp_path: Path) -> Callable[..., OnlineConfig]:
    """A function from a checkpoint and stops to a run of one step of which every group is trained on."""

    def make(path: Path, stop: list[str]) -> OnlineConfig:
        sampling = {**tiny_run["rollout"]["sampling"], "stop": stop}
        tree = tiny_run | {
            "run": {**tiny_run["run"], "steps": 1, "output_dir": str(tmp_path / "run")},
            "model": {"path": str(path)},
            "rollout": {**tiny_run["rollout"], "sampling": sampling},
            "training": {"optimizer": {"lr": 1e-2, "weight_decay": 0.5}},
        }
        return OnlineConfig.model_validate(tree)

    return make


@pytest.fixture
def supervised(tmp_path: Path) -> Callable[[Path], SftConfig]:
    """A function from a checkpoint to a supervised run of two steps."""
    data = tmp_path / "examples.jsonl"
    data.write_text(
        "".join(json.dumps({"problem": f"{n}+1?", "answer": str(n + 1)}) + "\n" for n in range(4))
    )

    def make(path: Path) -> SftConfig:
        return SftConfig.model_validate(
            {
                "run": {"output_dir": tmp_path / "sft", "steps": 2, "threads": 1},
                "model": {"path": str(path)},
                "data": {"train": {"path": data}, "response_template": "{answer}", "max_response_tokens": 9},
                "batch": {"examples_per_step": 4, "micro_batch_tokens": 100},
                "training": {"optimizer": {"lr": 1e-2, "weight_decay": 0.5}},
                "logging": {"tensorboard": False},
            }
        )

    return make


def evaluation(config: OnlineConfig) -> EvalConfig:
    return EvalConfig.model_validate(
        {
            "run": {"output_dir": config.run.output_dir.with_name("eval"), "threads": 1},
            "model": config.model.model_dump(),
            "rollout": {"sampling": config.rollout.sampling.model_dump()},
            "reward": {**config.reward.model_dump(), "overlong": {}},
            "evaluation": {
                "datasets": [{"path": config.evaluation.datasets[0].path}],
                "samples_per_prompt": 2,
            },
            "logging": {"progress": False},
        }
    )


def test_padding_of_the_vocabulary_is_neither_drawn_nor_trained(
    online: Callable[..., OnlineConfig],
    supervised: Callable[[Path], SftConfig],
    tiny_checkpoint: Callable[[str], Path],
    tiny_tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, size = tiny_checkpoint("qwen2-padded-tied"), len(tiny_tokenizer)
    drawn: list[list[int]] = []
    rollouts_of = HfRolloutEngine._rollouts

    def look(engine: HfRolloutEngine, ended: Sequence[Ended]) -> Any:
        drawn.extend(list(response.token_ids) for response in ended)
        return rollouts_of(engine, ended)

    monkeypatch.setattr(HfRolloutEngine, "_rollouts", look)
    config = online(path, ["<|pad|>"])
    train(config)
    said = f"has no token for 42 of the model's {size + 42} ids (the first is {size})"
    assert said in capsys.readouterr().out.replace("\n", " ")
    evaluate_checkpoint(evaluation(config))
    assert said in capsys.readouterr().out.replace("\n", " ")
    assert sum(map(len, drawn)) > 200
    assert max(token for response in drawn for token in response) < size
    padding = tiny_tokenizer.pad_token_id
    assert any(response[-1] == padding for response in drawn)
    assert not any(padding in response[:-1] for response in drawn)
    rows = [json.loads(line) for line in (config.run.output_dir / "metrics.jsonl").read_text().splitlines()]
    metrics = {key: value for row in rows for key, value in row.items()}
    assert metrics["policy/rollout_gap_max"] < 1e-4
    assert metrics["sync/check_gap"] < 1e-4
    train(supervised(path))
    before = load_file(path / "model.safetensors")[TABLE]
    for output, decays in ((config.run.output_dir, 2), (config.run.output_dir.with_name("sft"), 2)):
        after = load_file(output / "final" / "model.safetensors")[TABLE]
        assert not torch.allclose(after[2:size], before[2:size] * (1 - 1e-2 * 0.5) ** decays, atol=1e-3)
        expected = before[size:] * (1 - 1e-2 * 0.5) ** decays
        torch.testing.assert_close(after[size:], expected, atol=1e-6, rtol=0, msg=str(output))


def test_a_tokenizer_larger_than_the_model_is_refused_by_every_command(
    online: Callable[..., OnlineConfig],
    supervised: Callable[[Path], SftConfig],
    tiny_tokenizer: Any,
    tmp_path: Path,
) -> None:
    small = tmp_path / "small"
    tiny_tokenizer.save_pretrained(small)
    Qwen2Config(vocab_size=60).save_pretrained(small)  # refused before weights are looked for
    config = online(small, [])
    token = tiny_tokenizer.convert_ids_to_tokens(60)
    rule = rf"the token '{token}' has id 60, and the vocabulary of the model in '.*small' has 60 ids, 0 to 59"
    for run in (
        lambda: train(config),
        lambda: evaluate_checkpoint(evaluation(config)),
        lambda: train(supervised(small)),
        lambda: inspect_data(config),
    ):
        with pytest.raises(ConfigError, match=rule):
            run()


def test_a_critic_with_a_smaller_vocabulary_is_refused(
    tiny_run: dict[str, Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    small = tmp_path / "critic"
    Qwen2Config(vocab_size=60).save_pretrained(small)
    run = {**tiny_run["run"], "output_dir": str(tmp_path / "run")}

    def config(critic: Path) -> OnlineConfig:
        changes = {"run": run, "algorithm": {"kind": "ppo"}, "critic": {"path": str(critic)}, "batch": {}}
        return OnlineConfig.model_validate(tiny_run | changes)

    with pytest.raises(ConfigError, match=r"the vocabulary of the model in '.*critic' has 60 ids, 0 to 59"):
        train(config(small))
    with pytest.raises(ConfigError, match=r"critic\.path='.*missing': there is no such folder"):
        train(config(tmp_path / "missing"))


def test_a_stop_that_can_never_be_found_is_refused_at_start(
    online: Callable[..., OnlineConfig], tiny_checkpoint: Callable[[str], Path]
) -> None:
    config = online(tiny_checkpoint("qwen2-tied"), ["<|pad|>\n"])
    for run in (lambda: train(config), lambda: evaluate_checkpoint(evaluation(config))):
        with pytest.raises(
            ConfigError, match=r"sampling\.stop has '<\|pad\|>\\n', in which '<\|pad\|>' is a special"
        ):
            run()
