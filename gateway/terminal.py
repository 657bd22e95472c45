"""The terminal that the program was started in, which may go away while it runs."""

from __future__ import annotations

import os
import sys


def has_terminal() -> bool:
    """Say whether this process has a terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
    except OSError:
        return False
    return True


def let_go_of_output() -> None:
    """Write out what is left; where the terminal is gone write it nowhere, so that the status stays what it
    is."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path of ours
                os.dup2(nowhere.fileno(), stream.fileno())
