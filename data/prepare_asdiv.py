"""ASDiv-A: arithmetic word problems of the elementary school.

Short for `reasoner-rl data prepare asdiv`, with the same options; --help lists them.
"""

from reasoner_rl.cli import main

main("data", "prepare", "asdiv")
