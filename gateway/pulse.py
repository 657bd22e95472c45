"""Noticing processes that live and do nothing any more.

A process answers whoever connects to its socket in the run directory, from the event loop that does all of
its work. The supervisor connects now and then; a process that says nothing for too long is killed, and
started again as one that dies is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from gateway.child import Child, State

CONTROL_SOCKET = "control.sock"
PULSE_EVERY_S = 5.0
TURNS = 6  # of waiting: when this process was stopped itself, one is over at once, and the others remain

log = structlog.get_logger("gateway.supervisor")


async def answer_at(socket: Path, say: Callable[[], bytes]) -> asyncio.AbstractServer:
    """Write what `say` returns to whoever connects to the socket; one of an earlier life gives way."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(say())
            await writer.drain()
            writer.close()

    await asyncio.to_thread(socket.unlink, missing_ok=True)
    return await asyncio.start_unix_server(answer, path=socket)


async def watch(processes: Callable[[], Iterable[tuple[Child, Path]]], hung_s: float) -> None:
    """Kill those of the processes that do not answer at their sockets within `hung_s`, until cancelled."""
    while True:
        await asyncio.sleep(PULSE_EVERY_S)
        await asyncio.gather(*(_feel(child, socket, hung_s) for child, socket in processes()))


async def _feel(child: Child, socket: Path, hung_s: float) -> None:
    """Kill a process that does not say how it does; one that cannot be asked is left alone."""
    process = child.pid
    if child.state is not State.READY or not await _hangs(socket, hung_s):
        return
    if child.pid == process:  # and not another one by now
        log.error("a process hangs and is killed", process=child.program.name, pid=process, silent_s=hung_s)
        child.kill()


async def _hangs(socket: Path, hung_s: float) -> bool:
    asking = asyncio.create_task(_ask(socket))
    try:
        for _ in range(TURNS):
            done, _ = await asyncio.wait({asking}, timeout=hung_s / TURNS)
            if done:
                return False
        return True
    finally:
        asking.cancel()


async def _ask(socket: Path) -> None:
    # It may not be there, as in a rolling restart, or be full of those who ask.
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_unix_connection(socket)
        try:
            await reader.read(1)
        finally:
            writer.close()
