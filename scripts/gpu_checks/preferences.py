"""Preference methods, reward models and distillation on the quickstart's task, by the functions of the commands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, cast

from gpu_checks import coin_reward
from gpu_checks.common import Context, Figures, Skip, release_cache, require, stopwatch, used_gib
from gpu_checks.learning import LEARNT, quickstart_folder, read_rows, warm_started
from reasoner_rl.commands.make_data import make_preferences
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import TrainConfig
from reasoner_rl.trainer.train import train

PREFERRED = 0.15  # by which held-out accuracy must grow with DPO; `LEARNT` is for distillation
TOLD_APART = 0.6  # share of held-out pairs that a reward model must order as the verifier does
AGREED = 0.55  # the same of all right and wrong answers to a prompt, those that were cut off included
# What models that were trained in this process may leave on the device; vLLM, with 20 % of it, would leave far more.
LEFT_GIB = 2.0
SHOWN = ("rewards/", "teacher/", "speed/", "memory/device", "memory/host_gib")  # figures of the last step


def fsdp(context: Context) -> Figures:
    """Answers sampled by vLLM, a reward model and DPO on pairs of them, and answers that the reward model judges."""
    if context.full:
        require("vllm")
    before = used_gib()
    pairs = sample(context, "answers", 0, context.pick(2000, 16))
    context.report(used_before_gib=before, used_after_sampling_gib=used_gib())
    heldout = sample(context, "heldout", 2000, context.pick(200, 8))
    learn_from_pairs(context, pairs, heldout)
    scorer = context.folder / "reward_model" / "final"
    sample(context, "judged", 2200, context.pick(200, 8), f"reward_model={{kind: pointwise, path: {scorer}}}")
    if context.full:
        report = json.loads((context.folder / "judged" / "preferences_report.json").read_text())
        agreed = report["agreed"] / report["compared"]
        context.report(judged_cases=report["compared"], judged_agreement_share=agreed)
        release_cache()  # of PyTorch, which is not what is looked for
        left = used_gib()
        context.report(used_after_gib=left)
        assert left < before + LEFT_GIB, f"{before:.2f} GiB were in use before, {left:.2f} are now"
        assert agreed > AGREED, f"the reward model prefers the right answer in {agreed:.1%} of cases"
    return {}


def megatron(context: Context) -> Figures:
    """A reward model and DPO by Megatron, on the pairs of the check before."""
    require("megatron.core", "mbridge")
    pairs, heldout = (context.work / "preferences" / name / "pairs.jsonl" for name in ("answers", "heldout"))
    if not heldout.is_file():
        raise Skip("the check preferences, which makes the pairs, has not run before")
    learn_from_pairs(context, pairs, heldout, "training.backend.kind=megatron")
    return {}


def distillation(context: Context) -> Figures:
    """The quickstart's warm start learns from the model that the check quickstart has made of it."""
    teacher = context.work / "quickstart" / "rl" / "final"
    if not teacher.is_dir():
        raise Skip("the check quickstart, which makes the teacher, has not run before")
    data = quickstart_folder(context) / "data"
    given = [f"teacher.path={teacher}", f"data.train.path={data / 'train.jsonl'}"]
    given += context.pick([], ["batch.prompts_per_step=4", "batch.prompts_per_update=2"])
    found = fit(
        context, "distillation_quickstart", "student", 11, context.pick(data / "heldout.jsonl", None), given
    )
    check_growth(context, found, LEARNT)
    return {}


def sample(context: Context, name: str, start: int, problems: int, *overrides: str) -> Path:
    """The file of the pairs of the warm start's own answers to some of the quickstart's training problems."""
    engine = "{kind: vllm, gpu_memory_utilization: 0.2, enforce_eager: true}"
    given = [f"data.train.start={start}", f"data.train.limit={problems}", *overrides]
    given.append(f"rollout.engine={context.pick(engine, '{kind: hf}')}")
    if not context.full:  # a model that hardly learnt to answer has no right answers
        given.append(f"reward.functions=[{{fn: '{Path(coin_reward.__file__)}:compute_score'}}]")
    _, recipe = warm_started(context, given)
    folder = context.folder / name
    with stopwatch() as seconds:
        report = make_preferences(recipe, folder, "all", 0.0)
        context.report(**{f"{name} s": seconds(), f"{name} sampled": report.answers})
    context.report(**{f"{name} pairs": report.rows["pairs.jsonl"]})
    return folder / "pairs.jsonl"


def learn_from_pairs(context: Context, pairs: Path, heldout: Path, *overrides: str) -> None:
    """A pointwise reward model and DPO, which must both learn at full size."""
    tiny = ["batch.examples_per_step=8", "training.schedule.warmup_steps=0"]
    given = [f"data.train.path={pairs}", *overrides, *context.pick([], tiny)]
    accuracy = fit(context, "rm_pointwise_quickstart", "reward_model", 60, heldout, given)["accuracy_after"]
    problems = quickstart_folder(context) / "data" / "heldout.jsonl"
    found = fit(context, "dpo_quickstart", "dpo", 22, context.pick(problems, None), given)
    check_growth(context, found, PREFERRED)
    assert accuracy > TOLD_APART or not context.full, f"the model orders {accuracy:.1%} of held-out pairs"


def fit(
    context: Context, recipe: str, name: str, steps: int, heldout: Path | None, overrides: Sequence[str]
) -> dict[str, Any]:
    """Train the warm start, which a check before made, by one of the quickstart's recipes; return the run's summary.

    name: of the run's folder and in the figures' names. steps: at tiny size it is 2. heldout: what is evaluated before
    and after, if anything.
    """
    output, steps = context.folder / name, context.pick(steps, 2)
    start = quickstart_folder(context) / "warm_start" / "final"
    given = [f"run.output_dir={output}", f"run.steps={steps}", "evaluation.every_steps=null"]
    given += [f"model.path={start}", "checkpoint.every_steps=1000"]
    given.append(f"evaluation.datasets.0.path={heldout}" if heldout else "evaluation.datasets=[]")
    with stopwatch() as seconds:
        train(cast(TrainConfig, load_recipe(recipe, [*given, "logging.progress=false", *overrides])))
        context.report(**{f"{name} run_s": seconds()})
    summary: dict[str, Any] = json.loads((output / "summary.json").read_text())
    rows = [row for row in read_rows(output / "metrics.jsonl") if "time/step" in row]
    context.report(**{f"{name} step_s": median(row["time/step"] for row in rows)})
    shown = {key: value for key, value in rows[-1].items() if key.startswith(SHOWN)} | {
        key: summary[key] for key in ("accuracy_before", "accuracy_after") if key in summary
    }
    context.report(**{f"{name} {key.replace('/', '_')}": value for key, value in shown.items()})
    assert len(rows) == steps, f"{name}: the run ended after {len(rows)} steps"
    return summary


def check_growth(context: Context, summary: dict[str, Any], least: float) -> None:
    """Raise AssertionError unless at full size held-out accuracy grew by ``least`` or more."""
    if context.full:
        before, after = summary["accuracy_before"], summary["accuracy_after"]
        assert after >= before + least, f"held-out accuracy went from {before:.1%} to {after:.1%}"
