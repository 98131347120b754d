"""`reasoner-rl export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A run's output_dir, of which the newest checkpoint is taken, or one of its checkpoints, such as "
            "RUN/checkpoints/step_000100.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FOLDER", help="RUN/exported/step_N, or step_N_adapters, unless given."
        ),
    ] = None,
    adapters: Annotated[
        bool,
        typer.Option(
            "--adapters", help="LoRA's adapters alone, as peft reads them; merged weights otherwise."
        ),
    ] = False,
) -> None:
    """Write the weights of a training checkpoint, of any number of workers, as a Hugging Face folder.

    Tokenizer, chat template and generation settings go along, as in a finished run's final/. One process does it, with
    the weights in memory and not the optimizer's state; no GPU is needed. Hashes are verified first.
    """
    from reasoner_rl.trainer.export_checkpoint import export as run

    run(source, out, adapters=adapters)
