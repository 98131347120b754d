"""One file of sampled answers, which are those to a part of a recipe's problems."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reasoner_rl.errors import DataError
from reasoner_rl.observability.rollout_table import groups_of, read_rollouts
from reasoner_rl.types import Prompt, ScoredGroup


@dataclass(frozen=True, slots=True)
class AnswersPart:
    """Prompts, and the file that their answers are in, or will be."""

    prompts: list[Prompt]
    file: Path

    def groups(self) -> list[ScoredGroup]:
        """The answers with the verifier's rewards, a group per prompt, in the order of the prompts.

        Raises DataError if the file cannot be read, or has not all of the prompts.
        """
        remedy = f"Delete {self.file}, and the same command samples its answers again"
        try:
            groups = groups_of(read_rollouts(self.file))
        except DataError as error:
            raise DataError(f"{error} {remedy}") from error
        if [group.prompt.uid for group in groups] != [prompt.uid for prompt in self.prompts]:
            raise DataError(
                f"{self.file}: does not hold the answers to the {len(self.prompts)} prompts of its part. {remedy}"
            )
        return groups
