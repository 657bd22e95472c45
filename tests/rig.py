"""A whole data path in the test's own process: real listener, real Valkey, an origin behind it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import json
import secrets
import socket
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from gateway import config
from gateway.proxy.access_log import AccessLogWriter
from gateway.proxy.carrier import Carrier
from gateway.proxy.listening import Listener
from gateway.proxy.records import Records
from gateway.proxy.service import Proxy
from gateway.settings import AccessLog, KeyOut, Settings
from gateway.tls import tls_context
from metering.clients import connect
from metering.counters import Counters
from metering.lookups import Lookups
from metering.names import READY
from metering.open_calls import OpenCalls
from metering.projection import project
from policies import keys
from policies.record import KeyRecord
from tests.origin import Origin

PEPPER = b"p" * 32
EXAMPLE = config.load(
    None, {"TALLYGATE_REDIS_URL": "redis://unused", "TALLYGATE_DATA_DIR": "unused"}, keep_pepper=False
)


def example_settings(origin_port: int, **route_changes: Any) -> Settings:
    """Return the example's settings with every upstream at `origin_port` and changes to every route."""
    settings = EXAMPLE
    upstreams = {
        upstream: dataclasses.replace(
            upstream, host="127.0.0.1", port=origin_port, host_header=f"127.0.0.1:{origin_port}"
        )
        for upstream in settings.upstreams
    }
    changes = {"key_out": KeyOut.PASS, "credential": None, **route_changes}
    routes = tuple(
        dataclasses.replace(route, upstream=upstreams[route.upstream], **changes) for route in settings.routes
    )
    return dataclasses.replace(
        settings,
        upstreams=tuple(upstreams.values()),
        routes=routes,
        security=dataclasses.replace(settings.security, peppers=(("p1", PEPPER),)),
        logging=dataclasses.replace(settings.logging, access=AccessLog.ALL),
    )


@dataclass
class Rig:
    """The parts of a running data path, and short ways to use them."""

    settings: Settings
    proxy: Proxy
    redis: Redis
    port: int
    log: io.StringIO
    listener: Listener
    now: float | None = None
    records: dict[str, KeyRecord] = field(default_factory=dict)

    def clock(self) -> float:
        """Return the time that the path believes it is."""
        return time.time() if self.now is None else self.now

    async def add_key(self, credential: str | None = None, **fields: Any) -> str:
        """Put a new key where the gateway looks for it; returns its text."""
        credential = credential or keys.issue(secrets.token_bytes(16))
        record = KeyRecord(
            **{
                "key_id": f"key_{secrets.token_hex(8)}",
                "account_id": "acc_0000000000000001",
                "plan": "K1",
                "revision": 1,
                "created_at": 1_700_000_000.0,
                "credentials": {keys.digest(credential, PEPPER): None},
                **fields,
            }
        )
        self.records[credential] = record
        await project(self.redis, [record])
        return credential

    async def change_key(self, credential: str, **fields: Any) -> None:
        """Change a key as the control API would: one revision on."""
        record = self.records[credential]
        record = dataclasses.replace(record, revision=record.revision + 1, **fields)
        self.records[credential] = record
        await project(self.redis, [record])

    async def counts(self, credential: str) -> dict[str, int]:
        """Return the live counters of a key over all days, once nothing is pending."""
        await until(lambda: self.proxy.counters.pending == 0)
        key_id = self.records[credential].key_id
        sums: dict[str, int] = {}
        async for name in self.redis.scan_iter(match=f"tg:{{{key_id[-2:]}}}:day:{key_id}:*"):
            for raw, value in (await self.redis.hgetall(name)).items():
                label = raw.decode() if isinstance(raw, bytes) else raw
                if label != "first" and not label.startswith(("bt:", "bs:")):
                    sums[label] = sums.get(label, 0) + int(value)
        return sums

    async def send(self, raw: bytes) -> Answer:
        """Send one request on a connection of its own and read its answer."""
        async with self.client() as client:
            return await client.send(raw)

    @contextlib.asynccontextmanager
    async def client(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Client]:
        """Open a connection to the listener."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24, ssl=tls)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()


@dataclass(slots=True)
class Answer:
    """What a client got."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    closed: bool = False

    def header(self, name: str) -> str | None:
        """Return a header's value, or None."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


@dataclass(slots=True)
class Client:
    """One client connection that speaks in bytes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, raw: bytes) -> Answer:
        """Send bytes, read an answer."""
        self.writer.write(raw)
        await self.writer.drain()
        return await self.read()

    async def read(self, *, head_request: bool = False) -> Answer:
        """Read one answer; raises IncompleteReadError when it is cut off."""
        async with asyncio.timeout(15):
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *rows = head[:-4].decode("latin-1").split("\r\n")
            headers = [(name, value.strip()) for name, _, value in (row.partition(":") for row in rows)]
            answer = Answer(int(first.split(" ")[1]), headers, b"")
            if head_request or answer.status in (100, 204, 304):
                return answer
            length = answer.header("content-length")
            if length is not None:
                answer.body = await self.reader.readexactly(int(length))
            elif answer.header("transfer-encoding") == "chunked":
                pieces = []
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    pieces.append((await self.reader.readexactly(size + 2))[:-2])
                await self.reader.readexactly(2)
                answer.body = b"".join(pieces)
            else:
                answer.body = await self.reader.read()
            return answer

    async def at_end(self) -> bool:
        """Wait for the gateway to close; returns whether nothing more came."""
        async with asyncio.timeout(15):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True


@contextlib.asynccontextmanager
async def rig(
    valkey_url: str,
    origin: Origin | int,
    settings: Settings | None = None,
    *,
    journals: Path | None = None,
    allowance: int = 100,
    timeout_s: float = 5.0,
    **route_changes: Any,
) -> AsyncIterator[Rig]:
    """Run a data path in front of `origin` until the block ends.

    Open routes need a directory for `journals`; `timeout_s` bounds each wait for Redis.
    """
    port = origin if isinstance(origin, int) else origin.port
    settings = settings or example_settings(port, **route_changes)
    redis = connect(valkey_url, timeout_s=timeout_s)
    counting = connect(valkey_url, timeout_s=timeout_s)
    counters = Counters(counting, writer=secrets.token_hex(4), deadline_s=timeout_s, retention_days=40)
    open_calls = OpenCalls(
        counters, journals or Path("unused"), allowance=allowance, journal_max_bytes=1 << 20, deadline_s=2.0
    )
    await redis.set(READY, 1, nx=True)
    log = io.StringIO()
    made: Rig

    def clock() -> float:
        return made.clock()

    lookups = Lookups(redis)
    records = Records(
        lookups,
        contract=settings.contract,
        capacity=1000,
        negative_s=0.2,
        timeout_s=timeout_s,
        clock=clock,
        breaker=counters.breaker,
        doubt=counters.doubt,
    )
    proxy = Proxy(
        settings,
        loop=asyncio.get_running_loop(),
        counters=counters,
        open_calls=open_calls,
        records=records,
        unseal=lambda sealed: sealed.removeprefix("sealed:"),
        carrier=Carrier(redis),
        access_log=AccessLogWriter(log, clock, 0),
        clock=clock,
    )
    listening = socket.create_server(("127.0.0.1", 0))
    listener = Listener(listening, proxy)
    made = Rig(settings, proxy, redis, listening.getsockname()[1], log, listener)
    await counters.start()
    await open_calls.start()
    proxy.start()
    await listener.open(tls_context(settings.server.proxy_tls))
    try:
        yield made
    finally:
        listener.close()
        proxy.close()
        await open_calls.close()
        await counters.close()
        await lookups.close()
        await redis.aclose()
        await counting.aclose()


async def until(condition: Any, timeout_s: float = 10.0) -> None:
    """Wait for a condition to hold; fails the test when it does not in time."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)
