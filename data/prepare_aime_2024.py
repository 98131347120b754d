"""American Invitational Mathematics Examination 2024, I and II.

Short for `reasoner-rl data prepare aime-2024`, with the same options; --help lists them.
"""

from reasoner_rl.cli import main

main("data", "prepare", "aime-2024")
