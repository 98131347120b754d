"""GSM8K: grade-school word problems.

Short for `reasoner-rl data prepare gsm8k`, with the same options; --help lists them.
"""

from reasoner_rl.cli import main

main("data", "prepare", "gsm8k")
