"""verl's settings as a recipe of kind online."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from reasoner_rl.config.translate.terms import Draft, Settings, Translation, account
from reasoner_rl.config.translate.verl_algorithm import draft_algorithm
from reasoner_rl.config.translate.verl_keys import ACTOR, MEGATRON, MODEL, OVERLONG, ROLLOUT, VERL
from reasoner_rl.errors import ConfigError

_DTYPES = {"bfloat16": "bfloat16", "bf16": "bfloat16", "float32": "float32", "fp32": "float32"}


def translate_verl(given: Mapping[str, Any], rows: int | None) -> Translation:
    """Return the recipe that verl's settings describe.

    given: by dotted path; what is left out is at verl's default. rows: of the training file as verl reads it,
    repetitions included, for what it counts in epochs. Raises ConfigError where a setting is no value of verl's.
    """
    # Hydra's names of classes are no settings.
    known = {key: value for key, value in given.items() if key.rpartition(".")[2] != "_target_"}
    settings = Settings(known, VERL)
    draft = Draft()
    draft.put("recipe", "online")
    for part in (
        _run,
        _model,
        _data,
        _rollout,
        _reward,
        draft_algorithm,
        _batch,
        _training,
        _cluster,
        _evaluation,
    ):
        part(settings, draft)
    _length(settings, draft, rows)
    return account(draft, settings)


def _run(settings: Settings, draft: Draft) -> None:
    project, name = settings.value("trainer.project_name"), settings.value("trainer.experiment_name")
    folder = settings.value("trainer.default_local_dir") or f"checkpoints/{project}/{name}"
    draft.put("run.output_dir", folder, "trainer.default_local_dir")
    if settings.value("data.seed") is not None:
        draft.copy("run.seed", settings.integer, "data.seed")
    mode = settings.value("trainer.resume_mode")
    if mode == "resume_path":
        draft.leave_out("trainer.resume_mode", "a run resumes from its own output_dir")
    else:
        draft.put("run.resume", "auto" if mode == "auto" else "never", "trainer.resume_mode")
    logger = settings.value("trainer.logger")
    if "wandb" in logger:
        draft.put("logging.wandb.project", project, "trainer.project_name")
        draft.put("logging.wandb.name", name, "trainer.experiment_name")
    others = [word for word in logger if word not in ("console", "wandb", "tensorboard")]
    if others:
        draft.leave_out(
            "trainer.logger", f"no logging to {', '.join(others)}; metrics.jsonl is always written"
        )
    else:
        draft.put("logging.tensorboard", "tensorboard" in logger, "trainer.logger")


def _model(settings: Settings, draft: Draft) -> None:
    draft.copy("model.path", settings.value, f"{MODEL}path")
    tokenizer = next(
        (key for key in (f"{MODEL}tokenizer_path", "data.tokenizer") if settings.value(key)), None
    )
    if tokenizer:
        draft.copy("model.tokenizer", settings.value, tokenizer)
    dtype = f"{MEGATRON if _is_megatron(settings) else f'{ACTOR}fsdp_config.'}dtype"
    draft.put("model.dtype", settings.chosen(dtype, _DTYPES), dtype)
    checkpointing = f"{MODEL}enable_gradient_checkpointing"
    draft.copy("model.gradient_checkpointing", settings.switch, checkpointing)
    if settings.switch(f"{MODEL}trust_remote_code"):
        draft.put("model.trust_remote_code", True, f"{MODEL}trust_remote_code")
    if (rank := settings.integer(f"{MODEL}lora_rank")) > 0:
        draft.put("model.lora.rank", rank, f"{MODEL}lora_rank")
        draft.copy("model.lora.alpha", settings.integer, f"{MODEL}lora_alpha")
        draft.copy("model.lora.target_modules", settings.value, f"{MODEL}target_modules")


def _data(settings: Settings, draft: Draft) -> None:
    files = _files(settings, "data.train_files")
    if not files:
        raise ConfigError("verl's data.train_files: must name a file")
    draft.put("data.train.path", files if len(files) > 1 else files[0], "data.train_files")
    if (limit := settings.integer("data.train_max_samples")) > 0:
        draft.put("data.train.limit", limit, "data.train_max_samples")
    length = _either(settings, f"{ROLLOUT}prompt_length", "data.max_prompt_length")
    draft.copy("data.prompts.max_tokens", settings.size, length)
    truncation = settings.value("data.truncation")
    if settings.switch("data.filter_overlong_prompts"):
        draft.put("data.prompts.overlong", "drop", "data.filter_overlong_prompts")
    elif truncation in ("left", "error"):
        draft.put(
            "data.prompts.overlong", "truncate_left" if truncation == "left" else "error", "data.truncation"
        )
    else:
        draft.leave_out(
            "data.truncation", f"prompts are not cut on the {truncation}; longer ones stop the run here"
        )
        draft.put("data.prompts.overlong", "error")
    draft.copy("data.shuffle", settings.switch, "data.shuffle")


def _rollout(settings: Settings, draft: Draft) -> None:
    draft.copy("rollout.responses_per_prompt", settings.size, f"{ROLLOUT}n")
    engine = settings.value(f"{ROLLOUT}name")
    if engine not in ("vllm", "hf"):
        draft.leave_out(f"{ROLLOUT}name", f"generation by {engine} is not built: vllm is taken")
        engine = "vllm"
    draft.put("rollout.engine.kind", engine, f"{ROLLOUT}name")
    keys = {"dtype": "dtype", "max_batch_sequences": "max_num_seqs"}
    if engine == "vllm":
        keys |= {
            "tensor_parallel": "tensor_model_parallel_size",
            "gpu_memory_utilization": "gpu_memory_utilization",
            "max_batched_tokens": "max_num_batched_tokens",
            "enforce_eager": "enforce_eager",
        }
    for ours, theirs in keys.items():
        value = (
            settings.chosen(f"{ROLLOUT}dtype", _DTYPES)
            if ours == "dtype"
            else settings.value(ROLLOUT + theirs)
        )
        draft.put(f"rollout.engine.{ours}", value, ROLLOUT + theirs)
    _sampling(settings, draft, "rollout.sampling", ROLLOUT)
    length = _either(settings, f"{ROLLOUT}response_length", "data.max_response_length")
    draft.copy("rollout.sampling.max_response_tokens", settings.size, length)


def _sampling(settings: Settings, draft: Draft, ours: str, theirs: str) -> None:
    draft.copy(f"{ours}.temperature", settings.number, f"{theirs}temperature")
    draft.copy(f"{ours}.top_p", settings.number, f"{theirs}top_p")
    draft.put(f"{ours}.top_k", max(0, settings.integer(f"{theirs}top_k")), f"{theirs}top_k")


def _reward(settings: Settings, draft: Draft) -> None:
    for section in ("reward.custom_reward_function", "custom_reward_function"):
        path, name = settings.value(f"{section}.path"), settings.value(f"{section}.name") or "compute_score"
        if path:
            keys = (f"{section}.path", f"{section}.name")
            draft.put("reward.functions", [{"fn": f"{path}:{name}"}], *keys)
    if "reward.functions" not in draft.values:
        words = "verl's scoring by data source: reward_fns.compute_score chooses its rule by data source too."
        draft.put("reward.functions", [{"fn": "reward_fns:compute_score"}], words=words)
    workers = next(
        (key for key in ("reward_model.num_workers", "reward.num_workers") if settings.value(key)), None
    )
    if workers:
        draft.copy("reward.workers", settings.size, workers)
    for section in OVERLONG:
        keys = (f"{section}.enable", f"{section}.len")
        if settings.switch(keys[0]):
            limit, buffer = draft.values["rollout.sampling.max_response_tokens"], settings.size(keys[1])
            words = f"The punishment begins at {limit} - {buffer} = {limit - buffer} response tokens."
            draft.put("reward.overlong.buffer_tokens", buffer, *keys, words=words)
            factor = f"{section}.penalty_factor"
            draft.copy("reward.overlong.penalty", settings.number, factor)


def _batch(settings: Settings, draft: Draft) -> None:
    step, update = settings.size("data.train_batch_size"), settings.size(f"{ACTOR}ppo_mini_batch_size")
    responses = draft.values["rollout.responses_per_prompt"]
    epochs = settings.size(f"{ACTOR}ppo_epochs")
    words = f"{step} prompts x {responses} responses = {step * responses} responses per step."
    draft.put("batch.prompts_per_step", step, "data.train_batch_size", words=words)
    words = (
        f"verl counts its mini-batch in prompts: {step} / {update}"
        f"{f' x {epochs} epochs' if epochs > 1 else ''} = {step // update * epochs} updates per step, of {update} x "
        f"{responses} = {update * responses} responses."
    )
    draft.put("batch.prompts_per_update", update, f"{ACTOR}ppo_mini_batch_size", words=words)
    draft.put("batch.epochs", epochs, f"{ACTOR}ppo_epochs")
    generation = settings.value("data.gen_batch_size")
    if generation is not None:
        if draft.values["algorithm.dynamic_sampling.enabled"] or generation <= step:
            draft.copy("batch.prompts_per_generation", settings.size, "data.gen_batch_size")
        else:
            draft.leave_out(
                "data.gen_batch_size", "without filter_groups no more is generated than is trained on"
            )
    _micro_batch(settings, draft)


def _micro_batch(settings: Settings, draft: Draft) -> None:
    longest = draft.values["data.prompts.max_tokens"] + draft.values["rollout.sampling.max_response_tokens"]
    if settings.switch(f"{ACTOR}use_dynamic_bsz"):
        key = f"{ACTOR}ppo_max_token_len_per_gpu"
        words = f"Tokens per worker; the longest sequence has {longest}."
        draft.put("batch.micro_batch_tokens", settings.size(key), key, f"{ACTOR}use_dynamic_bsz", words=words)
        return
    for key, count in (
        (f"{ACTOR}ppo_micro_batch_size_per_gpu", 1),
        (f"{ACTOR}ppo_micro_batch_size", _gpus(settings)),
    ):
        if settings.value(key) is not None:
            responses = max(1, settings.size(key) // count)
            words = (
                f"Micro-batches are cut by tokens: {responses} responses per GPU x {longest} tokens at most."
            )
            draft.put("batch.micro_batch_tokens", responses * longest, key, words=words)
            return


def _training(settings: Settings, draft: Draft) -> None:
    prefix = MEGATRON if _is_megatron(settings) else f"{ACTOR}fsdp_config."
    draft.put("training.backend.kind", "megatron" if prefix == MEGATRON else "fsdp", f"{ACTOR}strategy")
    if prefix == MEGATRON:
        _megatron(settings, draft)
    elif (size := settings.integer(f"{prefix}fsdp_size")) > 0:
        draft.put("training.backend.shard_ranks", size, f"{prefix}fsdp_size")
    if prefix != MEGATRON:
        if not settings.switch(f"{prefix}reshard_after_forward"):
            draft.put("training.backend.reshard_after_forward", False, f"{prefix}reshard_after_forward")
        if settings.integer(f"{ACTOR}ulysses_sequence_parallel_size") > 1:
            draft.leave_out(
                f"{ACTOR}ulysses_sequence_parallel_size",
                "fsdp does not divide sequences here: a worker holds batch.micro_batch_tokens by itself; "
                "training.backend.kind=megatron has context_parallel",
            )
    keys = (f"{prefix}param_offload", f"{prefix}optimizer_offload")
    weights, optimizer = map(settings.switch, keys)
    draft.put("training.offload", "all" if weights else "optimizer" if optimizer else "none", *keys)
    for ours, theirs in (("lr", "lr"), ("weight_decay", "weight_decay"), ("betas", "betas")):
        draft.copy(f"training.optimizer.{ours}", settings.value, f"{ACTOR}optim.{theirs}")
    clip = next(
        (key for key in (f"{ACTOR}grad_clip", f"{ACTOR}optim.clip_grad") if key in settings.given),
        f"{ACTOR}grad_clip",
    )
    draft.copy("training.optimizer.grad_clip", settings.number, clip)


def _megatron(settings: Settings, draft: Draft) -> None:
    for ours, theirs in (
        ("tensor_parallel", "tensor_model_parallel_size"),
        ("pipeline_parallel", "pipeline_model_parallel_size"),
        ("context_parallel", "context_parallel_size"),
        ("expert_parallel", "expert_model_parallel_size"),
    ):
        draft.copy(f"training.backend.{ours}", settings.size, MEGATRON + theirs)
    if settings.value(virtual := f"{MEGATRON}virtual_pipeline_model_parallel_size") is not None:
        draft.copy("training.backend.virtual_stages", settings.size, virtual)
    distributed = f"{MEGATRON}use_distributed_optimizer"
    draft.copy("training.backend.distributed_optimizer", settings.switch, distributed)


def _cluster(settings: Settings, draft: Draft) -> None:
    nodes, workers = settings.size("trainer.nnodes"), settings.size("trainer.n_gpus_per_node")
    keys = ("trainer.nnodes", "trainer.n_gpus_per_node")
    if nodes * workers == 1:
        draft.put("cluster.kind", "local", *keys)
        return
    draft.put(
        "cluster.kind", "ray", *keys, words=f"{nodes} x {workers} = {nodes * workers} workers, one per GPU."
    )
    draft.put("cluster.nodes", nodes, "trainer.nnodes")
    draft.put("cluster.workers_per_node", workers, "trainer.n_gpus_per_node")
    if nodes > 1:
        draft.put(
            "cluster.address",
            "auto",
            words="Ray runs on all machines first: scripts/train_multi_node_ray.sh.",
        )


def _evaluation(settings: Settings, draft: Draft) -> None:
    limit = settings.integer("data.val_max_samples")
    paths = _files(settings, "data.val_files")
    datasets = [
        {"path": path, "name": _unique_name(path, paths), **({"limit": limit} if limit > 0 else {})}
        for path in paths
    ]
    keys = ("data.val_files", "data.val_max_samples")
    draft.put("evaluation.datasets", datasets, *keys)
    every = settings.integer("trainer.test_freq")
    draft.put("evaluation.every_steps", every if every > 0 and datasets else None, "trainer.test_freq")
    draft.copy("evaluation.at_start", settings.switch, "trainer.val_before_train")
    samples = settings.size(f"{ROLLOUT}val_kwargs.n")
    words = (
        "Files that repeat their problems are de-duplicated here: for DAPO's aime-2024.parquet, which has each of 30 "
        "problems 32 times, set 32."
    )
    draft.put("evaluation.samples_per_prompt", samples, f"{ROLLOUT}val_kwargs.n", words=words)
    if settings.switch(f"{ROLLOUT}val_kwargs.do_sample"):
        _sampling(settings, draft, "evaluation.sampling", f"{ROLLOUT}val_kwargs.")
        draft.leave_out(f"{ROLLOUT}val_kwargs.do_sample", "evaluation samples unless its temperature is 0")
    else:
        words = "Without do_sample verl evaluates greedily."
        draft.put("evaluation.sampling.temperature", 0.0, f"{ROLLOUT}val_kwargs.do_sample", words=words)
    save = settings.integer("trainer.save_freq")
    draft.put("checkpoint.every_steps", save if save > 0 else None, "trainer.save_freq")
    if settings.value(keep := "trainer.max_actor_ckpt_to_keep") is not None:
        draft.copy("checkpoint.keep_last", settings.size, keep)


def _length(settings: Settings, draft: Draft, rows: int | None) -> None:
    """The steps of the run, and what verl derives from them. An epoch is counted in batches that are generated."""
    steps: int | None = None
    if settings.value("trainer.total_training_steps") is not None:
        steps = settings.size("trainer.total_training_steps")
        draft.put("run.steps", steps, "trainer.total_training_steps")
        _schedule(settings, draft, steps)
        return
    key = "data.train_batch_size" if settings.value("data.gen_batch_size") is None else "data.gen_batch_size"
    batch, epochs = settings.size(key), settings.size("trainer.total_epochs")
    filtered = draft.values["algorithm.dynamic_sampling.enabled"]
    most = ", at most: refilling a step takes batches too" if filtered else ""
    if rows is not None:
        if rows < batch:
            raise ConfigError(f"--rows {rows}: a batch of verl's takes {batch} prompts, so an epoch has none")
        steps = rows // batch * epochs
        words = f"{rows} rows / {batch} prompts = {rows // batch} batches per epoch, x {epochs}{most}."
        draft.put("run.steps", steps, "trainer.total_epochs", words=words)
    else:
        counted = f"{epochs} x rows / {batch}{most}"
        draft.leave_out("trainer.total_epochs", f"steps are {counted}: give --rows, or set run.steps by hand")
        draft.to_do.append(f"set run.steps: verl's total_epochs are {counted}")
    _schedule(settings, draft, steps)


def _schedule(settings: Settings, draft: Draft, steps: int | None) -> None:
    prefix = f"{ACTOR}optim."
    kind = "warmup_style" if settings.value(f"{prefix}warmup_style") else "lr_scheduler_type"
    shape = settings.value(prefix + kind)
    if shape not in ("constant", "cosine"):
        raise ConfigError(f"verl's {prefix}{kind} = {shape!r}: must be constant or cosine")
    draft.put("training.schedule.kind", shape, prefix + kind)
    if shape == "cosine":
        draft.put(
            "training.schedule.final_ratio",
            settings.value(f"{prefix}min_lr_ratio") or 0.0,
            f"{prefix}min_lr_ratio",
        )
    warmup, ratio = (
        settings.integer(f"{prefix}lr_warmup_steps"),
        settings.number(f"{prefix}lr_warmup_steps_ratio"),
    )
    if warmup >= 0:
        words = "Both count steps, not updates."
        draft.put("training.schedule.warmup_steps", warmup, f"{prefix}lr_warmup_steps", words=words)
    elif steps is not None:
        words = f"{ratio} x {steps} steps."
        draft.put(
            "training.schedule.warmup_steps",
            int(ratio * steps),
            f"{prefix}lr_warmup_steps_ratio",
            words=words,
        )
    elif ratio > 0:
        draft.leave_out(f"{prefix}lr_warmup_steps_ratio", "the steps of the run are not known: give --rows")
        draft.to_do.append(f"set training.schedule.warmup_steps to {ratio} x run.steps")


def _is_megatron(settings: Settings) -> bool:
    strategy = settings.value(f"{ACTOR}strategy")
    if strategy not in ("fsdp", "fsdp2", "megatron"):
        raise ConfigError(
            f"verl's {ACTOR}strategy = {strategy!r}: has no counterpart: fsdp, fsdp2 and megatron have"
        )
    return bool(strategy == "megatron")


def _gpus(settings: Settings) -> int:
    return settings.size("trainer.nnodes") * settings.size("trainer.n_gpus_per_node")


def _either(settings: Settings, preferred: str, other: str) -> str:
    return preferred if settings.value(preferred) is not None else other


def _files(settings: Settings, key: str) -> list[str]:
    value = settings.value(key)
    files = value if isinstance(value, list) else [] if value is None else [value]
    return [str(file) for file in files]


def _unique_name(path: str, paths: list[str]) -> str:
    place = PurePosixPath(path)
    alike = [other for other in paths if PurePosixPath(other).stem == place.stem]
    return place.stem if len(alike) == 1 else f"{place.parent.name}_{place.stem}_{paths.index(path)}"
