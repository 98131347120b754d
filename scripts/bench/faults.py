#!/usr/bin/env python3
"""Injects faults into real runs of tiny models, and checks what reasoner_rl does: a run goes on, or says what is wrong
and resumes, and ends with the bits of a run that nothing disturbed.

    python scripts/bench/faults.py --out FOLDER                      the whole campaign: 100 kills and the rest
    python scripts/bench/faults.py --out FOLDER --kinds kill --faults 10
    python scripts/bench/faults.py --out FOLDER --only kill:critic:3     one trial again; its folder is kept if it fails
    python scripts/bench/faults.py --out FOLDER --limit 600          begins no trial after ten minutes

Kinds: kill (SIGKILL before and after random operations on files), signal (SIGTERM and SIGINT, once and
twice), flip (a bit of a checkpoint), race (several commands for one folder), verifiers (their processes are killed or
stopped), disk (full before each kind of write; needs root, for a tmpfs), workers and machines (SIGKILL of Ray's).

On one rank runs are compared to the bit. On the two of Ray it depends on time which rank draws a response, and with it
the rounding: there numbers may differ by 1e-4, and texts and counts by nothing.

FOLDER/faults.json has every trial; a second call makes those that are missing, so that an interruption loses one trial.
Trials are chosen by the seed. Prints a line per trial and a table. The exit status is 1 if a trial failed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this repository's reasoner_rl

from fault_injection.bench import Bench, Trial
from fault_injection.campaign import COLUMNS, KINDS, Campaign, default_faults

from reasoner_rl.cli.common import print_table


def main() -> int:
    """Make the trials that are asked for; returns the exit status."""
    options = parse()
    faults = default_faults() | (dict.fromkeys(KINDS, options.faults) if options.faults else {})
    bench = Bench(options.out, options.seed)
    campaign = Campaign(bench, faults, options.limit, lambda text: print(text, flush=True))
    if options.only:
        records = [campaign.one(trial) for trial in options.only]
        return int(not all(record.passed for record in records))
    campaign.run(options.kinds, options.parallel)
    print_table(COLUMNS, campaign.table())
    for text in campaign.left_out:
        print(f"left out {text}")
    for record in campaign.failed:
        print(f"failed: python {sys.argv[0]} --out {options.out} --seed {options.seed} --only {record.trial}")
    return int(bool(campaign.failed))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the records, and of the trials")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--faults", type=int, help="of each kind, over all its runs; else as many as above")
    parser.add_argument("--only", nargs="+", type=Trial.parse, metavar="KIND:RUN:NUMBER")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time; those of Ray follow")
    parser.add_argument("--limit", type=float, default=float("inf"), metavar="SECONDS")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
