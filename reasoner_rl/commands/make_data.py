"""`reasoner-rl data make-preferences` and `make-sft`: answers of a model, judged, as data to learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from reasoner_rl.commands.out_folder import OUT, naming_out
from reasoner_rl.commands.sample_answers import sampled_groups
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.config.training_recipe import SamplingRecipe
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.summary import write_json, write_jsonl
from reasoner_rl.prompts.making import (
    ExampleChoice,
    PairChoice,
    Row,
    complete_answers,
    examples_of_group,
    labels_by_score,
    labels_of_group,
    pairs_of_group,
    scores_of_group,
)
from reasoner_rl.prompts.read import Problem
from reasoner_rl.reward_models.component import agreements
from reasoner_rl.rewards.runner import RewardRunner
from reasoner_rl.sources.agreement import with_one_name_per_answer
from reasoner_rl.types import ScoredGroup


class NothingMadeError(DataError):
    """No answer is of use for any of the files that were to be made."""


@dataclass(slots=True)
class AnswersReport:
    """What was sampled, and what was made of it."""

    prompts: int = 0
    answers: int = 0
    tokens: int = 0  # of all answers
    unusable: int = 0  # cut off at the limit, empty, not judged, or the same as another of the group
    right: float = 0.0
    known: int = 0  # answers whose accuracy is known
    prompts_all_right: int = 0
    prompts_all_wrong: int = 0
    # Of two answers to a prompt of which one is right, how often the reward model prefers it; a tie counts half.
    agreed: float = 0.0
    compared: int = 0
    rows: dict[str, int] = field(default_factory=dict)  # by file

    def count(self, group: ScoredGroup) -> None:
        """Count a group in."""
        accuracies = [reward.accuracy for reward in group.rewards if reward.accuracy is not None]
        self.prompts += 1
        self.answers += len(group.rollouts)
        self.tokens += sum(len(rollout.token_ids) for rollout in group.rollouts)
        self.unusable += len(group.rollouts) - len(complete_answers(group))
        self.known += len(accuracies)
        self.right += sum(accuracies)
        self.prompts_all_right += bool(accuracies) and min(accuracies) >= 1
        self.prompts_all_wrong += bool(accuracies) and max(accuracies) <= 0
        agreed = agreements(group)
        self.agreed += sum(agreed)
        self.compared += len(agreed)

    def __str__(self) -> str:
        right = f", {self.right / self.known:.1%} of them right" if self.known else ""
        judged = ""
        if self.compared:
            judged = (
                f"the reward model prefers the right one of a right and a wrong answer in "
                f"{self.agreed / self.compared:.1%} of {self.compared:,} cases; "
            )
        made = ", ".join(f"{count:,} in {name}" for name, count in self.rows.items())
        return (
            f"{self.answers:,} answers to {self.prompts:,} prompts{right}; {self.prompts_all_right:,} prompts all "
            f"right, {self.prompts_all_wrong:,} all wrong; {self.unusable:,} answers not used "
            f"(cut off, empty, not judged or repeated); {judged}rows: {made}"
        )


def make_preferences(
    config: SamplingRecipe,
    folder: Path,
    choice: PairChoice,
    margin: float,
    rows: Sequence[int] | None = None,
    key: str = OUT,
) -> AnswersReport:
    """Sample answers, and write ``pairs.jsonl``, ``labels.jsonl`` and ``scores.jsonl`` into ``folder``.

    rows, key: see `sampled_groups`. Pairs and scores are by the whole score, the reward model's share included. Labels
    are by the verifier's accuracy (`labels_of_group`), and by the score where the reward model is all that counts in
    it (`labels_by_score`). Tells of a file without rows why it has none. Raises NothingMadeError if no answer is of use
    for any file.
    """
    labels, no_labels = labels_of_group, "the verifier says of no usable answer whether it is right"
    if config.model_judges_alone:
        labels, no_labels = labels_by_score, "no prompt has two usable answers whose scores differ"
        say(
            "labels.jsonl: all weights of reward.functions are 0, so an answer is good if its score is above the mean "
            "of its prompt's usable answers"
        )
    return _make(
        sampled_groups(config, folder, rows, key),
        folder / "preferences_report.json",
        {
            "pairs.jsonl": lambda group, problem: pairs_of_group(group, problem, choice, margin),
            "labels.jsonl": labels,
            "scores.jsonl": scores_of_group,
        },
        {
            "pairs.jsonl": f"no prompt has two answers whose scores differ by more than {margin:g}",
            "labels.jsonl": no_labels,
        },
        key,
    )


def make_sft(
    config: OnlineConfig, folder: Path, count: int, choice: ExampleChoice, agreement: float | None
) -> AnswersReport:
    """Sample answers, and write those that are right, or that agree, as worked examples into ``folder``/sft.jsonl.

    Raises DataError if there are none, and ConfigError if the recipe has a reward model, which would change nothing.
    """
    if config.reward_model is not None:
        raise ConfigError(
            "reward_model is set, and data make-sft takes answers that are right, or that agree, whatever their "
            "scores: leave the section out, or set reward_model=null"
        )
    seed = config.run.seed

    def examples(group: ScoredGroup, problem: Problem) -> list[Row]:
        return examples_of_group(group, problem, count, choice, agreement, seed)

    groups = sampled_groups(config, folder)
    with ExitStack() as stack:
        if agreement is not None:
            limit = config.rollout.sampling.max_response_tokens
            groups = with_one_name_per_answer(groups, stack.enter_context(RewardRunner(config.reward, limit)))
        return _make(
            groups,
            folder / "sft_report.json",
            {"sft.jsonl": examples},
            {"sft.jsonl": "no answer can be used as a worked example"},
        )


def _make(
    groups: Iterable[tuple[Problem, ScoredGroup]],
    report_file: Path,
    makers: dict[str, Callable[[ScoredGroup, Problem], list[Row]]],
    if_empty: dict[str, str],
    key: str = OUT,
) -> AnswersReport:
    """Write a file per maker beside the report, also those without rows, so that none of an earlier call stays.

    if_empty: what is told of a file without rows. key: see `sampled_groups`. Raises NothingMadeError, and writes
    nothing, if no file has any.
    """
    report, made = AnswersReport(), {name: list[Row]() for name in makers}
    for problem, group in groups:
        report.count(group)
        for name, maker in makers.items():
            made[name] += maker(group, problem)
    report.rows = {name: len(rows) for name, rows in made.items()}
    told = [f"{reason}: {name} is empty" for name, reason in if_empty.items() if not made[name]]
    if not any(made.values()):
        raise NothingMadeError(f"{'; '.join(if_empty.values())}, and no file has any rows: {report}")
    with naming_out(report_file.parent, key):
        for name, rows in made.items():
            write_jsonl(report_file.with_name(name), rows)
        write_json(report_file, asdict(report))
    for text in (*told, str(report)):
        say(text)
    return report
