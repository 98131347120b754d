"""A reward model's scores of answers that were sampled before, part by part, so that an interruption loses little.

``FOLDER/judged`` has a file per file of answers, with the scores as the model gave them: the recipe's weight is applied
when they are read, so another weight asks the model nothing. Answers and scores are in files of their own, because
what is sampled does not depend on the reward model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from reasoner_rl.commands.answer_parts import AnswersPart
from reasoner_rl.commands.hashes import checkpoint_hash, file_hash
from reasoner_rl.commands.settings import SETTINGS, settle
from reasoner_rl.config.judging import JudgingConfig
from reasoner_rl.config.training_recipe import SamplingRecipe
from reasoner_rl.distributed.launch import launch_judge
from reasoner_rl.distributed.restarts import with_restarts
from reasoner_rl.errors import DataError
from reasoner_rl.metrics import Metrics, values
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.summary import write_json
from reasoner_rl.reward_models.component import judged
from reasoner_rl.reward_models.judges import Judge, ScoringModel
from reasoner_rl.trainer.reward_models import choose_judge
from reasoner_rl.types import REWARD_MODEL, Prompt, ScoredGroup

Scores = list[list[float]]  # [groups][responses]


@dataclass(frozen=True, slots=True)
class KeptScores:
    """Implements `Judge` with scores that were given before."""

    kept: Scores

    def scores(self, groups: Sequence[ScoredGroup]) -> tuple[Scores, Metrics]:
        """See `Judge`. ``groups`` are those that the scores are of."""
        del groups
        return self.kept, {}


class AnswerJudge:
    """The reward model of a recipe that has one, for the answers in ``folder``.

    make: makes a judge of the model's weights. Raises ConfigError if the folder holds scores of another reward model.
    """

    def __init__(self, recipe: SamplingRecipe, folder: Path, make: Callable[[ScoringModel], Judge]) -> None:
        assert recipe.reward_model is not None
        self._make, self._weight = make, recipe.reward_model.weight
        self._config = JudgingConfig.of(recipe, folder)
        self._folder = folder / "judged"
        if not any(self._folder.glob("part_*.json")):
            (self._folder / SETTINGS).unlink(missing_ok=True)  # of a call that failed before its first score
        section = recipe.reward_model.model_dump(mode="json", exclude={"weight", "offload"})
        settings: dict[str, Any] = {f"reward_model.{key}": value for key, value in section.items()}
        settle(
            self._folder,
            settings | {"checkpoint": checkpoint_hash(section["path"])},
            "scores of a reward model",
        )

    def judge(self, parts: Sequence[AnswersPart]) -> None:
        """Ask the model about the parts that have no scores.

        Raises FloatingPointError if a score is not finite.
        """
        missing = [part for part in parts if self._kept(part) is None]
        say(f"reward model: {len(parts) - len(missing)} of {len(parts)} parts are judged")
        if missing:
            with_restarts(self._config.cluster, partial(self._judge_missing, parts), say)

    def _judge_missing(self, parts: Sequence[AnswersPart], restarts: int) -> None:
        missing = [part for part in parts if self._kept(part) is None]
        with launch_judge(self._config, say, restarts) as model:
            judge = self._make(model)
            for number, part in enumerate(missing, start=len(parts) - len(missing) + 1):
                with_scores, metrics = judged(part.groups(), judge, self._weight)
                scores = [[reward.components[REWARD_MODEL] for reward in g.rewards] for g in with_scores]
                write_json(self._file(part), {"answers": file_hash(part.file), "scores": scores})
                agrees = values(metrics).get("reward_model/accuracy")
                share = "" if agrees is None else f", {agrees:.1%} agreement with the verifier"
                say(f"  {number} of {len(parts)} parts: {sum(map(len, scores)):,} answers judged{share}")

    def with_scores(self, part: AnswersPart) -> list[ScoredGroup]:
        """The answers of a part that was judged, with the model's score, times its weight, in the rewards.

        Raises DataError if the scores are not those of the answers.
        """
        groups, kept = part.groups(), self._kept(part)
        if kept is None or [len(group) for group in kept] != [len(group.rollouts) for group in groups]:
            raise DataError(
                f"{self._file(part)}: does not hold the scores of the answers in {part.file}. {self._remedy(part)}"
            )
        return judged(groups, KeptScores(kept), self._weight)[0]

    def _kept(self, part: AnswersPart) -> Scores | None:
        """The scores of a part; None if there are none, or they are of answers that were in its file before.

        Raises DataError if the file cannot be read.
        """
        file = self._file(part)
        if not file.exists():
            return None
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            scores: Scores = [[float(score) for score in group] for group in kept["scores"]]
            return scores if kept["answers"] == file_hash(part.file) else None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(
                f"{file}: cannot be read as scores: {type(error).__name__}: {error}. {self._remedy(part)}"
            ) from error

    def _remedy(self, part: AnswersPart) -> str:
        return f"Delete {self._file(part)}, and the same command judges the answers again"

    def _file(self, part: AnswersPart) -> Path:
        return self._folder / f"{part.file.stem}.json"


def answer_judge(
    recipe: SamplingRecipe, folder: Path, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]
) -> AnswerJudge | None:
    """What judges the answers to ``prompts`` in ``folder`` by the recipe's reward model; None without one.

    Nothing is loaded, and all is checked that can be without. tokenizer: the policy's. Raises ConfigError if the model
    is of another kind, reads other tokens, or is not the one whose scores the folder holds.
    """
    make = choose_judge(recipe, tokenizer, prompts)
    return None if make is None else AnswerJudge(recipe, folder, make)
