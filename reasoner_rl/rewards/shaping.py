"""From what the reward functions said to the reward that is trained on. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from reasoner_rl.config.reward import OverlongConfig, RewardFunctionConfig
from reasoner_rl.rewards.contract import COUNTED_STATUSES, FunctionResult
from reasoner_rl.types import Reward

OVERLONG = "overlong"


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
    """What a function that failed counts as: wrong, with its own ``wrong_score`` (-1 if it has none)."""
    return FunctionResult(float(function.parameters.get("wrong_score", -1.0)), accuracy=0.0, status=status)


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
