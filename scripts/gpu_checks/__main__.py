"""One check, in a process of its own: echo LIMIT_S | python -m gpu_checks MODULE FUNCTION NAME SIZE WORK

It loads the module, waits for the limit, and only then touches the device, so that loading overlaps with other checks.
"""

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
    module, function, name, size, work = arguments
    context = Context(name, cast(Size, size), Path(work))
    faulthandler.enable()
    try:
        check = getattr(importlib.import_module(module), function)
        limit_s = sys.stdin.readline()
        if not limit_s:  # the runner is gone
            return 1
        # A check that hangs leaves every thread's stack in its log before it is killed.
        faulthandler.dump_traceback_later(0.9 * float(limit_s))
        context.report(**check(context))
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
