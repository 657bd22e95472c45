"""What a data path does while Redis is away or unfit, whatever its routes say."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import os
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from gateway.proxy.outage_log import OutageLog
from gateway.settings import OnCounterFailure
from metering import journal
from metering.names import READY
from metering.replay import bring_in, released
from policies import keys
from tests.faults.kinds import REPLIES
from tests.faults.proxy import FaultProxy
from tests.gateway.proxy.away import (
    NEVER,
    PATIENCE_S,
    Store,
    brought_in,
    get,
    is_failure,
    noticed,
    over,
    rest,
)
from tests.origin import OK_JSON, Origin
from tests.rig import Rig, example_settings, rig, until


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


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
async def test_a_disk_that_takes_nothing_closes_open_routes_until_it_does(
    open_path: Rig,
    store: Store,
    upstream: Origin,
    engine: AsyncEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    """Nothing is let through that is not written down; the log says why once, and when it is over."""
    path = open_path
    OutageLog(path.proxy, 0).listen()
    key = await path.add_key()
    await path.send(get(key))
    write, is_full = os.write, asyncio.Event()

    def refuse(file: int, data: bytes) -> int:
        if is_full.is_set():
            write(file, bytes(data)[:10])
            raise OSError(number, os.strerror(number))
        return write(file, data)

    monkeypatch.setattr(journal, "os", SimpleNamespace(**vars(os) | {"write": refuse}))
    with store.stopped(), capture_logs() as lines:
        await noticed(path)
        for full, expected in ((False, True), (True, False), (True, False), (False, True), (True, False)):
            (is_full.set if full else is_full.clear)()
            forwarded = len(upstream.received)
            for _ in range(3):
                got = await path.send(get(key))
                assert (got.body == OK_JSON) is expected
                assert is_failure(got) is not expected
            assert len(upstream.received) == forwarded + 3 * expected
        outcomes = path.proxy.snapshot()["counters"]["tallygate_open_calls_total"]
    assert {labels["outcome"]: count for labels, count in outcomes if count} == {
        "admitted": 6,
        "journal_failed": 9,
    }
    told = [line for line in lines if "written down" in line["event"]]
    assert [line["log_level"] for line in told] == ["error", "warning", "error"]
    assert os.strerror(number) in told[0]["because"]
    await over(path)
    await until(lambda: path.proxy.counters.pending == 0)
    assert await brought_in(path, engine, tmp_path) == 6
    counts = await path.counts(key)
    assert counts["used"] - counts.get("back", 0) == len(upstream.received) == 7
