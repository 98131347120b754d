"""TRL's arguments (1.16.0), their defaults, and what each is here.

They are those of GRPOConfig, DPOConfig, KTOConfig, SFTConfig, ModelConfig and of the scripts themselves. A test
compares names and defaults with TRL's own classes.
"""

from __future__ import annotations

from reasoner_rl.config.translate.terms import Term, Vocabulary

METHODS = ("grpo", "dpo", "kto", "sft")
_CORRECTION = "algorithm.loss.importance_sampling"
_COUNTS = "TRL counts responses, or rows, per device"
_NO_SYNC = "the reference is copied whole, not mixed: algorithm.reference_refresh_steps"
_SERVER = "vLLM runs in the process of the trainer"
_PACKED = "sequences are always packed without padding here"

# Of transformers' TrainingArguments and TRL's scripts, for every trainer.
_COMMON = {
    "output_dir": Term("run.output_dir", None),
    "seed": Term("run.seed", 42),
    "max_steps": Term("run.steps", -1, "TRL counts updates"),
    "num_train_epochs": Term("run.steps", 3.0, "steps and not passes here"),
    "per_device_train_batch_size": Term("batch.prompts_per_update", 8, _COUNTS),
    "gradient_accumulation_steps": Term("batch.prompts_per_update", 1, _COUNTS),
    "weight_decay": Term("training.optimizer.weight_decay", 0.0),
    "adam_beta1": Term("training.optimizer.betas", 0.9),
    "adam_beta2": Term("training.optimizer.betas", 0.999),
    "adam_epsilon": Term("training.optimizer.eps", 1e-8),
    "max_grad_norm": Term("training.optimizer.grad_clip", 1.0),
    "lr_scheduler_type": Term("training.schedule.kind", "linear"),
    "warmup_steps": Term(
        "training.schedule.warmup_steps", 0, "TRL counts updates; below 1 it is a share of them"
    ),
    "warmup_ratio": Term("training.schedule.warmup_steps", None, "a share of the updates"),
    "bf16": Term("model.dtype", None, "true is bfloat16"),
    "fp16": Term("", False, "model.dtype is bfloat16 or float32"),
    "gradient_checkpointing": Term("model.gradient_checkpointing", True),
    "trust_remote_code": Term("model.trust_remote_code", False),
    "save_steps": Term("checkpoint.every_steps", 500, "TRL counts updates"),
    "save_strategy": Term("checkpoint.every_steps", "steps", "no is null here"),
    "save_total_limit": Term("checkpoint.keep_last", None),
    "eval_strategy": Term("evaluation.every_steps", "no", "no is null here"),
    "eval_steps": Term("evaluation.every_steps", None, "TRL counts updates"),
    "eval_on_start": Term("evaluation.at_start", False),
    "report_to": Term("logging.wandb", "none"),
    "run_name": Term("logging.wandb.name", None),
    "model_name_or_path": Term("model.path", None),
    "dtype": Term("", "float32", "weights are loaded in float32, and computed with in model.dtype"),
    "use_peft": Term("model.lora", False, "a section: model.lora.rank, alpha, dropout and target_modules"),
    "lora_r": Term("model.lora.rank", 16),
    "lora_alpha": Term("model.lora.alpha", 32),
    "lora_dropout": Term("model.lora.dropout", 0.05),
    "lora_target_modules": Term("model.lora.target_modules", None),
    "attn_implementation": Term("model.attention", None),
    "dataset_name": Term("data.train.path", None, "a .parquet or .jsonl file here"),
    "logging_steps": Term("", 10, "every step is logged"),
    "logging_strategy": Term("", "steps", "every step is logged"),
    "logging_first_step": Term("", False, "every step is logged"),
    "remove_unused_columns": Term("", True, "columns are chosen by data.train.columns"),
    "per_device_eval_batch_size": Term(
        "", 8, "generation fills batches by itself: rollout.engine.max_batch_sequences"
    ),
    "optim": Term("", "adamw_torch_fused", "the optimizer is AdamW"),
    "deepspeed": Term("", None, "set training.backend and training.offload"),
    "fsdp": Term("", None, "FSDP2 is the default backend: training.backend"),
    "fsdp_config": Term("", None, "FSDP2 is the default backend: training.backend"),
    "use_liger_kernel": Term(
        "", False, "Liger's kernels are not used; logprobs are made without whole logits"
    ),
    "model_init_kwargs": Term(
        "", None, "model.dtype, model.attention and model.trust_remote_code say how it is loaded"
    ),
    "pad_to_multiple_of": Term("", "auto", _PACKED),
    "router_aux_loss_coef": Term("", None, "there is no loss to balance experts"),
    "load_in_4bit": Term("", False, "quantised weights cannot be trained here"),
    "load_in_8bit": Term("", False, "quantised weights cannot be trained here"),
    "lora_task_type": Term("", "CAUSAL_LM", "the task follows from the recipe's kind"),
    "lora_modules_to_save": Term("", None, "adapters alone are trained"),
    "use_rslora": Term("", False, "adapters are scaled by alpha / rank"),
    "use_dora": Term("", False, "DoRA is not built"),
    "model_revision": Term("", "main", "download the revision, and name its folder in model.path"),
    "dataset_config": Term("", None, "data.train.path names one file"),
    "dataset_train_split": Term("", "train", "data.train.path names one file"),
    "dataset_test_split": Term("", "test", "evaluation.datasets names files"),
    "dataset_streaming": Term("", False, "files are read at the start"),
    "resume_from_checkpoint": Term("", None, "a run resumes from its newest checkpoint by itself"),
    "push_to_hub": Term("", False, "final/ is a Hugging Face checkpoint to upload"),
    "log_level": Term("", "passive", "messages of libraries are as they set them"),
    "dataloader_num_workers": Term("", 0, "rows are read once, at the start"),
    "lr_scheduler_kwargs": Term("", None, "training.schedule.final_ratio is where the rate ends"),
}
_OFFLINE = {
    "per_device_train_batch_size": Term("batch.examples_per_step", 8, _COUNTS),
    "gradient_accumulation_steps": Term("batch.examples_per_step", 1, _COUNTS),
    "max_length": Term(
        "data.max_response_tokens", 1024, "of the answer alone; data.prompts.max_tokens is the prompt's"
    ),
    "dataset_num_proc": Term("", None, "rows are tokenised by one process"),
    "activation_offloading": Term("", False, "activations are recomputed, not moved to host memory"),
}
_PREFERENCE = {
    **_OFFLINE,
    "learning_rate": Term("training.optimizer.lr", 1e-6),
    "beta": Term("algorithm.beta", 0.1),
    "disable_dropout": Term("", True, "a model's own dropout is as its config.json says"),
    "precompute_ref_batch_size": Term("", None, "batch.micro_batch_tokens holds for the reference too"),
    "sync_ref_model": Term("", False, "the reference stays as it is"),
    "ref_model_mixup_alpha": Term("", 0.6, "the reference stays as it is"),
    "ref_model_sync_steps": Term("", 512, "the reference stays as it is"),
}
_GRPO = {
    "learning_rate": Term("training.optimizer.lr", 1e-6),
    "num_generations": Term("rollout.responses_per_prompt", 8),
    "generation_batch_size": Term("batch.prompts_per_step", None, "TRL counts responses"),
    "steps_per_generation": Term("batch.prompts_per_step", None, "TRL counts micro-batches"),
    "num_iterations": Term("batch.epochs", 1),
    "num_generations_eval": Term("evaluation.samples_per_prompt", None),
    "max_completion_length": Term("rollout.sampling.max_response_tokens", 512),
    "temperature": Term("rollout.sampling.temperature", 1.0),
    "top_p": Term("rollout.sampling.top_p", 1.0),
    "top_k": Term("rollout.sampling.top_k", 0),
    "shuffle_dataset": Term("data.shuffle", True),
    "use_vllm": Term("rollout.engine.kind", False),
    "vllm_gpu_memory_utilization": Term("rollout.engine.gpu_memory_utilization", 0.3),
    "vllm_tensor_parallel_size": Term("rollout.engine.tensor_parallel", 1),
    "beta": Term("algorithm.loss.kl.coefficient", 0.0),
    "epsilon": Term("algorithm.loss.clip_low", 0.2),
    "epsilon_high": Term("algorithm.loss.clip_high", None, "clip_low if unset"),
    "delta": Term("algorithm.loss.dual_clip", None),
    "loss_type": Term("algorithm.loss.aggregation", "dapo"),
    "scale_rewards": Term("algorithm.advantage", "group"),
    "importance_sampling_level": Term("algorithm.loss.ratio", "token"),
    "mask_truncated_completions": Term("reward.overlong.mask_truncated", False),
    "top_entropy_quantile": Term("algorithm.token_mask.share", 1.0),
    "entropy_coef": Term("algorithm.loss.entropy_coefficient", 0.0),
    "vllm_importance_sampling_correction": Term(f"{_CORRECTION}.kind", True, "false is 'none' here"),
    "vllm_importance_sampling_mode": Term(
        f"{_CORRECTION}.kind", "sequence_mask", "kind and level are two keys here"
    ),
    "vllm_importance_sampling_clip_max": Term(f"{_CORRECTION}.cap", 3.0),
    "vllm_importance_sampling_clip_min": Term(f"{_CORRECTION}.floor", None),
    "reward_weights": Term("reward.functions.0.weight", None, "each function has its weight"),
    "reward_funcs": Term("reward.functions", None, "functions with verl's signature compute_score"),
    "reward_model_name_or_path": Term(
        "reward_model.path", None, "a model with one label; reward_model.kind=pointwise"
    ),
    "multi_objective_aggregation": Term("", "sum_then_normalize", "rewards are summed, then normalised"),
    "use_bias_correction_kl": Term("", True, "the KL term is not weighted by the ratio"),
    "use_adaptive_entropy": Term("", False, "the entropy coefficient is constant"),
    "repetition_penalty": Term("", 1.0, "the distribution is not changed by what was generated before"),
    "min_p": Term("", None, "the distribution is cut by top_p and top_k alone"),
    "generation_kwargs": Term("", None, "rollout.sampling has all settings of generation"),
    "chat_template_kwargs": Term("", None, "the chat template is called without further arguments"),
    "off_policy_mask_threshold": Term("", None, f"{_CORRECTION}.kind=rejected leaves responses out"),
    "sync_ref_model": Term("", False, _NO_SYNC),
    "ref_model_mixup_alpha": Term("", 0.6, _NO_SYNC),
    "ref_model_sync_steps": Term("", 512, _NO_SYNC),
    "vllm_mode": Term("", "colocate", _SERVER),
    "vllm_enable_sleep_mode": Term("", False, "vLLM always sleeps while training on a GPU"),
    "vllm_max_model_length": Term("", None, "it follows from data.prompts.max_tokens + max_response_tokens"),
    "vllm_server_host": Term("", "0.0.0.0", _SERVER),
    "vllm_server_port": Term("", 8000, _SERVER),
    "vllm_server_base_url": Term("", None, _SERVER),
    "vllm_server_timeout": Term("", 240.0, _SERVER),
    "log_completions": Term("", False, "every response is recorded"),
    "num_completions_to_print": Term("", None, "every response is recorded"),
    "log_unique_prompts": Term("", False, "every response is recorded"),
    "ds3_gather_for_generation": Term("", True, "weights are published to the engine after every step"),
    "cast_lm_head_to_fp32": Term("", False, "logprobs are always made in float32"),
    "disable_dropout": Term("", False, "a model's own dropout is as its config.json says"),
    "remove_unused_columns": Term("", False, "columns are chosen by data.train.columns"),
}
_DPO = {
    **_PREFERENCE,
    "loss_type": Term("algorithm.objective", ["sigmoid"]),
    "label_smoothing": Term("algorithm.label_smoothing", 0.0),
    "loss_weights": Term("algorithm.nll_coefficient", None, "for loss types sigmoid and sft"),
    "precompute_ref_log_probs": Term("algorithm.reference", False, "true is 'precomputed' here"),
    "f_divergence_type": Term("", "reverse_kl", "the divergence is the reverse KL"),
    "ld_alpha": Term("", None, "LD-DPO is not built"),
    "use_weighting": Term("", False, "WPO is not built"),
    "discopop_tau": Term("", 0.05, "DiscoPOP is not built"),
    "truncation_mode": Term("", "keep_start", "longer answers are dropped and counted, not cut"),
    "padding_free": Term("", False, _PACKED),
}
_KTO = {
    **_PREFERENCE,
    "loss_type": Term("algorithm.kind", "kto"),
    "desirable_weight": Term("algorithm.desirable_weight", 1.0),
    "undesirable_weight": Term("algorithm.undesirable_weight", 1.0),
    "precompute_ref_log_probs": Term("", False, "the reference of KTO is a second model"),
    "train_sampling_strategy": Term("", "sequential", "examples are shuffled anew each epoch: data.shuffle"),
}
_SFT = {
    **_OFFLINE,
    "learning_rate": Term("training.optimizer.lr", 2e-5),
    "loss_type": Term("algorithm.kind", "nll"),
    "shuffle_dataset": Term("data.shuffle", False),
    "chat_template_path": Term(
        "model.chat_template", None, "a file with a template, not a tokenizer's folder"
    ),
    "packing": Term("", False, _PACKED),
    "packing_strategy": Term("", "bfd", _PACKED),
    "padding_free": Term("", False, _PACKED),
    "eval_packing": Term("", None, _PACKED),
    "completion_only_loss": Term("", None, "the response alone is trained"),
    "assistant_only_loss": Term("", False, "the response alone is trained"),
    "dataset_text_field": Term("", "text", "set data.train.columns.problem and solution"),
    "truncation_mode": Term("", "keep_start", "longer responses are dropped and counted, not cut"),
    "eos_token": Term("", None, "the tokenizer's end-of-sequence token is added and trained"),
}


def _all(names: str, why: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), why)


_WITHOUT = {
    **_all(
        "optim_args optim_target_modules average_tokens_across_devices label_smoothing_factor bf16_full_eval "
        "fp16_full_eval tf32 gradient_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode "
        "liger_kernel_config use_cache neftune_noise_alpha torch_empty_cache_steps auto_find_batch_size "
        "log_on_each_node logging_nan_inf_filter include_num_input_tokens_seen log_level_replica disable_tqdm project "
        "trackio_space_id trackio_bucket_id trackio_static_space_id eval_delay prediction_loss_only "
        "eval_do_concat_batches eval_use_gather_object eval_accumulation_steps include_for_metrics batch_eval_metrics "
        "save_only_model save_on_each_node enable_jit_checkpoint hub_token hub_private_repo hub_model_id hub_strategy "
        "hub_always_push hub_revision load_best_model_at_end metric_for_best_model greater_is_better ignore_data_skip "
        "restore_callback_states_from_checkpoint full_determinism data_seed use_cpu accelerator_config "
        "parallelism_config dataloader_drop_last dataloader_pin_memory dataloader_persistent_workers "
        "dataloader_prefetch_factor label_names train_sampling_strategy length_column_name ddp_find_unused_parameters "
        "ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout debug skip_memory_metrics "
        "do_train do_eval do_predict logging_dir local_rank",
        "it is of transformers' Trainer, which is not used here",
    ),
    **_all("lora_target_parameters", "adapters are on linear layers alone"),
    **_all(
        "bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage",
        "quantised weights cannot be trained",
    ),
    **_all("ignore_bias_buffers", "it is of TRL's scripts alone"),
}
_WITHOUT_OF = {
    "grpo": {
        **_all("sapo_temperature_neg sapo_temperature_pos", "SAPO is not built"),
        **_all("vespo_k_pos vespo_lambda_pos vespo_k_neg vespo_lambda_neg", "VESPO is not built"),
        **_all(
            "entropy_coef_min entropy_coef_max entropy_coef_delta entropy_target",
            "the entropy coefficient is constant",
        ),
        **_all("max_tool_calling_iterations", "one response per prompt: tools are not built"),
        **_all(
            "vllm_model_impl vllm_structured_outputs_regex vllm_group_port",
            "vLLM is set up by rollout.engine",
        ),
        **_all(
            "cache_implementation use_transformers_continuous_batching transformers_continuous_batching_config "
            "use_transformers_paged",
            "rollout.engine.kind hf batches by itself",
        ),
        **_all("log_multimodal log_completions_hub_repo", "every response is recorded"),
        **_all("vllm_importance_sampling_cap", "its name in TRL is vllm_importance_sampling_clip_max now"),
    },
    "dpo": {
        **_all("f_alpha_divergence_coef", "the divergence is the reverse KL"),
        **_all("pad_token", _PACKED),
    },
    "kto": {},
    "sft": {**_all("dataset_kwargs", "files are read by data.train"), **_all("pad_token", _PACKED)},
}

TRL = {
    method: Vocabulary("TRL", {**_COMMON, **terms}, {**_WITHOUT, **_WITHOUT_OF[method]})
    for method, terms in zip(METHODS, (_GRPO, _DPO, _KTO, _SFT), strict=True)
}
