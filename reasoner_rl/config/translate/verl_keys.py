"""verl's keys (0.9.1, trainer/config/ppo_trainer.yaml), their defaults, and what each is here.

A test compares keys and defaults with verl's own files.
"""

from __future__ import annotations

from reasoner_rl.config.translate.terms import Term, Vocabulary
from reasoner_rl.config.translate.verl_sections import SECTIONS

ACTOR, ROLLOUT, MODEL = "actor_rollout_ref.actor.", "actor_rollout_ref.rollout.", "actor_rollout_ref.model."
MEGATRON = f"{ACTOR}megatron."
_ALWAYS_PACKED = "sequences are always packed without padding here"
_CORRECTION = "algorithm.loss.importance_sampling"

_DATA = {
    "data.train_files": Term("data.train.path", "~/data/rlhf/gsm8k/train.parquet"),
    "data.val_files": Term("evaluation.datasets", "~/data/rlhf/gsm8k/test.parquet"),
    "data.train_max_samples": Term("data.train.limit", -1),
    "data.val_max_samples": Term("evaluation.datasets.0.limit", -1),
    "data.train_batch_size": Term("batch.prompts_per_step", 1024, "both count prompts"),
    "data.gen_batch_size": Term("batch.prompts_per_generation", None, "both count prompts"),
    "data.max_prompt_length": Term("data.prompts.max_tokens", 512),
    "data.max_response_length": Term("rollout.sampling.max_response_tokens", 512),
    "data.truncation": Term("data.prompts.overlong", "error"),
    "data.filter_overlong_prompts": Term("data.prompts.overlong", False, "true is 'drop' here"),
    "data.shuffle": Term("data.shuffle", True),
    "data.seed": Term("run.seed", None),
    "data.prompt_key": Term("", "prompt", "files in verl's schema have their prompt in the column 'prompt'"),
    "data.reward_fn_key": Term(
        "", "data_source", "files in verl's schema have their source in 'data_source'"
    ),
    "data.tokenizer": Term("model.tokenizer", None),
    "data.val_batch_size": Term("", None, "all held-out problems are generated at once"),
    "data.validation_shuffle": Term("", False, "the order of held-out problems has no effect"),
    "data.apply_chat_template_kwargs": Term("", {}, "the chat template is called without further arguments"),
    "data.filter_overlong_prompts_workers": Term("", 1, "prompts are tokenised once, by the driver"),
    "data.custom_cls.path": Term("", None, "data sets are files, and no class of one's own reads them"),
    "data.trust_remote_code": Term("", False, "set model.trust_remote_code"),
}
_MODEL = {
    f"{MODEL}path": Term("model.path", "~/models/deepseek-llm-7b-chat"),
    f"{MODEL}tokenizer_path": Term("model.tokenizer", None),
    f"{MODEL}trust_remote_code": Term("model.trust_remote_code", False),
    f"{MODEL}enable_gradient_checkpointing": Term("model.gradient_checkpointing", True),
    f"{MODEL}lora_rank": Term("model.lora.rank", 0, "0 is model.lora null here"),
    f"{MODEL}lora_alpha": Term("model.lora.alpha", 16),
    f"{MODEL}target_modules": Term("model.lora.target_modules", "all-linear"),
    f"{MODEL}use_remove_padding": Term("", True, _ALWAYS_PACKED),
    f"{MODEL}custom_chat_template": Term(
        "", None, "model.chat_template names a file with a template, not its text"
    ),
    f"{MODEL}override_config": Term("", {}, "a checkpoint's config.json is used as it is"),
    f"{MODEL}enable_activation_offload": Term(
        "", False, "activations are recomputed, not moved to host memory"
    ),
    f"{MODEL}use_liger": Term(
        "", False, "Liger's kernels are not used; logprobs are made without whole logits"
    ),
    f"{MODEL}use_fused_kernels": Term("", False, "logprobs are always made without whole logits"),
    f"{MODEL}external_lib": Term("", None, "no library is imported beside transformers"),
    f"{MODEL}use_shm": Term("", False, "checkpoints are read from where they are"),
    f"{MODEL}exclude_modules": Term("", None, "model.lora.target_modules names the layers that get adapters"),
    f"{MODEL}lora_adapter_path": Term(
        "", None, "adapters start from nothing: merge the old ones into model.path"
    ),
    f"{MODEL}hf_config_path": Term("", None, "a checkpoint's config.json is used as it is"),
}
_ACTOR = {
    f"{ACTOR}ppo_mini_batch_size": Term("batch.prompts_per_update", 256, "both count prompts"),
    f"{ACTOR}ppo_epochs": Term("batch.epochs", 1),
    f"{ACTOR}use_dynamic_bsz": Term(
        "batch.micro_batch_tokens", False, "micro-batches are always cut by tokens here"
    ),
    f"{ACTOR}ppo_max_token_len_per_gpu": Term("batch.micro_batch_tokens", 16384, "tokens per worker"),
    f"{ACTOR}ppo_micro_batch_size_per_gpu": Term(
        "batch.micro_batch_tokens", None, "tokens and not responses here"
    ),
    f"{ACTOR}ppo_micro_batch_size": Term("batch.micro_batch_tokens", None, "tokens and not responses here"),
    f"{ACTOR}clip_ratio": Term("algorithm.loss.clip_low", 0.2, "clip_low and clip_high are two keys here"),
    f"{ACTOR}clip_ratio_low": Term("algorithm.loss.clip_low", 0.2),
    f"{ACTOR}clip_ratio_high": Term("algorithm.loss.clip_high", 0.2),
    f"{ACTOR}clip_ratio_c": Term("algorithm.loss.dual_clip", 3.0),
    f"{ACTOR}loss_agg_mode": Term("algorithm.loss.aggregation", "token-mean"),
    f"{ACTOR}policy_loss.loss_mode": Term("algorithm.loss.objective", "vanilla"),
    f"{ACTOR}entropy_coeff": Term("algorithm.loss.entropy_coefficient", 0),
    f"{ACTOR}use_kl_loss": Term("algorithm.loss.kl.coefficient", False, "a coefficient of 0 is off here"),
    f"{ACTOR}kl_loss_coef": Term("algorithm.loss.kl.coefficient", 0.001),
    f"{ACTOR}kl_loss_type": Term("algorithm.loss.kl.estimator", "low_var_kl"),
    f"{ACTOR}grad_clip": Term("training.optimizer.grad_clip", 1.0),
    f"{ACTOR}strategy": Term("training.backend.kind", "fsdp"),
    f"{ACTOR}ulysses_sequence_parallel_size": Term(
        "training.backend.context_parallel", 1, "fsdp has no sequence parallelism here; backend megatron has"
    ),
    f"{ACTOR}optim.lr": Term("training.optimizer.lr", 1e-6),
    f"{ACTOR}optim.weight_decay": Term("training.optimizer.weight_decay", 0.01),
    f"{ACTOR}optim.betas": Term("training.optimizer.betas", [0.9, 0.999]),
    f"{ACTOR}optim.clip_grad": Term("training.optimizer.grad_clip", 1.0),
    f"{ACTOR}optim.lr_warmup_steps": Term("training.schedule.warmup_steps", -1),
    f"{ACTOR}optim.lr_warmup_steps_ratio": Term("training.schedule.warmup_steps", 0.0),
    f"{ACTOR}optim.lr_scheduler_type": Term("training.schedule.kind", "constant"),
    f"{ACTOR}optim.warmup_style": Term("training.schedule.kind", None),
    f"{ACTOR}optim.min_lr_ratio": Term("training.schedule.final_ratio", 0.0),
    f"{ACTOR}optim.optimizer": Term("", "AdamW", "the optimizer is AdamW"),
    f"{ACTOR}optim.optimizer_impl": Term("", "torch.optim", "the optimizer is PyTorch's or Megatron's AdamW"),
    f"{ACTOR}optim.total_training_steps": Term("", -1, "the schedule lasts run.steps"),
    f"{ACTOR}optim.num_cycles": Term("", 0.5, "a cosine schedule has half a period"),
    f"{ACTOR}fsdp_config.param_offload": Term("training.offload", False, "'all' moves weights too"),
    f"{ACTOR}fsdp_config.optimizer_offload": Term("training.offload", False),
    f"{ACTOR}fsdp_config.fsdp_size": Term("training.backend.shard_ranks", -1, "-1 is null here"),
    f"{ACTOR}fsdp_config.reshard_after_forward": Term("training.backend.reshard_after_forward", True),
    f"{ACTOR}fsdp_config.dtype": Term("model.dtype", "bfloat16"),
    f"{ACTOR}fsdp_config.model_dtype": Term("", "fp32", "master weights are always float32"),
    f"{ACTOR}fsdp_config.offload_policy": Term(
        "", False, "training.offload moves whole models between phases"
    ),
    f"{ACTOR}fsdp_config.forward_prefetch": Term(
        "", False, "FSDP2 prefetches by itself; training.backend.prefetch_layers"
    ),
    f"{ACTOR}shuffle": Term("", False, "a step's prompts keep their order in its updates"),
    f"{ACTOR}use_torch_compile": Term("", True, "training.backend.compile_layers, false unless set"),
    f"{ACTOR}tau_pos": Term("", 1.0, "SAPO is not built"),
    f"{ACTOR}tau_neg": Term("", 1.05, "SAPO is not built"),
    f"{ACTOR}loss_scale_factor": Term(
        "", None, "seq-mean-token-sum-norm divides by rollout.sampling.max_response_tokens"
    ),
    f"{ACTOR}use_remove_padding": Term("", True, _ALWAYS_PACKED),
    f"{ACTOR}data_loader_seed": Term("", 42, "all seeds follow from run.seed"),
}
_MEGATRON = {
    f"{MEGATRON}tensor_model_parallel_size": Term("training.backend.tensor_parallel", 1),
    f"{MEGATRON}pipeline_model_parallel_size": Term("training.backend.pipeline_parallel", 1),
    f"{MEGATRON}virtual_pipeline_model_parallel_size": Term("training.backend.virtual_stages", None),
    f"{MEGATRON}context_parallel_size": Term("training.backend.context_parallel", 1),
    f"{MEGATRON}expert_model_parallel_size": Term("training.backend.expert_parallel", 1),
    f"{MEGATRON}use_distributed_optimizer": Term("training.backend.distributed_optimizer", True),
    f"{MEGATRON}param_offload": Term("training.offload", False),
    f"{MEGATRON}optimizer_offload": Term("training.offload", False),
    f"{MEGATRON}dtype": Term("model.dtype", "bfloat16"),
}
_ROLLOUT = {
    f"{ROLLOUT}n": Term("rollout.responses_per_prompt", 1),
    f"{ROLLOUT}name": Term(
        "rollout.engine.kind", "vllm", "hf is the embedded engine; sglang and trtllm are not built"
    ),
    f"{ROLLOUT}temperature": Term("rollout.sampling.temperature", 1.0),
    f"{ROLLOUT}top_p": Term("rollout.sampling.top_p", 1),
    f"{ROLLOUT}top_k": Term("rollout.sampling.top_k", -1, "-1 is 0 here: all tokens"),
    f"{ROLLOUT}response_length": Term("rollout.sampling.max_response_tokens", None),
    f"{ROLLOUT}prompt_length": Term("data.prompts.max_tokens", None),
    f"{ROLLOUT}dtype": Term("rollout.engine.dtype", "bfloat16"),
    f"{ROLLOUT}gpu_memory_utilization": Term("rollout.engine.gpu_memory_utilization", 0.5),
    f"{ROLLOUT}enforce_eager": Term("rollout.engine.enforce_eager", False),
    f"{ROLLOUT}tensor_model_parallel_size": Term("rollout.engine.tensor_parallel", 2),
    f"{ROLLOUT}max_num_batched_tokens": Term("rollout.engine.max_batched_tokens", 8192),
    f"{ROLLOUT}max_num_seqs": Term("rollout.engine.max_batch_sequences", 256),
    f"{ROLLOUT}val_kwargs.temperature": Term("evaluation.sampling.temperature", 0),
    f"{ROLLOUT}val_kwargs.top_p": Term("evaluation.sampling.top_p", 1.0),
    f"{ROLLOUT}val_kwargs.top_k": Term("evaluation.sampling.top_k", -1),
    f"{ROLLOUT}val_kwargs.do_sample": Term(
        "evaluation.sampling.temperature", False, "false is temperature 0 here"
    ),
    f"{ROLLOUT}val_kwargs.n": Term("evaluation.samples_per_prompt", 1),
    f"{ROLLOUT}seed": Term("", 42, "all seeds follow from run.seed"),
    f"{ROLLOUT}do_sample": Term("", True, "training always samples"),
    f"{ROLLOUT}ignore_eos": Term("", False, "generation always stops at the end-of-sequence token"),
    f"{ROLLOUT}mode": Term("", "async", "generation and training take turns on the same GPUs"),
    f"{ROLLOUT}free_cache_engine": Term("", True, "vLLM always frees its cache before training on a GPU"),
    f"{ROLLOUT}enable_chunked_prefill": Term("", True, "vLLM's own choice"),
    f"{ROLLOUT}enable_prefix_caching": Term("", True, "vLLM's own choice"),
    f"{ROLLOUT}max_model_len": Term(
        "", None, "it follows from data.prompts.max_tokens + max_response_tokens"
    ),
    f"{ROLLOUT}load_format": Term("", "dummy", "weights come from the trainer"),
    f"{ROLLOUT}calculate_log_probs": Term("", True, "the logprobs of generation are always kept"),
    f"{ROLLOUT}log_prob_use_dynamic_bsz": Term("", False, "batch.micro_batch_tokens holds for logprobs too"),
    f"{ROLLOUT}log_prob_max_token_len_per_gpu": Term(
        "", None, "batch.micro_batch_tokens holds for logprobs too"
    ),
    f"{ROLLOUT}log_prob_micro_batch_size_per_gpu": Term(
        "", None, "batch.micro_batch_tokens holds for logprobs too"
    ),
    f"{ROLLOUT}log_prob_micro_batch_size": Term("", None, "batch.micro_batch_tokens holds for logprobs too"),
    f"{ROLLOUT}disable_log_stats": Term("", True, "generation's throughput is in metrics.jsonl"),
}
_ALGORITHM = {
    "algorithm.adv_estimator": Term("algorithm.kind", "gae", "gae is kind ppo"),
    "algorithm.norm_adv_by_std_in_grpo": Term("algorithm.advantage", True, "false is group_mean here"),
    "algorithm.gamma": Term("algorithm.gae.gamma", 1.0),
    "algorithm.lam": Term("algorithm.gae.lam", 1.0),
    "algorithm.use_kl_in_reward": Term(
        "algorithm.kl_in_reward.coefficient", False, "a coefficient of 0 is off here"
    ),
    "algorithm.kl_penalty": Term("algorithm.kl_in_reward.estimator", "kl"),
    "algorithm.kl_ctrl.type": Term("algorithm.kl_in_reward.controller", "fixed"),
    "algorithm.kl_ctrl.kl_coef": Term("algorithm.kl_in_reward.coefficient", 0.001),
    "algorithm.kl_ctrl.target_kl": Term("algorithm.kl_in_reward.target", 0.1),
    "algorithm.kl_ctrl.horizon": Term("algorithm.kl_in_reward.horizon", 10000),
    "algorithm.filter_groups.enable": Term("algorithm.dynamic_sampling.enabled", False),
    "algorithm.filter_groups.max_num_gen_batches": Term(
        "algorithm.dynamic_sampling.max_generation_batches", 0
    ),
    "algorithm.filter_groups.metric": Term(
        "", "reward", "groups are compared by accuracy, or by score where a reward function reports none"
    ),
    "algorithm.filter_groups.max_inflight_gen_batches": Term("", 1, "set batch.prompts_per_generation"),
    "algorithm.rollout_correction.rollout_is": Term(f"{_CORRECTION}.level", None),
    "algorithm.rollout_correction.rollout_is_threshold": Term(f"{_CORRECTION}.cap", 2.0),
    "algorithm.rollout_correction.rollout_rs": Term(
        "", None, f"one correction at a time: {_CORRECTION}.kind=rejected, with level, floor and cap"
    ),
    "algorithm.rollout_correction.rollout_rs_threshold": Term("", None, f"set {_CORRECTION}.floor and cap"),
    "algorithm.rollout_correction.rollout_is_batch_normalize": Term("", False, "weights are not normalised"),
    "algorithm.rollout_correction.bypass_mode": Term(
        "algorithm.loss.old_logprobs", False, "true is 'rollout' here"
    ),
    "algorithm.rollout_correction.loss_type": Term(
        "", "ppo_clip", "algorithm.loss.objective is one for all modes"
    ),
    "algorithm.use_pf_ppo": Term("", False, "PF-PPO is not built"),
}
_CRITIC = {
    "critic.optim.lr": Term("critic.optimizer.lr", 1e-5),
    "critic.optim.weight_decay": Term("critic.optimizer.weight_decay", 0.01),
    "critic.grad_clip": Term("critic.optimizer.grad_clip", 1.0),
    "critic.model.path": Term("critic.path", "~/models/deepseek-llm-7b-chat"),
    "critic.cliprange_value": Term("algorithm.value_loss.clip", 0.5),
    "trainer.critic_warmup": Term("algorithm.critic_warmup_steps", 0),
}
_REWARD = {
    "reward.custom_reward_function.path": Term("reward.functions.0.fn", None, "written path:function here"),
    "reward.custom_reward_function.name": Term("reward.functions.0.fn", "compute_score"),
    "reward.num_workers": Term("reward.workers", 8),
    "reward.reward_manager.name": Term(
        "", "naive", "reward.functions score, and reward.overlong shapes by length"
    ),
    "custom_reward_function.path": Term("reward.functions.0.fn", None, "written path:function here"),
    "custom_reward_function.name": Term("reward.functions.0.fn", None),
    "reward_model.reward_manager": Term(
        "", None, "reward.functions score, and reward.overlong shapes by length"
    ),
    "reward_model.enable": Term("", None, "set reward_model.kind and reward_model.path"),
    "reward_model.num_workers": Term("reward.workers", None),
}
_TRAINER = {
    "trainer.total_epochs": Term("run.steps", 30, "steps and not passes here"),
    "trainer.total_training_steps": Term("run.steps", None),
    "trainer.nnodes": Term("cluster.nodes", 1),
    "trainer.n_gpus_per_node": Term("cluster.workers_per_node", 8),
    "trainer.test_freq": Term("evaluation.every_steps", -1, "-1 is null here"),
    "trainer.val_before_train": Term("evaluation.at_start", True),
    "trainer.save_freq": Term("checkpoint.every_steps", -1, "-1 is null here"),
    "trainer.max_actor_ckpt_to_keep": Term("checkpoint.keep_last", None),
    "trainer.resume_mode": Term("run.resume", "auto"),
    "trainer.default_local_dir": Term("run.output_dir", None),
    "trainer.project_name": Term("logging.wandb.project", "verl_examples"),
    "trainer.experiment_name": Term("logging.wandb.name", "gsm8k"),
    "trainer.logger": Term("logging.wandb", ["console", "wandb"]),
    "trainer.balance_batch": Term("", True, "batches are always balanced by length"),
    "trainer.val_only": Term("", False, "that is `reasoner-rl eval`"),
    "trainer.device": Term("", "cuda", "cluster.device says what workers need"),
    "trainer.log_val_generations": Term("", 0, "every response of an evaluation is recorded"),
    "trainer.rollout_data_dir": Term("", None, "responses are recorded in output_dir/rollouts"),
    "trainer.validation_data_dir": Term("", None, "responses are recorded in output_dir/rollouts"),
    "trainer.resume_from_path": Term("", None, "a run resumes from its own output_dir"),
    "trainer.default_hdfs_dir": Term("", None, "checkpoints are written to output_dir alone"),
    "trainer.del_local_ckpt_after_load": Term("", False, "checkpoint.keep_last says which are deleted"),
    "trainer.max_critic_ckpt_to_keep": Term("", None, "the critic is part of the checkpoint"),
}
OVERLONG = (  # where the punishment of overlong responses has stood
    "reward.reward_kwargs.overlong_buffer_cfg",
    "reward_model.reward_kwargs.overlong_buffer_cfg",
    "reward_model.overlong_buffer",
    "custom_reward_function.overlong_buffer",
)
_MAX_LENGTH = "it is rollout.sampling.max_response_tokens"
# Names that are not in verl 0.9.1's own files: of recipe/dapo, of older versions, and of keyword arguments.
OLDER = {
    **{f"{section}.enable": Term("reward.overlong.buffer_tokens", False, "0 is off") for section in OVERLONG},
    **{f"{section}.len": Term("reward.overlong.buffer_tokens", 0) for section in OVERLONG},
    **{f"{section}.penalty_factor": Term("reward.overlong.penalty", 0.0) for section in OVERLONG},
    **{
        f"{section}.log": Term("", False, "it is always logged, as reward/overlong_share")
        for section in OVERLONG
    },
    f"{ACTOR}use_token_level_loss": Term("algorithm.loss.aggregation", False),
    f"{ACTOR}loss_mode": Term("algorithm.loss.objective", None),
    "reward.reward_kwargs.max_resp_len": Term("", None, _MAX_LENGTH),
    "reward_model.reward_kwargs.max_resp_len": Term("", None, _MAX_LENGTH),
}

VERL = Vocabulary(
    "verl",
    {
        **_DATA,
        **_MODEL,
        **_ACTOR,
        **_MEGATRON,
        **_ROLLOUT,
        **_ALGORITHM,
        **_CRITIC,
        **_REWARD,
        **_TRAINER,
        **OLDER,
    },
    SECTIONS,
)
