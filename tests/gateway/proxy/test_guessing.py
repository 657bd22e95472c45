"""Who guesses keys is held off by address; who has a right key is not."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from gateway.proxy.records import SLOW_WAITING_PER_ADDRESS
from policies import keys
from tests.origin import OK_JSON, Origin
from tests.rig import Rig, example_settings, rig, until

ALLOWED = 5


def get(key: str, client: str = "192.0.2.1", path: str = "/service-json/GetItemInfoList") -> bytes:
    """Return a call of a client behind a trusted proxy."""
    return (
        f"GET {path}?instanceKey={key}&app_key={key} HTTP/1.1\r\nHost: a\r\nX-Api-Key: {key}\r\n"
        f"X-Forwarded-For: {client}\r\n\r\n"
    ).encode()


def guess() -> str:
    """Return a key that is well formed and nobody's."""
    return keys.issue(secrets.token_bytes(16))


@contextlib.asynccontextmanager
async def guarded(valkey_url: str, upstream: Origin, **changes: Any) -> AsyncIterator[Rig]:
    """Run a data path that takes few failures, behind a trusted proxy."""
    settings = example_settings(upstream.port, **changes)
    settings = dataclasses.replace(
        settings,
        server=dataclasses.replace(settings.server, trusted_proxies=("127.0.0.0/8",)),
        security=dataclasses.replace(settings.security, failures_allowed=ALLOWED, failures_window_s=60.0),
    )
    async with rig(valkey_url, upstream, settings) as path:
        yield path


@pytest.fixture
async def guarded_path(redis: Redis, valkey_url: str, upstream: Origin) -> AsyncIterator[Rig]:
    """A data path that takes few failures."""
    async with guarded(valkey_url, upstream) as path:
        yield path


async def hold_off(path: Rig, client: str = "192.0.2.1") -> None:
    """Fail from an address until it is held off."""
    for _ in range(ALLOWED):
        await path.send(get("tg_mistyped", client))
    assert path.proxy.held_off_s(client.encode()) > 0


async def test_guesses_are_refused_without_asking(guarded_path: Rig, upstream: Origin) -> None:
    """After so many wrong keys the next one is answered at once: no store is asked, nothing is forwarded."""
    path = guarded_path
    await hold_off(path)
    asked = path.proxy.records.misses
    refused = await path.send(get("tg_mistyped", path="/rest/items"))
    assert (refused.status, refused.json()["reason"]) == (429, "too_many_failures")
    assert 1 <= int(refused.header("Retry-After") or 0) <= 61
    assert path.proxy.records.misses == asked
    assert (await path.send(get("tg_mistyped", "192.0.2.2"))).json()["ErrorCode"] == "AccessDenied"
    assert upstream.received == []


async def test_the_refusal_speaks_the_dialect(guarded_path: Rig) -> None:
    """OTAPI's clients read AccessDenied with status 200, TOP's their code for a wrong key."""
    await hold_off(guarded_path)
    otapi = await guarded_path.send(get("tg_mistyped"))
    assert (otapi.status, otapi.json()["ErrorCode"]) == (200, "AccessDenied")
    assert otapi.header("Retry-After") is not None
    top = await guarded_path.send(get("tg_mistyped", path="/router/rest"))
    assert (top.status, "error_response" in top.json()) == (200, True)


async def test_known_keys_go_on_from_the_same_address(guarded_path: Rig) -> None:
    """A site with a right key does not suffer from its neighbour's guesses."""
    path = guarded_path
    key = await path.add_key()
    assert (await path.send(get(key))).body == OK_JSON
    await hold_off(path)
    for _ in range(3):
        assert (await path.send(get(key))).body == OK_JSON


async def test_a_right_key_is_found_while_others_guess(guarded_path: Rig) -> None:
    """A key that the worker has not seen yet is still looked up, though its address is held off."""
    path = guarded_path
    key = await path.add_key()
    await hold_off(path)
    assert (await path.send(get(key))).body == OK_JSON
    refused = await path.send(get(guess(), path="/rest/items"))
    assert refused.status == 429


async def test_a_flood_of_guesses_asks_little(guarded_path: Rig) -> None:
    """Of well-formed guesses from a held-off address few wait to be looked up, one after the other."""
    path = guarded_path
    await hold_off(path)
    asked = path.proxy.records.misses
    answers = await asyncio.gather(*(path.send(get(guess(), path="/rest/items")) for _ in range(50)))
    assert {answer.status for answer in answers} == {429}
    assert path.proxy.records.misses - asked <= 50
    at_once = [path.proxy.records.fetch_slowly(f"digest {n}", b"192.0.2.9", lambda _: None) for n in range(9)]
    assert at_once == [True] * SLOW_WAITING_PER_ADDRESS + [False] * (9 - SLOW_WAITING_PER_ADDRESS)
    assert path.proxy.records.fetch_slowly("digest 0", b"192.0.2.9", lambda _: None)
    assert path.proxy.records.fetch_slowly("another", b"192.0.2.10", lambda _: None)


async def test_the_hold_ends(guarded_path: Rig) -> None:
    """When the window is over the address may try again, and is told what is wrong with its key."""
    path = guarded_path
    await hold_off(path)
    path.proxy.guesses.window_s = 0.0
    assert (await path.send(get("tg_mistyped", path="/rest/items"))).status == 401


async def test_wrong_signatures_count_as_failures(redis: Redis, valkey_url: str, upstream: Origin) -> None:
    """Guessing at a secret is guessing too; the key's own site goes on with its right signature."""
    async with guarded(valkey_url, upstream) as path:
        key = await path.add_key(signing_secret="sealed:word")
        forged = get(key).replace(b"&app_key", b"&timestamp=20261121000000&signature=00&app_key")
        path.now = 1_795_219_200.0  # 2026-11-21 00:00:00 UTC
        for _ in range(ALLOWED):
            assert (await path.send(forged)).json()["SubErrorCode"] == "InvalidSignature"
        held = await path.send(forged)
        assert (held.json()["ErrorCode"], held.json()["SubErrorCode"]) == ("AccessDenied", None)
        other = await path.add_key()
        assert (await path.send(get(other))).body == OK_JSON


async def test_it_is_told_once_and_counted(guarded_path: Rig) -> None:
    """One line in the log says which address it was; the figures name none."""
    path = guarded_path
    with capture_logs() as logs:
        await hold_off(path)
        for _ in range(5):
            await path.send(get("tg_mistyped"))
    (line,) = [each for each in logs if "held off" in each["event"]]
    assert (line["client"], line["failures"]) == ("192.0.2.1", ALLOWED)
    figures = path.proxy.snapshot()
    assert figures["counters"]["tallygate_failed_identifications_total"] == [[{}, ALLOWED + 5]]
    assert figures["gauges"]["tallygate_addresses_held_off"] == [[{}, 1]]
    assert "192.0.2.1" not in str(figures)


async def test_new_settings_keep_what_is_known(guarded_path: Rig) -> None:
    """Reading the configuration again forgets neither who is held off nor whose keys are known."""
    path = guarded_path
    key = await path.add_key()
    await path.send(get(key))
    await hold_off(path)
    asked = path.proxy.records.misses
    path.proxy.replace_settings(dataclasses.replace(path.settings))
    assert path.proxy.held_off_s(b"192.0.2.1") > 0
    assert (await path.send(get(key))).body == OK_JSON
    assert path.proxy.records.misses == asked


async def test_while_the_store_is_away_nobody_waits_in_line(guarded_path: Rig) -> None:
    """What waits to be looked up is told at once that the store does not answer."""
    path = guarded_path
    await hold_off(path)
    records = path.proxy.records

    class Away:
        def seek(self, _: str, done: Callable[[Exception], None]) -> None:
            asyncio.get_running_loop().call_soon(done, OSError("away"))

    records._lookups = Away()  # type: ignore[assignment]
    told: list[object] = []
    for number in range(8):
        records.fetch_slowly(f"digest {number}", b"%d" % number, told.append)
    await until(lambda: len(told) == 8)
    assert not records._slow
