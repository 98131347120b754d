"""Which ends of a run lead to another attempt from the newest checkpoint; with workers in this process."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl.config.load import load_recipe
from reasoner_rl.distributed.building import build_worker
from reasoner_rl.distributed.local import LocalTransport
from reasoner_rl.distributed.worker import Worker
from reasoner_rl.errors import UserError, WorkerError
from reasoner_rl.observability.events import read_events
from reasoner_rl.trainer.train import train

DEAD = "worker 1 of 2, on a machine, died in update: reasons\nWhat it said last is in a file"


class Workers:
    """Stands in for Ray: a worker in this process. ``ends`` are what its updates raise, None: nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ends: list[BaseException | None]) -> None:
        self.restarts: list[int] = []  # that each start was told of
        update = Worker.update

        @contextmanager
        def launch(config: Any, tell: Any, restarts: int = 0) -> Iterator[LocalTransport]:
            self.restarts.append(restarts)
            yield LocalTransport(build_worker(config))

        def failing_update(*arguments: Any, **named: Any) -> Any:
            if ends and (end := ends.pop(0)) is not None:
                if isinstance(end, KeyboardInterrupt):
                    os.kill(os.getpid(), signal.SIGTERM)
                    end = WorkerError(DEAD)
                raise end
            return update(*arguments, **named)

        failing_update.__name__ = "update"
        monkeypatch.setattr("reasoner_rl.distributed.launch._launch", launch)
        monkeypatch.setattr(Worker, "update", failing_update)


@pytest.fixture
def run(
    write_recipe: Callable[..., Path], tmp_path: Path, tiny_run: dict[str, Any]
) -> Callable[[int], dict[str, Any] | None]:
    """Runs two steps of one update each, with so many restarts allowed."""

    def start(restarts: int) -> dict[str, Any] | None:
        recipe = write_recipe(
            cluster={"kind": "ray", "restarts": restarts},
            batch={**tiny_run["batch"], "prompts_per_update": 4},
            evaluation={},
        )
        return train(load_recipe(recipe, ["run.steps=2"]))  # type: ignore[arg-type]

    return start


def steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def kinds(folder: Path) -> list[str]:
    return [event.kind for event in read_events(folder / "events.jsonl")]


def test_failed_workers_are_started_anew_until_no_restart_is_left(
    run: Callable[[int], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = Workers(monkeypatch, [WorkerError(DEAD), None, WorkerError(DEAD), WorkerError(DEAD)])
    with pytest.raises(WorkerError) as error:
        run(2)
    assert str(error.value) == f"{DEAD}\nAll restarts that cluster.restarts=2 allows were made before"
    assert workers.restarts == [0, 1, 2]
    again = ["error", "restart", "start", "error", "restart", "resume", "error"]
    assert kinds(tmp_path / "run") == ["start", *again]
    told = [(e.step, e.text) for e in read_events(tmp_path / "run" / "events.jsonl") if e.kind == "restart"]
    why, folder = DEAD.partition("\n")[0], tmp_path / "run" / "checkpoints" / "step_000001"
    nowhere = "the beginning, for there is no checkpoint yet"
    assert told == [
        (0, f"{why}. Restart 1 of 2: the run resumes from {nowhere}"),
        (1, f"{why}. Restart 2 of 2: the run resumes from {folder}"),
    ]
    assert steps(tmp_path / "run") == [1]
    summary = run(0)
    assert (summary["steps"], summary["restarts"]) == (2, 0)
    assert steps(tmp_path / "run") == [1, 2]


@pytest.mark.parametrize(
    ("end", "raised"),
    [
        (UserError("a mistake"), UserError),
        (FloatingPointError("diverged"), FloatingPointError),
        (KeyboardInterrupt(), WorkerError),
    ],
)
def test_mistakes_divergence_and_a_run_that_is_to_stop_are_not_started_anew(
    end: BaseException,
    raised: type[Exception],
    run: Callable[[int], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workers = Workers(monkeypatch, [end])
    with pytest.raises(raised):
        run(1)
    assert workers.restarts == [0]
    assert kinds(tmp_path / "run") == ["start", "error"]
