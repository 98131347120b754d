"""`python -m reasoner_rl.cli`."""

from reasoner_rl.cli import main

main()
