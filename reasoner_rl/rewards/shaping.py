"""From what the reward functions said to the reward that is trained on. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from reasoner_rl.config.reward import OverlongConfig, RewardFunctionConfig
from reasoner_rl.rewards.contract import COUNTED_STATUSES, FunctionResult
from reasoner_rl.types import OVERLONG, Reward


def overlong_penalty(
    response_tokens: int, max_response_tokens: int, buffer_tokens: int, penalty: float
) -> float:
    """Return the soft overlong punishment, from 0 down to ``-penalty`` (arXiv 2503.14476, equation 13).

    It falls linearly over the last ``buffer_tokens`` before the limit; a buffer of 0 turns it off.
    """
    if buffer_tokens == 0:
        return 0.0
    excess = response_tokens - (max_response_tokens - buffer_tokens)
    return penalty * max(min(-excess / buffer_tokens, 0.0), -1.0)


def failed_result(status: str, function: RewardFunctionConfig) -> FunctionResult:
    """What a function that failed counts as: wrong, with its ``score_of_failure``; see also `settle_failures`."""
    return FunctionResult(function.score_of_failure, accuracy=0.0, status=status, failed=True)


def settle_failures(
    results: Sequence[Sequence[FunctionResult]],
    groups: Sequence[int | None],
    functions: Sequence[RewardFunctionConfig],
) -> list[list[FunctionResult]]:
    """Lower the scores of failures to the worst verdict of their group, so that no failure is rewarded.

    results: [responses][functions]; groups: [responses], equal for responses to one prompt, None for one alone.
    A failure keeps its own score if that is lower, or if its function gave no verdict in the group. "Lower" is
    meant after weighting: under a negative weight the highest score is the worst.
    """
    verdicts: defaultdict[tuple[int, int], list[float]] = defaultdict(list)  # (group, function) -> scores
    for row, group in zip(results, groups, strict=True):
        for place, result in enumerate(row):
            if group is not None and not result.failed:
                verdicts[group, place].append(result.score)

    def settled(result: FunctionResult, group: int | None, place: int) -> FunctionResult:
        if group is None or not result.failed:
            return result
        weight = functions[place].weight
        scores = [result.score, *verdicts[group, place]]
        return replace(result, score=min(scores, key=lambda score: weight * score))

    return [
        [settled(result, group, place) for place, result in enumerate(row)]
        for row, group in zip(results, groups, strict=True)
    ]


def combine(
    results: Sequence[FunctionResult],
    functions: Sequence[RewardFunctionConfig],
    overlong: OverlongConfig,
    *,
    response_tokens: int,
    max_response_tokens: int,
    truncated: bool,
    seconds: float = 0.0,
) -> Reward:
    """Return the weighted sum of the functions' scores plus the overlong penalty, with every part by name.

    ``results`` and ``functions`` are in the same order. The first decides accuracy and the extracted answer.
    A response that was ``truncated`` is left out of the loss if ``overlong.mask_truncated``.
    """
    penalty = overlong_penalty(response_tokens, max_response_tokens, overlong.buffer_tokens, overlong.penalty)
    components: dict[str, float] = {}
    score = penalty
    for result, function in zip(results, functions, strict=True):
        score += function.weight * result.score
        components[function.label] = result.score
        components |= {f"{function.label}/{name}": value for name, value in result.components.items()}
    statuses = {result.status for result in results}
    return Reward(
        score=score,
        accuracy=results[0].accuracy,
        components=components | {OVERLONG: penalty},
        status=next((status for status in COUNTED_STATUSES if status in statuses), "ok"),
        extracted=results[0].extracted,
        trained=not (truncated and overlong.mask_truncated),
        seconds=seconds,
    )
