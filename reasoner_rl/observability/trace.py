"""Traces of training steps by torch.profiler, as run.profile asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from reasoner_rl.observability.messages import say
from reasoner_rl.observability.summary import atomic_path


def trace_file(output: Path, step: int) -> Path:
    """Where the trace of a step is."""
    return output / "profile" / f"step_{step}.json.gz"


@contextmanager
def traced(path: Path | None) -> Iterator[None]:
    """Trace what this process does in the block, on the CPU and the GPU, into a Chrome trace; None: do not.

    Nothing is written if the block raises. ``path`` ends in .json.gz and is replaced as a whole.
    """
    if path is None:
        yield
        return
    with torch.profiler.profile() as profiler:
        yield
    with atomic_path(path) as temporary:
        # torch compresses by the name's ending, which a temporary name has not.
        compressed = temporary.with_name(f"{temporary.name}.gz")
        profiler.export_chrome_trace(str(compressed))
        compressed.replace(temporary)
    say(f"trace: {path}")
