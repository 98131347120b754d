from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from reasoner_rl.observability.recorder import RolloutFormat, RolloutMode, RolloutRecorder, missing_records
from reasoner_rl.observability.rollout_rows import record
from reasoner_rl.observability.rollout_table import groups_of, read_rollouts, read_rows
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup, TrainSample


def group(uid: str) -> ScoredGroup:
    return ScoredGroup(
        Prompt(uid, (1, 2, 3), "What is 1+1?", "2", "sums"),
        (
            Rollout((7, 8), (-0.5, -1.5), "stop", 4, "Answer: 2 ✓"),
            Rollout((), (), "length", 4, ""),
        ),
        (
            Reward(0.9, 1.0, {"math": 1.0, "overlong": -0.1}, extracted="2"),
            Reward(-1.0, 0.0, {"math": -1.0}, status="timeout", trained=False),
        ),
    )


GROUPS = [group("p0"), group("p1")]


def sample(*advantages: float) -> TrainSample:
    """What was made of a response, of one token for each advantage."""
    tokens = len(advantages)
    return TrainSample(
        prompt_ids=torch.tensor([1, 2, 3]),
        response_ids=torch.arange(tokens),
        loss_mask=torch.ones(tokens, dtype=torch.bool),
        advantages=torch.tensor(advantages),
        rollout_logprobs=torch.zeros(tokens),
    )


# A group-relative algorithm gives all tokens the same; one with a critic does not.
SAMPLES = [sample(0.5, 0.5), sample(-0.5), sample(2.0, -0.5, 1.5), sample(-1.0, -1.0)]


def test_every_response_is_one_line_with_all_that_was_decided_about_it(tmp_path: Path) -> None:
    path = RolloutRecorder(tmp_path, "all").rollouts(12, GROUPS, SAMPLES)
    assert path == tmp_path / "rollouts" / "step_000012.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(line["uid"], line["advantage"]) for line in lines] == [
        ("p0", 0.5),
        ("p0", -0.5),
        ("p1", 1.0),
        ("p1", -1.0),
    ]
    assert lines[0] == {
        "step": 12,
        "uid": "p0",
        "data_source": "sums",
        "prompt": "What is 1+1?",
        "response": "Answer: 2 ✓",
        "ground_truth": "2",
        "extra_info": {},
        "extracted": "2",
        "accuracy": 1.0,
        "score": 0.9,
        "components": {"math": 1.0, "overlong": -0.1},
        "status": "ok",
        "second_opinion": None,
        "advantage": 0.5,
        "trained": True,
        "tokens": 2,
        "finish_reason": "stop",
        "mean_logprob": -1.0,
        "policy_version": 4,
    }
    assert lines[1]["mean_logprob"] is None
    assert sorted(path.parent.iterdir()) == [path, path.with_suffix(".parquet")], "nothing was dropped"
    assert (lines[1]["status"], lines[1]["trained"], lines[1]["tokens"]) == ("timeout", False, 0)


def test_the_recorded_advantage_is_the_mean_over_tokens_and_null_without_any(tmp_path: Path) -> None:
    samples = [sample(0.25, -1.0, 3.0), sample()]
    path = RolloutRecorder(tmp_path, "all").rollouts(1, GROUPS[:1], samples)
    assert path is not None
    assert [json.loads(line)["advantage"] for line in path.read_text().splitlines()] == [0.75, None]


def test_first_group_only(tmp_path: Path) -> None:
    path = RolloutRecorder(tmp_path, "first_group").rollouts(1, GROUPS, SAMPLES)
    assert path is not None
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["uid"], line["advantage"]) for line in lines] == [("p0", 0.5), ("p0", -0.5)]


def test_none_records_nothing(tmp_path: Path) -> None:
    recorder = RolloutRecorder(tmp_path, "none")
    assert recorder.rollouts(1, GROUPS) is None
    assert recorder.evaluation(1, "aime", GROUPS) is None
    assert list(tmp_path.iterdir()) == []


def test_evaluations_are_recorded_in_full_by_dataset(tmp_path: Path) -> None:
    path = RolloutRecorder(tmp_path, "first_group").evaluation(10, "hub/aime 2024", GROUPS)
    assert path == tmp_path / "evaluations" / "step_000010_hub%2Faime 2024.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["uid"] for line in lines] == ["p0", "p0", "p1", "p1"]
    assert {line["advantage"] for line in lines} == {None}


def test_datasets_of_similar_names_have_files_of_their_own(tmp_path: Path) -> None:
    recorder = RolloutRecorder(tmp_path, "all")
    names = ["a b", "a/b", "a_b", "a%2Fb", "../a", "ä"]
    assert len({recorder.evaluation(0, name, GROUPS) for name in names}) == len(names)
    assert len(list((tmp_path / "evaluations").iterdir())) == 2 * len(names)


def test_what_an_interrupted_run_recorded_of_later_steps_goes(tmp_path: Path) -> None:
    recorder = RolloutRecorder(tmp_path, "all")
    for step in (2, 3, 4, 10):
        recorder.rollouts(step, GROUPS)
        recorder.evaluation(step, "aime", GROUPS)
    recorder.evaluation(2, "aime", GROUPS)  # of weights that are those of step 2 still
    assert recorder.rollouts(3, GROUPS) is not None
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jsonl"))
    assert left == [
        "evaluations/step_000002_aime.jsonl",
        "evaluations/step_000003_aime.jsonl",
        "rollouts/step_000002.jsonl",
        "rollouts/step_000003.jsonl",
    ]


def test_a_failure_leaves_the_previous_file_and_nothing_half_written(tmp_path: Path) -> None:
    recorder = RolloutRecorder(tmp_path, "all")
    path = recorder.rollouts(3, GROUPS[:1])
    assert path is not None
    before = path.read_text()
    with pytest.raises(ValueError, match="one for each"):
        recorder.rollouts(3, GROUPS, SAMPLES[:2])
    assert path.read_text() == before
    assert sorted(path.parent.iterdir()) == [path, path.with_suffix(".parquet")]


def test_dropped_groups_have_a_file_of_their_own(tmp_path: Path) -> None:
    RolloutRecorder(tmp_path, "all").rollouts(3, GROUPS[:1], SAMPLES[:2], dropped=GROUPS[1:])
    text = (tmp_path / "rollouts" / "step_000003_dropped.jsonl").read_text(encoding="utf-8")
    assert [(line["uid"], line["advantage"]) for line in map(json.loads, text.splitlines())] == [
        ("p1", None)
    ] * 2
    RolloutRecorder(tmp_path, "first_group").rollouts(4, GROUPS[:1], SAMPLES[:2], dropped=GROUPS[1:])
    assert not (tmp_path / "rollouts" / "step_000004_dropped.jsonl").exists()


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("form", "suffixes"), [("both", ("jsonl", "parquet")), ("jsonl", ("jsonl",)), ("parquet", ("parquet",))]
)
@pytest.mark.parametrize("mode", ["all", "first_group"])
def test_each_format_has_the_files_of_each_mode(
    tmp_path: Path, mode: RolloutMode, form: RolloutFormat, suffixes: tuple[str, ...]
) -> None:
    recorder = RolloutRecorder(tmp_path, mode, form)
    path = recorder.rollouts(12, GROUPS, SAMPLES, dropped=GROUPS[1:])
    recorder.evaluation(12, "aime.2024", GROUPS)
    stems = ["evaluations/step_000012_aime.2024", "rollouts/step_000012"]
    stems += ["rollouts/step_000012_dropped"] if mode == "all" else []
    assert names(tmp_path) == sorted(f"{stem}.{suffix}" for stem in stems for suffix in suffixes)
    assert path == tmp_path / f"rollouts/step_000012.{suffixes[0]}"
    assert missing_records(tmp_path, 12, mode, form)[1:] == []
    if "parquet" in suffixes:
        table = read_rollouts(tmp_path / "rollouts" / "step_000012.parquet")
        assert groups_of(table) == (GROUPS if mode == "all" else GROUPS[:1])
        made = [[0.5, 0.5], [-0.5], [2.0, -0.5, 1.5], [-1.0, -1.0]]
        assert table["advantages"].to_pylist() == (made if mode == "all" else made[:2])
        assert groups_of(read_rollouts(tmp_path / f"{stems[0]}.parquet")) == GROUPS


def test_what_is_read_from_parquet_says_what_the_jsonl_says(tmp_path: Path) -> None:
    path = RolloutRecorder(tmp_path, "all").rollouts(1, GROUPS, SAMPLES)
    assert path is not None
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert list(map(record, read_rows(path.with_suffix(".parquet")))) == lines


def test_the_missing_record_of_the_format_that_is_written_is_told(tmp_path: Path) -> None:
    RolloutRecorder(tmp_path, "all", "jsonl").rollouts(3, GROUPS)
    parquet, jsonl = (tmp_path / "rollouts" / f"step_000003.{suffix}" for suffix in ("parquet", "jsonl"))
    assert missing_records(tmp_path, 3, "all", "jsonl")[1:] == []
    gone = "is missing: the responses of that step were not recorded, or were deleted"
    assert missing_records(tmp_path, 3, "all", "both")[1:] == [f"{parquet} {gone}"]
    jsonl.unlink()
    assert missing_records(tmp_path, 3, "all", "both")[1:] == [f"{jsonl} {gone}", f"{parquet} {gone}"]
    assert missing_records(tmp_path, 3, "none", "both")[1:] == []


def test_another_format_leaves_nothing_of_the_steps_that_are_made_again(tmp_path: Path) -> None:
    before = RolloutRecorder(tmp_path, "all", "both")
    for step in (2, 3, 4):
        before.rollouts(step, GROUPS, dropped=GROUPS)
        before.evaluation(step, "aime", GROUPS)
    after = RolloutRecorder(tmp_path, "all", "parquet")
    after.rollouts(3, GROUPS)
    after.evaluation(3, "aime", GROUPS)
    assert names(tmp_path) == [
        "evaluations/step_000002_aime.jsonl",
        "evaluations/step_000002_aime.parquet",
        "evaluations/step_000003_aime.parquet",
        *(
            f"rollouts/step_000002{end}"
            for end in (".jsonl", ".parquet", "_dropped.jsonl", "_dropped.parquet")
        ),
        "rollouts/step_000003.parquet",
    ]
