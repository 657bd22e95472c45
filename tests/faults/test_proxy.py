"""Each fault of the proxy does what it says, to as many requests as were asked for, and to no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from tests.faults.proxy import FaultProxy
from tests.rig import until


class Server(asyncio.Protocol):
    """Answers every read with what it read, twice, and keeps what it read in a list of all connections."""

    def __init__(self, read: list[bytes]) -> None:
        self.read = read

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.read.append(data)
        self.transport.write(data * 2)


class Asker:
    """One connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, text: bytes) -> bytes:
        """Send, and read the whole reply; b"" or less of it when the connection ends first."""
        self.writer.write(text)
        try:
            async with asyncio.timeout(10):
                return await self.reader.readexactly(2 * len(text))
        except asyncio.IncompleteReadError as error:
            return error.partial
        except ConnectionError:
            return b""


class Between:
    """A proxy, what the server behind it reads, and who asks through it."""

    def __init__(self, proxy: FaultProxy, read: list[bytes]) -> None:
        self.proxy, self.read = proxy, read
        self.askers: list[Asker] = []

    async def connect(self) -> Asker:
        """Open a connection."""
        self.askers.append(Asker(*await asyncio.open_connection("127.0.0.1", self.proxy.port)))
        return self.askers[-1]

    async def ask(self, text: bytes) -> bytes:
        """Ask on a new connection."""
        return await (await self.connect()).ask(text)


@asynccontextmanager
async def between(place: Path | None = None) -> AsyncIterator[Between]:
    """Run a server on a port, or on a socket in a directory, with a proxy before it."""
    loop = asyncio.get_running_loop()
    read: list[bytes] = []
    if place is None:
        listening = await loop.create_server(lambda: Server(read), "127.0.0.1", 0)
        target: str | tuple[str, int] = listening.sockets[0].getsockname()[:2]
    else:
        target = str(place / "server.sock")
        listening = await loop.create_unix_server(lambda: Server(read), target)
    async with FaultProxy(target, seed=1).listening() as proxy:
        made = Between(proxy, read)
        yield made
        for asker in made.askers:
            asker.writer.close()
    listening.close()


@pytest.mark.parametrize("is_unix", [False, True])
async def test_bytes_pass_as_they_are(tmp_path: Path, is_unix: bool) -> None:
    """Without a fault, nothing changes, to a port and to a Unix socket."""
    async with between(tmp_path if is_unix else None) as made:
        asker = await made.connect()
        assert [await asker.ask(b"a"), await asker.ask(b"\x00\xff")] == [b"aa", b"\x00\xff\x00\xff"]
        assert made.read == [b"a", b"\x00\xff"]
        asker.writer.close()
        await until(lambda: made.proxy.connections == 0)
        assert not made.proxy.struck


async def test_a_lost_request_does_not_arrive() -> None:
    """The connection breaks before the server has read anything; the next one is well."""
    async with between() as made:
        made.proxy.arm("request_lost")
        assert await made.ask(b"a") == b""
        assert await made.ask(b"b") == b"bb"
        assert made.read == [b"b"]
        assert made.proxy.struck == {"request_lost": 1}


async def test_a_lost_reply_has_been_given() -> None:
    """The server has read and answered, and nothing of the answer arrives."""
    async with between() as made:
        made.proxy.arm("reply_lost")
        assert await made.ask(b"a") == b""
        assert made.read == [b"a"]


async def test_a_cut_reply_arrives_in_part() -> None:
    """Half of the answer arrives, then the connection ends."""
    async with between() as made:
        made.proxy.arm("reply_cut")
        assert await made.ask(b"abcd") == b"abcd"


async def test_a_half_open_connection_stays_silent() -> None:
    """It stands, and nothing comes any more; others are well."""
    async with between() as made:
        made.proxy.arm("half_open")
        asker = await made.connect()
        asker.writer.write(b"a")
        await until(lambda: made.proxy.struck["half_open"] == 1)
        assert await made.ask(b"b") == b"bb"
        asker.writer.write(b"c")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await asker.reader.read(1)
        assert not asker.reader.at_eof()


async def test_a_half_open_connection_may_end() -> None:
    """With a bound, the silence ends with the connection."""
    async with between() as made:
        made.proxy.half_open_s = 0.01
        made.proxy.arm("half_open")
        assert await made.ask(b"a") == b""
        await until(lambda: made.proxy.connections == 0)


async def test_a_delayed_reply_comes_whole_and_in_order() -> None:
    """What the server sends meanwhile waits behind it."""
    async with between() as made:
        made.proxy.arm("delay")
        asker = await made.connect()
        began = asyncio.get_running_loop().time()
        assert await asker.ask(b"abc") == b"abcabc"
        assert asyncio.get_running_loop().time() - began >= made.proxy.delay_s
        assert await asker.ask(b"d") == b"dd"


async def test_connections_are_cut_and_refused_and_taken_again() -> None:
    """A cut breaks all that stand; while it refuses, none gets further; afterwards all is well."""
    async with between() as made:
        asker = await made.connect()
        assert await asker.ask(b"a") == b"aa"
        made.proxy.cut()
        assert await asker.ask(b"b") == b""
        made.proxy.refusing = True
        assert await made.ask(b"c") == b""
        made.proxy.disarm()
        assert await made.ask(b"d") == b"dd"


async def test_a_played_redis_answers_every_command() -> None:
    """Each command gets the error, however many come at once, and none reaches the server."""
    async with between() as made:
        made.proxy.error = b"OOM no"
        asker = await made.connect()
        asker.writer.write(b"*1\r\n$4\r\nPING\r\n" * 2 + b"*1\r\n$4\r\nPI")
        assert await asker.reader.readexactly(18) == b"-OOM no\r\n" * 2
        asker.writer.write(b"NG\r\n")
        assert await asker.reader.readexactly(9) == b"-OOM no\r\n"
        assert made.read == []


async def test_equal_seeds_choose_equally() -> None:
    """Which connection is cut, and which half of a half-open one dies first, follows from the seed."""
    draws = [[proxy.chance.random() for _ in range(5)] for proxy in (FaultProxy("x", 7), FaultProxy("x", 7))]
    assert draws[0] == draws[1] != [FaultProxy("x", 8).chance.random() for _ in range(5)]


def test_an_unknown_fault_is_an_error() -> None:
    """A misspelt fault is not silently none."""
    with pytest.raises(ValueError, match="reply_lost"):
        FaultProxy("x").arm("lost_reply")
