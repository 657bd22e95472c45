"""How long a process keeps a core while others want it."""

from __future__ import annotations

import ctypes
import os
import platform
import re

import pytest

_SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}
_RUNTIME = 3  # its place in Linux's `struct sched_attr`, in parts of eight bytes

# Before Linux 6.12 all ordinary processes have the same turns.
needs_turns = pytest.mark.skipif(
    tuple(map(int, re.findall(r"\d+", platform.release())[:2])) < (6, 12),
    reason="this kernel gives every process the same turns",
)


def turn_ns(process: int) -> int:
    """Return the length of a process's turns in nanoseconds."""
    told = (ctypes.c_uint64 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    number = _SCHED_GETATTR[platform.machine()]
    if libc.syscall(number, process, told, ctypes.sizeof(told), 0) != 0:
        raise OSError(ctypes.get_errno(), f"sched_getattr of {process}: {os.strerror(ctypes.get_errno())}")
    return told[_RUNTIME]
