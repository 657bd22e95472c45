"""Questions on one connection: who is told what, and when the connection is good for nothing more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from metering.link import Link

FAR_S = 1_000.0


class Written(asyncio.WriteTransport):
    """A transport that keeps what is written on it."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []

    def write(self, data: Any) -> None:
        self.pieces.append(bytes(data))


Told = list[list[Any] | Exception]


@pytest.fixture
async def transport() -> Written:
    """What a link writes on."""
    return Written()


@pytest.fixture
async def link(transport: Written) -> Link:
    """A link whose questions have all the time there is."""
    return Link(transport, FAR_S)


@pytest.fixture
def told() -> Iterator[Told]:
    """What whoever asked was told; none is told twice."""
    told: Told = []
    yield told
    assert len(told) <= 1


async def test_question_is_written_at_once_and_its_replies_told_when_all_are_there(
    link: Link, transport: Written, told: Told
) -> None:
    """However the replies are split; commands are written as Redis reads them."""
    link.ask([("GET", "a"), ("GET", b"b")], told.append)
    assert transport.pieces == [b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$3\r\nGET\r\n$1\r\nb\r\n"]
    for piece in (b"$2\r\nx", b"y\r", b"\n", b"$-1\r"):
        link.data_received(piece)
        assert told == []
    link.data_received(b"\n")
    assert told == [[b"xy", None]]
    assert not link.is_lost


async def test_each_question_has_its_own_replies(link: Link, told: Told) -> None:
    """What was told before, and what came unasked, is not told again."""
    link.data_received(b":0\r\n")
    earlier: Told = []
    link.ask([("ECHO", 1)], earlier.append)
    link.data_received(b":1\r\n")
    assert earlier == [[1]]
    link.data_received(b":9\r\n")
    link.ask([("ECHO", 2), ("ECHO", 3)], told.append)
    link.data_received(b":2\r\n:3\r\n")
    assert told == [[2, 3]]


async def test_what_is_no_reply_loses_the_connection(link: Link, told: Told) -> None:
    """Who waits is told, and nothing more is taken from it."""
    link.ask([("PING",)], told.append)
    link.data_received(b"HTTP/1.1 400 Bad Request\r\n")
    assert link.is_lost
    (error,) = told
    assert isinstance(error, RedisConnectionError)
    assert str(error).startswith("Redis sent what is no reply: Protocol error")
    link.data_received(b"+PONG\r\n")


@pytest.mark.parametrize(
    ("why", "said"),
    [(None, "closed by the server"), (OSError("reset"), "reset")],
)
async def test_lost_connection_is_told(link: Link, told: Told, why: Exception | None, said: str) -> None:
    """With what is known of the reason; and no timer stays behind."""
    link.ask([("PING",)], told.append)
    timer = link._timer
    link.connection_lost(why)
    assert link.is_lost
    assert timer is not None
    assert timer.cancelled()
    (error,) = told
    assert isinstance(error, RedisConnectionError)
    assert str(error) == f"the connection to Redis was lost: {said}"


async def test_connection_that_is_lost_while_nobody_waits_is_lost(link: Link) -> None:
    """Before its first question, too."""
    link.connection_lost(None)
    assert link.is_lost


async def test_question_that_is_not_answered_in_time_loses_the_connection(transport: Written) -> None:
    """What comes late must not meet another question."""
    link = Link(transport, 0.0)
    told: asyncio.Queue[list[Any] | Exception] = asyncio.Queue()
    link.ask([("PING",)], told.put_nowait)
    error = await asyncio.wait_for(told.get(), 15)
    assert isinstance(error, RedisTimeoutError)
    assert str(error) == "Redis did not answer in time"
    assert link.is_lost
    link.data_received(b"+PONG\r\n")
    assert told.empty()


async def test_one_timer_serves_all_questions(link: Link, told: Told) -> None:
    """It is set anew only when it has rung too early for the question that waits then."""
    loop = asyncio.get_running_loop()
    earlier: Told = []
    begun = loop.time()
    link.ask([("PING",)], earlier.append)
    timer = link._timer
    assert timer is not None
    assert begun + FAR_S <= timer.when() <= loop.time() + FAR_S
    link.data_received(b"+PONG\r\n")
    again = loop.time()
    link.ask([("PING",)], told.append)
    assert link._timer is timer
    link._look()
    assert (told, link.is_lost) == ([], False)
    assert link._timer is not None
    assert link._timer is not timer
    assert again + FAR_S <= link._timer.when() <= loop.time() + FAR_S
    link.data_received(b"+PONG\r\n")
    link._look()
    assert link._timer is None
    assert (earlier, told, link.is_lost) == ([[b"PONG"]], [[b"PONG"]], False)
