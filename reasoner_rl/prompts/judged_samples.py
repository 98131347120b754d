"""Judged answers as training samples: one per answer; those of a pair are side by side, the better one first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING

from reasoner_rl.config.data import PreferenceDataConfig
from reasoner_rl.config.preference import JudgedData
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.prompts.judged import BAD, GOOD, JudgedExample, listed
from reasoner_rl.prompts.read import Problem
from reasoner_rl.prompts.render import PromptRenderer
from reasoner_rl.prompts.supervised import answer_ids, example_of
from reasoner_rl.types import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(slots=True)
class RenderedReport:
    """What became of judged examples; of what is unusual, the rows."""

    rows: list[int] = field(default_factory=list)  # those kept, in their order
    truncated_prompts: int = 0
    long_prompts: list[int] = field(default_factory=list)  # dropped
    long_answers: list[int] = field(default_factory=list)  # dropped
    identical: list[int] = field(default_factory=list)  # pairs of twice the same answer, dropped
    prefixes: list[int] = field(default_factory=list)  # pairs of which one answer begins with the other, kept
    # Tokens of answers by score; of a pair's, whatever its margin, as of a good and a bad one.
    lengths: dict[float, list[int]] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [
            f"{len(self.rows):,} rendered",
            f"{self.truncated_prompts:,} with the prompt cut on the left",
        ]
        unusual = {
            "dropped for too long a prompt": self.long_prompts,
            "dropped for too long an answer": self.long_answers,
            "dropped because both answers are the same": self.identical,
            "with an answer that is the beginning of the other (kept)": self.prefixes,
        }
        return "; ".join(parts + listed(unusual))


def judged_samples(
    examples: Sequence[JudgedExample], tokenizer: PreTrainedTokenizerBase, config: PreferenceDataConfig
) -> tuple[list[Example], RenderedReport]:
    """Render and tokenise. Answers end with EOS, and all of their tokens are trained.

    Raises DataError if nothing is left, or a prompt cannot be rendered.
    """
    if tokenizer.eos_token_id is None:
        raise ConfigError("the tokenizer has no end-of-sequence token, and every response must end with it")
    renderer, report = PromptRenderer(tokenizer, config.prompts), RenderedReport()
    rendered: list[Example] = []
    for example in examples:
        problem = Problem(
            f"{config.train.label}/{example.row - 1}", example.messages, "", "", row=example.row
        )
        whole = renderer.encode(problem)
        prompt = renderer.fit(problem, whole)
        answers = [answer_ids(answer, tokenizer) for answer in example.answers]
        if prompt is None:
            report.long_prompts.append(example.row)
        elif max(map(len, answers)) > config.max_response_tokens:
            report.long_answers.append(example.row)
        elif len(answers) == 2 and answers[0] == answers[1]:
            report.identical.append(example.row)
        else:
            if len(answers) == 2 and _begins(*answers):
                report.prefixes.append(example.row)
            report.truncated_prompts += len(whole) > len(prompt.token_ids)
            report.rows.append(example.row)
            scores = (GOOD, BAD) if len(answers) == 2 else example.scores
            for ids, score in zip(answers, scores, strict=True):
                report.lengths.setdefault(score, []).append(len(ids))
            rendered.append(
                tuple(
                    example_of(prompt.token_ids, ids).replace(reward=score)
                    for ids, score in zip(answers, example.scores, strict=True)
                )
            )
    if not rendered:
        raise DataError(
            f"{config.train.path}: no example is left: {report}. data.prompts.max_tokens is "
            f"{config.prompts.max_tokens}, data.max_response_tokens {config.max_response_tokens}"
        )
    return rendered, report


def describe(report: RenderedReport, kind: JudgedData) -> str:
    """What the answers are like: lengths of better against worse ones, which methods may learn instead of quality."""
    if kind == "scores":
        scores = [score for score, lengths in report.lengths.items() for _ in lengths]
        tokens = fmean(length for lengths in report.lengths.values() for length in lengths)
        found = f"scores from {min(scores):g} to {max(scores):g}, mean {fmean(scores):.3g}"
        return f"{found}; {tokens:.1f} tokens on average"
    good, bad = (report.lengths.get(score, []) for score in (GOOD, BAD))
    better, worse = ("chosen", "rejected") if kind == "pairs" else ("good", "bad")
    parts = [
        f"{len(lengths):,} {name}: {fmean(lengths):.1f} tokens on average"
        for name, lengths in ((better, good), (worse, bad))
        if lengths
    ]
    if kind == "pairs":
        longer = fmean(one > other for one, other in zip(good, bad, strict=True))
        parts.append(f"the chosen answer is the longer one in {longer:.0%} of pairs")
    return "; ".join(parts)


def _begins(first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether one of two answers, without its end of sequence, is the beginning of the other."""
    shorter, longer = sorted((list(first[:-1]), list(second[:-1])), key=len)
    return longer[: len(shorter)] == shorter
