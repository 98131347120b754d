"""Whole runs: a few steps of DAPO and PPO with vLLM beside each backend, and the quickstart, which must learn."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import quickstart as script
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from gpu_checks import coin_reward
from gpu_checks.common import Context, Figures, checkpoint, require, stopwatch
from gpu_checks.pair import TOKEN_GAP
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig, SftConfig
from reasoner_rl.trainer.train import train

DAPO_STEPS = 3
SHOWN = ("time/", "speed/", "memory/", "sync/", "policy/rollout_gap")  # figures of the last step
LEARNT = 0.3  # by which held-out accuracy must grow in the quickstart


def dapo_offload_all(context: Context) -> Figures:
    """Three steps of DAPO where weights and optimizer are in host memory during generation."""
    return dapo(context, "all")


def dapo_offload_optimizer(context: Context) -> Figures:
    """Three steps of DAPO where the optimizer's state is in host memory during generation."""
    return dapo(context, "optimizer")


def dapo_offload_none(context: Context) -> Figures:
    """Three steps of DAPO where the trainer stays on the device."""
    return dapo(context, "none")


def dapo_megatron(context: Context) -> Figures:
    """Three steps of DAPO that Megatron trains, with everything in host memory during generation."""
    require("megatron.core", "mbridge")
    return dapo(context, "all", "training.backend.kind=megatron")


def ppo(context: Context) -> Figures:
    """Three steps of PPO: policy, critic, reference and reward model take turns on the device with vLLM."""
    overrides = [
        "algorithm.kl_in_reward.coefficient=0.001",
        "algorithm.critic_warmup_steps=0",
        "critic.optimizer.lr=1e-5",
        f"reward_model={{kind: pointwise, path: {scoring_checkpoint(context)}}}",
    ]
    return run_steps(context, "ppo_quickstart", "all", *overrides)


def scoring_checkpoint(context: Context) -> Path:
    """A reward model as the hub has them: the policy's shape with a head of one label, with random weights."""
    base, folder = checkpoint(context, context.pick("0.5b", "tiny")), context.folder / "reward_model"
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def dapo(context: Context, offload: str, *overrides: str) -> Figures:
    """Three steps of DAPO."""
    return run_steps(context, "quickstart", offload, *overrides)


def run_steps(context: Context, name: str, offload: str, *overrides: str) -> Figures:
    """Three steps by the trainer of `reasoner-rl train`, in bfloat16 with vLLM; tiny: with the embedded engine."""
    if context.full:
        require("vllm")
    print(f"{context.name} on {context.device}", flush=True)
    base, output = checkpoint(context, context.pick("0.5b", "tiny")), context.folder / "run"
    train(recipe(context, name, base, output, [f"training.offload={offload}", *overrides]))
    rows = read_rows(output / "metrics.jsonl")
    last = rows[-1]
    context.report(
        **{name.replace("/", "_"): value for name, value in last.items() if name.startswith(SHOWN)}
    )
    assert [row["step"] for row in rows] == [1, 2, 3], (
        f"steps that were logged: {[row['step'] for row in rows]}"
    )
    for row in rows:
        assert math.isfinite(row["policy/loss"]), f"step {row['step']}: the loss is {row['policy/loss']}"
        assert row["train/grad_norm"] > 0, f"step {row['step']}: the gradient is zero"
        gap = row["policy/rollout_gap_mean"]
        assert gap <= TOKEN_GAP["bfloat16"], (
            f"step {row['step']}: the engines' logprobs differ by {gap:.3g} nats on average"
        )
    changed = changed_share(base, output / "final")
    context.report(changed_tensors_share=changed)
    assert changed > 0.5, f"training changed {changed:.0%} of the tensors"
    return {}


def recipe(context: Context, name: str, base: Path, output: Path, overrides: Sequence[str]) -> OnlineConfig:
    """One of the quickstart's recipes on a random model, with a reward that has spread at once."""
    data = context.folder / "problems.jsonl"
    problems = ({"problem": f"Compute {n}+{n * n} ?\n", "answer": str(n)} for n in range(200))
    data.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    engine = "{kind: vllm, gpu_memory_utilization: 0.2, enforce_eager: true, max_batch_sequences: 64}"
    loaded = load_recipe(
        name,
        [
            f"run.output_dir={output}",
            f"run.steps={DAPO_STEPS}",
            f"model.path={base}",
            "model.dtype=bfloat16",
            f"data.train.path={data}",
            f"rollout.engine={context.pick(engine, '{kind: hf}')}",
            f"rollout.sampling.max_response_tokens={context.pick(64, 16)}",
            f"rollout.responses_per_prompt={context.pick(8, 4)}",
            "reward.overlong.buffer_tokens=8",
            f"reward.functions=[{{fn: '{Path(coin_reward.__file__)}:compute_score'}}]",
            f"batch.prompts_per_step={context.pick(8, 4)}",
            f"batch.prompts_per_update={context.pick(4, 2)}",
            "training.optimizer.lr=1e-5",
            "evaluation={datasets: []}",
            "evaluation.every_steps=null",
            "logging.progress=false",
            *overrides,
        ],
    )
    assert isinstance(loaded, OnlineConfig)
    return loaded


def quickstart(context: Context) -> Figures:
    """The quickstart with fewer steps and the embedded engine, which must learn."""
    return learn(context, context.pick(15, 2))


def quickstart_vllm(context: Context) -> Figures:
    """The quickstart with vLLM and CUDA graphs in bfloat16, from the same warm start, which must learn."""
    require("vllm")
    engine = f"{{kind: vllm, gpu_memory_utilization: 0.2, enforce_eager: {context.pick('false', 'true')}}}"
    return learn(context, context.pick(25, 2), "model.dtype=bfloat16", f"rollout.engine={engine}")


def learn(context: Context, steps: int, *overrides: str) -> Figures:
    """A warm start, unless a check before made it, and DAPO. At full size held-out accuracy must grow."""
    output = context.folder / "rl"
    print(f"{context.name} on {context.device}: {steps} steps", flush=True)
    given = [f"run.steps={steps}", f"run.output_dir={output}", "evaluation.every_steps=null", *overrides]
    given += ["checkpoint.every_steps=1000", "logging.progress=false"]
    if not context.full:  # a model that hardly learnt to answer has groups with equal rewards alone
        given += ["evaluation.datasets=[]", "algorithm.dynamic_sampling.enabled=false"]
        given += ["batch.prompts_per_step=4", "batch.prompts_per_update=2"]
    run, dapo = warm_started(context, given)
    losses = [row["sft/loss"] for row in read_rows(run.folder / "warm_start" / "metrics.jsonl")]
    context.report(
        warm_start_s=run.seconds["warm start"],
        warm_start_steps_per_s=len(losses) / run.seconds["warm start"],
        loss_first_nats=losses[0],
        loss_last_nats=losses[-1],
    )
    assert losses[-1] < 0.6 * losses[0], (
        f"the warm start's loss went from {losses[0]:.3g} to {losses[-1]:.3g}"
    )
    with stopwatch() as seconds:
        train(dapo)
        context.report(dapo_s=seconds())
    rows = [row for row in read_rows(output / "metrics.jsonl") if "time/step" in row]
    summary = script.read_json(output / "summary.json")
    before, after = summary.get("accuracy_before"), summary.get("accuracy_after")
    context.report(
        steps=summary["steps"],
        step_s=median(row["time/step"] for row in rows),
        generate_tokens_per_s=median(row["speed/generate_tokens_per_second"] for row in rows),
        update_tokens_per_s=median(row["speed/update_tokens_per_second"] for row in rows),
        rollout_gap_mean_nats=max(row["policy/rollout_gap_mean"] for row in rows),
        accuracy_before_share=before,
        accuracy_after_share=after,
    )
    assert summary["steps"] == steps, f"the run ended after {summary['steps']} of {steps} steps"
    if context.full:
        assert before is not None
        assert after is not None
        assert after >= before + LEARNT, f"held-out accuracy went from {before:.1%} to {after:.1%}"
    return {}


def quickstart_folder(context: Context) -> Path:
    """Where `warm_started` puts problems and warm start, for all checks of a run."""
    return context.work / "quickstart_run"


def warm_started(context: Context, overrides: Sequence[str]) -> tuple[script.Quickstart, OnlineConfig]:
    """The quickstart's folder with problems and a warm start, made unless a check before did, and its DAPO recipe."""
    folder = quickstart_folder(context)
    run = script.Quickstart(folder, {"seed": context.seed})
    warm_start, dapo = script.load_recipes(folder, context.seed, list(overrides))
    run.phase("problems and model", run.prepare)
    if not context.full:
        warm_start = shorten(warm_start)
    run.phase("warm start", lambda: run.train(warm_start))
    return run, dapo


def shorten(warm_start: SftConfig) -> SftConfig:
    """The warm start in 24 steps of 16 examples, of the beginning of its file."""
    (file,) = warm_start.data.train.paths
    file.write_text("".join(line + "\n" for line in file.read_text().splitlines()[:1000]))
    run = warm_start.run.model_copy(update={"steps": 24})
    batch = warm_start.batch.model_copy(update={"examples_per_step": 16})
    return warm_start.model_copy(update={"run": run, "batch": batch})


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def changed_share(before: Path, after: Path) -> float:
    """The share of tensors that differ between two checkpoints, compared in the second one's number format."""
    old, new = (
        {k: v for file in sorted(p.glob("*.safetensors")) for k, v in load_file(file).items()}
        for p in (before, after)
    )
    return sum(not torch.equal(tensor, old[name].to(tensor)) for name, tensor in new.items()) / len(new)
