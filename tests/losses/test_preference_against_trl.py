"""The same losses, gradients and metrics as TRL's trainers for preferences, by calling them on the same numbers.

Of a trainer its loss needs only settings and the forward pass. Where TRL averages the negative log-likelihood otherwise
(over the prompt too in ORPO, over tokens in CPO), it is given ours; what is compared is what it adds to it.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from preference_batches import KL_BASELINE, by_answer, outputs, random_labels, random_pairs

from reasoner_rl.config.preference import DpoConfig, KtoConfig, OrpoConfig, SimpoConfig
from reasoner_rl.losses.kto import kto_loss
from reasoner_rl.losses.pairs import dpo_loss, orpo_loss, simpo_loss

pytest.importorskip("trl")

ACCELERATOR = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)


def trainer(**settings):
    return SimpleNamespace(
        accelerator=ACCELERATOR,
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **settings,
    )


def padded(flat, batch, logprobs, order):
    """A model's answer about the sequences in ``order``, and the inputs that TRL reads, after a prompt of one token."""
    mask = flat.pad(batch.loss_mask.long(), batch)[order]
    shown = SimpleNamespace(
        log_probs=(flat.pad(logprobs, batch)[order] * mask),  # TRL's head gives 0 where nothing is trained
        entropy=torch.zeros(mask.shape),
        mean_logits=torch.zeros(mask.shape),
        is_top1=torch.zeros(mask.shape, dtype=torch.bool),
    )
    prompt = torch.zeros(len(mask), 1, dtype=torch.int64)
    ids = torch.zeros(len(mask), mask.shape[1] + 1, dtype=torch.int64)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "completion_mask": torch.cat([prompt, mask], dim=1),
    }
    return (lambda **_: shown), inputs


def compare(gradient_of, ours, theirs, logprobs):
    torch.testing.assert_close(ours(logprobs), theirs(logprobs), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        gradient_of(ours, logprobs), gradient_of(theirs, logprobs), rtol=1e-5, atol=1e-7
    )


DPO = {
    "sigmoid": DpoConfig(beta=0.3),
    "ipo": DpoConfig(objective="ipo", beta=0.3),
    "hinge": DpoConfig(objective="hinge", beta=0.3),
    "sigmoid_norm": DpoConfig(beta=2.0, length_normalized=True),
}


@pytest.mark.parametrize("loss_type", DPO)
@pytest.mark.parametrize("seed", range(3))
def test_dpo(flat, gradient_of, loss_type, seed):
    from trl.trainer.dpo_trainer import DPOTrainer

    config = DPO[loss_type]
    batch, logprobs = random_pairs(flat, seed)
    reference = by_answer(batch.reference_logprobs, batch)
    made = trainer(
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=config.beta,
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        use_weighting=False,
    )

    def theirs(x):
        model, inputs = padded(flat, batch, x, [0, 2, 4, 6, 1, 3, 5, 7])
        inputs |= {"ref_chosen_logps": reference[0::2], "ref_rejected_logps": reference[1::2]}
        return DPOTrainer._compute_loss(made, model, inputs, False)

    compare(gradient_of, lambda x: dpo_loss(outputs(x), batch, config)[0], theirs, logprobs)
    same_metrics(dpo_loss(outputs(logprobs), batch, config)[1], made._metrics["train"])


def same_metrics(ours, theirs, *more):
    names = ("rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected", *more)
    for name in names:
        assert ours[name].value() == pytest.approx(theirs[name][0], rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("seed", range(3))
def test_kto(flat, gradient_of, seed):
    from trl.trainer.kto_trainer import KTOTrainer

    config = KtoConfig(beta=0.3, desirable_weight=1.5, undesirable_weight=0.8)
    batch, logprobs = random_labels(flat, seed)
    mismatched = torch.tensor([0.4, 2.0, -0.3])  # whose mean is the estimate
    assert mismatched.mean().item() == pytest.approx(KL_BASELINE)
    made = trainer(
        beta=config.beta,
        loss_type="kto",
        calculate_KL=True,
        desirable_weight=config.desirable_weight,
        undesirable_weight=config.undesirable_weight,
        _compute_kl_logps=lambda model, inputs: mismatched,
    )

    def theirs(x):
        model, inputs = padded(flat, batch, x, list(range(8)))
        inputs |= {
            "label": batch.rewards > 0.5,
            "ref_logps": by_answer(batch.reference_logprobs, batch),
            "ref_KL_logps": torch.zeros(3),
        }
        return KTOTrainer._compute_loss(made, model, inputs, False)

    compare(gradient_of, lambda x: kto_loss(outputs(x), batch, config)[0], theirs, logprobs)
    same_metrics(kto_loss(outputs(logprobs), batch, config)[1], made._metrics["train"])
    assert made._metrics["train"]["kl"][0] == pytest.approx(KL_BASELINE)


def means_of(batch, logprobs):
    means = by_answer(logprobs, batch) / by_answer(torch.ones_like(logprobs), batch)
    return means[0::2], means[1::2]


def experimental(cls, made, batch):
    """TRL's loss by the mean logprobs of chosen and rejected answers and our negative log-likelihood."""

    def loss_of(logprobs):
        chosen, rejected = means_of(batch, logprobs)
        nothing = torch.zeros(1)
        forward = (chosen, rejected, nothing, nothing, -chosen.mean())
        made.concatenated_forward = lambda model, inputs: forward
        for name in ("odds_ratio_loss", "cpo_loss"):
            if hasattr(cls, name):
                setattr(made, name, getattr(cls, name).__get__(made))
        return cls.get_batch_loss_metrics(made, None, {})[0]

    return loss_of


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("seed", range(3))
def test_orpo(flat, gradient_of, seed):
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    config = OrpoConfig(odds_ratio_weight=0.7)
    batch, logprobs = random_pairs(flat, seed)
    theirs = experimental(ORPOTrainer, trainer(beta=config.odds_ratio_weight), batch)
    compare(gradient_of, lambda x: orpo_loss(outputs(x), batch, config)[0], theirs, logprobs)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("nll_coefficient", [0.0, 0.4])
@pytest.mark.parametrize("seed", range(3))
def test_simpo(flat, gradient_of, seed, nll_coefficient):
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    config = SimpoConfig(beta=2.5, gamma=0.6, nll_coefficient=nll_coefficient)
    batch, logprobs = random_pairs(flat, seed)
    made = trainer(
        beta=config.beta,
        simpo_gamma=config.gamma,
        loss_type="simpo",
        alpha=0.0,
        label_smoothing=0.0,
        cpo_alpha=nll_coefficient,
    )
    theirs = experimental(CPOTrainer, made, batch)
    compare(gradient_of, lambda x: simpo_loss(outputs(x), batch, config)[0], theirs, logprobs)
