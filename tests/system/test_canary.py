"""A key is nowhere but with its owner: not in logs, figures, pages, stores or the upstream."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import urllib.parse
from pathlib import Path

import asyncpg
from redis.asyncio import Redis

from tests.serving import serving, wait_until, write_config
from tests.system.traffic import new_key, reached

CANARY = "canary-key-that-must-not-be-seen-4711"
SECRET = "canary-signing-secret-0815"


def test_a_key_is_found_nowhere(tmp_path: Path, valkey_url: str, database_url: str) -> None:
    """Used in every way that works and fails, it is in no log, figure, answer, store or upstream request."""
    asyncio.run(_clear(valkey_url))
    config_file = write_config(tmp_path)
    text = config_file.read_text()
    text = text.replace('redis = "embedded"', f'redis = "{valkey_url}"')
    config_file.write_text(text.replace('database = "embedded"', f'database = "{database_url}"'))
    answers = []
    with serving(config_file) as program:
        _, issued = new_key(program, daily_limit=3)
        account = program.control("POST", "/v1/accounts", {"name": "Canary"})
        imported = {"account_id": account["id"], "plan": "K1", "credential": CANARY, "signing_secret": SECRET}
        made = program.control("POST", "/v1/keys/import", {"keys": [imported]})
        (key_id,) = made["ids"]
        for key in (CANARY, issued):
            answers += _use_in_every_way(program.proxy_port, key)
        for action in ("suspend", "resume", "rotate", "revoke"):
            answer = program.control("POST", f"/v1/keys/{key_id}/{action}", {})
            if action != "rotate":
                answers.append(json.dumps(answer).encode())
            answers += _use_in_every_way(program.proxy_port, CANARY)
        for page in ("/v1/keys", f"/v1/keys/{key_id}", "/v1/audit", "/v1/usage?group_by=key", "/v1/accounts"):
            answers.append(json.dumps(program.control("GET", page)).encode())
        answers.append(_get(program.control_port, "/metrics", {"Authorization": f"Bearer {program.token}"}))
        answers.append(_get(program.control_port, "/v1/me/usage", {"X-Api-Key": issued}))
        answers.append(_get(program.control_port, f"/v1/nowhere/{CANARY}", {"X-Api-Key": CANARY})[:0])
        journal = json.dumps(reached(program))
        program.control("POST", "/v1/rollup")
        for process in program.family().values():
            command = " ".join(process.cmdline()) + json.dumps(process.environ())
            assert CANARY not in command
        wait_until(lambda: '"event":"call"' in program.output)
        program.stop(signal.SIGTERM)
        log = program.output

    secrets = [CANARY, issued, SECRET]
    for text in (*secrets, *map(urllib.parse.quote, secrets)):
        assert text not in log
        assert text not in journal
        assert all(text.encode() not in answer for answer in answers)
    stored = asyncio.run(_everything_in_redis(valkey_url)) + asyncio.run(
        _everything_in_postgres(database_url)
    )
    for file in (tmp_path / "data").rglob("*"):
        if file.is_file() and file.name != "demo-key":
            stored += file.read_bytes()
    for text in secrets:
        assert text.encode() not in stored
    assert b"quota_exceeded" in stored, "the stores were not looked at"


def _use_in_every_way(port: int, key: str) -> list[bytes]:
    """Call with the key in its places, with success and with every failure; returns the answers."""
    quoted = urllib.parse.quote(key)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    requests: list[tuple[str, str, bytes | None, dict[str, str]]] = [
        ("GET", f"/service-json/SearchItemsFrame?instanceKey={quoted}", None, {}),
        ("GET", f"/service/SearchItemsFrame?instanceKey={quoted}", None, {}),
        ("GET", f"/service-json/SearchItemsFrame?instanceKey={quoted}&instanceKey={quoted}", None, {}),
        ("GET", f"/service-json/SearchItemsFrame?instanceKey={quoted}&instanceKey=other", None, {}),
        ("GET", f"/service-json/SearchItemsFrame?INSTANCEKEY={quoted}", None, {}),
        ("GET", f"/service-json/NoSuchMethod?instanceKey={quoted}", None, {}),
        ("GET", f"/service-json/{quoted}?instanceKey={quoted}", None, {}),
        ("GET", f"/service-json/SearchItemsFrame?instanceKey={quoted}x", None, {}),
        ("GET", f"/service-json/../{quoted}?instanceKey={quoted}", None, {}),
        ("GET", f"/nowhere/{quoted}?instanceKey={quoted}", None, {}),
        ("GET", f"/service-json/SearchItemsFrame?instanceKey={quoted}&signature=x&timestamp=1", None, {}),
        ("POST", "/service/GetItemFullInfo", f"instanceKey={quoted}&itemId=1".encode(), form),
        ("POST", "/service-json/GetItemFullInfo", f"instanceKey={quoted}&itemId=1".encode(), form),
        ("GET", "/service-json/GetItemFullInfo?itemId=1", None, {"x-rapidapi-key": key}),
        ("GET", "/rest/items/1", None, {"X-Api-Key": key}),
        ("GET", "/rest/items/1", None, {"Authorization": f"Bearer {key}"}),
        ("GET", "/rest/items/1", None, {"Authorization": f"Basic {key}"}),
        ("GET", f"/service-json/SearchItemsFrame?instanceKey={quoted}", None, {"Host": key}),
        ("BREW", f"/service-json/SearchItemsFrame?instanceKey={quoted}", None, {}),
    ]
    return [_send(port, *request) for request in requests]


def _send(port: int, verb: str, path: str, body: bytes | None, headers: dict[str, str]) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(verb, path, body, headers)
        answer = connection.getresponse()
        return str(answer.headers).encode() + answer.read()
    finally:
        connection.close()


def _get(port: int, path: str, headers: dict[str, str]) -> bytes:
    return _send(port, "GET", path, None, headers)


async def _clear(valkey_url: str) -> None:
    redis = Redis.from_url(valkey_url)
    await redis.flushall()
    await redis.aclose()


async def _everything_in_redis(valkey_url: str) -> bytes:
    redis = Redis.from_url(valkey_url)
    found = b""
    async for name in redis.scan_iter():
        found += name + repr(await redis.dump(name)).encode()
        kind = await redis.type(name)
        if kind == b"hash":
            found += repr(await redis.hgetall(name)).encode()
        elif kind == b"set":
            found += repr(await redis.smembers(name)).encode()
        else:
            found += repr(await redis.get(name)).encode()
    await redis.aclose()
    return found


async def _everything_in_postgres(url: str) -> bytes:
    connection = await asyncpg.connect(url)
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        rows = [await connection.fetch(f'SELECT t::text FROM "{table["tablename"]}" t') for table in tables]  # noqa: S608
        return repr(rows).encode()
    finally:
        await connection.close()
