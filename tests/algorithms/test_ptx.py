"""PPO-ptx: the order of the examples that are mixed in, and what is refused; its gradient is tested in training/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.trainer.train import train

MEASURED = ("time/", "speed/", "memory/")  # these differ from run to run


def ptx(tiny_run: dict[str, Any], **data: Any) -> dict[str, Any]:
    """Examples: the training problems with their answers."""
    section = {"response_template": "{answer}", "train": tiny_run["data"]["train"], **data}
    return {"coefficient": 0.3, "examples_per_update": 2, "data": section}


def ppo_run(tiny_run: dict[str, Any], output: Path, **ptx_section: Any) -> OnlineConfig:
    """A run of 3 steps of 2 updates in 2 epochs, of which the first step is the critic's alone."""
    section = ptx(tiny_run) | ptx_section
    return OnlineConfig.model_validate(
        {
            **tiny_run,
            "run": {**tiny_run["run"], "steps": 3, "output_dir": str(output)},
            "algorithm": {"kind": "ppo", "critic_warmup_steps": 1, "ptx": section},
            "rollout": {"responses_per_prompt": 1, "sampling": {"max_response_tokens": 12}},
            "batch": {"prompts_per_step": 4, "prompts_per_update": 2, "epochs": 2},
            "training": {"optimizer": {"lr": 1.0e-3}},
            "evaluation": {},
            "checkpoint": {"every_steps": 1, "keep_last": 3, "export_at_end": False},
        }
    )


def steps(config: OnlineConfig, count: int) -> OnlineConfig:
    return config.model_copy(update={"run": config.run.model_copy(update={"steps": count})})


def rows(output: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without what a clock or the memory says."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith(MEASURED)} for row in lines]


def test_a_resumed_run_continues_the_order_of_the_examples(tiny_run: dict[str, Any], tmp_path: Path) -> None:
    straight, resumed = (ppo_run(tiny_run, tmp_path / name) for name in ("straight", "resumed"))
    assert train(straight) is not None
    train(steps(resumed, 2))
    assert train(resumed) is not None
    expected = rows(tmp_path / "straight")
    assert rows(tmp_path / "resumed") == expected
    assert ["ptx/loss" in row for row in expected] == [False, True, True], (
        "none while the critic alone is trained"
    )
    positions = []
    for step in (1, 2, 3):
        state = json.loads(
            (tmp_path / "resumed" / "checkpoints" / f"step_{step:06d}" / "driver.json").read_text()
        )
        positions.append(state["algorithm"]["ptx"]["position"])
    assert positions == [0, 8, 16], "2 examples in each of 4 updates a step"
    other = tmp_path / "other.jsonl"
    other.write_text('{"problem": "another?", "answer": "1"}\n')
    changed = ppo_run(tiny_run, tmp_path / "resumed", data=ptx(tiny_run, train={"path": str(other)})["data"])
    with pytest.raises(
        ConfigError, match=r"algorithm\.ptx\.data\.train: 1 rows instead of 12, .* cannot change"
    ):
        train(steps(changed, 4))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (
            {"response_template": "{solution}"},
            DataError,
            r"algorithm\.ptx: .*no solution, and data\.response_temp",
        ),
        (
            {"max_response_tokens": 1},
            DataError,
            r"algorithm\.ptx: no example is left of 12.*algorithm\.ptx\.data\)",
        ),
        ({"train": {"path": "missing.jsonl"}}, DataError, r"algorithm\.ptx: .*missing\.jsonl"),
    ],
)
def test_examples_that_cannot_be_used_are_told(
    data: dict[str, Any], error: type[Exception], message: str, tiny_run: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        train(ppo_run(tiny_run, tmp_path / "run", data=ptx(tiny_run, **data)["data"]))
