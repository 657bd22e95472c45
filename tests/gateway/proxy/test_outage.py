"""What a data path does while Redis is away: refuse at once, or let through what will be counted later."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import socket
import struct
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import date
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.settings import OnCounterFailure
from gateway.stores import EmbeddedValkey, run_directory
from metering.journal import read
from metering.names import READY
from metering.open_calls import Admission
from metering.replay import bring_in, released
from policies import keys
from tests import servers
from tests.faults.kinds import REPLIES
from tests.faults.proxy import FaultProxy
from tests.origin import OK_JSON, Origin, answer
from tests.rig import Answer, Rig, example_settings, rig, until

SEARCH = "SearchItemsFrame|search"
NEVER = {401, 403, 429}
PATIENCE_S = 1.5  # a slow moment is no outage


class Store:
    """A Valkey that can be stopped, killed and started again."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.store = EmbeddedValkey(directory, run_directory(directory))
        self._stack = stack
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        """Start it, with what its append-only file holds."""
        self.process = self._stack.enter_context(servers.process(self.store))

    def kill(self) -> None:
        """Kill it as `kill -9` does."""
        self.process.kill()
        self.process.wait()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Let it hang until the block ends."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A running Valkey of the test's own."""
    with contextlib.ExitStack() as stack:
        yield Store(tmp_path, stack)


@contextlib.asynccontextmanager
async def path_of(
    store: Store, upstream: Origin, tmp_path: Path, mode: OnCounterFailure, allowance: int = 100
) -> AsyncIterator[Rig]:
    """Run a data path whose routes are all in one mode, and which soon gives up on Redis."""
    async with rig(
        store.store.url,
        upstream,
        journals=tmp_path / "journal",
        allowance=allowance,
        timeout_s=PATIENCE_S,
        on_counter_failure=mode,
    ) as made:
        yield made


@pytest.fixture
async def open_path(store: Store, upstream: Origin, tmp_path: Path) -> AsyncIterator[Rig]:
    """A data path that lets calls through."""
    async with path_of(store, upstream, tmp_path, OnCounterFailure.OPEN) as made:
        yield made


@pytest.fixture
async def closed_path(store: Store, upstream: Origin, tmp_path: Path) -> AsyncIterator[Rig]:
    """A data path that refuses."""
    async with path_of(store, upstream, tmp_path, OnCounterFailure.CLOSED) as made:
        yield made


def get(key: str, method: str = "SearchItemsFrame") -> bytes:
    """A call in OTAPI's form."""
    return b"GET /service-json/%b?instanceKey=%b HTTP/1.1\r\nHost: a\r\n\r\n" % (
        method.encode(),
        key.encode(),
    )


def rest(key: str) -> bytes:
    """A call in plain REST form."""
    return b"GET /rest/items/1 HTTP/1.1\r\nHost: a\r\nX-Api-Key: %b\r\n\r\n" % key.encode()


async def noticed(path: Rig) -> None:
    """Wait until the path knows that Redis is away."""
    path.proxy.counters.doubt(asyncio.get_running_loop().time() - 60)  # somebody has waited for a minute
    await until(lambda: path.proxy.counters.breaker.is_open)


async def over(path: Rig) -> None:
    """Wait until the path knows that Redis is back, and has closed its journal."""
    await until(lambda: not path.proxy.counters.breaker.is_open)
    await until(lambda: not path.proxy.open_calls._closing)


async def journaled(tmp_path: Path) -> Counter[str]:
    """What the journals hold, over all keys and days."""
    return await asyncio.to_thread(_journaled, tmp_path)


def _journaled(tmp_path: Path) -> Counter[str]:
    sums: Counter[str] = Counter()
    for place in sorted((tmp_path / "journal").glob("*.journal")):
        with place.open("rb") as file:
            for owed in read(file).owed.values():
                sums.update(owed.fields)
    return sums


async def brought_in(path: Rig, engine: AsyncEngine, tmp_path: Path) -> int:
    """Bring in what the path has let go of; returns how many calls that was."""
    found = await asyncio.to_thread(released, tmp_path / "journal")
    return sum(each.calls for each in await bring_in(path.redis, engine, found, ttl_s=86_400))


def is_failure(got: Answer) -> bool:
    """Say whether an answer is the failure to count, in its dialect, with a time to come again."""
    return (
        got.status in (200, 503)
        and (b"NotAvailable" in got.body or b"counting_unavailable" in got.body)
        and got.header("retry-after") == "2"
    )


async def test_a_closed_path_refuses_at_once_in_the_dialect(
    closed_path: Rig, store: Store, upstream: Origin
) -> None:
    """Cached and unknown keys, allowed and forbidden calls fail without a wait; nothing is forwarded."""
    path = closed_path
    known = await path.add_key()
    banned = await path.add_key(oldest_unpaid_issued_on=date(2020, 1, 1))
    sandbox = await path.add_key(plan="sandbox")
    for key in (known, banned, sandbox):
        await path.send(get(key))
    forwarded = len(upstream.received)
    fresh = keys.issue(os.urandom(16))
    with store.stopped():
        await noticed(path)
        began = asyncio.get_running_loop().time()
        for _ in range(10):
            for call in (get(known), get(banned), get(sandbox, "GetItemFullInfo"), get(fresh), rest(known)):
                got = await path.send(call)
                assert is_failure(got), got
                assert got.status not in NEVER
        assert asyncio.get_running_loop().time() - began < 50 * PATIENCE_S / 2  # none of the 50 has waited
        assert path.proxy.snapshot()["gauges"]["tallygate_counter_available"] == [[{}, 0]]
        assert path.proxy.snapshot()["gauges"]["tallygate_counter_outage_seconds"][0][1] > 0
    await over(path)
    assert (await path.send(get(known))).body == OK_JSON
    assert len(upstream.received) == forwarded + 1
    assert (await path.counts(known))["used"] == 2


async def test_what_needs_no_redis_is_refused_as_ever(closed_path: Rig, store: Store) -> None:
    """A missing key, one without the right form, and one that is remembered as unknown are no failures."""
    path = closed_path
    path.now = 1_790_000_000.0  # the clock stands, so that what is remembered is so for good
    fresh = keys.issue(os.urandom(16))
    await path.send(get(fresh))
    with store.stopped():
        await noticed(path)
        for key in ("", fresh[:-1] + ("0" if fresh[-1] != "0" else "1"), fresh):
            assert (await path.send(get(key))).body.startswith(b'{"ErrorCode":"AccessDenied"')


async def test_an_open_path_goes_on_and_counts_later(
    open_path: Rig, store: Store, upstream: Origin, engine: AsyncEngine, tmp_path: Path
) -> None:
    """Calls with cached keys pass, their outcome is journaled with them, and all is counted once after."""
    path = open_path
    key = await path.add_key()
    await path.send(get(key))
    with store.stopped():
        await noticed(path)
        for _ in range(5):
            assert (await path.send(get(key))).body == OK_JSON
        upstream.reply = answer(b'{"ErrorCode":"AccessDenied"}')
        assert b"AccessDenied" in (await path.send(get(key))).body
        upstream.reply = answer()
        assert is_failure(await path.send(get(keys.issue(os.urandom(16)))))
    await over(path)
    assert await journaled(tmp_path) == {
        f"c:{SEARCH}": 6,
        f"t:{SEARCH}": 6,
        "used": 6,
        "back": 1,
        f"w:{SEARCH}": 1,
        "v:error_code": 1,
    }
    await path.send(get(key))
    assert await brought_in(path, engine, tmp_path) == 6
    counts = await path.counts(key)
    assert (counts[f"c:{SEARCH}"], counts["used"] - counts["back"], len(upstream.received)) == (8, 7, 8)
    assert path.proxy.open_calls.calls[Admission.ADMITTED] == 6
    assert path.proxy.tally.waived == {"error_code": 1}


async def test_a_call_in_doubt_when_the_outage_began_is_billed_once(
    open_path: Rig, store: Store, upstream: Origin, engine: AsyncEngine, tmp_path: Path
) -> None:
    """Its late grant is waived as not forwarded, and the journal has the call that was made."""
    path = open_path
    key = await path.add_key()
    await path.send(get(key))
    with store.stopped():
        assert (await path.send(get(key))).body == OK_JSON  # waited for its count, then was let through
        assert path.proxy.counters.breaker.is_open
    await over(path)
    await brought_in(path, engine, tmp_path)
    counts = await path.counts(key)
    assert (counts["used"], counts["back"], counts["v:not_forwarded"]) == (3, 1, 1)
    assert counts[f"t:{SEARCH}"] - counts[f"w:{SEARCH}"] == len(upstream.received) == 2


async def test_the_allowance_bounds_what_a_key_gets(
    store: Store, upstream: Origin, engine: AsyncEngine, tmp_path: Path
) -> None:
    """A key gets its allowance, one with a lower limit that limit; the rest fails; another outage is anew."""
    async with path_of(store, upstream, tmp_path, OnCounterFailure.OPEN, allowance=4) as path:
        key, limited, none = await path.add_key(), await path.add_key(daily_limit=2), await path.add_key()
        for each in (key, limited, none):
            await path.send(get(each))
        await path.change_key(none, daily_limit=0)
        await path.send(get(none))
        before = len(upstream.received)
        with store.stopped():
            await noticed(path)
            for each, allowed in ((key, 4), (limited, 2), (none, 0)):
                answers = [await path.send(get(each)) for _ in range(6)]
                assert [is_failure(got) for got in answers] == [False] * allowed + [True] * (6 - allowed)
        assert len(upstream.received) == before + 6
        assert path.proxy.open_calls.calls[Admission.OVER_ALLOWANCE] == 12
        await over(path)
        assert await brought_in(path, engine, tmp_path) == 6
        await until(lambda: not path.proxy.open_calls._spent)
        assert (await path.counts(key))["used"] == 5
        assert path.proxy.open_calls.journal_bytes == 0
        with store.stopped():
            await noticed(path)
            assert not is_failure(await path.send(get(key)))


async def test_an_open_path_refuses_what_the_cached_record_forbids(
    open_path: Rig, store: Store, upstream: Origin
) -> None:
    """Standing, plan and dates are judged on the record that is remembered, at the time of the call."""
    path = open_path
    path.now = 1_790_000_000.0
    banned = await path.add_key(oldest_unpaid_issued_on=date(2020, 1, 1))
    sandbox = await path.add_key(plan="sandbox")
    ending = await path.add_key(expires_at=path.now + 50)
    for key in (banned, sandbox, ending):
        await path.send(get(key))
    before = len(upstream.received)
    with store.stopped():
        await noticed(path)
        assert b"InstanceKeyBan" in (await path.send(get(banned))).body
        assert b"ContractViolation" in (await path.send(get(sandbox, "GetItemFullInfo"))).body
        path.now += 50
        assert b"AccessDenied" in (await path.send(get(ending))).body
        path.proxy.replace_settings(
            dataclasses.replace(path.settings, contract=dataclasses.replace(path.settings.contract, steps=()))
        )
        assert (await path.send(get(banned))).body == OK_JSON  # the new settings know no ban
    assert len(upstream.received) == before + 1


async def test_a_key_that_is_remembered_under_an_older_pepper_goes_on(
    open_path: Rig, store: Store, upstream: Origin
) -> None:
    """In the middle of a rotation of peppers, what is cached is found under each of them."""
    path = open_path
    peppers = (("p2", b"q" * 32), *path.settings.security.peppers)
    security = dataclasses.replace(path.settings.security, peppers=peppers)
    path.proxy.replace_settings(dataclasses.replace(path.settings, security=security))
    path.now = 1_790_000_000.0
    key = await path.add_key()
    await path.send(get(key))
    with store.stopped():
        await noticed(path)
        path.now += 3600  # that it is unknown under the new pepper is forgotten by now
        assert (await path.send(get(key))).body == OK_JSON
        assert is_failure(await path.send(get(keys.issue(os.urandom(16)))))
    assert len(upstream.received) == 2


async def test_a_journal_that_cannot_be_written_refuses(
    open_path: Rig, store: Store, upstream: Origin, tmp_path: Path
) -> None:
    """Without a record on disk no call is let through."""
    path = open_path
    key = await path.add_key()
    await path.send(get(key))
    (tmp_path / "journal").write_text("no directory", encoding="utf-8")
    with store.stopped():
        await noticed(path)
        assert is_failure(await path.send(get(key)))
    assert len(upstream.received) == 1
    assert path.proxy.open_calls.calls[Admission.JOURNAL_FAILED] == 1


async def test_a_full_journal_refuses(open_path: Rig, store: Store, upstream: Origin) -> None:
    """From the configured size on, an open route is as a closed one."""
    path = open_path
    key = await path.add_key()
    await path.send(get(key))
    path.proxy.open_calls._max_bytes = 600
    with store.stopped():
        await noticed(path)
        failed = [is_failure(await path.send(get(key))) for _ in range(12)]
    assert failed == sorted(failed)
    assert 0 < failed.count(False) < 12
    assert path.proxy.open_calls.calls[Admission.JOURNAL_FULL] == failed.count(True)


async def test_a_client_that_leaves_before_its_call_is_on_disk_pays_nothing(
    open_path: Rig, store: Store, upstream: Origin, tmp_path: Path
) -> None:
    """The call is journaled and waived, and not forwarded."""
    path = open_path
    key = await path.add_key()
    await path.send(get(key))
    with store.stopped():
        await noticed(path)
        admit, asked = path.proxy.open_calls.admit, asyncio.get_running_loop().create_future()
        path.proxy.open_calls.admit = lambda *call: asked.set_result(call)  # type: ignore[method-assign]
        async with path.client() as client:
            client.writer.write(get(key))
            call = await asked
            sock = client.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # leave by a reset
        await until(lambda: all(exchange.front is None for exchange in path.proxy._exchanges))
        admit(*call)
        await until(lambda: path.proxy.calls_in_flight == 0)
    await over(path)
    assert len(upstream.received) == 1
    sums = await journaled(tmp_path)
    assert (sums["used"], sums["back"], sums["v:not_forwarded"]) == (1, 1, 1)


async def test_an_outcome_that_comes_after_the_outage_is_settled_in_redis(
    open_path: Rig, store: Store, upstream: Origin, engine: AsyncEngine, tmp_path: Path
) -> None:
    """A call that was let through and fails after the journal was closed is not charged either."""
    path = open_path
    key = await path.add_key()
    await path.send(get(key))
    go = asyncio.Event()

    async def slow(_: object, __: object, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(answer(b'{"ErrorCode":"InternalError"}'))

    upstream.act = slow
    async with path.client() as client:
        with store.stopped():
            await noticed(path)
            client.writer.write(get(key))
            await until(lambda: len(upstream.received) == 2)
        await over(path)
        assert await brought_in(path, engine, tmp_path) == 1
        go.set()
        assert b"InternalError" in (await client.read()).body
    counts = await path.counts(key)
    assert (counts["used"], counts["back"], counts["v:error_code"]) == (2, 1, 1)


async def test_a_redis_that_came_back_empty_is_an_outage_too(
    open_path: Rig, store: Store, redis: Redis, engine: AsyncEngine, tmp_path: Path
) -> None:
    """Until it is filled, cached keys go on and unknown ones fail; nobody is told that a key is unknown."""
    path = open_path
    key = await path.add_key()
    await path.send(get(key))
    await path.redis.flushall()
    assert (await path.send(get(key))).body == OK_JSON
    assert is_failure(await path.send(get(keys.issue(os.urandom(16)))))
    await until(lambda: path.proxy.open_calls._journal is None)
    assert (await path.send(get(key))).body == OK_JSON
    await until(lambda: path.proxy.open_calls._journal is None and not path.proxy.open_calls._closing)
    assert await brought_in(path, engine, tmp_path) == 2
    assert len(await asyncio.to_thread(released, tmp_path / "journal")) == 2  # they wait for the key's record
    await path.add_key(key)
    await path.redis.set(READY, 1)
    assert (await path.send(get(keys.issue(os.urandom(16))))).body.startswith(b'{"ErrorCode":"AccessDenied"')


async def test_a_killed_redis_comes_back_with_everything(
    open_path: Rig, store: Store, upstream: Origin, engine: AsyncEngine, tmp_path: Path
) -> None:
    """Killed, away for a while and started again: every call that was answered is counted once."""
    path = open_path
    key = await path.add_key()
    for _ in range(5):
        await path.send(get(key))
    store.kill()
    answered = 5
    for _ in range(20):
        answered += (await path.send(get(key))).body == OK_JSON
    await asyncio.to_thread(store.start)
    await over(path)
    for _ in range(5):
        answered += (await path.send(get(key))).body == OK_JSON
    await brought_in(path, engine, tmp_path)
    counts = await path.counts(key)
    assert answered == len(upstream.received) == 30
    assert counts["used"] - counts.get("back", 0) == 30


@pytest.mark.parametrize("ill", [*REPLIES, "silent", "refusing", "NOSCRIPT"])
async def test_an_unfit_redis_is_an_outage_like_any_other(
    valkey_url: str, redis: Redis, upstream: Origin, engine: AsyncEngine, tmp_path: Path, ill: str
) -> None:
    """Whatever keeps Redis from counting: open routes go on, closed ones fail in their dialect.

    With forgotten scripts nothing is noticed at all.
    """
    target = unquote(urlsplit(valkey_url).path)
    async with contextlib.AsyncExitStack() as stack:
        fault = await stack.enter_async_context(FaultProxy(target).listening())
        settings = example_settings(upstream.port)
        routes = tuple(
            dataclasses.replace(
                route,
                on_counter_failure=OnCounterFailure.OPEN
                if route.path_prefix == "/service-json/"
                else OnCounterFailure.CLOSED,
            )
            for route in settings.routes
        )
        path = await stack.enter_async_context(
            rig(
                f"redis://127.0.0.1:{fault.port}",
                upstream,
                dataclasses.replace(settings, routes=routes),
                journals=tmp_path / "journal",
                timeout_s=PATIENCE_S,
            )
        )
        key = await path.add_key()
        assert [(await path.send(call)).status for call in (get(key), rest(key))] == [200, 200]
        match ill:
            case "silent":
                fault.silent = True
            case "refusing":
                fault.refusing = True
                fault.cut()
            case "NOSCRIPT":
                await redis.script_flush()
            case _:
                fault.error = REPLIES[ill]
        answers = [await path.send(call) for _ in range(4) for call in (get(key), rest(key))]
        assert all(got.body == OK_JSON for got in answers[::2])
        if ill == "NOSCRIPT":
            assert all(got.body == OK_JSON for got in answers[1::2])
        else:
            assert path.proxy.counters.breaker.is_open
            assert [got.status for got in answers[1::2]] == [503] * 4
            assert all(map(is_failure, answers[1::2]))
        fault.disarm()
        if ill == "silent":
            fault.cut()
        await over(path)
        assert [(await path.send(call)).body for call in (get(key), rest(key))] == [OK_JSON] * 2
        await until(lambda: path.proxy.counters.pending == 0)
        found = await asyncio.to_thread(released, tmp_path / "journal")
        await bring_in(redis, engine, found, ttl_s=86_400)
        counts = await path.counts(key)
        assert counts["used"] - counts.get("back", 0) == len(upstream.received)
