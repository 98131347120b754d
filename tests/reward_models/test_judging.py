"""What reward models read and what is made of it, with a model that is a formula."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from reasoner_rl.batching.reading import read_at_end
from reasoner_rl.config.reward_model import ComparisonConfig, PairwiseJudgeConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.metrics import values
from reasoner_rl.reward_models.comparison import Comparer, Comparison, text_of, win_probability
from reasoner_rl.reward_models.component import OwnTokens, judged
from reasoner_rl.reward_models.judges import PairwiseJudge, PointwiseJudge, as_sampled, win_probabilities
from reasoner_rl.reward_models.pairs import JudgedPair, verdicts
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup, TrainSample


class Formula:
    """A score is minus the sum of the tokens read over 1000; a comparison likes the answer with more letters x."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.read = tokenizer, list[str]()

    def values(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        assert all(len(sample.response_ids) == 1 for sample in samples)
        return [-sample.prompt_ids.sum()[None] / 1000 for sample in samples]

    def logprobs(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        found = []
        for sample in samples:
            text, label = (self.tokenizer.decode(ids) for ids in (sample.prompt_ids, sample.response_ids))
            self.read.append(text + label)
            first, second = text.partition("<A>")[2].split("<B>")
            lead = first.count("x") - second.count("x") + 0.3  # it likes the first position
            found.append(torch.tensor([lead / 2 if label == "A" else -lead / 2]))
        return found


@pytest.fixture
def model(tiny_tokenizer: Any) -> Formula:
    return Formula(tiny_tokenizer)


def group(texts: Sequence[str], accuracies: Sequence[float | None], tokenizer: Any) -> ScoredGroup:
    prompt = Prompt(
        "p/0",
        tuple(tokenizer("Q?")["input_ids"]),
        "Q?",
        "",
        "test",
        messages=({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q?"}),
    )
    rollouts = []
    for number, text in enumerate(texts):
        ids = tokenizer(text)["input_ids"]
        ended = number > 0
        ids += [tokenizer.eos_token_id] * ended
        rollouts.append(Rollout(ids, [-1.0] * len(ids), "stop" if ended else "length", 0, text))
    rewards = [Reward(a or 0.0, a, {"rule": a or 0.0}) for a in accuracies]
    return ScoredGroup(prompt, tuple(rollouts), tuple(rewards))


def test_a_score_is_read_at_the_last_token() -> None:
    sample = TrainSample(
        prompt_ids=torch.tensor([3, 4]),
        response_ids=torch.tensor([5, 6, 7]),
        loss_mask=torch.tensor([True, False, True]),
        advantages=torch.zeros(3),
        rollout_logprobs=torch.zeros(3),
        reward=2.0,
        group=9,
    )
    read = read_at_end(sample)
    assert read.prompt_ids.tolist() == [3, 4, 5, 6, 7], "the value of the state after all of it"
    assert len(read.response_ids) == len(read.loss_mask) == 1
    assert read.loss_mask.all()
    assert (read.reward, read.group) == (2.0, 9)


def test_comparisons_are_rendered_once(tiny_tokenizer: Any, model: Formula) -> None:
    comparer = Comparer(tiny_tokenizer, ComparisonConfig())
    first, second = comparer.labelled(Comparison("Q {second}?", "{prompt}", "no"))
    assert tiny_tokenizer.decode(first.prompt_ids) == "<T>Q {second}?<A>{prompt}<B>no<W>"
    assert [tiny_tokenizer.decode(each.response_ids) for each in (first, second)] == ["A", "B"]
    with pytest.raises(ConfigError, match=r"comparison.labels: 'AB' is 2 tokens"):
        Comparer(tiny_tokenizer, ComparisonConfig(labels=("AB", "B")))
    assert text_of(({"content": "one"}, {"content": "two"})) == "one\n\ntwo"
    # Both orders, so that a liking for a position cancels out.
    [probability] = win_probabilities(model, comparer, [Comparison("Q", "xx", "x")])
    expected = (1 / (1 + math.exp(-1.3)) + 1 - 1 / (1 + math.exp(0.7))) / 2
    assert probability == pytest.approx(expected, rel=1e-6)
    assert [text[-1] for text in model.read] == ["A", "B", "A", "B"]
    assert win_probabilities(model, comparer, [Comparison("Q", "x", "x")]) == pytest.approx([0.5])
    assert win_probabilities(model, comparer, []) == []
    lead = torch.tensor([math.log(3.0)])
    assert win_probability([lead, 0 * lead, 0 * lead, lead]) == pytest.approx(0.75)


def test_a_pointwise_score_is_a_part_of_the_reward(tiny_tokenizer: Any, model: Formula) -> None:
    scored = group(["abc", "b", "zzzz"], [1.0, 0.0, None], tiny_tokenizer)
    [with_scores], metrics = judged([scored], PointwiseJudge(model, as_sampled), weight=2.0)
    tokens = [sum((*scored.prompt.token_ids, *rollout.token_ids)) for rollout in scored.rollouts]
    expected = [-total / 1000 for total in tokens]
    assert [r.components["reward_model"] for r in with_scores.rewards] == pytest.approx(expected)
    assert [r.components["rule"] for r in with_scores.rewards] == [1.0, 0.0, 0.0]
    assert [r.score for r in with_scores.rewards] == pytest.approx(
        [reward.score + 2 * score for reward, score in zip(scored.rewards, expected, strict=True)]
    )
    found = values(metrics)
    assert found["reward_model/score"] == pytest.approx(sum(expected) / 3)
    assert found["reward_model/reward"] == pytest.approx(sum(r.score for r in with_scores.rewards) / 3)
    # One of the responses is known to be right and one to be wrong, and the model likes the wrong one more.
    assert (expected[1] > expected[0], found["reward_model/accuracy"]) == (True, 0.0)
    broken = PointwiseJudge(replace_scores(model, math.nan), as_sampled)
    with pytest.raises(FloatingPointError, match="not finite"):
        judged([scored], broken, weight=1.0)


def replace_scores(model: Formula, score: float) -> Any:
    broken = Formula(model.tokenizer)
    broken.values = lambda samples: [torch.tensor([score]) for _ in samples]  # type: ignore[method-assign]
    return broken


@pytest.mark.parametrize(
    ("settings", "comparisons"),
    [({}, 6 + 1), ({"opponents": 2}, 4 + 1), ({"schedule": "knockout"}, 3 + 1)],
)
def test_responses_are_compared_with_each_other(
    settings: dict[str, Any], comparisons: int, tiny_tokenizer: Any, model: Formula
) -> None:
    large = group(["", "x", "xx", "xxxx"], [0.0, 0.0, 1.0, 1.0], tiny_tokenizer)
    small = group(["x", "a"], [None, None], tiny_tokenizer)
    small = replace(small, prompt=replace(small.prompt, uid="p/1"))
    config = PairwiseJudgeConfig(path="rm", **settings)
    comparer = Comparer(tiny_tokenizer, ComparisonConfig())
    judge = PairwiseJudge(model, comparer, config, {"p/0": "Q0", "p/1": "Q1"}, seed=3)
    scores, metrics = judge.scores([large, small])
    assert values(metrics) == {"reward_model/comparisons": comparisons}
    assert len(model.read) == 4 * comparisons
    assert {text[:6] for text in model.read} == {"<T>Q0<", "<T>Q1<"}
    assert max(scores[0]) == scores[0][3]
    assert scores[1][0] > 0.5 > scores[1][1]
    assert judge.scores([large, small])[0] == scores, (
        "who meets whom depends on seed, prompt and version alone"
    )
    if not settings:
        assert scores[0] == sorted(scores[0])
        assert sum(scores[0]) == pytest.approx(2.0), "each game has one winner"


def test_a_model_with_a_tokenizer_of_its_own_reads_text(tiny_tokenizer: Any) -> None:
    scored = group(["abc", "b"], [1.0, 0.0], tiny_tokenizer)
    read = OwnTokens(tiny_tokenizer, [scored.prompt], context=None)
    eos = tiny_tokenizer.eos_token
    texts = ["".join(tiny_tokenizer.batch_decode([s.prompt_ids, s.response_ids])) for s in read(scored)]
    # There is no chat template: the messages, one a line. The first response was cut off, and has no end.
    assert texts == ["Be brief.\nQ?abc", f"Be brief.\nQ?b{eos}"]
    short = OwnTokens(tiny_tokenizer, [scored.prompt], context=4)
    assert [s.tokens for s in short(scored)] == [3, 3], "one place is for what is read behind the end"
    last = short(scored)[0]
    assert tiny_tokenizer.decode([*last.prompt_ids, *last.response_ids]) == "abc"


def test_verdicts_on_pairs(tiny_tokenizer: Any, model: Formula) -> None:
    def sample(text: str) -> TrainSample:
        return as_sampled(group([text], [None], tiny_tokenizer))[0]

    pair = JudgedPair(7, Comparison("Q?", "xx", "y"), sample("xx"), sample("y"))
    [pointwise] = verdicts(model, None, [pair])
    total = [int(s.prompt_ids.sum() + s.response_ids.sum()) for s in (pair.chosen, pair.rejected)]
    assert pointwise.lead == pytest.approx((total[1] - total[0]) / 1000)
    assert (pointwise.row, pointwise.chosen_tokens, pointwise.rejected_tokens) == (7, 2, 1)
    comparer = Comparer(tiny_tokenizer, ComparisonConfig())
    [pairwise] = verdicts(model, comparer, [pair])
    [probability] = win_probabilities(model, comparer, [pair.comparison])
    assert pairwise.probability == pytest.approx(probability)
    assert pairwise.lead == pytest.approx(math.log(probability / (1 - probability)))
    # Trained on both orders, each with the label of the place where the chosen answer stands.
    shown = [tiny_tokenizer.decode([*one.prompt_ids, *one.response_ids]) for one in pair.example(comparer)]
    assert shown == ["<T>Q?<A>xx<B>y<W>A", "<T>Q?<A>y<B>xx<W>B"]
    assert pair.example(None) == (pair.chosen, pair.rejected)
