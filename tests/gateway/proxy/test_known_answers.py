from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.failures import Failure
from gateway.proxy.answers import AnswerHead
from gateway.proxy.known_answers import MISSES_IN_A_ROW, REMEMBERED, KnownAnswers
from gateway.proxy.upstream import UpstreamConnection
from gateway.proxy.upstream_pool import UpstreamPool
from tests.origin import OK_JSON, Origin
from tests.rig import Rig, example_settings

HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: s\r\nDate: Sun, 22 Nov 2026 06:00:00 GMT\r\nContent-Type: text/xml\r\n"
    b"Content-Length: %d\r\nConnection: keep-alive\r\nX-A: 1\r\nX-A: 2\r\n\r\n"
)


def answer(body: bytes = b"<A>Ok</A>", head: bytes = HEAD) -> bytes:
    """Return a whole answer."""
    return head % len(body) + body


GOOD = answer()


class Wire(asyncio.Transport):
    """A transport that notes when it is broken off."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted


class Sink:
    """An exchange that notes what it is told; pieces of a body are put together."""

    def __init__(self, head_request: bool) -> None:
        self.head_request = head_request
        self.told: list[Any] = []
        self.body = b""

    def on_connected(self, connection: UpstreamConnection) -> None: ...

    def on_connect_failed(self, failure: Failure) -> None: ...

    def on_answer_head(self, head: AnswerHead) -> None:
        self.told.append((head.status, b"".join(head.pieces), head.length, head.chunked, head.codings))

    def on_answer_data(self, data: bytes) -> None:
        self.body += data

    def on_answer_end(self) -> None:
        self.told.append("end")

    def on_answer_broken(self, failure: Failure) -> None:
        self.told.append(failure)

    def on_answer_flush(self) -> None: ...

    def on_upstream_writable(self, writable: bool) -> None: ...


class Peer:
    """The connections of a pool, one after the other, as a client that calls again and again uses them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, remembers: bool = True) -> None:
        self.pool = UpstreamPool(next(iter(example_settings(1).upstreams)), loop)
        self._remembers = remembers
        self._connection: UpstreamConnection | None = None
        self.wire = Wire()

    def hear(self, reads: Sequence[bytes], *, head_request: bool = False) -> list[Any]:
        """Take the answer to one call in these reads, and return what became of it."""
        connection = self._connection
        if connection is None or self.wire.aborted:
            self.wire = Wire()
            connection = self._connection = UpstreamConnection(self.pool)
            connection.connection_made(self.wire)
        sink = Sink(head_request)
        connection.serve(sink)
        for data in reads:
            if not self._remembers:
                self.pool.known_answers = KnownAnswers()
            if not self.wire.aborted:
                connection.data_received(data)
        if connection.exchange is not None:  # still waits for the rest
            connection.abort()
        return [*sink.told, sink.body, self.wire.aborted]


@pytest.fixture
async def peers() -> AsyncIterator[tuple[Peer, Peer]]:
    """One that remembers, which has heard the good answer before, and one that never does."""
    loop = asyncio.get_running_loop()
    known, forgetful = Peer(loop), Peer(loop, remembers=False)
    assert known.hear([GOOD]) == forgetful.hear([GOOD])
    yield known, forgetful


OTHERS = [
    [answer(b"x")],
    [answer(b"x" * 100_000)],
    [answer(b"")],
    [GOOD + b"x"],
    [GOOD + b"\r\n"],
    [GOOD + b"\r"],
    [GOOD + GOOD],
    [GOOD[:-1]],
    [GOOD[:-1], b">"],
    [GOOD, GOOD],
    [GOOD, b"\r\n"],
    [b"\r\n" + GOOD],
    [b"\n" + GOOD],
    [b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD],
    [b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", GOOD],
    [b"HTTP/1.1 103 Early Hints\r\n", b"\r\n" + GOOD],
    [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", GOOD],
    [GOOD.replace(b"200 OK", b"204 No Content")],
    [GOOD.replace(b"200 OK", b"304 Not Modified")],
    [GOOD.replace(b"200 OK", b"404 Not Found")],
    [GOOD.replace(b"HTTP/1.1", b"HTTP/1.0")],
    [GOOD.replace(b"keep-alive", b"close")],
    [GOOD.replace(b"keep-alive", b"x-a")],
    [GOOD.replace(b"06:00:00", b"06:00:01")],
    [GOOD.replace(b"X-A: 2\r\n", b"Content-Length: 9\r\n")],
    [GOOD.replace(b"X-A: 2\r\n", b"Content-Length: 8\r\n")],
    [GOOD.replace(b"X-A: 2\r\n", b"Transfer-Encoding: chunked\r\n")],
    [GOOD.replace(b"X-A: 2\r\n", b"Content-Encoding: gzip\r\n")],
    [GOOD.replace(b"X-A: 2\r\n", b"X-A: 2\n")],
    [GOOD.replace(b"X-A: 2\r\n\r\n", b"X-A: 2\n\n")],
    [GOOD.replace(b"X-A: 2\r\n", b"X-A: 2\r\n folded\r\n")],
    [GOOD.replace(b"Length: 9", b"Length: 09")],
    [GOOD.replace(b"Length: 9", b"Length: +9")],
    [GOOD.replace(b"Length: 9", b"Length: 0_9")],
    [GOOD.replace(b"Length: 9", b"Length:  9")],
    [GOOD.replace(b"Length: 9", b"Length: 9 ")],
    [GOOD.replace(b"Length: 9", b"Length: 9, 9")],
    [GOOD.replace(b"Length: 9", b"Length: 0x9")],
    [GOOD.replace(b"Length: 9", b"Length: 99999999999999999999")],
    [GOOD.replace(b"Length: 9", b"Length: ")],
    [GOOD.replace(b"Content-Length: 9\r\n", b"")],
    [GOOD.replace(b"X-A: 1", b"X-A: content-length: 5")],
    [answer(b"\r\n\r\n\r\n\r\n")],
    [answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")],
    [b"nonsense"],
    [b""],
]


@pytest.mark.parametrize("reads", OTHERS)
async def test_whatever_comes_is_read_as_without_a_memory(
    peers: tuple[Peer, Peer], reads: list[bytes]
) -> None:
    """Whatever an upstream sends behind a head that is known, and behind that again, says the same."""
    known, forgetful = peers
    for each in ([GOOD], reads, [GOOD], reads, reads, [GOOD]):
        assert known.hear(each) == forgetful.hear(each)


@pytest.mark.parametrize("at", range(1, len(GOOD)))
async def test_an_answer_in_two_reads_is_the_same_answer(peers: tuple[Peer, Peer], at: int) -> None:
    """A known answer may break anywhere, and what comes after it is still understood."""
    known, forgetful = peers
    for each in ([GOOD[:at], GOOD[at:]], [GOOD], [GOOD[:at], GOOD[at:] + GOOD], [GOOD]):
        assert known.hear(each) == forgetful.hear(each)


async def test_an_answer_to_head_has_no_body(peers: tuple[Peer, Peer]) -> None:
    """What would be a whole answer to GET is a head and something that nobody asked for."""
    known, forgetful = peers
    bare = GOOD[: -len(b"<A>Ok</A>")]
    for reads, head_request in (
        ([GOOD], True),
        ([bare], True),
        ([GOOD], False),
        ([bare], True),
        ([GOOD], False),
    ):
        assert known.hear(reads, head_request=head_request) == forgetful.hear(
            reads, head_request=head_request
        )


@given(
    st.lists(
        st.lists(
            st.sampled_from(
                [
                    GOOD,
                    answer(b"1" * 10),
                    b"HTTP/1.1 200 OK\r\n",
                    b"Content-Length: 9\r\n",
                    b"content-length:1\r\n",
                    b"Transfer-Encoding: chunked\r\n",
                    b"Connection: close\r\n",
                    b"X: \r\n",
                    b"\r\n",
                    b"\n",
                    b"123456789",
                    b"1",
                ]
            ),
            max_size=6,
        ).map(b"".join),
        min_size=1,
        max_size=8,
    )
)
def test_generated_answers_are_read_as_without_a_memory(answers: list[bytes]) -> None:
    """Answers put together from pieces of good and bad ones say the same with a memory and without."""
    loop = asyncio.new_event_loop()
    try:
        known, forgetful = Peer(loop), Peer(loop, remembers=False)
        for data in (GOOD, *answers, *answers):
            assert known.hear([data]) == forgetful.hear([data])
    finally:
        loop.close()


async def test_a_known_head_is_not_read_again(peers: tuple[Peer, Peer]) -> None:
    """An answer of another length under the same head is told without the parser."""
    known, _ = peers
    head = known.pool.known_answers.read(answer(b"longer than before"))
    assert head is not None
    assert (head.status, head.length, head.body_bytes) == (200, b"18", 18)
    assert known.pool.known_answers.read(GOOD.replace(b"X-A: 2", b"X-A: 3")) is None


async def test_the_heads_that_are_remembered_are_few(peers: tuple[Peer, Peer]) -> None:
    """The ones that were seen last stay, and an upstream whose heads all differ is hardly listened to."""
    known, _ = peers
    memory = known.pool.known_answers
    others = [GOOD.replace(b"X-A: 2", b"X-A: %d" % number) for number in range(100, 100 + REMEMBERED)]
    for other in others:
        known.hear([GOOD])
        known.hear([other])
    assert memory.read(others[0]) is None
    assert memory.read(GOOD) is not None
    learnt = 0
    for number in range(1000, 1000 + 4 * MISSES_IN_A_ROW):
        different = GOOD.replace(b"X-A: 2", b"X-A: %d" % number)
        known.hear([different])
        learnt += len(memory._heads) > 0 and b"%d" % number in memory._heads[0].behind
    assert learnt == MISSES_IN_A_ROW + 3
    long = answer(head=HEAD.replace(b"X-A: 2", b"X-A: " + b"a" * 5000))
    for _ in range(2 * MISSES_IN_A_ROW):
        known.hear([long])
    assert memory.read(long) is None


async def test_calls_are_answered_and_counted_alike(path: Rig, upstream: Origin) -> None:
    """Over one connection, the first answer and those that are known reach the client in the same bytes, and
    each is charged."""
    key = await path.add_key()
    call = f"GET /service-json/GetItemInfoList?instanceKey={key} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    async with path.client() as client:
        got = [await client.send(call) for _ in range(5)]
    assert [each.body for each in got] == [OK_JSON] * 5
    assert len({each.header("content-length") for each in got}) == 1
    counts = await path.counts(key)
    assert sum(n for name, n in counts.items() if name.startswith("t:") and not name.startswith("t:*")) == 5
    assert not any(name.startswith("v:") for name in counts)
