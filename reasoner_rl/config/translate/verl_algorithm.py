"""verl's algorithm, loss and critic as the section algorithm of a recipe."""

from __future__ import annotations

import re

from reasoner_rl.config.translate.terms import Draft, Settings
from reasoner_rl.config.translate.verl_keys import ACTOR

_ESTIMATORS = {"kl": "k1", "k1": "k1", "mse": "k2", "k2": "k2", "low_var_kl": "k3", "k3": "k3"}
_GROUP_KINDS = {"grpo": "grpo", "grpo_vectorized": "grpo", "rloo": "rloo", "rloo_vectorized": "rloo"}
_REINFORCE_BASELINES = {"reinforce_plus_plus": "none", "reinforce_plus_plus_baseline": "group"}
_MODES = {"vanilla": "clip", "gspo": "clip", "geo_mean": "gmpo", "cispo": "cispo"}
_AGGREGATIONS = {name: name for name in ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm")}


def draft_algorithm(settings: Settings, draft: Draft) -> None:
    """Set the algorithm, and the critic if there is one. Raises ConfigError where there is no counterpart."""
    key, grouped = "algorithm.adv_estimator", "algorithm.filter_groups.enable"
    kinds = {"gae": "ppo", **dict.fromkeys(_REINFORCE_BASELINES, "reinforce_plus_plus"), **_GROUP_KINDS}
    kind, filtered = settings.chosen(key, kinds), settings.switch(grouped)
    if kind == "grpo" and filtered:
        words = "grpo with filter_groups is DAPO; its other techniques are keys of their own."
        draft.put("algorithm.kind", "dapo", key, grouped, words=words)
    else:
        draft.put("algorithm.kind", kind, key)
    if kind == "ppo":
        _critic(settings, draft)
    elif kind == "reinforce_plus_plus":
        baseline = _REINFORCE_BASELINES[settings.value(key)]
        draft.put("algorithm.baseline", baseline, key)
        if baseline == "none":
            draft.copy("algorithm.gamma", settings.number, "algorithm.gamma")
    elif kind == "grpo":
        divided = "algorithm.norm_adv_by_std_in_grpo"
        draft.put("algorithm.advantage", "group_std" if settings.switch(divided) else "group_mean", divided)
    _loss(settings, draft)
    _kl_in_loss(settings, draft)
    _kl_in_reward(settings, draft)
    _correction(settings, draft)
    draft.put("algorithm.dynamic_sampling.enabled", filtered, grouped)
    if filtered:
        _filter(settings, draft)


def _critic(settings: Settings, draft: Draft) -> None:
    draft.copy("algorithm.gae.gamma", settings.number, "algorithm.gamma")
    draft.copy("algorithm.gae.lam", settings.number, "algorithm.lam")
    draft.copy("algorithm.value_loss.clip", settings.number, "critic.cliprange_value")
    draft.copy("algorithm.critic_warmup_steps", settings.integer, "trainer.critic_warmup")
    draft.copy("critic.path", settings.value, "critic.model.path")
    draft.copy("critic.optimizer.lr", settings.number, "critic.optim.lr")
    draft.copy("critic.optimizer.weight_decay", settings.number, "critic.optim.weight_decay")
    draft.copy("critic.optimizer.grad_clip", settings.number, "critic.grad_clip")


def _loss(settings: Settings, draft: Draft) -> None:
    older = f"{ACTOR}loss_mode"
    key = older if settings.value(older) is not None else f"{ACTOR}policy_loss.loss_mode"
    objective, mode = settings.chosen(key, _MODES), settings.value(key)
    draft.put("algorithm.loss.objective", objective, key)
    if mode == "gspo":
        draft.put("algorithm.loss.ratio", "sequence", key)
    _clip(settings, draft)
    dual = f"{ACTOR}clip_ratio_c"
    if mode == "vanilla":
        draft.copy("algorithm.loss.dual_clip", settings.number, dual)
    else:
        draft.put("algorithm.loss.dual_clip", None, key)
    if mode == "geo_mean":
        draft.put("algorithm.loss.aggregation", "seq-mean-token-mean", key)
    else:
        keys = [f"{ACTOR}loss_agg_mode"]
        token_level = f"{ACTOR}use_token_level_loss"  # of versions in which it was true or false
        if token_level in settings.given and settings.switch(token_level):
            keys.append(token_level)
        draft.put("algorithm.loss.aggregation", settings.chosen(keys[0], _AGGREGATIONS), *keys)
    draft.copy("algorithm.loss.entropy_coefficient", settings.number, f"{ACTOR}entropy_coeff")


def _clip(settings: Settings, draft: Draft) -> None:
    """clip_ratio stands in for either bound, but only where that is null."""
    both, stands_in = f"{ACTOR}clip_ratio", False
    for ours, theirs in (("clip_low", f"{ACTOR}clip_ratio_low"), ("clip_high", f"{ACTOR}clip_ratio_high")):
        key = theirs if settings.value(theirs) is not None else both
        stands_in |= key == both
        draft.copy(f"algorithm.loss.{ours}", settings.number, key)
    if both in settings.given and not stands_in:
        draft.leave_out(both, "verl reads it only where clip_ratio_low or clip_ratio_high is null")


def _kl_in_loss(settings: Settings, draft: Draft) -> None:
    switch, weight = f"{ACTOR}use_kl_loss", f"{ACTOR}kl_loss_coef"
    ours = "algorithm.loss.kl"
    if not settings.switch(switch):
        draft.put(f"{ours}.coefficient", 0.0, switch)
        return
    draft.put(f"{ours}.coefficient", settings.number(weight), weight, switch)
    kind = f"{ACTOR}kl_loss_type"
    draft.put(f"{ours}.estimator", settings.chosen(kind, _ESTIMATORS), kind)


def _kl_in_reward(settings: Settings, draft: Draft) -> None:
    switch, control = "algorithm.use_kl_in_reward", "algorithm.kl_ctrl"
    ours = "algorithm.kl_in_reward"
    if not settings.switch(switch):
        draft.put(f"{ours}.coefficient", 0.0, switch)
        return
    draft.put(f"{ours}.coefficient", settings.number(f"{control}.kl_coef"), f"{control}.kl_coef", switch)
    draft.put(
        f"{ours}.estimator", settings.chosen("algorithm.kl_penalty", _ESTIMATORS), "algorithm.kl_penalty"
    )
    draft.copy(f"{ours}.controller", settings.value, f"{control}.type")
    if settings.value(f"{control}.type") == "adaptive":
        draft.copy(f"{ours}.target", settings.number, f"{control}.target_kl")
        draft.copy(f"{ours}.horizon", settings.size, f"{control}.horizon")


def _correction(settings: Settings, draft: Draft) -> None:
    theirs, ours = "algorithm.rollout_correction", "algorithm.loss.importance_sampling"
    level, threshold = f"{theirs}.rollout_is", f"{theirs}.rollout_is_threshold"
    if settings.switch(f"{theirs}.bypass_mode"):
        draft.put("algorithm.loss.old_logprobs", "rollout", f"{theirs}.bypass_mode")
        return
    if settings.value(level) is None:
        return
    draft.copy(f"{ours}.level", settings.value, level)
    between = re.fullmatch(r"([\d.eE+-]+)_([\d.eE+-]+)", str(settings.value(threshold)))
    if between is None:
        draft.put(f"{ours}.kind", "truncated", threshold)
        draft.copy(f"{ours}.cap", settings.number, threshold)
    else:
        draft.put(f"{ours}.kind", "masked", threshold)
        draft.put(f"{ours}.floor", float(between[1]), threshold)
        draft.put(f"{ours}.cap", float(between[2]), threshold)


def _filter(settings: Settings, draft: Draft) -> None:
    ours, cap = "algorithm.dynamic_sampling", "algorithm.filter_groups.max_num_gen_batches"
    if (most := settings.integer(cap)) > 0:
        draft.put(f"{ours}.max_generation_batches", most, cap)
        words = "verl stops with an error at the cap; 'train' continues with the groups that there are."
        draft.put(f"{ours}.when_exhausted", "fail", words=words)
    else:
        draft.leave_out(
            cap, "there is always a cap: 10 batches, after which the groups at hand are trained on"
        )
    draft.put(f"{ours}.max_staleness", 0, words="verl throws surplus groups away.")
