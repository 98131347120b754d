"""Verifier processes on the machines of a Ray cluster."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from reasoner_rl.config.reward import RewardConfig
from reasoner_rl.errors import UserError, WorkerError
from reasoner_rl.rewards.queueing import RewardTask
from reasoner_rl.rewards.runner import RewardRunner

pytest.importorskip("ray")
pytest.importorskip("verl")

VERIFIER = """
import os

def judge(data_source, solution_str, ground_truth, extra_info, lenient=False):
    if solution_str == "raise":
        raise RuntimeError("as asked")
    right = solution_str == ground_truth or lenient
    return {"score": 0.5 if solution_str == "half" else float(right), "acc": right, "pred": str(os.getppid())}
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spread") / "verifier.py"
    path.write_text(VERIFIER)
    return path


@pytest.fixture(scope="module")
def two_machines(monkeypatch_module: pytest.MonkeyPatch) -> Iterator[None]:
    """A Ray cluster of two nodes, both on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="warning")
    cluster.wait_for_nodes()
    yield
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield patch


def config_of(plugin: Path, function: str = "judge", workers: int = 3) -> RewardConfig:
    functions = [{"fn": f"{plugin}:{function}", "evaluation_parameters": {"lenient": True}}]
    return RewardConfig.model_validate({"functions": functions, "workers": workers, "spread": True})


def tasks_of(answers: list[list[str]]) -> list[RewardTask]:
    return [
        RewardTask("made_up", answer, "42", {"number": number}, group=number)
        for number, group in enumerate(answers)
        for answer in group
    ]


def test_answers_are_judged_on_all_machines_as_on_one(
    plugin: Path, two_machines: None, caplog: pytest.LogCaptureFixture
) -> None:
    from reasoner_rl.distributed.ray.verifiers import SpreadRewards

    tasks = tasks_of([["42", "41", "half"], ["raise", "half", "42"], *[["42", str(n)] for n in range(20)]])
    counted: list[int] = []
    with (
        closing(SpreadRewards(config_of(plugin), 10)) as spread,
        RewardRunner(config_of(plugin), 10) as alone,
    ):
        assert spread.processes == 4, "three are not divided evenly among two machines"
        with caplog.at_level(logging.WARNING, "reasoner_rl"):
            found = spread.score(tasks, counted.append)
        expected = alone.score(tasks)
        assert [(r.score, r.accuracy, r.status) for r in found] == [
            (r.score, r.accuracy, r.status) for r in expected
        ]
        assert found[3].score == -1, "a failure is settled within its group"
        assert sum(counted) == len(tasks)
        assert len({reward.extracted for reward in found if reward.extracted}) == 2, "both actors judged"
        assert [record.getMessage() for record in caplog.records if "as asked" in record.getMessage()]
        assert len(caplog.records) <= 2, "each machine warns once, and the driver once of what is alike"
        held_out = spread.for_evaluation(20)
        assert [reward.accuracy for reward in held_out.score(tasks[:3])] == [1.0, 1.0, 1.0]
        assert [reward.accuracy for reward in spread.score(tasks[:3])] == [1.0, 0.0, 0.0]
        assert spread.score([]) == []
    with pytest.raises(RuntimeError, match="were ended"):
        spread.score(tasks)


def test_a_wrong_function_is_the_users_error_and_a_dead_actor_the_workers(
    plugin: Path, two_machines: None
) -> None:
    import ray

    from reasoner_rl.distributed.ray.verifiers import SpreadRewards

    with pytest.raises(UserError, match="missing"):
        SpreadRewards(config_of(plugin, "missing"), 10)
    with closing(SpreadRewards(config_of(plugin), 10)) as spread:
        ray.kill(spread._machines[0])
        with pytest.raises(WorkerError, match="verifier processes died"):
            spread.score(tasks_of([["42"], ["41"]]))


def test_groups_are_not_cut() -> None:
    from reasoner_rl.distributed.ray.verifiers import parts_of

    tasks = tasks_of([["a"] * 3, ["b"] * 2, ["c"], ["d"] * 4])
    assert list(parts_of(tasks, 4)) == [range(3), range(3, 6), range(6, 10)]
    assert list(parts_of(tasks, 1)) == [range(10)]
    assert list(parts_of(tasks, 100)) == [range(3), range(3, 5), range(5, 6), range(6, 10)]
    alone = [RewardTask("made_up", "a", "42")] * 5
    assert list(parts_of(alone, 2)) == [range(3), range(3, 5)]
    assert list(parts_of([], 2)) == []
