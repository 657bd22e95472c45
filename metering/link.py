"""Questions to one Redis server and their replies, on a connection that stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from metering.commands import Command

Answered = Callable[[list[Any] | Exception], None]  # takes replies, or why there are none
_INCOMPLETE = object()


class Link(asyncio.Protocol):
    """Writes questions on one transport, one at a time, and reads their replies.

    It is lost for good once something was not answered in time: what comes late must not meet another
    question.
    """

    def __init__(self, transport: asyncio.WriteTransport, timeout_s: float) -> None:
        self.is_lost = False
        self._transport = transport
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._replies: list[Any] = []
        self._expected = 0
        self._answered: Answered | None = None  # who waits for the replies
        self._due = 0.0  # loop time until which they have to be there
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, commands: Sequence[Command], answered: Answered) -> None:
        # Its type hints know commands of one word only.
        packed = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]
        self._transport.write(b"".join(packed))
        self._replies = []
        self._expected = len(commands)
        self._answered = answered
        self._due = self._loop.time() + self._timeout_s
        if self._timer is None:  # one serves many questions
            self._timer = self._loop.call_at(self._due, self._look)

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                self._replies.append(reply)
        except hiredis.HiredisError as error:
            self._fail(RedisConnectionError(f"Redis sent what is no reply: {error}"))
            return
        answered = self._answered
        if answered is not None and len(self._replies) >= self._expected:
            self._answered = None
            answered(self._replies)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fail(RedisConnectionError(f"the connection to Redis was lost: {exc or 'closed by the server'}"))

    def _look(self) -> None:
        self._timer = None
        if self._answered is None:
            return
        if self._due <= self._loop.time():
            self._fail(RedisTimeoutError("Redis did not answer in time"))
        else:
            self._timer = self._loop.call_at(self._due, self._look)

    def _fail(self, error: Exception) -> None:
        self.is_lost = True
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(error)
