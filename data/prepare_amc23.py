"""American Mathematics Competitions 2023, the problems with integer answers.

Short for `reasoner-rl data prepare amc23`, with the same options; --help lists them.
"""

from reasoner_rl.cli import main

main("data", "prepare", "amc23")
