#!/usr/bin/env python3
"""Simulate training on a cluster: the product's scheduling on workers without models, in virtual time.

    python scripts/simulate_cluster.py run --out FOLDER [--cluster 32b_128 ...] [--schedule ...] [--lengths ...]
    python scripts/simulate_cluster.py driver --out FOLDER    # the driver's own seconds at 1,024 workers
    python scripts/simulate_cluster.py validate --quickstart runs/quickstart --out FOLDER    # beside real runs
    python scripts/simulate_cluster.py show --out FOLDER --figure docs/images/simulated_cluster.png   # table and figure

Decoding takes the larger of bytes and operations of the GPU's data sheet, times shares that are assumed
(reasoner_rl/plan/time.py), training the operations of its tokens; lengths are drawn from distributions that were fixed
before the first run (scripts/simulation/lengths.json). What runs is the product's own trainer, source, filler and pool;
scripts/simulation/transport.py says what stands for the workers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path

from simulation.cells import CLUSTERS, SCHEDULES, simulate_cell
from simulation.lengths import names


def run(options: argparse.Namespace) -> None:
    """Simulate every cell that is asked for and not there already; one file per cell."""
    options.out.mkdir(parents=True, exist_ok=True)
    for lengths, cluster, schedule in itertools.product(options.lengths, options.cluster, options.schedule):
        path = options.out / f"{lengths}.{cluster}.{schedule}.json"
        if path.exists():
            continue
        with tempfile.TemporaryDirectory() as folder:
            cell = simulate_cell(cluster, schedule, lengths, Path(folder), options.hardware)
        path.write_text(json.dumps(cell.to_json(), indent=1))
        print(
            f"{lengths:10} {cluster:9} {schedule:14} {cell.step_seconds:8.1f} s a step, idle {cell.idle_share:6.1%}",
            flush=True,
        )


def driver(options: argparse.Namespace) -> None:
    """The driver's CPU seconds of a step at 1,024 workers, with messages serialised and calls of 64 tokens."""
    options.out.mkdir(parents=True, exist_ok=True)
    for schedule in options.schedule:
        with tempfile.TemporaryDirectory() as folder:
            cell = simulate_cell("32b_1024", schedule, options.lengths[0], Path(folder), whole=True)
        (options.out / f"driver.{schedule}.json").write_text(json.dumps(cell.to_json(), indent=1))
        share = cell.driver_seconds / cell.step_seconds
        print(
            f"{schedule:14} driver {cell.driver_seconds:.1f} CPU seconds of a step of {cell.step_seconds:.0f} s: "
            f"{share:.1%}; {cell.calls:,.0f} calls",
            flush=True,
        )


def beside_real_runs(options: argparse.Namespace) -> None:
    """Compare with real runs on this machine, and with a published configuration."""
    from simulation.published import rollpacker
    from simulation.validate import validate

    options.out.mkdir(parents=True, exist_ok=True)
    found = {
        "published": rollpacker(options.out / "published"),
        "real": validate(options.quickstart, options.out),
    }
    (options.out / "validation.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


def show(options: argparse.Namespace) -> None:
    """Print a table of the cells that there are, and draw them."""
    from simulation.show import draw, read, table

    cells = read(options.out)
    print(table(cells))
    if options.figure is not None:
        draw(cells, options.figure)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, action in (("run", run), ("driver", driver)):
        command = commands.add_parser(name)
        command.set_defaults(action=action)
        command.add_argument(
            "--out", type=Path, required=True, help="folder of results, one JSON file per cell"
        )
        command.add_argument("--cluster", nargs="+", choices=list(CLUSTERS), default=list(CLUSTERS))
        command.add_argument("--schedule", nargs="+", choices=list(SCHEDULES), default=list(SCHEDULES))
        command.add_argument("--lengths", nargs="+", choices=names(), default=names())
        command.add_argument(
            "--hardware", default="H100", help="H100, H200 or another of reasoner_rl/plan/hardware.py"
        )
    command = commands.add_parser("validate")
    command.set_defaults(action=beside_real_runs)
    command.add_argument("--quickstart", type=Path, required=True, help="folder of a finished quickstart")
    command.add_argument("--out", type=Path, required=True, help="folder of runs and results")
    command = commands.add_parser("show")
    command.set_defaults(action=show)
    command.add_argument("--out", type=Path, required=True, help="folder of results")
    command.add_argument("--figure", type=Path, help="file to draw them into")
    options = parser.parse_args()
    options.action(options)


if __name__ == "__main__":
    main()
