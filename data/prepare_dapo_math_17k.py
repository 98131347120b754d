"""DAPO-Math-17K without its repetitions: `reasoner-rl data prepare dapo-math-17k`, with the same options.

python data/prepare_dapo_math_17k.py --out FOLDER [--local-path dapo-math-17k.parquet]
"""

import sys

from reasoner_rl.cli import main

sys.argv[1:1] = ["data", "prepare", "dapo-math-17k"]
main()
