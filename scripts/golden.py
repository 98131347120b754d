#!/usr/bin/env python3
"""Golden curves: what the quickstart's recipes compute, step by step, kept to notice when the numbers move.

    python scripts/golden.py record [--seeds 1 2]                 writes tests/golden/seed_1.json ...
    python scripts/golden.py run --seed 1 --out FOLDER            runs once; FOLDER/curves.json has the same content
    python scripts/golden.py compare FILE FILE [--tolerance X]    exit status 1 if a value differs by more than X

A run is the quickstart's warm start, cut to 80 steps, then four DAPO steps in this process, then the same four on two
ranks over Ray. Two commits are compared to the bit by running the script in a checkout of each, on one machine. The
committed curves come from one processor, and others round differently: see tests/golden/test_golden.py for the
tolerance. Metrics of time, speed and memory are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
WARM_START_STEPS, DAPO_STEPS = 80, 4
UNREPEATABLE = ("time/", "speed/", "memory/", "sync/")

Curves = dict[str, list[dict[str, float]]]  # name of the run -> one row of metrics per step


def reasoner_rl(*arguments: str) -> None:
    """Run the command line of this checkout. Raises CalledProcessError, with what it printed, if it fails."""
    command = [sys.executable, "-c", "from reasoner_rl.cli import main; main()", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    try:
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        print(error.stdout[-4000:], error.stderr[-4000:], file=sys.stderr)
        raise


def run(seed: int, folder: Path, dapo_steps: int = DAPO_STEPS) -> Curves:
    """Run everything for one seed in ``folder``; fewer DAPO steps give the beginning of the same curves."""
    for script, out in (("data/make_chains.py", "data"), ("scripts/make_tiny_model.py", "base")):
        runpy.run_path(str(ROOT / script))["main"](["--out", str(folder / out), "--seed", str(seed)])
    shared = (f"run.seed={seed}", "run.threads=1")
    reasoner_rl(
        "sft",
        "quickstart_sft",
        *shared,
        f"run.output_dir={folder}/warm_start",
        f"model.path={folder}/base",
        f"data.train.path={folder}/data/sft.jsonl",
        f"run.steps={WARM_START_STEPS}",
    )
    reinforce = (
        "train",
        "quickstart",
        *shared,
        f"model.path={folder}/warm_start/final",
        f"data.train.path={folder}/data/train.jsonl",
        f"evaluation.datasets.0.path={folder}/data/heldout.jsonl",
        f"run.steps={dapo_steps}",
        "evaluation.every_steps=2",
    )
    reasoner_rl(*reinforce, f"run.output_dir={folder}/dapo")
    ranks = ("cluster.kind=ray", "cluster.workers_per_node=2")
    reasoner_rl(*reinforce, *ranks, f"run.output_dir={folder}/dapo_two_ranks")
    curves = {name: rows(folder / name) for name in ("warm_start", "dapo", "dapo_two_ranks")}
    (folder / "curves.json").write_text(as_json(curves))
    return curves


def rows(output: Path) -> list[dict[str, float]]:
    """What a run logged, without the metrics that differ between any two runs."""
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if not name.startswith(UNREPEATABLE)}
        for line in lines
    ]


def as_json(curves: Curves) -> str:
    """One line per row, so that a difference is seen in the version control."""
    runs = [
        f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(row, sort_keys=True) for row in found) + "\n]"
        for name, found in curves.items()
    ]
    return "{" + ",\n".join(runs) + "}\n"


def differences(expected: Curves, found: Curves, tolerance: float) -> Iterator[str]:
    """Every value that differs by more than ``tolerance``, relative to the larger of the expected value and 1."""
    if expected.keys() != found.keys():
        yield f"runs: {sorted(expected)} and {sorted(found)}"
        return
    for name in expected:
        if len(expected[name]) != len(found[name]):
            yield f"{name}: {len(expected[name])} and {len(found[name])} rows"
            continue
        for want, have in zip(expected[name], found[name], strict=True):
            for key in sorted(want.keys() | have.keys()):
                a, b = want.get(key), have.get(key)
                if a == b:
                    continue
                # "not ... <=" is true of NaN as well.
                if a is None or b is None or not abs(a - b) <= tolerance * max(1.0, abs(a)):
                    yield f"{name}, step {want.get('step')}: {key} is {b}, and was {a}"


def read(path: Path) -> Curves:
    """Curves from a file."""
    curves: Curves = json.loads(path.read_text())
    return curves


def main(arguments: list[str] | None = None) -> Any:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    record = commands.add_parser("record", help="record the committed curves anew")
    record.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    record.add_argument("--work", type=Path, default=ROOT / "runs" / "golden", help="where the runs are left")
    once = commands.add_parser("run", help="run one seed")
    once.add_argument("--seed", type=int, required=True)
    once.add_argument("--out", type=Path, required=True)
    compare = commands.add_parser("compare", help="compare two files of curves")
    compare.add_argument("files", type=Path, nargs=2)
    compare.add_argument("--tolerance", type=float, default=0.0)
    options = parser.parse_args(arguments)
    if options.command == "record":
        for seed in options.seeds:
            (GOLDEN / f"seed_{seed}.json").write_text(
                as_json(run(seed, (options.work / f"seed_{seed}").resolve()))
            )
    elif options.command == "run":
        run(options.seed, options.out.resolve())
    else:
        found = list(differences(read(options.files[0]), read(options.files[1]), options.tolerance))
        print("\n".join(found) or "equal")
        return 1 if found else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
