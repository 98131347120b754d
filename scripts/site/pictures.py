#!/usr/bin/env python3
"""Draws the pictures of the documentation: what flows in a step, what is in memory when, and who runs where.

    python scripts/site/pictures.py                writes docs/images/{data_flow,phases,layouts}.svg
    python scripts/site/pictures.py --out FOLDER

The files are made from the text below, the same bytes on every machine; a test compares those in docs/images with it.
Needs drawsvg, of the extra docs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from canvas import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    VIOLET,
    Box,
    Canvas,
    Colour,
)

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
LEFT, ACROSS = 18, 684  # of everything that is as wide as the card


def data_flow() -> Canvas:
    """One online step: from prompts to published weights, and what is kept of it."""
    canvas = Canvas(484, "Data flow of one online step")
    columns = [LEFT + 16 + 168 * number for number in range(4)]
    canvas.box(Box(LEFT, 16, ACROSS, 156), PALE)
    canvas.text("source.next: a batch is filled", LEFT + 16, 38, bold=True, anchor="start")
    canvas.text("a dropped group: the next prompt", LEFT + ACROSS - 16, 38, anchor="end", colour=FAINT)
    upper = _chain(
        canvas,
        [Box(x, 68, 148, 92) for x in columns],
        BLUE,
        {
            "Prompt": ("prompts/", "in the order of", "the run's seed"),
            "Rollout": ("rollout/", "token ids, logprobs,", "a seed each"),
            "Reward": ("rewards/", "verifiers in their", "own processes"),
            "ScoredGroup": ("advantages/", "groups that teach", "nothing are dropped"),
        },
    )
    first, last = upper[0], upper[-1]
    canvas.arrow((last.middle, 68), (last.middle, 52), (first.middle, 52), (first.middle, 68), dashed=True)
    canvas.box(Box(LEFT, 216, ACROSS, 144), PALE)
    canvas.text("prepare, update, publish: the models learn", 360, 240, bold=True)
    lower = _chain(
        canvas,
        [Box(x, 256, 148, 92) for x in reversed(columns)],
        GREEN,
        {
            "TrainSample": ("algorithms/", "logprobs, values,", "advantages"),
            "MicroBatch": ("batching/", "packed, with global", "denominators"),
            "loss and update": ("losses/, training/", "gradients, clipping,", "AdamW"),
            "weights": ("hybrid/", "loaded in buckets,", "then checked"),
        },
    )
    canvas.arrow((last.middle, last.bottom), (last.middle, lower[0].y))
    canvas.text("one sample per response", last.middle - 10, 198, anchor="end", colour=FAINT)
    rollout, weights = upper[1], lower[-1]
    canvas.arrow(
        (weights.middle, weights.y), (weights.middle, 194), (rollout.middle, 194), (rollout.middle, 160)
    )
    canvas.text("the next version", rollout.middle + 10, 198, anchor="start", colour=FAINT)
    canvas.box(Box(LEFT, 376, ACROSS, 92), PALE)
    canvas.text("kept in the run's folder", LEFT + 16, 398, bold=True, anchor="start")
    kept = {
        "metrics.jsonl": "a row per step",
        "rollouts/": "every response",
        "events.jsonl": "alarms, restarts",
        "checkpoints/": "whole or absent",
    }
    for x, (name, what) in zip(columns, kept.items(), strict=True):
        canvas.labelled(Box(x, 408, 148, 48), GREY, name, [what])
    return canvas


def _chain(
    canvas: Canvas, places: Sequence[Box], colour: Colour, stages: Mapping[str, Sequence[str]]
) -> list[Box]:
    """Stages beside each other, with an arrow from each to the next."""
    boxes = [
        canvas.labelled(place, colour, name, lines)
        for place, (name, lines) in zip(places, stages.items(), strict=True)
    ]
    for one, other in pairwise(boxes):
        y = one.y + one.height / 2
        ends = (one.right, other.x) if one.x < other.x else (one.x, other.right)
        canvas.arrow((ends[0], y), (ends[1], y))
    return boxes


# What is in memory: height of its block, not to scale, and colour.
BLOCKS: Mapping[str, tuple[int, Colour]] = {
    "rollout weights": (36, BLUE),
    "KV cache": (104, BLUE),
    "policy weights": (40, GREEN),
    "moments": (74, GREEN),
    "gradients": (38, ORANGE),
    "activations": (48, ORANGE),
    "buckets": (26, VIOLET),
}
# By phase: blocks on the GPU and in host memory, from below, and what happens.
PHASES: Mapping[str, tuple[Sequence[str], Sequence[str], Sequence[str]]] = {
    "generate": (
        ("rollout weights", "KV cache"),
        ("policy weights", "moments"),
        ("responses until", "the batch is full"),
    ),
    "sleep": ((), ("policy weights", "moments"), ("rollout.sleep;", "then reload")),
    "logprobs": (
        ("policy weights", "moments", "activations"),
        (),
        ("forward alone;", "moments arrive"),
    ),
    "update": (
        ("policy weights", "moments", "gradients", "activations"),
        (),
        ("backward, AdamW;", "then no gradients"),
    ),
    "sync": (
        ("policy weights", "buckets", "rollout weights"),
        ("moments",),
        ("load_weights, a", "text is compared"),
    ),
}


def phases() -> Canvas:
    """What one GPU and its host hold in each phase of a step."""
    canvas = Canvas(610, "Phases of a step and what is in memory in each")
    canvas.text("One GPU with training.offload: all. Heights are not to scale.", 360, 34, size=14, bold=True)
    columns = [Box(LEFT + 8 + 138 * number, 50, 116, 34) for number in range(len(PHASES))]
    _chain(canvas, columns, GREY, dict.fromkeys(PHASES, ()))
    for title, y, height in (("on the GPU", 96, 242), ("in host memory", 348, 158)):
        canvas.box(Box(LEFT, y, ACROSS, height), PALE)
        canvas.text(title, LEFT + 10, y + 21, bold=True, anchor="start")
    for column, (device, host, words) in zip(columns, PHASES.values(), strict=True):
        for names, ground in ((device, 330), (host, 498)):
            for name in names:
                height, colour = BLOCKS[name]
                ground -= height
                canvas.labelled(Box(column.x, ground, column.width, height), colour, "", [name])
        for number, line in enumerate(words):
            canvas.text(line, column.middle, 524 + 17 * number, colour=FAINT, room=136)
    canvas.text("empty", columns[1].middle, 320, colour=FAINT)
    first, last = columns[0].middle, columns[-1].middle
    canvas.arrow((last, 552), (last, 592), (first, 592), (first, 552))
    canvas.text("the policy's weights go to the host, the KV cache is mapped", 360, 584, colour=FAINT)
    return canvas


def layouts() -> Canvas:
    """Who runs where: one process, one machine, many machines, split placement."""
    canvas = Canvas(816, "Layouts of a run: one process, one machine, many machines, split placement")
    _one_process(canvas, 14)
    _one_machine(canvas, 158)
    _many_machines(canvas, 348)
    _split_placement(canvas, 610)
    return canvas


def _panel(canvas: Canvas, y: float, height: float, title: str, keys: str) -> None:
    canvas.box(Box(LEFT, y, ACROSS, height), PALE)
    canvas.text(title, LEFT + 14, y + 22, size=14, bold=True, anchor="start")
    canvas.text(keys, LEFT + ACROSS - 14, y + 22, anchor="end", colour=FAINT)


def _one_process(canvas: Canvas, y: float) -> None:
    _panel(canvas, y, 132, "One process", "cluster.kind: local")
    canvas.box(Box(LEFT + 14, y + 34, 480, 86), GREY)
    canvas.labelled(Box(LEFT + 26, y + 46, 200, 62), BLUE, "driver", ["trainer, source,", "algorithm"])
    worker = canvas.labelled(
        Box(LEFT + 282, y + 46, 200, 62), GREEN, "worker", ["rollout engine and", "models take turns"]
    )
    canvas.arrow((LEFT + 226, y + 77), (worker.x, y + 77))
    verifiers = canvas.labelled(
        Box(LEFT + 530, y + 46, 140, 62), ORANGE, "verifiers", ["processes that", "can be killed"]
    )
    canvas.arrow((LEFT + 494, y + 77), (verifiers.x, y + 77))


def _gpus(canvas: Canvas, x: float, y: float, count: int, colour: Colour, first: int = 0) -> list[Box]:
    """Workers beside each other, one per GPU, named by their ranks."""
    return [
        canvas.labelled(Box(x + 74 * number, y, 66, 30), colour, "", [f"rank {first + number}"])
        for number in range(count)
    ]


def _over(canvas: Canvas, ranks: Sequence[Box], y: float, colour: Colour, text: str) -> None:
    """A bar below ranks: what they are together."""
    place = Box(ranks[0].x, y, ranks[-1].right - ranks[0].x, 28)
    canvas.labelled(place, colour, "", [text])


def _one_machine(canvas: Canvas, y: float) -> None:
    _panel(canvas, y, 178, "One machine", "cluster.kind: ray, workers_per_node: 4")
    driver = canvas.labelled(
        Box(LEFT + 14, y + 52, 170, 100), BLUE, "driver", ["hands out work,", "merges answers", "(Ray)"]
    )
    canvas.box(Box(LEFT + 232, y + 38, 438, 128), GREY)
    ranks = _gpus(canvas, LEFT + 336, y + 48, 4, GREEN)
    _over(canvas, ranks[:2], y + 88, VIOLET, "replica, tensor 2")
    _over(canvas, ranks[2:], y + 88, VIOLET, "replica, tensor 2")
    _over(canvas, ranks, y + 126, GREEN, "FSDP2: one mesh of 4")
    canvas.text("generate", LEFT + 248, y + 106, anchor="start", colour=FAINT, room=80)
    canvas.text("train", LEFT + 248, y + 144, anchor="start", colour=FAINT, room=80)
    canvas.arrow((driver.right, y + 102), (LEFT + 232, y + 102))


def _many_machines(canvas: Canvas, y: float) -> None:
    _panel(canvas, y, 250, "Many machines", "cluster.nodes: 2, address: HEAD:PORT")
    machines = [Box(LEFT + 14, y + 56, 322, 180), Box(LEFT + 348, y + 56, 322, 180)]
    ranks: list[Box] = []
    for number, machine in enumerate(machines):
        canvas.box(machine, GREY)
        canvas.text(f"machine {number}", machine.middle, y + 48, colour=FAINT)
        own = _gpus(canvas, machine.x + 17, y + 66, 4, GREEN, 4 * number)
        _over(canvas, own[:2], y + 106, VIOLET, "replica, tensor 2")
        _over(canvas, own[2:], y + 106, VIOLET, "replica, tensor 2")
        _over(canvas, own, y + 152, GREEN, f"HSDP: copy {number}, shard_ranks: 4")
        ranks += own
    _over(canvas, ranks, y + 198, GREEN, "or FSDP2: one mesh of 8, without shard_ranks")
    for ends in ((ranks[3].right, ranks[4].x), (ranks[4].x, ranks[3].right)):
        canvas.arrow((ends[0], y + 166), (ends[1], y + 166))


def _split_placement(canvas: Canvas, y: float) -> None:
    _panel(canvas, y, 192, "Split placement", "cluster.generation: {nodes: 1, workers_per_node: 4}")
    train, generate = Box(LEFT + 14, y + 40, 250, 138), Box(LEFT + 420, y + 40, 250, 138)
    for place, title, lines, colour in (
        (train, "workers that train", ("ranks 0 to 3", "policy, reference, critic"), GREEN),
        (generate, "workers that generate", ("replicas of the engine", "and nothing else"), VIOLET),
    ):
        canvas.labelled(place, colour, title, lines)
    canvas.arrow((train.right, y + 82), (generate.x, y + 82))
    canvas.text("weights, in buckets", 360, y + 74)
    canvas.text("by Ray's store", 360, y + 102)
    canvas.arrow((generate.x, y + 142), (train.right, y + 142))
    canvas.text("responses", 360, y + 134)
    canvas.text("by the driver", 360, y + 162)


PICTURES: Mapping[str, Callable[[], Canvas]] = {"data_flow": data_flow, "phases": phases, "layouts": layouts}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the pictures (docs/images)")
    out = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        (out / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
