"""SVAMP: variations of word problems of ASDiv.

Short for `reasoner-rl data prepare svamp`, with the same options; --help lists them.
"""

from reasoner_rl.cli import main

main("data", "prepare", "svamp")
