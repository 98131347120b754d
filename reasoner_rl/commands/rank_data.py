"""`reasoner-rl data rank`: rankings and comparisons of answers as pairs and scores to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from reasoner_rl.commands.out_folder import naming_out
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.summary import write_json, write_jsonl
from reasoner_rl.prompts.bradley_terry import bradley_terry, require_choix
from reasoner_rl.prompts.making import PairChoice, Row
from reasoner_rl.prompts.ranking_scores import (
    ELO_K,
    ELO_PERIODS,
    ELO_SCALE,
    ELO_START,
    EQUAL,
    LOG_ODDS_PER_ELO_POINT,
    Array,
    Normalization,
    components,
    cycles,
    elo_ratings,
    has_finite_scores,
    majorities,
    normalized,
    win_matrix,
)
from reasoner_rl.prompts.rankings import ComparedAnswers, read_rankings

Method = Literal["pairs", "bradley-terry", "elo"]
ALPHA = 0.1
PAIRS, SCORES, REPORT = "ranked_pairs.jsonl", "ranked_scores.jsonl", "ranked_report.json"


@dataclass(frozen=True, slots=True)
class RankOptions:
    """How comparisons become pairs and scores."""

    method: Method
    pairs: PairChoice
    normalization: Normalization
    alpha: float  # of Bradley-Terry: further wins in each direction for each two answers that were compared

    def to_json(self) -> dict[str, Any]:
        """The settings that the method reads, with the constants."""
        chosen: dict[str, Any] = {"method": self.method, "pairs": self.pairs}
        if self.method == "pairs":
            return chosen
        chosen |= {"normalization": self.normalization, "margin": "log-odds"}
        if self.method == "bradley-terry":
            return chosen | {"alpha": self.alpha}
        return chosen | {"start": ELO_START, "k": ELO_K, "scale": ELO_SCALE, "periods": ELO_PERIODS}


@dataclass(slots=True)
class RankReport:
    """What was read, and what was made of it; ``prompts_with`` and ``unusual`` say where comparisons are not simple."""

    settings: dict[str, Any]
    rows_read: int
    rows_of_identical_answers: list[int]
    rows_that_compare_nothing: list[int]
    prompts: int = 0
    answers: int = 0
    comparisons: int = 0
    ties: int = 0
    answers_not_compared: int = 0
    equal_pairs: int = 0  # two answers that make no pair because neither is better
    pairs_against_majority: int = 0  # whose better answer by score lost most comparisons with the other
    prompts_with: dict[str, int] = field(default_factory=dict)
    unusual: list[dict[str, Any]] = field(default_factory=list)  # by prompt; answers are numbered from 0
    rows: dict[str, int] = field(default_factory=dict)  # by file

    def count(self, entry: ComparedAnswers, groups: Sequence[Sequence[int]]) -> None:
        """Count a prompt in; ``groups`` are its components of at least two answers."""
        self.prompts += 1
        self.answers += len(entry.answers)
        self.comparisons += entry.comparisons
        self.ties += entry.ties
        compared = {answer for group in groups for answer in group}
        alone = [number for number in range(len(entry.answers)) if number not in compared]
        self.answers_not_compared += len(alone)
        found: dict[str, Any] = {
            "unconnected_groups": groups if len(groups) > 1 else [],
            "answers_not_compared": alone,
            "cycles": cycles(len(entry.answers), entry.wins),
            "no_finite_scores_without_alpha": [g for g in groups if not has_finite_scores(g, entry.wins)],
        }
        if self.settings["method"] != "bradley-terry":
            del found["no_finite_scores_without_alpha"]
        found = {name: value for name, value in found.items() if value}
        for name in found:
            self.prompts_with[name] = self.prompts_with.get(name, 0) + 1
        if found:
            self.unusual.append({"row": entry.row, **found, "answers": entry.answers})

    def __str__(self) -> str:
        places = {"unconnected_groups": "answers in unconnected groups, whose scores cannot be compared"}
        places |= {
            "cycles": "a cycle of majorities",
            "answers_not_compared": "answers that were not compared",
        }
        alpha = self.settings.get("alpha", 0.0)
        places["no_finite_scores_without_alpha"] = f"scores that are finite because of alpha={alpha:g} alone"
        prompts = "".join(
            f"; {self.prompts_with[name]:,} prompts with {what}"
            for name, what in places.items()
            if name in self.prompts_with
        )
        against = f"; {self.pairs_against_majority:,} pairs against the majority of their own comparisons"
        made = ", ".join(f"{count:,} in {name}" for name, count in self.rows.items())
        return (
            f"{self.answers:,} answers to {self.prompts:,} prompts, {self.comparisons:,} comparisons, {self.ties:,} of "
            f"them ties; {self.answers_not_compared:,} answers not compared, without pair or score; "
            f"{self.equal_pairs:,} pairs left out because neither answer is better"
            f"{against if self.pairs_against_majority else ''}{prompts}; rows: {made}"
        )


def rank(file: Path, folder: Path, options: RankOptions) -> RankReport:
    """Write pairs, scores unless the method is pairs, and a report into ``folder``.

    Raises DataError for a row that cannot be read, for scores that cannot be computed, and if there is nothing to
    write; ConfigError for a folder that cannot be written to.
    """
    if options.method == "bradley-terry":
        require_choix()
    if options.method == "pairs" and options.pairs == "best_worst":
        raise ConfigError("--pairs best_worst needs scores: --method bradley-terry or elo")
    prompts, read = read_rankings(file)
    report = RankReport(options.to_json(), read.rows, read.identical, read.nothing_compared)
    pairs, scores = list[Row](), list[Row]()
    for entry in prompts:
        groups = [group for group in components(len(entry.answers), entry.wins) if len(group) > 1]
        report.count(entry, groups)
        label: Row = {
            "prompt": [dict(message) for message in entry.messages],
            "uid": f"{file.stem}/{entry.row - 1}",
        }
        if options.method == "pairs":
            pairs += [label | row for row in _pairs_by_majority(entry, report)]
            continue
        for number, group in enumerate(groups):
            scored = _scored(file, entry, group, options)
            label["component"] = number
            scores += [label | row for row in scored]
            pairs += [label | row for row in _pairs_by_score(entry, group, scored, options.pairs, report)]
    made = {PAIRS: pairs} | ({} if options.method == "pairs" else {SCORES: scores})
    report.rows = {name: len(rows) for name, rows in made.items()}
    say(f"{file.name}: {read}")
    if not any(made.values()):
        raise DataError(f"{file}: there is nothing to write: {report}")
    with naming_out(folder):
        if SCORES not in made and (folder / SCORES).exists():
            (folder / SCORES).unlink()
            say(f"{folder / SCORES} of an earlier call is removed: --method pairs makes no scores")
        for name, rows in made.items():
            write_jsonl(folder / name, rows)
        write_json(folder / REPORT, asdict(report))
    say(str(report))
    return report


def _pairs_by_majority(entry: ComparedAnswers, report: RankReport) -> list[Row]:
    """Each two answers that were compared, the one first that won more often."""
    better = majorities(entry.wins)
    report.equal_pairs += len(entry.wins) // 2 - len(better)
    return [
        {
            "chosen": entry.answers[winner],
            "rejected": entry.answers[loser],
            "chosen_wins": entry.wins[winner, loser],
            "rejected_wins": entry.wins[loser, winner],
        }
        for winner, loser in better
    ]


def _scored(file: Path, entry: ComparedAnswers, group: Sequence[int], options: RankOptions) -> list[Row]:
    """The answers of a group with their scores in [0, 1], and what these are made from: log-odds or Elo points."""
    if options.method == "elo":
        name, strengths = "elo", elo_ratings(win_matrix(group, entry.wins))
        log_odds = strengths * LOG_ODDS_PER_ELO_POINT
    else:
        name, strengths = "log_odds", _bradley_terry(file, entry, group, options.alpha)
        log_odds = strengths
    rewards = normalized(log_odds, options.normalization)
    return [
        {"completion": entry.answers[answer], "reward": float(reward), name: float(strength)}
        for answer, reward, strength in zip(group, rewards, strengths, strict=True)
    ]


def _bradley_terry(file: Path, entry: ComparedAnswers, group: Sequence[int], alpha: float) -> Array:
    if alpha == 0 and not has_finite_scores(group, entry.wins):
        raise DataError(
            f"{file}, row {entry.row}: some answers to the prompt won every comparison with the others, so that their "
            "scores are not finite with --alpha 0: choose --alpha above 0, or --method elo"
        )
    found = bradley_terry(win_matrix(group, entry.wins, alpha))
    if found is None:
        raise DataError(
            f"{file}, row {entry.row}: the scores of the prompt's {len(group)} answers lie too far apart to be "
            f"computed with --alpha {alpha:g}: choose a larger one, or --method elo"
        )
    return found


def _pairs_by_score(
    entry: ComparedAnswers,
    group: Sequence[int],
    scored: Sequence[Row],
    choice: PairChoice,
    report: RankReport,
) -> list[Row]:
    """Pairs of a group's answers whose strengths differ, with the difference in log-odds as the margin."""
    unit, name = (LOG_ODDS_PER_ELO_POINT, "elo") if "elo" in scored[0] else (1.0, "log_odds")
    ranked = sorted(zip(group, scored, strict=True), key=lambda answer: -answer[1][name])
    candidates = combinations(ranked, 2) if choice == "all" else [(ranked[0], ranked[-1])]
    made: list[Row] = []
    for (winner, better), (loser, worse) in candidates:
        margin = (better[name] - worse[name]) * unit
        if margin < EQUAL:
            report.equal_pairs += 1
            continue
        against = entry.wins.get((loser, winner), 0.0) > entry.wins.get((winner, loser), 0.0)
        report.pairs_against_majority += against
        made.append(
            {
                "chosen": better["completion"],
                "rejected": worse["completion"],
                "margin": margin,
                "chosen_score": better["reward"],
                "rejected_score": worse["reward"],
            }
        )
    return made
