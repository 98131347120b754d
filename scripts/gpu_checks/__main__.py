"""One check, in a process of its own: python -m gpu_checks MODULE FUNCTION NAME SIZE WORK LIMIT_S"""

from __future__ import annotations

import faulthandler
import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import cast

from gpu_checks.common import Context, Size, Skip


def main(arguments: list[str]) -> int:
    """Run the check and write its verdict beside its figures; 0 unless it failed."""
    module, function, name, size, work, limit = arguments
    context = Context(name, cast(Size, size), Path(work))
    # A check that hangs leaves every thread's stack in its log before it is killed.
    faulthandler.enable()
    faulthandler.dump_traceback_later(0.9 * float(limit))
    try:
        context.report(**getattr(importlib.import_module(module), function)(context))
        context.conclude("ok")
        return 0
    except Skip as skip:
        context.conclude("skipped", str(skip))
        return 0
    except BaseException as error:
        traceback.print_exc()
        context.conclude("FAIL", f"{type(error).__name__}: {error}")
        return 1


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # without waiting for threads of libraries; the runner kills what is left
