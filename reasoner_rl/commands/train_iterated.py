"""`reasoner-rl train` with an iterated recipe: rounds of sampling answers, judging them and learning from them.

In run.output_dir, round n has a folder with

    data/        answers, and the files made of them, as by `data make-preferences`
    train/       the run that learns from them; round n + 1 starts from its final/
    round.json   what the round has done; it is written last, and says that the round is finished
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from reasoner_rl.commands.hashes import checkpoint_hash
from reasoner_rl.commands.make_data import AnswersReport, NothingMadeError, make_preferences
from reasoner_rl.commands.memory import give_back_memory, run_phase
from reasoner_rl.commands.settings import settle
from reasoner_rl.config.iterated import IteratedConfig
from reasoner_rl.config.yaml_text import flat_keys
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.evaluation.estimators import EvaluationReport
from reasoner_rl.metrics import values
from reasoner_rl.observability.messages import say
from reasoner_rl.observability.summary import write_json, write_jsonl
from reasoner_rl.prompts.fingerprint import fingerprint
from reasoner_rl.prompts.sampler import OrderedSampler
from reasoner_rl.tokenizer import load_tokenizer
from reasoner_rl.trainer.export_checkpoint import with_exported_models
from reasoner_rl.trainer.finish import draw_curves, export_folder
from reasoner_rl.trainer.folder import begin_run, output_folder, record_run
from reasoner_rl.trainer.loading import (
    check_context,
    check_other_model,
    check_rewards,
    check_same_tokenizer,
    check_vocabulary,
    load_held_out,
    load_prompts,
)
from reasoner_rl.trainer.reward_models import choose_judge
from reasoner_rl.trainer.run_data import tell_recipe
from reasoner_rl.trainer.train import train
from reasoner_rl.types import Prompt

Row = dict[str, Any]  # of round.json
# Keys that may change between two starts of a run: its weights do not depend on them.
_FREE = (
    *(
        "run.output_dir",
        "run.resume",
        "run.threads",
        "rounds.count",
        "evaluation.",
        "checkpoint.",
        "logging.",
    ),
    *("cluster.", "batch.micro_batch_tokens", "training.offload", "training.logprob_chunk_tokens"),
)


def train_iterated(config: IteratedConfig) -> dict[str, Any] | None:
    """Run the recipe to its end, keeping the rounds that are finished and resuming the one that is not.

    Returns the summary, also written to ``summary.json``, or None if the run was stopped before its end.
    """
    config = with_exported_models(config)
    with output_folder(config.run) as output:
        rounds = _finished_rounds(config, output)
        begin_run(config)
        tell_recipe(config)
        problems = _check_data(config, output)
        record_run(config)
        if len(rounds) == config.rounds.count:
            say(f"all {len(rounds)} rounds were made before; a higher rounds.count continues")
        ended = None
        while len(rounds) < config.rounds.count and ended is None:
            try:
                row = _train_round(config, output, rounds, problems)
            except NothingMadeError as error:
                if not rounds:
                    raise
                ended = f"round {len(rounds) + 1} has nothing to learn from: {error}"
                say(f"{ended}. The run ends after round {len(rounds)}")
                continue
            if row is None:
                return None
            rounds.append(row)
            _log(config, output, rounds)
        return _finish(config, output, rounds, ended)


def _finished_rounds(config: IteratedConfig, output: Path) -> list[Row]:
    """What round.json says of the finished rounds, in their order.

    Raises ConfigError if the folder cannot be of this run, or the run cannot go on there.
    """
    begun = sorted(int(n) for path in output.glob("round_*") if (n := path.name[6:]).isdecimal())
    if config.run.resume == "never" and begun:
        raise ConfigError(
            f"run.resume is 'never', but {output} holds rounds: choose another run.output_dir, or run.resume=auto"
        )
    others = [name for name in ("summary.json", "checkpoints") if not begun and (output / name).exists()]
    if others:
        raise ConfigError(
            f"{output} holds another run ({', '.join(others)}), and no rounds: choose another run.output_dir"
        )
    rounds: list[Row] = []
    while (file := _round(output, len(rounds) + 1) / "round.json").exists():
        try:
            rounds.append(json.loads(file.read_text(encoding="utf-8")))
        except ValueError as error:
            raise DataError(
                f"{file}: cannot be read ({error}): delete {file.parent}, to repeat it"
            ) from error
        shutil.rmtree(_checkpoints(output, len(rounds)), ignore_errors=True)  # of a process that was killed
    done = len(rounds)
    if begun and begun[-1] > done + 1:
        raise ConfigError(
            f"{_round(output, begun[-1])} exists, but round {done + 1} is not finished, from which it came: delete it"
        )
    if done > config.rounds.count:
        raise ConfigError(
            f"rounds.count={config.rounds.count}, but {output} holds {done} finished rounds: choose at least {done}, "
            "or another run.output_dir"
        )
    if rounds and not _weights(output, done).is_dir():
        raise ConfigError(
            f"{_weights(output, done)} is gone, the weights of the last finished round: bring them back, or delete "
            f"{_round(output, done)} to repeat the round"
        )
    return rounds


def load_iterated(config: IteratedConfig) -> list[Prompt]:
    """Read and render the problems, and check all that can be checked before anything is sampled.

    Raises ConfigError and DataError.
    """
    tokenizer = load_tokenizer(config.model)
    prompts = load_prompts(config.data.train, config.data.prompts, tokenizer, show_first=True)
    held_out = load_held_out(config.evaluation.datasets, config.data.prompts, tokenizer)
    samplings = config.rollout.sampling, config.evaluation_sampling
    check_context(config.model, prompts, samplings[0].max_response_tokens)
    for problems in held_out:
        check_context(config.model, problems.prompts, samplings[1].max_response_tokens)
    everything = [*prompts, *(prompt for problems in held_out for prompt in problems.prompts)]
    tokens = {token for prompt in everything for token in prompt.token_ids}
    check_vocabulary(config.model, tokenizer, tokens, samplings)
    check_rewards(config.reward, prompts[0])
    if config.reference is not None:
        reference = config.model.frozen_beside(config.reference.path)
        check_other_model("reference", reference, config.model, tokenizer)
        check_same_tokenizer("reference", reference, tokenizer)
    choose_judge(config, tokenizer, prompts)
    return prompts


def _check_data(config: IteratedConfig, output: Path) -> int:
    """Check the data, and that the folder's rounds are of this recipe. Returns the number of problems.

    Raises ConfigError and DataError.
    """
    prompts = load_iterated(config)
    keys = flat_keys(config.model_dump(mode="json"))
    settings = {key: value for key, value in keys.items() if not key.startswith(_FREE)}
    if config.reward_model is not None:
        settings["reward_model.checkpoint"] = checkpoint_hash(config.reward_model.path)
    if not _round(output, 1).exists():
        with suppress(FileNotFoundError):
            (output / "settings.json").unlink()  # of a run that failed before its first round
    settle(output, settings | {"problems": fingerprint(prompts)}, "rounds that were made")
    return len(prompts)


def _train_round(config: IteratedConfig, output: Path, rounds: list[Row], problems: int) -> Row | None:
    """The round after those in ``rounds``; None if it was stopped. Raises NothingMadeError if nothing can be learnt."""
    number = len(rounds) + 1
    folder, data = _round(output, number), _round(output, number) / "data"
    weights = str(_weights(output, number - 1)) if rounds else config.model.path
    rows = rows_of_round(config, number, problems)
    again = ", some of them not for the first time" if rows and number * len(rows) > problems else ""
    said = f"round {number} of {config.rounds.count}"
    say(f"{said}: answers to {len(rows or range(problems)):,} of {problems:,} problems{again}, by {weights}")
    with _counting_seconds(folder / "sampling.json"):
        sampling = config.sampling_of_round(number, weights)
        report = make_preferences(
            sampling, data, config.pairs.choice, config.pairs.margin, rows, "run.output_dir"
        )
    give_back_memory()
    _require_examples(config, report, data)
    before = rounds[-1]["held_out_after"] if rounds else None
    evaluate_at_start = (
        config.evaluation.at_start and not before
    )  # the same weights, and the same random numbers
    training = config.training_of_round(weights, data, folder / "train", evaluate_at_start=evaluate_at_start)
    summary = run_phase("training", training, train, training)
    if summary is None:
        return None
    evaluations = summary["evaluations"]
    row = {
        "round": number,
        "problems": report.prompts,
        "answers": report.answers,
        "generated_tokens": report.tokens,
        "answers_right": report.right / report.known if report.known else None,
        "reward_model_accuracy": report.agreed / report.compared if report.compared else None,
        config.algorithm.data: report.rows[f"{config.algorithm.data}.jsonl"],
        "steps": summary["steps"],
        "sampling_seconds": round(_seconds(folder / "sampling.json"), 1),
        "training_seconds": summary["seconds"],
        "held_out_before": evaluations.get("0") or before,
        "held_out_after": evaluations.get(str(summary["steps"])),
    }
    row |= {f"accuracy_{when}": _accuracy(row[f"held_out_{when}"]) for when in ("before", "after")}
    write_json(folder / "round.json", row)
    shutil.rmtree(_checkpoints(output, number), ignore_errors=True)  # nothing resumes from them any more
    shown = [f"{share:.1%}" for when in ("before", "after") if (share := row[f"accuracy_{when}"]) is not None]
    say(f"{said} is finished{': held-out accuracy ' if shown else ''}{' -> '.join(shown)}")
    return row


def rows_of_round(config: IteratedConfig, number: int, problems: int) -> list[int] | None:
    """Which of the problems a round answers, each once; None for all of them, in their order."""
    wanted = config.rounds.problems
    if wanted is None or wanted >= problems:
        return None
    sampler, rows = OrderedSampler(problems, config.run.seed, config.data.shuffle), dict[int, None]()
    for _ in range(number):
        rows = {}
        while len(rows) < wanted:  # where a new order begins, it may begin with problems of this round
            rows |= dict.fromkeys(sampler.take(1))
    return list(rows)


def _require_examples(config: IteratedConfig, report: AnswersReport, data: Path) -> None:
    """Raise NothingMadeError if there is nothing that the algorithm could learn from."""
    kind = config.algorithm.data
    if not report.rows[f"{kind}.jsonl"]:
        raise NothingMadeError(f"{data / kind}.jsonl has no rows: {report}")
    if kind == "labels":
        with (data / "labels.jsonl").open(encoding="utf-8") as lines:
            labels = {json.loads(line)["label"] for line in lines}
        if len(labels) == 1:
            raise NothingMadeError(
                f"all answers are {'good' if labels == {True} else 'bad'}, and KTO needs both kinds: {report}"
            )


@contextmanager
def _counting_seconds(file: Path) -> Iterator[None]:
    """Add the seconds of the block to those in ``file``, also where it is interrupted; not if the process is killed."""
    started = time.perf_counter()
    try:
        yield
    finally:
        write_json(file, {"seconds": _seconds(file) + time.perf_counter() - started})


def _seconds(file: Path) -> float:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return float(json.loads(file.read_text(encoding="utf-8"))["seconds"])
    return 0.0


def _log(config: IteratedConfig, output: Path, rounds: list[Row]) -> None:
    """Write metrics.jsonl anew: a line for the start, if it was evaluated, and one per round, at its last step."""
    lines: list[dict[str, Any]] = []
    tokens, seconds, start = 0, 0.0, rounds[0]["held_out_before"]
    if start:
        lines.append({"step": 0, "round": 0, "generated_tokens": 0, "seconds": 0.0, **_metrics(start)})
    for row in rounds:
        tokens += row["generated_tokens"]
        seconds += row["sampling_seconds"] + row["training_seconds"]
        made = {name: row[name] for name in ("answers", "answers_right", config.algorithm.data)}
        line = {"step": row["round"] * row["steps"], "round": row["round"], "generated_tokens": tokens}
        if (agreement := row.get("reward_model_accuracy")) is not None:
            made["reward_model/accuracy"] = agreement
        lines.append(line | {"seconds": round(seconds, 1)} | made | _metrics(row["held_out_after"]))
    write_jsonl(output / "metrics.jsonl", lines)


def _metrics(held_out: dict[str, Any] | None) -> dict[str, float]:
    """The metrics of evaluations, as a training run logs them."""
    reports = [EvaluationReport(**report) for report in (held_out or {}).values()]
    return {name: number for report in reports for name, number in values(report.metrics()).items()}


def _finish(config: IteratedConfig, output: Path, rounds: list[Row], ended: str | None) -> dict[str, Any]:
    """Put the last weights in final/, write and return the summary, and plot the curves."""
    weights = _weights(output, len(rounds))

    def link(folder: Path) -> None:
        shutil.copytree(weights, folder, copy_function=_link, dirs_exist_ok=True)

    export_folder(output / "final", link)
    say(f"weights: {output / 'final'}")
    seconds = sum(row["sampling_seconds"] + row["training_seconds"] for row in rounds)
    summary = {
        "steps": sum(row["steps"] for row in rounds),
        "seconds": round(seconds, 1),
        "seed": config.run.seed,
        "algorithm": config.algorithm.kind,
        "generated_tokens": sum(row["generated_tokens"] for row in rounds),
        "accuracy_before": rounds[0]["accuracy_before"],
        "accuracy_after": rounds[-1]["accuracy_after"],
        "ended_because": ended,
        "rounds": rounds,
    }
    write_json(output / "summary.json", summary)
    say(f"summary: {output / 'summary.json'}")
    _log(config, output, rounds)
    if any(row["held_out_after"] for row in rounds):
        draw_curves(output)
    return summary


def _link(source: str, target: str) -> None:
    """A second name for the same file, which takes no room; a copy where the file system has no such thing."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def _accuracy(held_out: dict[str, Any] | None) -> float | None:
    """Of the first held-out set; None if nothing was evaluated or it is not known."""
    report: dict[str, Any] = next(iter((held_out or {}).values()), {})
    return report.get("accuracy")


def _round(output: Path, number: int) -> Path:
    return output / f"round_{number}"


def _weights(output: Path, number: int) -> Path:
    return _round(output, number) / "train" / "final"


def _checkpoints(output: Path, number: int) -> Path:
    return _round(output, number) / "train" / "checkpoints"
