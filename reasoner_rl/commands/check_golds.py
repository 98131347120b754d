"""Whether the verifier accepts each ground truth as its own answer; without that no response can be right."""

from __future__ import annotations

from collections.abc import Sequence

from reasoner_rl.commands.verify import DEFAULT_FN
from reasoner_rl.config.reward import RewardConfig, RewardFunctionConfig
from reasoner_rl.evaluation.verdicts import verdict
from reasoner_rl.observability.progress import progress_bar
from reasoner_rl.prompts.read import Problem
from reasoner_rl.rewards.runner import RewardRunner, RewardTask

# A ground truth is judged in each of these forms until one is accepted: no form suits every rule and every text.
WAYS = ("Answer: {}", "\\boxed{{{}}}", "#### {}")
NOT_AN_ANSWER = "is a list or mapping, which a verifier of its own reads"


def refused_golds(problems: Sequence[Problem]) -> dict[int, str]:
    """Number of a problem -> verdict of reward_fns.compute_score on its ground truth as an answer, unless correct.

    The verdict is that of the first form: wrong, unparsed, undecided, timeout or crash. Ground truths that are JSON are
    no answers, and are not judged. Answers are judged in processes with a deadline.
    """
    waiting = [number for number, problem in enumerate(problems) if not is_json(problem.ground_truth)]
    verdicts: dict[int, str] = {}
    config = RewardConfig(functions=[RewardFunctionConfig(fn=DEFAULT_FN, evaluation_parameters={})])
    with RewardRunner(config, 1) as runner, progress_bar("auto", "ground truths", len(waiting)) as advance:
        for way in WAYS:
            rewards = runner.score(
                [_task(problems[number], way) for number in waiting], advance if way == WAYS[0] else None
            )
            for number, reward in zip(waiting, rewards, strict=True):
                verdicts.setdefault(number, verdict(reward))
                if verdict(reward) == "correct":
                    verdicts[number] = "correct"
            waiting = [number for number in waiting if verdicts[number] != "correct"]
            if not waiting:
                break
    return {number: verdicts[number] for number in waiting}


def is_json(truth: str) -> bool:
    """Whether a ground truth is a mapping or a list of texts as JSON; see `truth_text`."""
    return truth.startswith(('{"', '["'))


def _task(problem: Problem, way: str) -> RewardTask:
    answer = way.format(problem.ground_truth)
    return RewardTask(problem.data_source, answer, problem.ground_truth, problem.extra_info)
