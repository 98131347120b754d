#!/usr/bin/env python3
"""Write the quickstart's problems: train.jsonl, heldout.jsonl and sft.jsonl.

`reasoner_rl/datasets/generated/chains.py` says what they are, and `--help` too.
"""

from __future__ import annotations

from dataclasses import fields

from reasoner_rl.datasets.generated import chains
from reasoner_rl.datasets.generated.options import parser_of
from reasoner_rl.errors import ConfigError
from reasoner_rl.observability.summary import write_jsonl


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = parser_of(chains.ChainsOptions, chains.__doc__ or "")
    given = vars(parser.parse_args(arguments))
    options = chains.ChainsOptions(
        **{field.name: given[field.name] for field in fields(chains.ChainsOptions)}
    )
    try:
        splits = chains.generate(options, given["seed"])
    except ConfigError as error:
        parser.error(str(error))
    for name, rows in splits.items():
        write_jsonl(given["out"] / f"{name}.jsonl", rows)
    counts = {name: len(rows) for name, rows in splits.items()}
    print(
        f"{given['out']}: {counts['sft']} worked examples, {counts['train']} training and {counts['heldout']} "
        "held-out problems"
    )


if __name__ == "__main__":
    main()
