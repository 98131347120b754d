"""Where the rollout engine and the trainer part: hidden states of the same tokens, compared layer by layer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reasoner_rl.errors import UserError
from reasoner_rl.hybrid.sync_check import as_micro_batch
from reasoner_rl.rollout.engine import RolloutEngine
from reasoner_rl.rollout.hf_engine import HfRolloutEngine
from reasoner_rl.training.backend import TrainBackend
from reasoner_rl.training.fsdp import FsdpBackend

# Relative gaps from which on a part counts as different: where both compute in float32, and where one has bfloat16, in
# which every operation rounds to three digits.
PARTED_FLOAT32, PARTED_BFLOAT16 = 1e-3, 0.05


@dataclass(frozen=True, slots=True)
class PartGap:
    """How far the outputs of one part of the decoder are apart."""

    name: str  # of the module, from the decoder, such as layers.3.mlp
    relative: float  # Frobenius norm of the difference over that of the trainer's output
    position: int  # of the token at which they differ most
    limit: float  # from which on they count as different

    @property
    def parted(self) -> bool:
        """Whether the outputs differ by more than rounding; NaN counts."""
        return not self.relative <= self.limit


def part_gaps(
    rollout: RolloutEngine, take_turn: Callable[[], TrainBackend], token_ids: Sequence[int]
) -> list[PartGap]:
    """Run both engines on the same tokens, and compare what each part of the decoder gives, in the order of the pass.

    take_turn: brings the policy to the device once the rollout engine has computed. Collective. Raises UserError unless
    they are the embedded engine and FSDP2, whose modules have the same names.
    """
    if not isinstance(rollout, HfRolloutEngine):
        raise UserError(ONLY)
    with _outputs(rollout.decoder) as theirs:
        rollout.score(token_ids)
    policy = take_turn()
    if not isinstance(policy, FsdpBackend):
        raise UserError(ONLY)
    with _outputs(policy.decoder) as ours:
        policy.logprobs([as_micro_batch(token_ids)], temperature=1.0)
    formats = {rollout.weight_dtype, policy.compute_dtype}
    limit = PARTED_FLOAT32 if formats == {torch.float32} else PARTED_BFLOAT16
    return [_gap(name, theirs[name], mine, limit) for name, mine in ours.items() if name in theirs]


ONLY = (
    "layers can be compared where rollout.engine.kind is hf, training.backend.kind is fsdp, and generation has no "
    "workers of its own: there both engines are the same modules of transformers"
)


def weights_hash(policy: TrainBackend) -> str:
    """SHA-256 over the names and bits of all whole tensors, in order. Collective."""
    found = hashlib.sha256()
    for name, tensor in policy.full_weights():
        found.update(name.encode())
        found.update(tensor.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@contextmanager
def _outputs(decoder: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs [T, hidden] of embeddings, of each layer and its parts, and of the last norm, by name."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            found[name] = states.detach().float().flatten(0, -2).cpu()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in _parts(decoder)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _parts(decoder: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in decoder.named_children():
        if isinstance(module, nn.ModuleList):
            for number, layer in enumerate(module):
                for part, inner in layer.named_children():
                    yield f"{name}.{number}.{part}", inner
                yield f"{name}.{number}", layer
        elif "rotary" not in name:
            yield name, module


def _gap(name: str, theirs: Tensor, ours: Tensor, limit: float) -> PartGap:
    apart = (theirs - ours).norm(dim=-1)
    relative = float(apart.norm() / ours.norm().clamp_min(torch.finfo(torch.float32).tiny))
    return PartGap(name, relative, int(apart.argmax()), limit)
