#!/usr/bin/env python3
"""Build a tiny Qwen2 model with random weights and a tokenizer for the quickstart's problems.

0.8 million parameters; `reasoner_rl/commands/make_tiny_model.py` says more.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from reasoner_rl.commands.make_tiny_model import make_tiny_model


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write the checkpoint to")
    parser.add_argument("--seed", type=int, default=0, help="decides the weights (default 0)")
    parser.add_argument("--layers", type=int, default=4, help="decoder layers (default 4)")
    parser.add_argument("--width", type=int, default=128, help="hidden size (default 128)")
    options = parser.parse_args(arguments)
    make_tiny_model(options.out, options.seed, options.layers, options.width)


if __name__ == "__main__":
    main()
