"""Generation ahead of training: which prompts are trained on and when, under which policies, and that none is lost."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from known_lengths import GROUP, LIMIT, Run

from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.cluster import without_generation
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import EvalConfig, OnlineConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.metrics import values
from reasoner_rl.sources.base import StepBatch

LENGTHS = [90 if i % 4 == 1 else 150 if i % 13 == 7 else 10 for i in range(400)]
STEPS = 30


def ahead(
    steps: int,
    *,
    drawn: int = 7,
    goes_on: bool = False,
    in_flight: str = "continue",
    order: str = "begun",
    **batch: Any,
) -> Run:
    """A run of which every response in flight has got ``drawn`` tokens when it is interrupted."""
    rule = {"steps": steps, "in_flight": in_flight, "order": order}
    run = Run(LENGTHS, goes_on=goes_on, ahead=rule, **batch)
    run.writer.drawn = drawn
    return run


def indices(batch: StepBatch) -> list[int]:
    return [group.prompt.token_ids[0] for group in batch.groups]


def taught(count: int) -> list[int]:
    """The first prompts whose group is mixed, in the order of the data."""
    return [index for index in range(len(LENGTHS)) if index % 5 != 4][:count]


def train(run: Run, steps: int = STEPS, *, advances: int = 0, first: int = 1) -> list[StepBatch]:
    """Make steps as the trainer does. advances: news of generation while a step trains, where it goes on."""
    batches = []
    for step in range(first, first + steps):
        batches.append(run.step(step))
        for _ in range(advances):
            if run.writer.works:
                run.source.advance()
        run.source.before_new_weights()
    return batches


@pytest.mark.parametrize("steps", [0, 1, 2, 4])
@pytest.mark.parametrize("at_a_time", [4, 9, 30])
@pytest.mark.parametrize("advances", [0, 3, 100])
def test_prompts_are_trained_on_in_order_and_no_later_than_allowed(
    steps: int, at_a_time: int, advances: int
) -> None:
    """Also where generation goes on while the models are trained, however far it gets until the weights are there."""
    plain = {"max_staleness": 0} if steps == 0 else {}
    run = ahead(steps, goes_on=advances > 0, prompts_per_generation=at_a_time, **plain)
    batches = train(run, advances=advances)
    assert [index for batch in batches for index in indices(batch)] == taught(4 * STEPS)
    oldest = []
    for step, batch in enumerate(batches, start=1):
        ages = [step - 1 - rollout.policy_version for group in batch.groups for rollout in group.rollouts]
        measured = values(batch.metrics)
        assert measured["policy/staleness_max"] == max(ages) <= steps
        assert measured["policy/staleness"] == pytest.approx(sum(ages) / len(ages))
        assert min(ages) >= 0
        assert [sample.on_policy for sample in batch.samples] == [
            set(rollout.logprobs) == {-(step - 1.0)} for group in batch.groups for rollout in group.rollouts
        ]
        oldest.append(max(ages))
    if at_a_time == 30:
        assert max(oldest) == steps, "the bound is reached where there is room for it"


@pytest.mark.parametrize("order", ["begun", "finished"])
def test_unless_the_recipe_says_otherwise_as_many_are_in_flight_as_the_steps_ahead_need(order: str) -> None:
    oldest = []
    for steps in (1, 2, 4):
        run = ahead(steps, order=order, goes_on=True)
        assert step_arithmetic(run.config).prompts_in_flight == 4 * (1 + steps)
        assert step_arithmetic(run.config).max_generated_responses_per_step == 10 * 4 * GROUP
        run.writer.finish = shortest_first(run) if order == "finished" else run.writer.finish
        oldest.append(max(values(batch.metrics)["policy/staleness_max"] for batch in train(run, advances=1)))
    assert oldest == [1, 2, 4]


def test_more_than_a_step_needs_may_be_in_flight_without_dynamic_sampling_too() -> None:
    def sizes(steps: int, in_flight: int) -> OnlineConfig:
        batch = {"prompts_per_step": 4, "prompts_per_generation": in_flight, "ahead": {"steps": steps}}
        return OnlineConfig.model_validate(recipe(batch=batch, algorithm={"kind": "grpo"}))

    assert sizes(2, 12).batch.prompts_in_flight == 12
    with pytest.raises(
        ValueError, match=r"above batch\.prompts_per_step x \(1 \+ batch\.ahead\.steps\) \(12\)"
    ):
        sizes(2, 13)
    with pytest.raises(ValueError, match=r"above batch\.prompts_per_step \(4\) without dynamic sampling"):
        sizes(0, 5)


def test_without_steps_ahead_the_batches_are_those_of_the_synchronous_run() -> None:
    for goes_on in (False, True):
        run = ahead(0, goes_on=goes_on, max_staleness=0, prompts_per_generation=9)
        plain = Run(LENGTHS, max_staleness=0, prompts_per_generation=9)
        for mine, theirs in zip(train(run), train(plain), strict=True):
            assert mine.groups == theirs.groups
            assert mine.dropped == theirs.dropped
            assert values(mine.metrics) == values(theirs.metrics)


def shortest_first(run: Run) -> Callable[[int], int]:
    """Ends the response first that needs the fewest further tokens, as decoding side by side does."""

    def left(place: int) -> int:
        request = run.writer.works[place]
        first = request.first_sample == 0
        return (min(LENGTHS[request.prompt_ids[0]], LIMIT) if first else 3) - len(request.begun)

    return lambda waiting: min(range(waiting), key=left)


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("at_a_time", [4, 9, 30])
@pytest.mark.parametrize("advances", [0, 3, 100])
@pytest.mark.parametrize("last", [False, True])
def test_finished_groups_come_first_and_none_later_than_allowed(
    steps: int, at_a_time: int, advances: int, last: bool
) -> None:
    """Whatever ends first: what needs the fewest tokens, or what was begun last."""
    run = ahead(steps, goes_on=advances > 0, prompts_per_generation=at_a_time, order="finished")
    run.writer.finish = (lambda waiting: waiting - 1) if last else shortest_first(run)
    batches = train(run, advances=advances)
    trained = [index for batch in batches for index in indices(batch)]
    assert len(trained) == len(set(trained)) == 4 * STEPS
    oldest = 0
    for step, batch in enumerate(batches, start=1):
        ages = [step - 1 - rollout.policy_version for group in batch.groups for rollout in group.rollouts]
        assert indices(batch) == sorted(indices(batch)), "those begun first come first"
        assert min(ages) >= 0
        assert max(ages) <= steps
        oldest = max(oldest, *ages)
    # All that was begun ``steps`` steps ago and teaches has been trained on; the rest follows.
    complete = [index for batch in batches[: STEPS - steps] for index in indices(batch)]
    assert set(taught(len(complete) - 4 * steps)) <= set(trained)
    assert trained != sorted(trained) or at_a_time == 4
    assert oldest >= 1


def test_a_batch_of_finished_groups_is_not_held_up_by_a_long_response() -> None:
    """Prompt 1 is the first with a long response: it comes when it is due, and in order of begin in the first batch."""
    found = {}
    for order in ("begun", "finished"):
        run = ahead(2, order=order, prompts_per_generation=9, drawn=0)
        run.writer.finish = shortest_first(run)
        found[order] = [indices(batch) for batch in train(run, 4)]
    assert 1 in found["begun"][0]
    assert [1 in batch for batch in found["finished"][:3]].index(True) == 2, "two versions after it was begun"


@pytest.mark.parametrize("goes_on", [False, True])
def test_tokens_are_kept_with_the_policy_that_drew_them(goes_on: bool) -> None:
    run = ahead(2, goes_on=goes_on, prompts_per_generation=9)
    changes = 0
    for batch in train(run, advances=2 * goes_on):
        for group in batch.groups:
            for number, rollout in enumerate(group.rollouts):
                length = LENGTHS[group.prompt.token_ids[0]] if number == 0 else 3
                assert list(rollout.token_ids) == list(range(min(length, LIMIT)))
                assert rollout.finish_reason == ("length" if length > LIMIT else "stop")
                versions = [int(-logprob) for logprob in rollout.logprobs]
                assert versions[0] == rollout.policy_version
                assert list(rollout.switches) == [
                    (i, version) for i, version in enumerate(versions) if i and version != versions[i - 1]
                ]
                changes += len(rollout.switches)
    assert changes > 10


def test_responses_are_finished_under_the_weights_that_began_them() -> None:
    run = ahead(2, goes_on=True, in_flight="finish", prompts_per_generation=9)
    for batch in train(run, advances=2):
        assert not any(rollout.switches for group in batch.groups for rollout in group.rollouts)
    assert run.writer.works, "they are in flight while the weights change"
    run.source.pause()
    assert not run.writer.works, "and finished for a checkpoint"


def test_nothing_is_begun_that_no_step_trains_on() -> None:
    run = ahead(4, prompts_per_generation=30)
    run.config.run.__dict__["steps"] = STEPS
    batches = train(run)
    assert values(batches[-2].metrics)["groups/ahead"] >= 1
    last = values(batches[-1].metrics)
    assert last["groups/ahead"] == 0
    begun = [request.number for request in run.writer.works]
    assert not begun
    assert sum(values(batch.metrics)["groups/aborted"] for batch in batches) == 0


def test_tokens_count_once() -> None:
    run = ahead(2, prompts_per_generation=9)
    batches = train(run)
    groups = [group for batch in batches for group in [*batch.groups, *batch.dropped]]
    whole = sum(len(rollout.token_ids) for group in groups for rollout in group.rollouts)
    assert sum(batch.generated_tokens for batch in batches) == whole


def test_which_prompts_are_trained_on_does_not_depend_on_timing() -> None:
    def found(finish: Callable[[int], int]) -> list[list[int]]:
        run = ahead(1, prompts_per_generation=6)
        run.writer.finish = finish
        return [indices(batch) for batch in train(run)]

    shuffle = random.Random(0)
    in_order = found(lambda waiting: 0)
    assert found(lambda waiting: waiting - 1) == in_order
    assert found(lambda waiting: shuffle.randrange(waiting)) == in_order


@pytest.mark.parametrize("order", ["begun", "finished"])
@pytest.mark.parametrize(
    ("goes_on", "in_flight"), [(False, "continue"), (True, "continue"), (True, "finish")]
)
def test_what_is_ahead_is_in_checkpoints(goes_on: bool, in_flight: str, order: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"goes_on": goes_on, "in_flight": in_flight, "prompts_per_generation": 9}
    first, second = ahead(2, order=order, **options), ahead(2, order=order, **options)
    for run in (first, second):
        run.writer.finish = shortest_first(run) if order == "finished" else run.writer.finish
    train(first, 3, advances=2 * goes_on)
    first.source.pause()
    state = json.loads(json.dumps(first.source.state()))
    assert any(each["judged"] for each in state["ahead"])
    first.source.save(tmp_path, 3)
    second.source.restore(state, tmp_path)
    mine, theirs = train(first, 8, first=4), train(second, 8, first=4)
    assert [batch.groups for batch in mine] == [batch.groups for batch in theirs]
    assert [batch.generated_tokens for batch in mine] == [batch.generated_tokens for batch in theirs]
    assert first.source.state() == second.source.state()


def test_an_error_gives_back_what_the_step_has_launched() -> None:
    run = ahead(1, prompts_per_generation=9)
    train(run, 2)
    before = run.source.state()

    def fail(waiting: int) -> int:
        raise ZeroDivisionError

    run.writer.finish = fail
    with pytest.raises(ZeroDivisionError):
        run.step(3)
    assert run.source.state() == before
    assert not run.writer.works
    run.writer.finish = lambda waiting: 0
    whole = ahead(1, prompts_per_generation=9)
    assert [indices(b) for b in train(run, 5, first=3)] == [indices(b) for b in train(whole, 7)][2:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch": {"ahead": {"steps": 1}, "put_off": {"budget_tokens": 20}}},
            r"batch\.put_off must be unset with batch\.ahead\.steps above 0",
        ),
        (
            {"batch": {"ahead": {"in_flight": "finish"}}},
            r"batch\.ahead\.in_flight 'finish' needs cluster\.generation",
        ),
        (
            {"batch": {"ahead": {}}, "algorithm": {"kind": "dapo", "dynamic_sampling": {"max_staleness": 2}}},
            r"algorithm\.dynamic_sampling\.max_staleness 2 has no effect with batch\.ahead",
        ),
        (
            {"batch": {"ahead": {}}, "rollout": {"sampling": {"max_response_tokens": LIMIT, "top_p": 0.9}}},
            r"batch\.ahead must be unset",
        ),
    ],
)
def test_what_cannot_be_combined_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OnlineConfig.model_validate(recipe(**changes))


@pytest.mark.parametrize(
    "name",
    [
        *("quickstart_sft", "dpo_quickstart", "rm_pointwise_quickstart", "iterated_dpo_quickstart"),
        "math_500",
    ],
)
def test_workers_for_generation_alone_are_for_online_recipes(name: str) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.generation is for recipe 'online'; it is "):
        load_recipe(name, ["cluster.kind=ray", "cluster.generation={}"])
    online = load_recipe("quickstart", ["cluster.kind=ray", "cluster.generation={}"])
    assert EvalConfig.of_training(online, "weights").cluster == without_generation(online.cluster)  # type: ignore[arg-type, union-attr]


def test_responses_of_several_policies_are_weighted_unless_the_recipe_says_otherwise() -> None:
    stale = OnlineConfig.model_validate(recipe(batch={"ahead": {}}))
    assert stale.algorithm.loss.stale_old_logprobs == "trainer"
    assert stale.algorithm.loss.importance_sampling.kind == "truncated"
    fresh = OnlineConfig.model_validate(recipe(batch={"ahead": {"steps": 0}}))
    assert fresh.algorithm.loss.importance_sampling.kind == "none"


def recipe(**changes: Any) -> dict[str, Any]:
    return {
        "recipe": "online",
        "run": {"output_dir": "unused", "steps": 5},
        "model": {"path": "unused"},
        "data": {"train": {"path": "unused.jsonl"}},
        "rollout": {"responses_per_prompt": GROUP, "sampling": {"max_response_tokens": LIMIT}},
        "reward": {"overlong": {"buffer_tokens": 10}},
        **changes,
    }
