"""A training checkpoint as whole tensors under Hugging Face names, whatever backend and layout of ranks wrote it.

The optimizer's state of a tensor has its shape and means the same place by place, so whatever joins, renames or divides
weights does the same to it. A backend reads a checkpoint so if it was made by another backend, or on a layout of ranks
that its own files cannot be read on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from reasoner_rl.errors import UserError

# "weight": as the model held it, and as it is exported; "master": the numbers that the optimizer changed, in float32;
# the others: AdamW's running means of the gradient and of its square.
Kind = Literal["weight", "master", "exp_avg", "exp_avg_sq"]
MOMENTS: tuple[Kind, ...] = ("exp_avg", "exp_avg_sq")


class WholeTensors(Protocol):
    """The tensors of a checkpoint, each read from the disk when it is asked for. Nothing here is collective."""

    @property
    def made_by(self) -> str:
        """The backend and the layout of ranks that wrote the checkpoint, as a message names them."""
        ...

    @property
    def updates(self) -> int:
        """How many optimizer updates were made. After none there are no moments. UserError if nothing was trained."""
        ...

    def names(self) -> Iterator[str]:
        """The Hugging Face names, each once; of tied tensors the first."""
        ...

    def read(self, name: str, kind: Kind = "weight") -> Tensor:
        """A whole tensor on the CPU, to be copied before the next is read. Raises UserError if there is none."""
        ...


def never_trained(folder: Path) -> UserError:
    """The error for a checkpoint of a frozen model whose number of updates is asked for."""
    return UserError(f"{folder} is of a model that was not trained: it holds no optimizer's state")


def kinds_to_load(source: WholeTensors, *, trained: bool) -> tuple[Kind, ...]:
    """What a model takes from a checkpoint; one ``trained`` takes the moments too, where there are any."""
    return ("master", *MOMENTS) if trained and source.updates else ("master",)


def require_shape(name: str, found: Tensor, wanted: Tensor, folder: Path) -> None:
    """Raise UserError if a tensor of a checkpoint is of another shape than the model's."""
    if found.shape != wanted.shape:
        raise UserError(
            f"{folder} holds {name} of shape {list(found.shape)}, and the model's is {list(wanted.shape)}: it is of "
            "another model"
        )


def told_of_division(source: WholeTensors, own: str) -> str:
    """What to say when a checkpoint is read by whole tensors; ``own``: the layout that reads, as `made_by`."""
    return f"the checkpoint was made by {source.made_by}; its tensors are divided anew for {own}"


def rank_file(folder: Path) -> Path:
    """This rank's file in a checkpoint of either backend; rank 0's where there were fewer ranks than there are."""
    own = folder / f"rank_{dist.get_rank()}.pt"
    return own if own.exists() else folder / "rank_0.pt"


def restore_random_state(folder: Path) -> None:
    """Give torch's generator on the CPU the state that this rank saved."""
    saved = torch.load(rank_file(folder), map_location="cpu", weights_only=True, mmap=True)
    torch.set_rng_state(saved["rng"].clone())
