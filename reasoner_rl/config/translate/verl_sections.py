"""Sections and keys of verl that are nothing here, and why. (Those that users set most are in `verl_keys`.)"""

from __future__ import annotations

_ACTOR = "actor_rollout_ref.actor"
_MEGATRON = f"{_ACTOR}.megatron"
_ROLLOUT = "actor_rollout_ref.rollout"
_MODEL = "actor_rollout_ref.model"

_PROFILER = "profiling is not a setting here"
_QUANTISATION = "quantisation is not built"
_ONE_TURN = "one response per prompt: tools, agents and further turns are not built"
_REWARD_MODEL = "set reward_model.kind and reward_model.path"
_SANDBOX = "verifiers run in processes of their own: reward.timeout_seconds, reward.memory_gib"
_CRITIC = "the critic is held and computed as the policy is"
_TEXT = "prompts are text, and read by the driver"
_VLLM = "vLLM is set up by rollout.engine alone"
_ADAMW = "the optimizer is AdamW with training.optimizer and training.schedule"
_NO_CHOICE = "there is no such choice here"


def _under(section: str, names: str, why: str) -> dict[str, str]:
    return {f"{section}.{name}": why for name in names.split()}


SECTIONS = {
    **_under(
        "data",
        "use_shm tool_config_path function_tool_path return_raw_input_ids return_raw_chat return_full_prompt "
        "dataloader_num_workers image_patch_size image_key video_key audio_key custom_cls.name "
        "return_multi_modal_inputs mm_processor_kwargs",
        _TEXT,
    ),
    "data.apply_chat_template_kwargs": "the chat template is called without further arguments",
    **_under(_MODEL, "fused_kernel_options tiled_mlp", "logprobs are always made without whole logits"),
    f"{_MODEL}.mtp": "multi-token prediction is not built",
    f"{_MODEL}.lora": "adapters are trained with fsdp alone: model.lora",
    f"{_MODEL}.override_config": "a checkpoint's config.json is used as it is",
    **_under(
        _ACTOR,
        "rollout_n freeze_vision_tower calculate_entropy calculate_sum_pi_squared use_prefix_grouper "
        "use_fused_kernels entropy_from_logits_with_chunking entropy_from_logits_chunk_size entropy_checkpointing "
        "pad_to_length",
        _NO_CHOICE,
    ),
    f"{_ACTOR}.profiler": _PROFILER,
    f"{_ACTOR}.qat": _QUANTISATION,
    f"{_ACTOR}.checkpoint": "a checkpoint always holds all that resuming needs",
    **_under(
        f"{_ACTOR}.policy_loss",
        "clip_cov_ratio clip_cov_lb clip_cov_ub kl_cov_ratio ppo_kl_coef dro_beta",
        "the objectives are those of algorithm.loss.objective",
    ),
    **_under(
        f"{_ACTOR}.optim",
        "zero_indexed_step override_optimizer_config lr_warmup_init lr_decay_steps lr_decay_style min_lr "
        "weight_decay_incr_style lr_wsd_decay_style lr_wsd_decay_steps use_checkpoint_opt_param_scheduler "
        "use_precision_aware_optimizer main_grads_dtype exp_avg_dtype exp_avg_sq_dtype "
        "use_layer_wise_distributed_optimizer muon_momentum muon_nesterov muon_split_qkv muon_scale_mode "
        "muon_coefficient_type muon_num_ns_steps muon_tp_mode muon_fp32_matmul_prec muon_extra_scale_factor "
        "muon_scalar_optimizer muon_match_adamw_update_rms",
        _ADAMW,
    ),
    **_under(
        f"{_ACTOR}.fsdp_config",
        "wrap_policy use_orig_params seed full_determinism ulysses_sequence_parallel_size "
        "entropy_from_logits_with_chunking entropy_from_logits_chunk_size use_torch_compile entropy_checkpointing "
        "use_no_sync_for_gradient_accumulation pad_to_length pad_to_length_bucket forward_only strategy turbo_config",
        "FSDP2 is set up by training.backend alone",
    ),
    f"{_ACTOR}.fsdp_config.qat": _QUANTISATION,
    **_under(
        _MEGATRON,
        "expert_tensor_parallel_size sequence_parallel use_dist_checkpointing dist_checkpointing_path "
        "dynamic_context_parallel max_seqlen_per_dp_cp_rank dist_checkpointing_prefix "
        "dist_ckpt_optim_fully_reshardable distrib_optim_fully_reshardable_mem_efficient "
        "entropy_from_logits_with_chunking entropy_from_logits_chunk_size seed override_ddp_config "
        "override_transformer_config override_mcore_model_config use_mbridge vanilla_mbridge use_remove_padding "
        "pad_bshd_to_minibatch_max pad_to_length pad_to_length_bucket use_megatron_fsdp forward_only router_replay",
        "megatron-core is set up by training.backend alone",
    ),
    f"{_MEGATRON}.qat": _QUANTISATION,
    "actor_rollout_ref.ref": "the reference policy is held and computed as the policy is",
    "actor_rollout_ref.ref.profiler": _PROFILER,
    "actor_rollout_ref.hybrid_engine": "generation and training always share the GPUs",
    "actor_rollout_ref.nccl_timeout": "cluster.deadlines say how long calls may take",
    **_under(
        _ROLLOUT,
        "nnodes n_gpus_per_node full_determinism cudagraph_capture_sizes data_parallel_size expert_parallel_size "
        "pipeline_model_parallel_size logprobs_mode scheduling_policy layered_summon over_sample_rate "
        "multi_stage_wake_up engine_kwargs router_config_path checkpoint_engine trace skip_tokenizer_init "
        "enable_rollout_routing_replay moe_load_balance_metrics_interval prometheus disaggregation mtp",
        _VLLM,
    ),
    **_under(_ROLLOUT, "quantization quantization_config_file qat", _QUANTISATION),
    **_under(_ROLLOUT, "multi_turn agent", _ONE_TURN),
    f"{_ROLLOUT}.profiler": _PROFILER,
    **_under(
        "critic",
        "optim fsdp megatron model checkpoint rollout_n strategy enable ppo_mini_batch_size ppo_micro_batch_size "
        "ppo_micro_batch_size_per_gpu use_dynamic_bsz ppo_max_token_len_per_gpu forward_max_token_len_per_gpu "
        "ppo_epochs shuffle data_loader_seed loss_agg_mode loss_scale_factor forward_micro_batch_size "
        "forward_micro_batch_size_per_gpu ulysses_sequence_parallel_size nccl_timeout",
        _CRITIC,
    ),
    "critic.profiler": _PROFILER,
    **_under(
        "reward_model",
        "enable_resource_pool n_gpus_per_node nnodes reward_loop_source reward_loop_module_path "
        "reward_loop_class_name model rollout",
        _REWARD_MODEL,
    ),
    "reward.reward_model": _REWARD_MODEL,
    **_under(
        "reward.reward_manager",
        "source module",
        "reward.functions score, and reward.overlong shapes by length",
    ),
    "reward.sandbox_fusion": _SANDBOX,
    "sandbox_fusion": _SANDBOX,
    "algorithm.pf_ppo": "PF-PPO is not built",
    "distillation": "set algorithm.kind=distillation and teacher.path",
    **_under(
        "trainer", "esi_redundant_time checkpoint_callback_class ray_wait_register_center_timeout", _NO_CHOICE
    ),
    **_under("trainer", "use_v1 v1", "generation and training take turns on the same GPUs"),
    "transfer_queue": "data goes through the driver",
    "skip": "no phase of a step is skipped",
    "ray_kwargs": "Ray is started by the launch scripts, or found by cluster.address",
    "global_profiler": _PROFILER,
}
