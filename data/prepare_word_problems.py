"""Make training and evaluation files of arithmetic word problems from ASDiv, MAWPS and SVAMP.

    python data/prepare_word_problems.py --asdiv asdiv.jsonl --mawps mawps.jsonl --svamp svamp.jsonl --out FOLDER

Input rows are JSON lines or parquet with `problem` and `answer`, and for ASDiv `formula` ("(10-4)*3=18"). Written are

    asdiv_sft.jsonl      problem, answer, source, solution: the formula worked one operation per line, then the answer
    mawps_train.jsonl    problem, answer, source
    mawps_heldout.jsonl  likewise; none is worded almost like a problem of MAWPS or ASDiv that is trained on
    svamp.jsonl          the rows of SVAMP, unchanged

and a report of what was dropped and why goes to standard output.
"""

import argparse
from pathlib import Path

from reasoner_rl.cli import exit_statuses
from reasoner_rl.commands.prepare_word_problems import prepare_word_problems

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--asdiv", type=Path, required=True, help="problem, answer, formula")
parser.add_argument("--mawps", type=Path, required=True, help="problem, answer")
parser.add_argument("--svamp", type=Path, required=True, help="problem, answer")
parser.add_argument("--out", type=Path, required=True, help="folder for the four files")
parser.add_argument(
    "--heldout", type=int, default=200, help="problems of MAWPS kept for evaluation (default 200)"
)
parser.add_argument("--seed", type=int, default=0, help="decides which problems are held out (default 0)")
with exit_statuses(lambda: None):
    prepare_word_problems(**vars(parser.parse_args()))
