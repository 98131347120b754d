"""TRL's arguments as a recipe: GRPO as kind online, DPO and KTO as preference, SFT as sft."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from reasoner_rl.config.translate.terms import Draft, Settings, Translation, account
from reasoner_rl.config.translate.trl_keys import METHODS, TRL
from reasoner_rl.errors import ConfigError, did_you_mean

_AGGREGATIONS = {
    "dapo": "token-mean",
    "bnpo": "token-mean",
    "grpo": "seq-mean-token-mean",
    "dr_grpo": "seq-mean-token-sum-norm",
}
_CORRECTION = "algorithm.loss.importance_sampling"
_BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps")


def method_of(given: Mapping[str, Any], named: str | None) -> str:
    """The trainer whose arguments these are. Raises ConfigError where that is not clear."""
    if named is not None:
        if named not in METHODS:
            raise ConfigError(
                f"--method {named!r}: must be one of {', '.join(METHODS)}.{did_you_mean(named, METHODS)}"
            )
        return named
    own = {method: set(TRL[method].terms) for method in METHODS}
    points = {
        method: len(
            given.keys() & (keys - set().union(*(other for name, other in own.items() if name != method)))
        )
        for method, keys in own.items()
    }
    best = max(points, key=lambda method: points[method])
    if points[best] == 0 or sum(count > 0 for count in points.values()) > 1:
        raise ConfigError(
            f"the arguments do not show which trainer of TRL they are for: give --method, one of {', '.join(METHODS)}"
        )
    return best


def translate_trl(given: Mapping[str, Any], method: str, devices: int, rows: int | None) -> Translation:
    """Return the recipe that TRL's arguments describe.

    method: one of `METHODS`. devices: processes that train, which is not among TRL's arguments. rows: of the
    training data, repetitions included, for what is counted in epochs. Raises ConfigError where an argument is no value
    of TRL's, or has no counterpart.
    """
    settings = Settings(given, TRL[method])
    draft = Draft()
    draft.put("recipe", {"grpo": "online", "sft": "sft"}.get(method, "preference"))
    _run(settings, draft)
    _model(settings, draft)
    _data(settings, draft, method)
    if method == "grpo":
        updates = _grpo(settings, draft, devices)
    else:
        updates = 1
        {"dpo": _dpo, "kto": _kto, "sft": _sft}[method](settings, draft)
        _offline_batch(settings, draft, devices)
    _training(settings, draft, devices)
    steps = _steps(settings, draft, updates, rows)
    _schedule(settings, draft, updates, steps)
    _intervals(settings, draft, updates)
    return account(draft, settings)


def _run(settings: Settings, draft: Draft) -> None:
    draft.put("run.output_dir", settings.value("output_dir") or "trainer_output", "output_dir")
    draft.copy("run.seed", settings.integer, "seed")
    report = settings.value("report_to")
    sinks = report if isinstance(report, list) else [report]
    if "wandb" in sinks:
        draft.put("logging.wandb.name", settings.value("run_name"), "run_name", "report_to")
    if others := [sink for sink in sinks if sink not in ("wandb", "tensorboard", "none", None)]:
        draft.leave_out("report_to", f"no logging to {', '.join(others)}; metrics.jsonl is always written")
    else:
        draft.put("logging.tensorboard", "tensorboard" in sinks, "report_to")


def _model(settings: Settings, draft: Draft) -> None:
    path = settings.value("model_name_or_path")
    draft.put("model.path", path or "MODEL", "model_name_or_path")
    if path is None:
        draft.to_do.append("set model.path")
    bfloat16 = settings.value("bf16") if settings.value("bf16") is not None else not settings.switch("fp16")
    draft.put("model.dtype", "bfloat16" if bfloat16 else "float32", "bf16")
    draft.copy("model.gradient_checkpointing", settings.switch, "gradient_checkpointing")
    if settings.switch("trust_remote_code"):
        draft.put("model.trust_remote_code", True, "trust_remote_code")
    attention = settings.value("attn_implementation")
    if attention == "flash_attention_2":
        draft.put("model.attention", attention, "attn_implementation")
    elif attention is not None:
        draft.leave_out("attn_implementation", "model.attention auto takes the first that can run")
    if settings.switch("use_peft"):
        draft.put("model.lora.rank", settings.size("lora_r"), "lora_r", "use_peft")
        draft.copy("model.lora.alpha", settings.value, "lora_alpha")
        draft.copy("model.lora.dropout", settings.value, "lora_dropout")
        modules = settings.value("lora_target_modules")
        draft.put("model.lora.target_modules", modules or "all-linear", "lora_target_modules")


def _data(settings: Settings, draft: Draft, method: str) -> None:
    name = settings.value("dataset_name")
    if name and str(name).endswith((".parquet", ".jsonl")):
        draft.put("data.train.path", name, "dataset_name")
    else:
        path = f"{str(name).rpartition('/')[2]}.parquet" if name else "TRAIN.parquet"
        draft.put("data.train.path", path, "dataset_name")
        what = f"a .parquet or .jsonl file of {name}" if name else "the training file"
        draft.to_do.append(f"set data.train.path to {what}")
    if method == "grpo":
        draft.to_do.append("set data.train.columns, unless the file's columns are called problem and answer")
    if method in ("grpo", "sft"):
        draft.copy("data.shuffle", settings.switch, "shuffle_dataset")


def _grpo(settings: Settings, draft: Draft, devices: int) -> int:
    """Everything that GRPO has of its own; returns the updates per step."""
    draft.copy("rollout.responses_per_prompt", settings.size, "num_generations")
    updates = _online_batch(settings, draft, devices)
    sampling = "rollout.sampling"
    draft.copy(f"{sampling}.temperature", settings.number, "temperature")
    draft.copy(f"{sampling}.top_p", settings.number, "top_p")
    draft.copy(f"{sampling}.top_k", settings.integer, "top_k")
    draft.copy(f"{sampling}.max_response_tokens", settings.size, "max_completion_length")
    engine = "vllm" if settings.switch("use_vllm") else "hf"
    draft.put("rollout.engine.kind", engine, "use_vllm")
    _advantage(settings, draft)
    _objective(settings, draft)
    if engine == "vllm":
        draft.copy("rollout.engine.gpu_memory_utilization", settings.number, "vllm_gpu_memory_utilization")
        draft.copy("rollout.engine.tensor_parallel", settings.size, "vllm_tensor_parallel_size")
        _correction(settings, draft)
    draft.copy("reward.overlong.mask_truncated", settings.switch, "mask_truncated_completions")
    _rewards(settings, draft)
    return updates


def _online_batch(settings: Settings, draft: Draft, devices: int) -> int:
    device, accumulation = map(settings.size, _BATCH)
    per_update = device * devices * accumulation
    if settings.value("generation_batch_size") is not None:
        key, responses = "generation_batch_size", settings.size("generation_batch_size")
        words = f"TRL generates {responses} responses"
    else:
        key = "steps_per_generation"
        rounds = settings.size(key) if settings.value(key) is not None else accumulation
        responses = device * devices * rounds
        words = (
            f"TRL generates {device} per device x {devices} devices x {rounds} steps = {responses} responses"
        )
    group, epochs = draft.values["rollout.responses_per_prompt"], settings.size("num_iterations")
    if responses % group:
        raise ConfigError(
            f"TRL's generation batch of {responses} responses must be a multiple of num_generations = {group}"
        )
    prompts = responses // group
    draft.put(
        "batch.prompts_per_step",
        prompts,
        key,
        *_BATCH,
        words=f"{words} at a time, which is {prompts} prompts x {group}.",
    )
    counted = f"{device} per device x {devices} devices x {accumulation} accumulated = {per_update} responses"
    if per_update % group == 0 and prompts % (per_update // group) == 0:
        update = per_update // group
        words = f"{counted} per update, which is {update} prompts x {group}."
    else:
        update = next(
            size for size in range(min(prompts, max(1, per_update // group)), 0, -1) if prompts % size == 0
        )
        words = (
            f"{counted} per update are no whole prompts that divide a step: {update} prompts, or {update * group} "
            "responses, are taken."
        )
        draft.to_do.append(
            "check batch.prompts_per_update and training.optimizer.lr: the size of an update has changed"
        )
    draft.put("batch.prompts_per_update", update, *_BATCH, words=words)
    draft.put("batch.epochs", epochs, "num_iterations")
    return prompts // update * epochs


def _advantage(settings: Settings, draft: Draft) -> None:
    draft.put(
        "algorithm.kind", "grpo", "loss_type", words="The loss of TRL's loss_type is in the keys below."
    )
    scale = settings.value("scale_rewards")
    scale = {True: "group", False: "none"}.get(scale, scale)
    if scale not in ("group", "none"):
        raise ConfigError(f"TRL's scale_rewards = {scale!r}: has no counterpart: group and none have")
    draft.put("algorithm.advantage", "group_std" if scale == "group" else "group_mean", "scale_rewards")


def _objective(settings: Settings, draft: Draft) -> None:
    kind, loss = settings.value("loss_type"), "algorithm.loss"
    low = settings.number("epsilon")
    high_key = "epsilon" if settings.value("epsilon_high") is None else "epsilon_high"
    high = settings.number(high_key)
    if kind == "cispo":
        words = f"TRL's bound on the weight is {high} itself, ours 1 + clip_high; it has none below."
        draft.put(f"{loss}.objective", "cispo", "loss_type")
        draft.put(f"{loss}.aggregation", "token-mean", "loss_type")
        draft.put(f"{loss}.clip_low", 1.0)
        draft.put(f"{loss}.clip_high", round(high - 1, 12), high_key, words=words)
    elif kind in _AGGREGATIONS:
        words = "bnpo's mean is over a micro-batch, ours over the update." if kind == "bnpo" else ""
        draft.put(f"{loss}.aggregation", _AGGREGATIONS[kind], "loss_type", words=words)
        draft.put(f"{loss}.clip_low", low, "epsilon")
        draft.put(f"{loss}.clip_high", high, high_key)
    else:
        raise ConfigError(
            f"TRL's loss_type = {kind!r}: has no counterpart: {', '.join([*_AGGREGATIONS, 'cispo'])} have"
        )
    delta = None if settings.value("delta") is None else settings.number("delta")
    draft.put(f"{loss}.dual_clip", delta if kind != "cispo" else None, "delta")
    draft.copy(f"{loss}.ratio", settings.value, "importance_sampling_level")
    _kl(settings, draft)
    draft.copy(f"{loss}.entropy_coefficient", settings.number, "entropy_coef")
    share = settings.number("top_entropy_quantile")
    if share < 1:
        draft.put("algorithm.token_mask.kind", "entropy", "top_entropy_quantile")
        draft.put("algorithm.token_mask.share", share, "top_entropy_quantile")


def _kl(settings: Settings, draft: Draft) -> None:
    corrected = "use_bias_correction_kl"
    weighted = settings.number("beta") > 0 and settings.switch(corrected)
    words = "TRL multiplies the KL term by the ratio (use_bias_correction_kl); here it stands alone."
    draft.copy("algorithm.loss.kl.coefficient", settings.number, "beta", words if weighted else "")
    if settings.number("beta") > 0:
        draft.put("algorithm.loss.kl.estimator", "k3", words="TRL's only estimator.")
    if weighted:
        draft.leave_out(corrected, "the KL term is not multiplied by the ratio")


def _correction(settings: Settings, draft: Draft) -> None:
    keys = ("vllm_importance_sampling_correction", "vllm_importance_sampling_mode")
    if not settings.switch(keys[0]):
        return
    if draft.values["rollout.sampling.top_p"] != 1 or draft.values["rollout.sampling.top_k"] != 0:
        draft.leave_out(
            keys[0], "logprobs of a distribution cut by top_p or top_k do not compare with the trainer's"
        )
        return
    level, _, what = str(settings.value(keys[1])).partition("_")
    kinds = {"mask": "masked", "truncate": "truncated"}
    low, high = (settings.value(f"vllm_importance_sampling_clip_{end}") for end in ("min", "max"))
    if level not in ("token", "sequence") or what not in kinds or high is None:
        raise ConfigError(f"TRL's {keys[1]} = {level}_{what} with clip_max = {high}: has no counterpart")
    draft.put(f"{_CORRECTION}.kind", kinds[what], *keys)
    draft.put(f"{_CORRECTION}.level", level, keys[1])
    draft.put(f"{_CORRECTION}.cap", high, "vllm_importance_sampling_clip_max")
    if what == "mask":
        draft.put(f"{_CORRECTION}.floor", low or 0.0, "vllm_importance_sampling_clip_min")
    elif low is not None:
        draft.leave_out("vllm_importance_sampling_clip_min", "truncated weights have a cap and no floor")


def _rewards(settings: Settings, draft: Draft) -> None:
    words = "TRL's functions take lists of completions; ours have verl's signature, compute_score(data_source, ...)."
    draft.put("reward.functions", [{"fn": "reward_fns:compute_score"}], words=words)
    functions = settings.value("reward_funcs")
    names = functions if isinstance(functions, list) else [functions] if functions else []
    for key in ("reward_funcs", "reward_weights"):
        if settings.value(key):
            draft.leave_out(
                key, "functions have another signature here, and their weights beside them: reward.functions"
            )
    who = f"TRL scores by {', '.join(map(str, names))}" if names else "TRL's arguments do not name them"
    draft.to_do.append(f"set reward.functions, unless the package's own verifier is wanted: {who}")
    if settings.value("reward_model_name_or_path"):
        draft.put("reward_model.kind", "pointwise", "reward_model_name_or_path")
        draft.copy("reward_model.path", settings.value, "reward_model_name_or_path")


def _dpo(settings: Settings, draft: Draft) -> None:
    losses = settings.value("loss_type")
    losses = losses if isinstance(losses, list) else [losses]
    weights = settings.value("loss_weights") or [1.0] * len(losses)
    weights = weights if isinstance(weights, list) else [weights]
    by_loss = dict(zip(losses, weights, strict=len(losses) == len(weights)))
    nll = by_loss.pop("sft", None)
    objective = next(iter(by_loss), None)
    shapes = {"sigmoid": "sigmoid", "sigmoid_norm": "sigmoid", "ipo": "ipo", "hinge": "hinge"}
    if len(by_loss) != 1 or objective not in shapes:
        raise ConfigError(
            f"TRL's loss_type = {losses}: has no counterpart: one of {', '.join(shapes)} has, alone or beside sft"
        )
    draft.put("algorithm.kind", "dpo", "loss_type")
    draft.put("algorithm.objective", shapes[objective], "loss_type")
    if objective == "sigmoid_norm":
        draft.put("algorithm.length_normalized", True, "loss_type")
    draft.copy("algorithm.beta", settings.number, "beta")
    if shapes[objective] == "sigmoid":
        draft.copy("algorithm.label_smoothing", settings.number, "label_smoothing")
    if nll is not None:
        words = f"sft's weight {nll} over {objective}'s {by_loss[objective]}."
        draft.put(
            "algorithm.nll_coefficient", nll / by_loss[objective], "loss_weights", "loss_type", words=words
        )
    precomputed = settings.switch("precompute_ref_log_probs")
    draft.put("algorithm.reference", "precomputed" if precomputed else "live", "precompute_ref_log_probs")


def _kto(settings: Settings, draft: Draft) -> None:
    if settings.value("loss_type") != "kto":
        raise ConfigError(f"TRL's loss_type = {settings.value('loss_type')!r}: has no counterpart: kto has")
    draft.put("algorithm.kind", "kto", "loss_type")
    for key in ("beta", "desirable_weight", "undesirable_weight"):
        draft.copy(f"algorithm.{key}", settings.number, key)


def _sft(settings: Settings, draft: Draft) -> None:
    if settings.value("loss_type") not in ("nll", "chunked_nll"):
        raise ConfigError(f"TRL's loss_type = {settings.value('loss_type')!r}: has no counterpart: nll has")
    draft.put("algorithm.kind", "sft", "loss_type")
    draft.put("data.train.columns.solution", "solution", words="The column with the response.")
    draft.to_do.append(
        "set data.train.columns.problem and data.train.columns.solution to the columns of the file"
    )
    if settings.value("chat_template_path"):
        draft.copy("model.chat_template", settings.value, "chat_template_path")


def _offline_batch(settings: Settings, draft: Draft, devices: int) -> None:
    device, accumulation = map(settings.size, _BATCH)
    examples = device * devices * accumulation
    words = (
        f"{device} per device x {devices} devices x {accumulation} accumulated = {examples} examples per update, "
        "which is a step here."
    )
    draft.put("batch.examples_per_step", examples, *_BATCH, words=words)
    if settings.value("max_length") is not None:
        longest = settings.size("max_length")
        words = f"TRL's {longest} are of prompt and answer together, and longer ones are cut; here they are dropped."
        draft.put("data.prompts.max_tokens", longest, "max_length", words=words)
        draft.put("data.max_response_tokens", longest, "max_length")


def _training(settings: Settings, draft: Draft, devices: int) -> None:
    section = "training.optimizer"
    for ours, theirs in (("lr", "learning_rate"), ("weight_decay", "weight_decay"), ("eps", "adam_epsilon")):
        draft.copy(f"{section}.{ours}", settings.number, theirs)
    betas = [settings.number("adam_beta1"), settings.number("adam_beta2")]
    draft.put(f"{section}.betas", betas, "adam_beta1", "adam_beta2")
    clip = settings.value("max_grad_norm")
    draft.put(f"{section}.grad_clip", None if not clip else settings.number("max_grad_norm"), "max_grad_norm")
    if devices > 1:
        draft.put("cluster.kind", "ray", words=f"{devices} processes on one machine.")
        draft.put("cluster.workers_per_node", devices)


def _steps(settings: Settings, draft: Draft, updates: int, rows: int | None) -> int | None:
    """The steps of the run; None where they are not known."""
    most = settings.integer("max_steps")
    if most > 0:
        steps = math.ceil(most / updates)
        words = f"TRL counts updates: {most} / {updates} updates per step." if updates > 1 else ""
        draft.put("run.steps", steps, "max_steps", words=words)
        return steps
    epochs = settings.number("num_train_epochs")
    key = "batch.prompts_per_step" if "batch.prompts_per_step" in draft.values else "batch.examples_per_step"
    batch = draft.values[key]
    if rows is not None:
        # GRPO's sampler leaves out the rows of an incomplete batch; the others train on it.
        per_epoch = rows // batch if draft.values["recipe"] == "online" else math.ceil(rows / batch)
        if per_epoch == 0:
            raise ConfigError(f"--rows {rows}: a step of TRL's takes {batch} prompts, so an epoch has none")
        steps = math.ceil(per_epoch * epochs)
        words = f"{rows} rows / {batch} per step = {per_epoch} steps per epoch, x {epochs:g} epochs."
        draft.put("run.steps", steps, "num_train_epochs", words=words)
        return steps
    draft.leave_out(
        "num_train_epochs", f"{epochs:g} x rows / {batch} steps: give --rows, or set run.steps by hand"
    )
    draft.to_do.append(f"set run.steps: TRL's num_train_epochs is {epochs:g}, of rows / {batch} steps each")
    return None


def _schedule(settings: Settings, draft: Draft, updates: int, steps: int | None) -> None:
    shapes = {
        "constant": "constant",
        "constant_with_warmup": "constant",
        "linear": "linear",
        "cosine": "cosine",
    }
    shape = settings.value("lr_scheduler_type")
    if shape not in shapes:
        raise ConfigError(
            f"TRL's lr_scheduler_type = {shape!r}: has no counterpart: {', '.join(shapes)} have"
        )
    draft.put("training.schedule.kind", shapes[shape], "lr_scheduler_type")
    key = "warmup_ratio" if settings.value("warmup_ratio") is not None else "warmup_steps"
    warmup = settings.number(key)
    if shape == "constant":
        if key in settings.given:
            draft.leave_out(key, "TRL's constant rate has no warm-up")
        return
    if warmup >= 1:
        words = f"TRL counts updates: {warmup:g} / {updates} updates per step." if updates > 1 else ""
        draft.put("training.schedule.warmup_steps", math.ceil(warmup / updates), key, words=words)
    elif warmup > 0 and steps is not None:
        draft.put(
            "training.schedule.warmup_steps",
            math.ceil(warmup * steps),
            key,
            words=f"{warmup:g} x {steps} steps.",
        )
    elif warmup > 0:
        draft.leave_out(key, "a share of the run's steps, which are not known: give --rows")
        draft.to_do.append(f"set training.schedule.warmup_steps to {warmup:g} x run.steps")


def _intervals(settings: Settings, draft: Draft, updates: int) -> None:
    """What happens every so many steps."""
    saves = settings.value("save_strategy")
    every = settings.number("save_steps")
    if saves == "steps" and every >= 1:
        words = f"TRL counts updates: {every:g} / {updates} updates per step." if updates > 1 else ""
        draft.put("checkpoint.every_steps", max(1, int(every) // updates), "save_steps", words=words)
    elif saves == "no":
        draft.put("checkpoint.every_steps", None, "save_strategy")
    else:
        draft.leave_out("save_strategy", "checkpoints are saved every so many steps: checkpoint.every_steps")
    if settings.value("save_total_limit") is not None:
        draft.copy("checkpoint.keep_last", settings.size, "save_total_limit")
    if settings.value("eval_strategy") != "no":
        draft.leave_out(
            "eval_strategy",
            "evaluation is accuracy on held-out problems and no loss: set evaluation.datasets and every_steps",
        )
