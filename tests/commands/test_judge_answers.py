"""`data make-preferences` with a reward model: whose scores are in the files, and what is judged anew or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from reasoner_rl.commands import judge_answers, sample_answers
from reasoner_rl.commands.make_data import AnswersReport, make_preferences
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.config.reward_model import ComparisonConfig, PairwiseJudgeConfig
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.observability.rollout_table import groups_of, read_rollouts, write_rollouts
from reasoner_rl.prompts.making import complete_answers
from reasoner_rl.reward_models.comparison import Comparer
from reasoner_rl.reward_models.judges import PairwiseJudge
from reasoner_rl.types import Rollout, ScoredGroup, TrainSample

COMPARISON = {"template": "{prompt}|{first}|{second}|", "labels": ("A", "B")}


class Compares:
    """A language model by transformers that a judge asks."""

    def __init__(self, path: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    @torch.no_grad()
    def logprobs(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        found = []
        for sample in samples:
            [label] = sample.response_ids.tolist()
            logits = self.model(input_ids=sample.prompt_ids[None]).logits[0, -1]
            found.append(logits.log_softmax(-1)[label : label + 1])
        return found

    def values(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        raise NotImplementedError


def recipe_of(tree: dict[str, Any], **sections: Any) -> OnlineConfig:
    """The tiny run with 12 problems, 4 answers to each, three parts."""
    sampling = {"max_response_tokens": 40, "stop": ["s", "t"]}
    merged = tree | {
        "run": tree["run"] | {"output_dir": "unused"},
        "rollout": {"responses_per_prompt": 4, "sampling": sampling},
    }
    return OnlineConfig.model_validate(merged | sections)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_answers, "PROMPTS_PER_PART", 5)


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def groups_in(made: Path) -> list[ScoredGroup]:
    """The answers, with the verifier's scores."""
    return [
        group for file in sorted((made / "answers").iterdir()) for group in groups_of(read_rollouts(file))
    ]


def kept_in(made: Path) -> list[list[float]]:
    files = sorted((made / "judged").glob("part_*.json"))
    return [scores for file in files for scores in json.loads(file.read_text())["scores"]]


def test_a_pointwise_model_scores_answers_that_were_sampled_before(
    tiny_run: dict[str, Any],
    tiny_reward_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made, section = tmp_path / "made", {"kind": "pointwise", "path": str(tiny_reward_model), "weight": 0.5}

    def make(folder: Path = made, **changes: Any) -> AnswersReport:
        return make_preferences(
            recipe_of(tiny_run, reward_model=section | changes), folder, "best_worst", 0.0
        )

    # What cannot be used is refused before anything is sampled, and leaves nothing in the way.
    with pytest.raises(ConfigError, match=r"reward_model.path='./nowhere': there is no such folder"):
        make(path="./nowhere")
    assert not (made / "answers").exists()
    by_verifier = make_preferences(recipe_of(tiny_run), made, "best_worst", 0.0)
    assert (by_verifier.compared, "reward model" in str(by_verifier)) == (0, False)
    labels, answers = rows_of(made / "labels.jsonl"), sorted((made / "answers").iterdir())
    written = [file.stat().st_mtime_ns for file in answers]
    capsys.readouterr()

    # An interruption after the first part; the same command goes on.
    judged = judge_answers.judged

    def judged_and_interrupted(*arguments: Any) -> Any:
        if len(list((made / "judged").glob("part_*.json"))) == 1:
            raise KeyboardInterrupt
        return judged(*arguments)

    monkeypatch.setattr(judge_answers, "judged", judged_and_interrupted)
    with pytest.raises(KeyboardInterrupt):
        make()
    monkeypatch.setattr(judge_answers, "judged", judged)
    said = capsys.readouterr().out
    assert "answers: 3 of 3 parts exist" in said
    assert "reward model: 0 of 3 parts are judged" in said
    report = make()
    said = capsys.readouterr().out
    assert "reward model: 1 of 3 parts are judged" in said
    assert "  2 of 3 parts: 20 answers judged, " in said
    assert [file.stat().st_mtime_ns for file in answers] == written, "nothing is sampled for a reward model"

    model = AutoModelForSequenceClassification.from_pretrained(tiny_reward_model, dtype=torch.float32).eval()
    groups, kept = groups_in(made), kept_in(made)

    @torch.no_grad()
    def by_hand(group: ScoredGroup, rollout: Rollout) -> float:
        return float(model(input_ids=torch.tensor([[*group.prompt.token_ids, *rollout.token_ids]])).logits)

    assert [len(scores) for scores in kept] == [4] * 12
    for group, scores in zip(groups, kept, strict=True):
        assert scores == pytest.approx([by_hand(group, rollout) for rollout in group.rollouts], abs=1e-5)

    def totals(weight: float) -> list[float]:
        found = []
        for group, scores in zip(groups, kept, strict=True):
            both = zip(group.rewards, scores, strict=True)
            rewards = tuple(replace(reward, score=reward.score + weight * score) for reward, score in both)
            found += [reward.score for _, reward in complete_answers(replace(group, rewards=rewards))]
        return found

    assert [row["reward"] for row in rows_of(made / "scores.jsonl")] == totals(0.5)
    assert rows_of(made / "labels.jsonl") == labels, "the verifier counts, and says what is good"
    pairs = rows_of(made / "pairs.jsonl")
    rewards = {(row["uid"], row["completion"]): row["reward"] for row in rows_of(made / "scores.jsonl")}
    for pair in pairs:
        assert pair["chosen_score"] == rewards[pair["uid"], pair["chosen"]]
        assert pair["chosen_score"] == max(score for (uid, _), score in rewards.items() if uid == pair["uid"])
    agreed = [
        0.5 if score == other else float(score > other)
        for group, scores in zip(groups, kept, strict=True)
        for right, score in zip(group.rewards, scores, strict=True)
        for wrong, other in zip(group.rewards, scores, strict=True)
        if right.accuracy == 1.0 and wrong.accuracy == 0.0
    ]
    assert (report.agreed, report.compared) == (sum(agreed), len(agreed))
    assert 0 < report.agreed < report.compared
    assert f"{sum(agreed) / len(agreed):.1%} of {len(agreed)} cases" in said
    assert json.loads((made / "preferences_report.json").read_text())["compared"] == len(agreed)

    # Another weight asks the model nothing; answers that were sampled again are judged again.
    with monkeypatch.context() as patch:
        patch.setattr(judge_answers, "launch_judge", None)
        make(weight=2.0, offload="all")
        assert [row["reward"] for row in rows_of(made / "scores.jsonl")] == totals(2.0)
    first = groups_of(read_rollouts(answers[0]))
    write_rollouts(answers[0], 1, first)
    capsys.readouterr()
    make()
    assert "reward model: 2 of 3 parts are judged" in capsys.readouterr().out
    assert kept_in(made) == [pytest.approx(scores, abs=1e-6) for scores in kept]

    # Scores of another model are not mixed with these, nor is a file that is not theirs.
    with pytest.raises(ConfigError) as caught:
        make(retokenize=True)
    assert str(caught.value).startswith(
        f"{made / 'judged'} holds scores of a reward model with other settings (reward_model.retokenize; see "
    )
    moved = Path(shutil.copytree(tiny_reward_model, tmp_path / "moved"))
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(moved)
    with pytest.raises(ConfigError, match=r"other settings \(checkpoint, reward_model.path; see"):
        make(path=str(moved))
    file = made / "judged" / "part_00001.json"
    kept_file = json.loads(file.read_text())
    file.write_text(json.dumps(kept_file | {"scores": kept_file["scores"][1:]}))
    with pytest.raises(DataError, match=r"part_00001.json: does not hold the scores .*Delete .* judges"):
        make()
    file.write_text("[]")
    with pytest.raises(DataError, match=r"part_00001.json: cannot be read as scores: TypeError"):
        make()


def test_a_pairwise_model_that_alone_decides(
    tiny_run: dict[str, Any],
    tiny_checkpoint: Callable[[str], Path],
    tmp_path: Path,
    tiny_tokenizer: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tiny_checkpoint("qwen2-untied")
    section = {"kind": "pairwise", "path": str(path), "comparison": COMPARISON, "schedule": "knockout"}
    function = tiny_run["reward"]["functions"][0] | {"weight": 0.0}
    reward = tiny_run["reward"] | {"functions": [function], "overlong": {}}
    recipe = recipe_of(tiny_run, reward=reward, reward_model=section)
    made = tmp_path / "made"
    make_preferences(recipe, made, "all", 0.01)
    assert "an answer is good if its score is above the mean" in capsys.readouterr().out
    groups, kept = groups_in(made), kept_in(made)
    assert all(r.score == 0 and r.accuracy is not None for group in groups for r in group.rewards)

    comparer = Comparer(tiny_tokenizer, ComparisonConfig.model_validate(COMPARISON))
    config = PairwiseJudgeConfig.model_validate(section)
    texts = {group.prompt.uid: f"train {n} plus {n}?" for n, group in enumerate(groups)}
    judge = PairwiseJudge(Compares(path), comparer, config, texts, recipe.run.seed)
    expected, _ = judge.scores(groups)
    for scores, by_hand in zip(kept, expected, strict=True):
        assert scores == pytest.approx(by_hand, abs=1e-5)
    pairs = rows_of(made / "pairs.jsonl")
    assert pairs
    assert all(pair["chosen_score"] - pair["rejected_score"] > 0.01 for pair in pairs)

    # The verifier has no say, so what is good is said by the scores.
    scores = rows_of(made / "scores.jsonl")
    means = {row["uid"]: fmean(r["reward"] for r in scores if r["uid"] == row["uid"]) for row in scores}
    alike = {uid for uid in means if len({r["reward"] for r in scores if r["uid"] == uid}) == 1}
    labels = [
        (row["uid"], row["completion"], row["reward"] > means[row["uid"]])
        for row in scores
        if row["uid"] not in alike
    ]
    found = [(row["uid"], row["completion"], row["label"]) for row in rows_of(made / "labels.jsonl")]
    assert found == labels
    assert {label for *_, label in labels} == {True, False}
