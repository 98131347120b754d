"""What is said of an algorithm in a user's file that goes wrong in a step, and not on the made-up batch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_models import OWN_ALGORITHM, Batch, online_config

from reasoner_rl.algorithms.build import build_algorithm, check_custom_parts
from reasoner_rl.errors import ConfigError
from reasoner_rl.observability.measurements import PhaseTimer
from reasoner_rl.trainer.loop import Trainer

WRONG_IN_A_STEP = {
    "a sample is dropped": ("samples[1:]", "it was given 9 and returned a list of 8"),
    "another order": ("samples[::-1]", "what it returned in place 0 is another sample"),
    "nan": (
        "[s.replace(advantages=s.advantages / 0) for s in samples]",
        "advantages must be one finite number per response token; for a response of 2 tokens it is a tensor of shape "
        "[2] and torch.float32, and holds nan",
    ),
}


@pytest.mark.parametrize("case", WRONG_IN_A_STEP)
def test_what_is_prepared_in_a_step_is_checked_before_the_update(case: str, tmp_path: Path) -> None:
    line, message = WRONG_IN_A_STEP[case]
    (tmp_path / "mine.py").write_text(
        OWN_ALGORITHM + "def prepare(self, samples, models):\n"
        f"    return Prepared({line} if len(samples) == 9 else samples, {{}})\n"
        "Mine.prepare = prepare"
    )
    with pytest.raises(ConfigError) as error:
        own_trainer(tmp_path).step()
    assert str(error.value).startswith(f"step 5: algorithm '{tmp_path}/mine.py:build': ")
    assert message in str(error.value)


def own_trainer(folder: Path) -> Trainer:
    """A trainer after four steps, whose next batch has nine samples, with ``build`` of mine.py."""
    config = online_config({"kind": "custom", "fn": f"{folder}/mine.py:build"})
    check_custom_parts(config)  # the made-up batch has 8 samples
    batch = Batch([2, 1, 1, 1, 1, 1, 1, 1, 2], [1.0] * 9, [0, 0, 0, 1, 1, 1, 2, 2, 2])
    step = SimpleNamespace(samples=batch.samples)
    return Trainer(
        config=config,
        algorithm=build_algorithm(config),
        source=SimpleNamespace(next=lambda step_number, version: step),
        workers=SimpleNamespace(models=batch.models()),
        evaluate_on=None,
        logger=None,
        recorder=None,
        store=None,
        timer=PhaseTimer(),
        state=SimpleNamespace(step=4, version=4),
    )


def test_a_gradient_that_is_not_finite_names_the_functions_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN_ALGORITHM)
    trainer = own_trainer(tmp_path)

    def update(samples: Any, models: Any) -> None:
        raise FloatingPointError("the gradient norm is nan; the update was not made")

    trainer.algorithm.update = update  # type: ignore[method-assign]
    with pytest.raises(FloatingPointError) as error:
        trainer.step()
    assert str(error.value) == (
        "step 5: the gradient norm is nan; the update was not made, and what is not finite may come from algorithm "
        f"'{tmp_path}/mine.py:build'"
    )
