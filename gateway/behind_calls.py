"""Having what PostgreSQL does for this process stand behind calls, on the machine that serves them."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.leash import stand_behind
from gateway.leashing import BEHIND_CALLS

_PROCESSES = Path("/proc")


def put_behind_calls(engine: AsyncEngine) -> None:
    """Have each new connection's server process share the cores as the server itself does.

    PostgreSQL makes a session of each of its processes, and Linux may share the cores out among sessions
    first: the niceness with which the server was started then counts within each of them only. Without such
    groups, and with a server on another machine, nothing is done.
    """

    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, _record: object) -> None:
        connection.run_async(_connected)


async def _connected(connection: asyncpg.Connection) -> None:
    await asyncio.to_thread(_put_behind, _PROCESSES / str(connection.get_server_pid()))


def _put_behind(process: Path) -> None:
    with contextlib.suppress(OSError):  # it runs elsewhere
        if (process / "comm").read_text() == "postgres\n":  # not somebody else's with that number
            stand_behind(str(process), BEHIND_CALLS)
