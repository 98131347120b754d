"""Workers over Ray that die within a command: it starts them anew, and ends with the bits of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
import torch
from safetensors.torch import load_file

from reasoner_rl.config.load import load_recipe
from reasoner_rl.observability.events import read_events
from reasoner_rl.trainer.train import train

pytest.importorskip("ray")
pytest.importorskip("verl")

Recipe = Callable[..., Path]
TOGETHER = {"kind": "ray", "workers_per_node": 2, "device": "cpu"}
APART = {"kind": "ray", "device": "cpu", "generation": {}}
RAY_IS_SLOW = 3  # restarts for Ray itself, which on a busy machine may not start in its own time
MEASURED = ("time/", "speed/", "memory/", "sync/", "reward/seconds")


class Killer:
    """Kills the last worker as it is about to take up a call: the first of each method once so many steps are saved."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, output: Path, deaths: Sequence[tuple[str, int]]
    ) -> None:
        from reasoner_rl.distributed.ray.group import RayTransport

        self.left, self.output, self.victims = list(deaths), output, list[psutil.Process]()
        call_all, begin = RayTransport._call_all, RayTransport._begin

        def killing_call(transport: Any, phase: Any, method: str, arguments: Any) -> Any:
            self._meet(transport, method)
            return call_all(transport, phase, method, arguments)

        def killing_begin(transport: Any, phase: Any, method: str, ranks: Any, arguments: Any) -> Any:
            self._meet(transport, method)
            return begin(transport, phase, method, ranks, arguments)

        monkeypatch.setattr(RayTransport, "_call_all", killing_call)
        monkeypatch.setattr(RayTransport, "_begin", killing_begin)

    def _meet(self, transport: Any, method: str) -> None:
        if self.left and self.left[0][0] == method and saved(self.output) >= self.left[0][1]:
            self.left.pop(0)
            self.victims += [psutil.Process(place.process) for place in transport._locations]
            os.kill(transport._locations[-1].process, signal.SIGKILL)


def saved(output: Path) -> int:
    latest = output / "checkpoints" / "latest"
    return int(latest.read_text().removeprefix("step_")) if latest.exists() else 0


def rows(output: Path) -> list[dict[str, Any]]:
    """Without what the clock says."""
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if not key.startswith(MEASURED)}
        for line in lines
    ]


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "final" / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cluster", "deaths"),
    [
        (TOGETHER, [("update", 1)]),
        (APART, [("generate", 3)]),
    ],
)
def test_a_run_whose_workers_die_ends_with_the_bits_of_an_undisturbed_one(
    cluster: dict[str, Any],
    deaths: list[tuple[str, int]],
    write_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    # Of the split placement's runs those in one process have the bits too, and start faster.
    alone = {"kind": "local"} if "generation" in cluster else {**cluster, "restarts": RAY_IS_SLOW}
    train(load_recipe(write_recipe(cluster=alone), [f"run.output_dir={undisturbed}"]))  # type: ignore[arg-type]
    killer = Killer(monkeypatch, disturbed, deaths)
    recipe = write_recipe(cluster={**cluster, "restarts": len(deaths) + RAY_IS_SLOW})
    summary = train(load_recipe(recipe, [f"run.output_dir={disturbed}", "run.resume=never"]))  # type: ignore[arg-type]
    assert killer.left == []
    assert rows(disturbed) == rows(undisturbed)
    expected = weights(undisturbed)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(disturbed).items())
    assert {path.name for path in (disturbed / "rollouts").iterdir()} == {
        path.name for path in (undisturbed / "rollouts").iterdir()
    }
    told = [event.text for event in read_events(disturbed / "events.jsonl") if event.kind == "restart"]
    assert summary is not None
    assert summary["restarts"] == len(told)
    said = capfd.readouterr().out
    assert all(text in said for text in told)
    died = [text for text in told if not text.startswith("Ray could not be started")]
    for (method, step), text in zip(deaths, died, strict=True):
        assert f"died in {method}: " in text
        place = f"checkpoints/step_{step:06d}" if step else "the beginning, for there is no checkpoint yet"
        assert text.endswith(place)
    assert not [victim for victim in killer.victims if runs(victim)], "no worker is left"


def runs(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False
