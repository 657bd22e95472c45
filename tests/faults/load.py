"""Calls by the hundred thousand, each with a number, and what became of each of them.

Lean on purpose: one process has to carry the load, the origin and the proxies, and leave cores to the
gateway.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import cast
from zoneinfo import ZoneInfo

import httptools

from policies.period import day_of, midnight, next_day
from tests.faults.echo import body_of, is_free, is_long
from tests.faults.history import End, Place, Seen, free_calls_of

HUNG_S = 30.0  # a call that has no end by then is a fault of its own
PAUSE_S = 0.01  # after a refusal or a lost connection, so that an outage is not all there is to the load
RECENT_S = 20.0
PAID, FREE_METHOD = ("SearchItemsFrame", "GetItemInfo"), "RunBulkSearchItems"
PATHS = ("/service-json/", "/service/")  # two routes, of which one may be open
LEAVES_BEFORE, LEAVES_AMID, LEAVES_HALF_SENT = "client_leaves", "client_leaves_amid", "client_half_sends"
CLIENT_FAULTS = (LEAVES_BEFORE, LEAVES_AMID, LEAVES_HALF_SENT)
_OWN = re.compile(rb'"Id":(\d+)')
_CODE = re.compile(rb"ErrorCode\W+(\w+)")


def is_free_method(number: int) -> bool:
    """Say whether a call is made with the free method."""
    return number % 11 == 3


@dataclass(frozen=True, slots=True)
class Key:
    """A key to call with."""

    key_id: str
    text: str


@dataclass
class Load:
    """All calls of a run."""

    port: int
    keys: Sequence[Key]
    zone: ZoneInfo
    chance: random.Random
    seen: Seen = field(default_factory=Seen)
    ends: bytearray = field(default_factory=lambda: bytearray(1 << 16))
    crossed: list[tuple[int, str]] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    hung: int = 0
    attempted: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    stopping: bool = False
    pause_s: float = 0.0  # of each connection between two calls
    took: list[tuple[float, float, End]] | None = None  # when a call began, seconds it took, how it ended

    def __post_init__(self) -> None:
        self._used = self.keys
        self._armed: deque[str] = deque()
        self._callers: set[Caller] = set()
        self._recent: deque[tuple[float, Place]] = deque()
        self._day: date = date.min
        self._day_ends = 0.0

    def arm(self, fault: str, times: int = 1) -> None:
        """Let the next calls behave badly."""
        self._armed.extend([fault] * times)

    @property
    def armed(self) -> int:
        """Return how many faults wait for a call."""
        return len(self._armed)

    @property
    def in_flight(self) -> int:
        """Return how many connections call."""
        return len(self._callers)

    def use(self, first: int, keys: int) -> None:
        """Call with other keys from now on."""
        self._used = self.keys[first : first + keys]

    async def run(self, connections: int) -> None:
        """Call in turn on so many connections, until `stopping`."""
        sweeper = asyncio.ensure_future(self._sweep())
        try:
            await asyncio.gather(*(self._keep_calling() for _ in range(connections)))
        finally:
            sweeper.cancel()

    async def _keep_calling(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.stopping:
            try:
                _, caller = await loop.create_connection(lambda: Caller(self), "127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(PAUSE_S)
                continue
            self._callers.add(caller)
            caller.next_call()
            await caller.gone.wait()
            self._callers.discard(caller)
            await asyncio.sleep(PAUSE_S)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            long_ago = time.time() - HUNG_S
            for caller in list(self._callers):
                if caller.began and caller.began < long_ago:
                    self.hung += 1
                    caller.transport.abort()
            while self._recent and self._recent[0][0] < time.time() - RECENT_S:
                self._recent.popleft()

    def next(self) -> tuple[int, Key, str, str | None]:
        """Return the next call's number, key, method and fault."""
        number = self.attempted
        self.attempted += 1
        if number >= len(self.ends):
            self.ends.extend(bytes(len(self.ends)))
        key = self._used[number % len(self._used)]
        method = FREE_METHOD if is_free_method(number) else PAID[number % 2]
        fault = None
        if self._armed and (self._armed[0] != LEAVES_AMID or is_long(number)):
            fault = self._armed.popleft()
            self.struck[fault] += 1
        return number, key, method, fault

    def day(self, now: float) -> date:
        """Return the billing day of an instant."""
        if now >= self._day_ends:
            self._day = day_of(now, self.zone)
            self._day_ends = midnight(next_day(self._day), self.zone)
            return self._day
        return self._day

    def note(self, number: int, key: Key, began: float, began_on: date, end: End) -> None:
        """Note how a call ended."""
        now = time.time()
        name = free_calls_of(key.key_id) if is_free_method(number) else key.key_id
        place = Place(name, began_on, self.day(now))
        self.seen.ends[(place, end)] += 1
        self.ends[number] = end
        if self.took is not None:
            self.took.append((began, now - began, end))
        if end in (End.FREE, End.REFUSED):
            self._recent.append((now, place))

    def unsettle(self, since: float) -> None:
        """Note that waivers of calls that ended from then on may die with a process now."""
        kept: deque[tuple[float, Place]] = deque()
        for at, place in self._recent:
            if at >= since:
                self.seen.unsettled[place] += 1
            else:
                kept.append((at, place))
        self._recent = kept


class Caller(asyncio.Protocol):
    """One connection that makes one call after the other."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self.transport: asyncio.Transport
        self.gone = asyncio.Event()
        self.began = 0.0
        self._began_on = date.min
        self._number = 0
        self._key: Key
        self._method = ""
        self._fault: str | None = None
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)

    def next_call(self) -> None:
        """Make the next call, or close when there are to be no more."""
        load = self._load
        if load.stopping or self.transport.is_closing():
            self.transport.close()
            return
        self._number, self._key, self._method, self._fault = load.next()
        self._body = []
        self.began = time.time()
        self._began_on = load.day(self.began)
        request = self._request()
        if self._fault == LEAVES_HALF_SENT:
            self.transport.write(request[: -len(request) // 3])
            asyncio.get_running_loop().call_later(0.005 * load.chance.random(), self.transport.abort)
            return
        self.transport.write(request)
        if self._fault == LEAVES_BEFORE:
            asyncio.get_running_loop().call_later(0.003 * load.chance.random(), self.transport.abort)

    def _request(self) -> bytes:
        number, key = self._number, self._key
        path = f"{PATHS[number // 2 % 2]}{self._method}"
        if number % 5 == 2 or self._fault == LEAVES_HALF_SENT:
            form = f"instanceKey={key.text}&itemId=1&id={number}"
            return (
                f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(form)}\r\n"
                f"Content-Type: application/x-www-form-urlencoded\r\n\r\n{form}"
            ).encode()
        return (
            f"GET {path}?instanceKey={key.text}&id={number}&itemId=1 HTTP/1.1\r\nHost: a\r\n\r\n"
        ).encode()

    def data_received(self, data: bytes) -> None:
        if not self.began:
            self._load.crossed.append((self._number, "an answer that nobody asked for"))
            self.transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._load.crossed.append((self._number, f"what is no answer: {data[:60]!r}"))
            self.transport.abort()
            return
        if self._fault == LEAVES_AMID:
            self.transport.abort()

    def on_body(self, data: bytes) -> None:
        """Keep a piece of the answer."""
        self._body.append(data)

    def on_message_complete(self) -> None:
        """Judge a whole answer, and go on."""
        load, number = self._load, self._number
        is_last = not self._parser.should_keep_alive()
        body = b"".join(self._body)
        status = self._parser.get_status_code()
        pause_s = load.pause_s
        if status == 200 and body == body_of(number):
            free = is_free(number) or self._method == FREE_METHOD
            self._end(End.FREE if free else End.ANSWERED)
        elif (found := _OWN.search(body)) is not None:
            load.crossed.append((number, f"{status} for {found[1].decode()}, {len(body)} bytes"))
            self._end(End.IN_DOUBT)
        else:
            code = _CODE.search(body)
            load.refusals[f"{status} {code[1].decode() if code else 'without a code'}"] += 1
            self._end(End.REFUSED)
            pause_s = max(PAUSE_S, pause_s)
        if is_last:
            self.transport.close()
        else:
            asyncio.get_running_loop().call_later(pause_s, self.next_call)

    def _end(self, end: End) -> None:
        self._load.note(self._number, self._key, self.began, self._began_on, end)
        self.began = 0.0

    def connection_lost(self, exc: Exception | None) -> None:
        if self.began:
            self._end(End.IN_DOUBT)
        self.gone.set()
