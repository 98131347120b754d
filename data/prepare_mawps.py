"""MAWPS: word problems of one or two steps.

Short for `reasoner-rl data prepare mawps`, with the same options; --help lists them.
"""

from reasoner_rl.cli import main

main("data", "prepare", "mawps")
