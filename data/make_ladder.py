#!/usr/bin/env python3
"""Write the ladder's problems: train.jsonl, heldout.jsonl, sft.jsonl, and report.json with settings and counts.

`reasoner_rl/datasets/generated/ladder.py` says what they are, and `--help` too.
"""

from __future__ import annotations

from dataclasses import fields

from reasoner_rl.datasets.generated import ladder
from reasoner_rl.datasets.generated.ladder import draw_chain, row
from reasoner_rl.datasets.generated.options import parser_of
from reasoner_rl.errors import ConfigError
from reasoner_rl.observability.summary import write_json, write_jsonl

__all__ = ["draw_chain", "main", "row"]


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = parser_of(ladder.LadderOptions, ladder.__doc__ or "")
    given = vars(parser.parse_args(arguments))
    options = ladder.LadderOptions(
        **{field.name: given[field.name] for field in fields(ladder.LadderOptions)}
    )
    try:
        splits = ladder.generate(options, given["seed"])
    except ConfigError as error:
        parser.error(str(error))
    for name, rows in splits.items():
        write_jsonl(given["out"] / f"{name}.jsonl", rows)
    write_json(given["out"] / "report.json", ladder.report(options, given["seed"], splits))
    counts = {name: len(rows) for name, rows in splits.items()}
    print(
        f"{given['out']}: {counts['sft']} worked examples, {counts['train']} training and {counts['heldout']} "
        "held-out problems"
    )


if __name__ == "__main__":
    main()
