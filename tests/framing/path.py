"""The data path as the corpus needs it: everything that can be forwarded is, and every refusal says why."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections import Counter
from dataclasses import dataclass, field

from gateway.settings import Dialect, Place, Settings, Source, UnknownMethods
from policies.methods import MethodRule, MethodTable
from tests.framing.case import ANSWERED, CLOSED, KEY
from tests.framing.corpus import RULES
from tests.framing.origins import Seen
from tests.rig import Rig, example_settings, until

METHODS = MethodTable(
    (
        MethodRule(("SearchItemsFrame", "GET /rest/search"), "search"),
        MethodRule(("GetItemInfo", "GET /rest/items/*"), "item"),
    )
)
_METHOD_FROM = {
    "/service-json/": Place(Source.PATH),
    "/rest/": Place(Source.PATH, "full"),
    "/router/rest": Place(Source.QUERY, "method"),
}
_ANSWER = re.compile(rb"HTTP/1\.1 (\d{3})[^\r\n]*\r\n(.*?)\r\n\r\n", re.DOTALL)
_REASON = re.compile(rb'"reason":"(\w+)"')
AT_ONCE = 8


def settings(port: int) -> Settings:
    """Return settings that let through whatever is not refused for its form: unknown methods too."""
    made = example_settings(
        port,
        dialect=Dialect.PROBLEM,
        key_in=(Place(Source.HEADER, "X-Api-Key"),),
        signed=False,
        unknown_methods=UnknownMethods.ALLOW,
        max_body_bytes=65_536,
    )
    routes = tuple(
        dataclasses.replace(route, method_from=(_METHOD_FROM[route.path_prefix],))
        for route in made.routes
        if route.path_prefix in _METHOD_FROM
    )
    return dataclasses.replace(made, routes=routes, methods=METHODS)


@dataclass
class Outcome:
    """What became of one case: the answers that the client got, and what was counted, by name."""

    rule: str
    name: str
    raw: bytes = field(repr=False)
    answers: tuple[str, ...] = ()
    counted: Counter[str] = field(default_factory=Counter)


async def run(path: Rig) -> dict[str, Outcome]:
    """Send every case on a connection of its own, with a key of its own; returns the outcomes by key."""
    outcomes = {
        await path.add_key(): Outcome(rule.what, name, raw)
        for rule in RULES
        for name, raw in rule.cases.items()
    }
    gate = asyncio.Semaphore(AT_ONCE)

    async def send(key: str, outcome: Outcome) -> None:
        async with gate:
            got = await exchange(path.port, outcome.raw.replace(KEY.encode(), key.encode()))
            outcome.answers = answers_in(got)

    await asyncio.gather(*(send(key, outcome) for key, outcome in outcomes.items()))
    await until(lambda: path.proxy.calls_in_flight == 0 and path.proxy.counters.pending == 0)
    owners = {path.records[key].key_id: outcome for key, outcome in outcomes.items()}
    async for name in path.redis.scan_iter(match="tg:{*}:day:*"):
        key_id = name.decode().split(":")[3]
        for label, count in (await path.redis.hgetall(name)).items():
            if label.startswith(b"c:"):
                owners[key_id].counted[label[2:].rpartition(b"|")[0].decode()] += int(count)
    return outcomes


async def exchange(port: int, raw: bytes, timeout_s: float = 30.0) -> bytes:
    """Send bytes, close this side, and return everything that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    got = b""
    try:
        writer.write(raw)
        writer.write_eof()
        async with asyncio.timeout(timeout_s):
            while data := await reader.read(65536):
                got += data
    except (ConnectionError, TimeoutError):
        pass
    finally:
        writer.close()
    return got


def answers_in(got: bytes) -> tuple[str, ...]:
    """Name the answers in what a client got: ANSWERED, or why the gateway refused."""
    answers = []
    for match in _ANSWER.finditer(got):
        if match[1] == b"100":
            continue
        if b"application/problem+json" in match[2]:
            reason = _REASON.search(got, match.end())
            answers.append(reason[1].decode() if reason else match[1].decode())
        else:
            answers.append(ANSWERED)
    return tuple(answers) or (CLOSED,)


def counted_name(seen: Seen) -> str:
    """Return the name under which a request is counted that a server understood so."""
    if seen.path.startswith("/service-json/"):
        method = [segment for segment in seen.path.split("/") if segment][-1]
    elif seen.path.startswith("/rest/"):
        method = f"{seen.method} {seen.path}"
    elif seen.path.startswith("/router/rest"):
        values = [part[7:] for part in seen.query.split("&") if part.startswith("method=")]
        method = values[0]
    else:
        return f"outside every route: {seen.path}"
    found = METHODS.lookup(method)
    return "*" if found is None else found[0]
