"""AIME 2024, 30 problems: `reasoner-rl data prepare aime-2024`, with the same options.

python data/prepare_aime_2024.py --out FOLDER [--local-path aime-2024.parquet]
"""

import sys

from reasoner_rl.cli import main

sys.argv[1:1] = ["data", "prepare", "aime-2024"]
main()
