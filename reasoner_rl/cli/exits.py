"""How commands end: users' mistakes become one message, and each way to end has an exit status of its own."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from reasoner_rl.errors import DriftError, UserError, WorkerError, is_interruption

DIVERGED = 1  # also by an alarm that stops a run, or a drift that `reasoner-rl drift` has found
USER_ERROR = 2
WORKERS_FAILED = 3
SYSTEM_ERROR = 4
OFF_REFERENCE = 5  # a run that was compared with a reference left a band
INTERRUPTED = 130
CHECKPOINT = "the newest checkpoint, if there is one"
_PACKAGE = f"{Path(__file__).parent.parent.name}/"


@contextmanager
def exit_statuses(resumes_from: Callable[[], str | None] = lambda: CHECKPOINT) -> Iterator[None]:
    """Users' mistakes become one message and exit status 2, divergence 1, failed workers 3, an interruption 130.

    Errors of the operating system, such as a file that may not be read, have status 4.
    resumes_from: called when work has ended early; returns what the same command resumes from, None if it starts anew.
    """
    try:
        yield
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(USER_ERROR)
    except FloatingPointError as error:
        sys.stderr.write(f"error: {error}. In training, start anew with a lower training.optimizer.lr\n")
        sys.exit(DIVERGED)
    except DriftError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(DIVERGED)
    except WorkerError as error:
        begun = resumes_from()
        remedy = f"The same command resumes from {begun}\n" if begun else ""
        sys.stderr.write(f"error: {error}\n{remedy}")
        sys.exit(WORKERS_FAILED)
    except BrokenPipeError:  # the process that read the output has ended; typer exits silently
        raise
    except BaseException as error:
        if is_interruption(error):  # also where a library has made another error of it
            begun = resumes_from()
            remedy = f"; the same command resumes from {begun}" if begun else ""
            sys.stderr.write(f"interrupted{remedy}\n")
            sys.exit(INTERRUPTED)
        if isinstance(error, OSError):
            sys.stderr.write(f"error: {_system_error(error)}\n")
            sys.exit(SYSTEM_ERROR)
        raise


def _system_error(error: OSError) -> str:
    """The system's message, the file, and the line of this package where it happened."""
    named = [str(name) for name in (error.filename, error.filename2) if name is not None]
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if _PACKAGE in frame.filename]
    place = ""
    if places and Path(places[-1].filename).stem != "own_process":  # that passes on errors of another process
        place = f" ({Path(places[-1].filename).name}, line {places[-1].lineno})"
    said = error.strerror or str(error) or type(error).__name__
    return f"the system says: {': '.join([said, *named])}{place}"
