"""DAPO-Math-17K: competition problems with integer answers.

Short for `reasoner-rl data prepare dapo-math-17k`, with the same options; --help lists them.
"""

from reasoner_rl.cli import main

main("data", "prepare", "dapo-math-17k")
