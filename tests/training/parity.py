"""What every training backend must compute: a plain transformers model in float32, one sequence at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion

from reasoner_rl.config.algorithm import LossConfig
from reasoner_rl.config.training import OptimizerConfig, ScheduleConfig, TrainingConfig
from reasoner_rl.training.optimizer import learning_rate_factor
from reasoner_rl.types import TrainSample

LossOf = Callable[[Any, list[TrainSample]], tuple[Tensor, list[Tensor]]]

# Large against rounding, so that Adam does not blow noise in a vanishing gradient up to a full step.
EPS = 1e-3
CLIP_HIGHER = LossConfig(clip_low=0.2, clip_high=0.28)
PADDING = 0  # the checkpoints' padding token, which is a token like any other
TEMPERATURE, UPDATES, TOTAL_UPDATES, MAX_RESPONSE = 0.7, 3, 10, 64
TRAINING = TrainingConfig(
    optimizer=OptimizerConfig(lr=1e-2, weight_decay=0.1, grad_clip=0.05, eps=EPS),
    schedule=ScheduleConfig(kind="cosine", warmup_steps=1),
    logprob_chunk_tokens=7,
)


def make_samples(vocabulary: int, count: int = 6) -> list[TrainSample]:
    """Responses of several lengths, with both signs of the advantage and ratios on both sides of the clip range."""
    generator = torch.Generator().manual_seed(1)

    def draw(length: int) -> Tensor:
        return torch.randint(vocabulary, (length,), generator=generator)

    samples = []
    for index in range(count):
        response = 3 + 2 * index
        samples.append(
            TrainSample(
                prompt_ids=draw(4 + index % 3).index_fill(0, torch.tensor(0), PADDING),
                response_ids=draw(response),
                loss_mask=torch.arange(response) != 1,
                advantages=torch.full((response,), (-1.0) ** index * (1 + 0.1 * index)),
                rollout_logprobs=torch.full((response,), -3.0),
                old_logprobs=-4.5 + torch.randn(response, generator=generator) * 0.1,
            )
        )
    return samples


def plain_loss(
    model: Any, samples: list[TrainSample], temperature: float, config: LossConfig
) -> tuple[Tensor, list[Tensor]]:
    """DAPO's loss, one sequence at a time, from the model's own logits."""
    model.get_input_embeddings().padding_idx = None
    total, tokens, logprobs = torch.zeros(()), 0, []
    for sample in samples:
        ids = torch.cat([sample.prompt_ids, sample.response_ids])
        logits = model(input_ids=ids[None]).logits[0, len(sample.prompt_ids) - 1 : -1] / temperature
        logp = torch.log_softmax(logits, -1).gather(1, sample.response_ids[:, None])[:, 0]
        ratio = torch.exp(logp - sample.old_logprobs)
        adv = sample.advantages
        clipped = torch.clamp(ratio, 1 - config.clip_low, 1 + config.clip_high)
        loss = torch.maximum(-adv * ratio, -adv * clipped)
        loss = torch.where(adv < 0, torch.minimum(loss, -adv * 10.0), loss)
        total = total + (loss * sample.loss_mask).sum()
        tokens += int(sample.loss_mask.sum())
        logprobs.append(logp.detach())
    return total / tokens, logprobs


@dataclass
class Reference:
    """Three updates of the plain model."""

    initial: dict[str, Tensor]
    logprobs: list[Tensor]  # before the first; of a critic its values
    gradients: dict[str, Tensor]  # of the first, before clipping
    losses: list[float]
    norms: list[float]
    rates: list[float]
    weights: dict[str, Tensor]  # after the last


def load_policy(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def policy_loss_of(model: Any, samples: list[TrainSample]) -> tuple[Tensor, list[Tensor]]:
    return plain_loss(model, samples, TEMPERATURE, CLIP_HIGHER)


def plain_reference(
    path: Path, load: Callable[[Path], Any] = load_policy, loss_of: LossOf = policy_loss_of
) -> Reference:
    """Train the checkpoint with plain PyTorch; norms and biases do not decay."""
    model = load(path)
    config, samples = TRAINING.optimizer, make_samples(100)
    initial = load_file(path / "model.safetensors")
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        eps=EPS,
    )
    found = Reference(initial, [], {}, [], [], [], {})
    for update in range(UPDATES):
        optimizer.zero_grad()
        loss, logprobs = loss_of(model, samples)
        loss.backward()
        if update == 0:
            found.logprobs = logprobs
            found.gradients = as_saved(model, {name: p.grad.clone() for name, p in model.named_parameters()})
        rate = config.lr * learning_rate_factor(TRAINING.schedule, update, 1, TOTAL_UPDATES)
        for group in optimizer.param_groups:
            group["lr"] = rate
        found.losses.append(float(loss))
        found.norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)))
        found.rates.append(rate)
        optimizer.step()
    found.weights = as_saved(model, {name: p.detach() for name, p in model.named_parameters()})
    return found


def as_saved(model: Any, named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under the names of a checkpoint, by transformers' own conversion: it fuses experts in memory alone."""
    saved: dict[str, Tensor] = revert_weight_conversion(model, named)
    return saved
