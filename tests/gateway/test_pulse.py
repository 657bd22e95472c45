"""Who says nothing for too long hangs; who was asked by a watcher that was stopped does not."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway import pulse
from gateway.child import State

HUNG_S = 0.6


class Stub:
    """Stands for a child that runs."""

    def __init__(self) -> None:
        self.program = SimpleNamespace(name="stub")
        self.pid, self.state = 1, State.READY
        self.killed = asyncio.Event()
        self.kill = self.killed.set


@contextlib.asynccontextmanager
async def watched(socket: Path) -> AsyncIterator[Stub]:
    """Watch a stub until the block ends."""
    child: Any = Stub()
    task = asyncio.create_task(pulse.watch(lambda: [(child, socket)], HUNG_S))
    try:
        yield child
    finally:
        task.cancel()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask often."""
    monkeypatch.setattr(pulse, "PULSE_EVERY_S", 0.01)


async def test_who_answers_is_left_alone_and_who_is_silent_is_killed(tmp_path: Path) -> None:
    """A process that is not there is not asked either: it has died, or is on its way."""
    talks, silent = tmp_path / "talks", tmp_path / "silent"
    forever = asyncio.Event()

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await forever.wait()
        writer.close()

    talking = await pulse.answer_at(talks, lambda: b"\n")
    hanging = await asyncio.start_unix_server(say_nothing, path=silent)
    async with watched(talks) as one, watched(silent) as other, watched(tmp_path / "nobody") as nobody:
        await asyncio.wait_for(other.killed.wait(), 10)
        assert not one.killed.is_set()
        assert not nobody.killed.is_set()
    forever.set()
    for server in (talking, hanging):
        server.close()
        await server.wait_closed()
    await asyncio.sleep(0.05)  # for the last connections to be closed


async def test_nobody_is_killed_because_the_watcher_was_stopped(tmp_path: Path) -> None:
    """The answer that came meanwhile, or comes just after, counts."""
    socket, asked = tmp_path / "s", asyncio.Event()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.sleep(0.01)
        writer.write(b"\n")
        writer.close()

    server = await asyncio.start_unix_server(answer, path=socket)
    async with watched(socket) as child:
        for _ in range(3):
            asked.clear()
            await asked.wait()
            time.sleep(2 * HUNG_S)  # noqa: ASYNC251 - nothing moves in this process, as when it is stopped
            await asyncio.sleep(0.1)
        assert not child.killed.is_set()
    server.close()
    await asyncio.sleep(0.05)
