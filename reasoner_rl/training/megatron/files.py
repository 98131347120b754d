"""The files that Megatron's ranks have saved, and which of them have what."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reasoner_rl.errors import UserError
from reasoner_rl.training.whole import Kind

Layout = Mapping[str, Any]  # see `MegatronBackend._layout`
_LAYOUT_FILE = "layout.json"
_COUNTS = (
    *("tensor_parallel", "pipeline_parallel", "virtual_stages", "context_parallel", "expert_parallel"),
    "vocabulary_multiple",
)


def write_layout(folder: Path, layout: Layout) -> None:
    """Write into a checkpoint how its ranks divide the model."""
    (folder / _LAYOUT_FILE).write_text(json.dumps(layout, indent=1) + "\n", encoding="utf-8")


def read_layout(folder: Path) -> Layout:
    """How the ranks that made a checkpoint divide the model: some hundred bytes, which every rank reads.

    Checkpoints of earlier versions have it beside rank 0's weights, of which nothing else is read then.
    """
    file = folder / _LAYOUT_FILE
    layout: Layout = (
        json.loads(file.read_text(encoding="utf-8")) if file.exists() else read_rank(folder, 0)["layout"]
    )
    return layout


def is_of_layout(made: Layout, own: Layout) -> bool:
    """Whether each rank finds its own parts in the files of ``made``. Earlier versions wrote fewer keys."""
    return all(own.get(key) == value for key, value in made.items())


def describe(layout: Layout) -> str:
    """A layout as a message names it, without what is not divided."""
    workers = layout["workers"]
    counts = [f"{key} {layout[key]}" for key in _COUNTS if layout.get(key, 1) > 1]
    switched = ["distributed_optimizer"] if layout["distributed_optimizer"] else []
    layers = ["layers transformer_engine"] if layout.get("layers") == "transformer_engine" else []
    listed = ", ".join([*counts, *switched, *layers])
    return f"megatron on {workers} worker{'s' * (workers > 1)}{f' ({listed})' if listed else ''}"


def read_rank(folder: Path, rank: int, *, mmap: bool = True) -> dict[str, Any]:
    """What a rank has saved, on the CPU, mapped into memory: then only what is used is read from the disk.

    Nothing in the file is executed: it may hold tensors, numbers, text and containers of these. Raises UserError if
    there is something else in it.
    """
    file = folder / f"rank_{rank}.pt"
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{file} holds something else than tensors, numbers and text, and reading that could execute code, so it "
            f"is not read ({reason}). If it is a checkpoint of your own, finish the run with the version of "
            "reasoner_rl that made it"
        ) from error
    return state


@dataclass(frozen=True, slots=True)
class _Piece:
    """A tensor that the optimizer of a rank changed, and its moments: some numbers of a flattened parameter."""

    start: int
    stop: int
    held: Mapping[str, Tensor]  # by kind


class RankFiles:
    """The files of all ranks, each mapped into memory when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.layout = folder, read_layout(folder)
        self._open: dict[int, dict[str, Any]] = {}
        self._pieces: dict[int, dict[tuple[int, str], list[_Piece]]] = {}

    @cached_property
    def ranks_per_stage(self) -> int:
        """Of one stage of the pipeline; Megatron numbers tensor-parallel ranks first and stages last."""
        return int(self.layout["workers"]) // int(self.layout["pipeline_parallel"])

    @property
    def expert_tensor_parallel(self) -> int:
        """Ranks that share an expert; see `moe.sizes`."""
        return 1 if self.layout["expert_parallel"] > 1 else int(self.layout["tensor_parallel"])

    def replicas(self, tensor_rank: int) -> tuple[int, ...]:
        """Ranks of a stage that have the same part of what tensor-parallel ranks divide."""
        return tuple(range(tensor_rank, self.ranks_per_stage, int(self.layout["tensor_parallel"])))

    def expert_replicas(self, place: int, tensor_rank: int) -> tuple[int, ...]:
        """Ranks of a stage that have the same part of the ``place``-th share of the experts."""
        share, ranks = int(self.layout["expert_parallel"]), self.expert_tensor_parallel
        return tuple(
            rank
            for rank in range(self.ranks_per_stage)
            if rank // ranks % share == place and rank % ranks == tensor_rank
        )

    def first_layer(self, stage: int, chunk: int, layers: int) -> int:
        """The number in the whole model of a chunk's first layer."""
        stages, chunks = int(self.layout["pipeline_parallel"]), int(self.layout["virtual_stages"])
        return (chunk * stages + stage) * (layers // (stages * chunks))

    def of(self, stage: int, rank: int) -> dict[str, Any]:
        """What a rank of a stage has saved."""
        number = stage * self.ranks_per_stage + rank
        if number not in self._open:
            self._open[number] = read_rank(self.folder, number)
        return self._open[number]

    def weights(self, stage: int, rank: int, chunk: int) -> Mapping[str, Tensor]:
        """The weights of a rank of a stage, of one of its chunks, by its own names."""
        found: Mapping[str, Tensor] = self.of(stage, rank)["models"][chunk]
        return found

    def stepped(self, stage: int, ranks: tuple[int, ...], chunk: int, name: str, kind: Kind) -> Tensor:
        """What the optimizer held of a parameter: its "master" numbers or a moment, in the shape of the ranks' weight.

        ranks: those that have the same part, among which the distributed optimizer divides what it holds. Raises
        UserError if not all of it is there.
        """
        weight = self.weights(stage, ranks[0], chunk)[name]
        whole, filled = torch.empty(weight.numel(), dtype=torch.float32), 0
        for rank in ranks:
            for piece in self._pieces_of(stage, rank).get((chunk, name), ()):
                whole[piece.start : piece.stop] = piece.held[kind].flatten()
                filled += piece.stop - piece.start
            if filled >= len(whole):
                return whole.view(weight.shape)
        raise UserError(f"{self.folder} holds no {kind} of {name}, or a part of it alone")

    def _pieces_of(self, stage: int, rank: int) -> dict[tuple[int, str], list[_Piece]]:
        number = stage * self.ranks_per_stage + rank
        if number not in self._pieces:
            pieces: dict[tuple[int, str], list[_Piece]] = {}
            saved = self.of(stage, rank)
            if "stretches" not in saved:
                raise UserError(
                    f"{self.folder} was made by {describe(self.layout)} and an earlier version of reasoner_rl, which "
                    "did not save which part of the optimizer's state belongs to which weight, so it cannot be divided "
                    "anew: resume with the layout that made it, and the checkpoints written from then on can be"
                )
            for optimizer, stretches in zip(saved["optimizers"], saved["stretches"], strict=True):
                stepped = [tensor for group in optimizer["main"] for tensor in group]
                moments = optimizer["state"]["state"]
                for index, (own_chunk, name, start, stop) in enumerate(stretches):
                    held = {"master": stepped[index], **moments.get(index, {})}
                    pieces.setdefault((own_chunk, name), []).append(_Piece(start, stop, held))
            self._pieces[number] = pieces
        return self._pieces[number]
