"""MATH-500: 500 test problems of MATH.

Short for `reasoner-rl data prepare math-500`, with the same options; --help lists them.
"""

from reasoner_rl.cli import main

main("data", "prepare", "math-500")
