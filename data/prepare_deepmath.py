"""DeepMath-103K: hard problems with LaTeX answers and difficulty.

Short for `reasoner-rl data prepare deepmath`, with the same options; --help lists them.
"""

from reasoner_rl.cli import main

main("data", "prepare", "deepmath")
