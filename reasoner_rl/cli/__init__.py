"""`reasoner-rl`: the command line. It reads recipes and calls the commands; heavy imports wait until needed."""

from reasoner_rl.cli.app import app, main
from reasoner_rl.cli.exits import exit_statuses

__all__ = ["app", "exit_statuses", "main"]
