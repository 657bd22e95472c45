"""The plain peer: an aiohttp server, a `ClientSession` and one script a call, as competent users write it.

Run as a program it is the proxy itself: `python -m benchmarks.peers.plain PORT REDIS_URL ORIGIN_URL`.
"""

from __future__ import annotations

import hmac
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import redis.asyncio
import uvloop
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from benchmarks.machine import Process, free_port, python
from benchmarks.peers import PEPPER, Peer, counted_by_script, put_keys

PREFIX = "plain"
_HOP_BY_HOP = (
    "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "host"
)  # fmt: skip
_WHOLE_BYTES = 64 * 1024  # answers up to here are read whole, which is the faster way
_REFUSALS = {"quota": "CallLimit", "unknown": "AccessDenied"}


class PlainAiohttp(Peer):
    """aiohttp on both sides of one Redis call."""

    title = "aiohttp + ClientSession"

    def start(self) -> None:
        put_keys(self.bench.store.client, PREFIX, self.credentials)
        self.port = free_port()
        command = python(
            "benchmarks.peers.plain",
            str(self.port),
            self.bench.store.url,
            f"http://127.0.0.1:{self.bench.origin_port}",
        )
        self.process = Process("plain", command, self.bench.layout.proxy, self.bench.folder)
        self.process.wait_for_port(self.port)

    def counted(self) -> int:
        return counted_by_script(self.bench.store.client, PREFIX)


class Proxy:
    """The handler and its connections to Redis and to the upstream."""

    def __init__(self, redis_url: str, origin_url: str) -> None:
        self._origin = origin_url
        self._redis = redis.asyncio.Redis.from_url(redis_url, max_connections=256)
        self._count = self._redis.register_script((Path(__file__).parent / "count.lua").read_text())
        self._session: aiohttp.ClientSession | None = None

    async def start(self, _: web.Application) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def stop(self, _: web.Application) -> None:
        assert self._session is not None
        await self._session.close()
        await self._redis.aclose()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read() if request.can_read_body else None
        credential = request.query.get("instanceKey") or str((await request.post()).get("instanceKey", ""))
        refusal = await self._counted(credential, request.path.rpartition("/")[2])
        if refusal is not None:
            return web.json_response({"ErrorCode": refusal, "ErrorDescription": "The call was not allowed."})
        return await self._forward(request, body)

    async def _counted(self, credential: str, method: str) -> str | None:
        digest = hmac.digest(_PEPPER, credential.encode(), "sha256").hex()
        day = datetime.now(UTC).strftime("%Y%m%d")
        keys = [f"{PREFIX}:key:{digest}", f"{PREFIX}:day:{digest}:{day}"]
        said = await self._count(keys=keys, args=[method])
        return None if said == b"ok" else _REFUSALS.get(said.decode(), "InstanceKeyBan")

    async def _forward(self, request: web.Request, body: bytes | None) -> web.StreamResponse:
        assert self._session is not None
        url = URL(self._origin + request.raw_path, encoded=True)
        async with self._session.request(
            request.method, url, headers=_passed(request.headers), data=body, allow_redirects=False
        ) as answer:
            headers = _passed(answer.headers)
            if answer.content_length is not None and answer.content_length <= _WHOLE_BYTES:
                return web.Response(status=answer.status, headers=headers, body=await answer.read())
            streamed = web.StreamResponse(status=answer.status, headers=headers)
            await streamed.prepare(request)
            async for part in answer.content.iter_any():
                await streamed.write(part)
            return streamed


def _passed(headers: Mapping[str, str]) -> CIMultiDict[str]:
    kept: CIMultiDict[str] = CIMultiDict(headers)
    for name in _HOP_BY_HOP:
        kept.popall(name, None)
    return kept


_PEPPER = PEPPER.encode()


def make_app(redis_url: str, origin_url: str) -> web.Application:
    """Return the proxy as an application."""
    proxy = Proxy(redis_url, origin_url)
    app = web.Application(client_max_size=16 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", proxy.answer)
    app.on_startup.append(proxy.start)
    app.on_cleanup.append(proxy.stop)
    return app


if __name__ == "__main__":
    uvloop.install()
    web.run_app(
        make_app(sys.argv[2], sys.argv[3]),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        access_log=None,
        print=None,
    )
