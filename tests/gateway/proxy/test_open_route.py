"""Calls that are let through while Redis is away: bounded, on disk first, and counted once later."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import struct
from datetime import date
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.settings import OnCounterFailure
from metering.open_calls import Admission
from policies import keys
from tests.gateway.proxy.away import (
    SEARCH,
    Store,
    brought_in,
    get,
    is_failure,
    journaled,
    noticed,
    over,
    path_of,
)
from tests.origin import OK_JSON, Origin, answer
from tests.rig import Rig, until


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
