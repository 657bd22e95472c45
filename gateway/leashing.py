"""Putting children on a leash (`gateway.leash`), and ending those whose supervisor is gone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LEASH = Path(__file__).with_name("leash.py")
ORPHAN_DEADLINE_S = 20.0
# Steps of niceness of what may wait: with all cores busy it gets a tenth of what a worker gets.
BEHIND_CALLS = 10
# A turn on a core of what a call passes. With the usual 3 ms it often waits as long for a program that shares
# its core, however nice that is; docs/decisions/0025 has the figures.
SHORT_TURN_NS = 100_000


class OrphanError(Exception):
    """A process of an earlier run does not end; the message says which."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The user that a program becomes, and the capabilities that it keeps (a bit mask)."""

    uid: int
    gid: int
    keep: int


def leashed(
    command: Sequence[str],
    *,
    on_parent_death: signal.Signals,
    lock: Path | None = None,
    user: Identity | None = None,
    nice: int = 0,
    turn_ns: int = 0,
) -> list[str]:
    """Return the command line that runs `command` bound to this process, see `gateway.leash`."""
    line = [sys.executable, "-I", "-S", str(LEASH)]
    line += ["--parent", str(os.getpid()), "--signal", str(int(on_parent_death))]
    if nice:
        line += ["--nice", str(nice)]
    if turn_ns:
        line += ["--turn-ns", str(turn_ns)]
    if lock is not None:
        line += ["--lock", str(lock)]
    if user is not None:
        line += ["--uid", str(user.uid), "--gid", str(user.gid), "--keep", str(user.keep)]
    return [*line, "--", *command]


def end_orphan(lock: Path, by: signal.Signals) -> None:
    """End the process that holds `lock`, left by a killed supervisor; raises OrphanError if it stays."""
    deadline = time.monotonic() + ORPHAN_DEADLINE_S
    asked = False
    while (holder := _holder(lock)) is not None:
        if time.monotonic() > deadline:
            raise OrphanError(
                f"Process {holder} still uses {lock.with_suffix('')} and does not stop; end it."
            )
        if not asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder, by)
            asked = True
        time.sleep(0.02)


def _holder(lock: Path) -> int | None:
    """Return the process that holds `lock`; None when it is free."""
    try:
        with lock.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read().strip() or 0) or None
    except FileNotFoundError:
        return None
    return None
