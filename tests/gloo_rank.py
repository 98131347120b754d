"""One of several processes of a test that compute together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist


@contextmanager
def gloo_rank(rank: int, ranks: int, folder: Path) -> Iterator[None]:
    """Be a rank over gloo for the block, with one thread, and end the process after it; all ranks share ``folder``."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    yield
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # past the interpreter's own end, where threads of gloo were once seen to abort
