"""A reward function of your own: copy this file, change `compute_score`, and name the copy in the recipe.

    reward:
      functions:
        - fn: path/to/my_reward.py:compute_score
          name: my_reward              # its name in the metrics: reward/my_reward
          weight: 1.0                  # its share in the weighted sum
          parameters: {bonus: 0.5}     # keyword arguments passed on every call

Functions written for verl run unchanged. It may also be async (`async def`, awaited in its process), and it may take a
batch: with lists `data_sources`, `solution_strs`, `ground_truths` and `extra_infos` for arguments, as verl's batch
reward manager passes them, it returns a list with an entry per answer. An async function that takes a batch can work on
all answers at once, with `asyncio.gather`. What is at the bottom of this file shows both. Good to know:

- It is called by keyword, in a process of its own without a terminal. An answer that takes longer than
  `reward.timeout_seconds` or more memory than `reward.memory_gib` has its process replaced and counts as wrong; so does
  one that raises. For a batch the deadline is that of the whole batch, of `reward.batch_size` answers at most.
- `extra_info["response_tokens"]` is the length of the response, unless the row has a key of that name.
- `extra_info["opened_tag"]` is there if the prompt ends with a tag that it opens, as chat templates do that start the
  thinking: "think" for `<think>`. The response then begins within it.
- The first function of the list decides accuracy, which dynamic sampling and the evaluation read. A bare number gives
  none: then metrics say that accuracy is unknown, and dynamic sampling keeps the groups whose scores differ.
- It should be a pure function: the same arguments, the same score. Answers that are alike in all of them are judged
  once per batch (`reward.deduplicate`), and state is lost when a process is replaced (`reward.recycle_after`).
- Where it fails, its score is the recipe's `failure_score`, a key beside `fn` (unset: `parameters.wrong_score` if there
  is one, else -1), or the worst that it gave to the other responses to the same prompt, if that is lower.
"""

from __future__ import annotations

import asyncio
from typing import Any


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    bonus: float = 0.5,
) -> float | dict[str, Any]:
    """Score one response.

    ``data_source``: where the problem comes from, as in the data file.
    ``solution_str``: the whole response as text, without the prompt and special tokens.
    ``ground_truth``: the reference answer, as in the data file; lists and mappings as JSON with sorted keys.
    ``extra_info``: whatever else the row holds.

    Return True or False, a number (accuracy is then not known), or a dict with:
    ``score`` (number): enters the training signal; required.
    ``acc`` (bool, or 0 to 1): whether it is right; not known if left out.
    ``pred`` (text): the answer found, for the record and for majority voting.
    ``status`` (text): "unparsed" where no answer was found, counted in reward/unparsed; others are not counted.
    Any other number is logged under its name, here as reward/my_reward/brief.
    """
    last_line = solution_str.strip().rsplit("\n", 1)[-1]
    correct = last_line == ground_truth
    brief = correct and len(solution_str) < 1000
    return {"score": float(correct) + bonus * brief, "acc": correct, "pred": last_line, "brief": float(brief)}


async def compute_scores(
    data_sources: list[str],
    solution_strs: list[str],
    ground_truths: list[str],
    extra_infos: list[dict[str, Any]],
    *,
    bonus: float = 0.5,
    at_once: int = 8,
) -> list[float | dict[str, Any]]:
    """The same for a batch, ``at_once`` answers side by side: for a judge on another machine, that one waits for."""
    free = asyncio.Semaphore(at_once)

    async def one(
        source: str, solution: str, truth: str, extra_info: dict[str, Any]
    ) -> float | dict[str, Any]:
        async with free:
            await asyncio.sleep(0)  # here a judge would be asked
            return compute_score(source, solution, truth, extra_info, bonus=bonus)

    rows = zip(data_sources, solution_strs, ground_truths, extra_infos, strict=True)
    return await asyncio.gather(*(one(*row) for row in rows))
