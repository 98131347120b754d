"""A reward function of your own: copy this file, change `compute_score`, and name the copy in the recipe.

    reward:
      functions:
        - fn: path/to/my_reward.py:compute_score
          name: my_reward              # its name in the metrics: reward/my_reward
          weight: 1.0                  # its share in the weighted sum
          parameters: {bonus: 0.5}     # keyword arguments passed on every call

Functions written for verl run unchanged. Good to know:

- It is called by keyword, in a process of its own without a terminal. An answer that takes longer than
  `reward.timeout_seconds` has its process killed and counts as wrong; so does one that raises.
- The first function of the list decides accuracy, which dynamic sampling and the evaluation read.
- It should be a pure function: the same arguments, the same score. State is lost when a process is replaced.
- If it fails, it contributes `parameters.wrong_score` if there is one, else -1.
"""

from __future__ import annotations

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
    ``ground_truth``: the reference answer, as in the data file.
    ``extra_info``: whatever else the row holds.

    Return a number, or a dict with:
    ``score`` (number): enters the training signal; required.
    ``acc`` (bool, or 0 to 1): whether it is right; 1 where the score is positive if left out.
    ``pred`` (text): the answer found, for the record and for majority voting.
    Any other number is logged under its name, here as reward/my_reward/brief.
    """
    last_line = solution_str.strip().rsplit("\n", 1)[-1]
    correct = last_line == ground_truth
    brief = correct and len(solution_str) < 1000
    return {"score": float(correct) + bonus * brief, "acc": correct, "pred": last_line, "brief": float(brief)}
