"""Keys and tokens turn up nowhere: not in answers, logs, audit rows, columns or Redis."""

from __future__ import annotations

import io
from typing import Any

import structlog
from aiohttp.test_utils import TestClient
from redis.asyncio import Redis
from sqlalchemy import MetaData, select
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.telemetry import configure_logging
from tests.gateway.control.conftest import Api

CANARY = "canary-key-5f1c-4801-8569-03ef96c42217"
SECRET = "canary-signing-secret-words"


async def test_no_key_is_found_anywhere(
    client: TestClient[Any, Any], admin: Api, account: str, engine: AsyncEngine, redis: Redis
) -> None:
    """After a key was made, imported, rotated and misused, its text is in no place but the first answer."""
    log = io.StringIO()
    configure_logging("debug", log)
    try:
        answers, told = await _use_in_every_way(client, admin, account)
    finally:
        structlog.reset_defaults()
    texts = [CANARY, SECRET, admin.token or "", *told]
    assert all(len(text) > 20 for text in texts)
    places = {
        "answers": "".join(answers),
        "log": log.getvalue(),
        "ledger": await _ledger(engine),
        "redis": await _redis(redis),
    }
    assert all(len(content) > 1_000 for content in places.values()), "an empty place proves nothing"
    for place, content in places.items():
        for text in texts:
            assert text not in content, f"{text[:6]}... is in {place}"
            assert text[4:24] not in content, f"a part of {text[:6]}... is in {place}"


async def _use_in_every_way(
    client: TestClient[Any, Any], admin: Api, account: str
) -> tuple[list[str], list[str]]:
    """Return all answers but those that tell a text, and the texts that were told."""
    entry = {"account_id": account, "plan": "K1", "signing_secret": SECRET}
    first = await admin.post("/v1/keys", entry | {"label": "x"}, Idempotency_Key="a")
    key = f"/v1/keys/{first.body['id']}"
    rotated = await admin.post(f"{key}/rotate", {"overlap_s": 60})
    token = await admin.post("/v1/tokens", {"name": "t", "role": "ops"})
    told = [first.body["key"], rotated.body["key"], token.body["token"]]
    imported = {"keys": [entry | {"credential": CANARY}]}
    anonymous = Api(client, None)
    answers = [
        await admin.post("/v1/keys", entry | {"label": "x"}, Idempotency_Key="a"),
        await admin.post("/v1/keys/import", imported, Idempotency_Key="b"),
        await admin.post("/v1/keys/import", imported),
        await admin.post("/v1/keys/import", {"keys": [entry | {"credential": CANARY, "plan": "K9"}]}),
        await admin.post("/v1/keys/import", {"keys": [entry | {"credential": f"{CANARY} {CANARY}"}]}),
        await admin.post("/v1/keys/import", {"keys": [{"credential": [CANARY]}]}),
        await admin.post("/v1/keys", entry | {"plan": CANARY, "signing_secret": [SECRET]}),
        await admin.patch(key, {"signing_secret": SECRET}),
        await admin.get(key),
        await admin.get("/v1/keys"),
        await admin.get("/v1/tokens"),
        await admin.get("/v1/audit"),
        await admin.get("/metrics"),
        await admin.get(f"/v1/keys/{CANARY}"),
        await anonymous.get("/v1/me/usage", X_Api_Key=CANARY),
        await anonymous.get("/v1/me/usage", X_Api_Key=told[1]),
        await anonymous.get("/v1/me/usage", X_Api_Key=f"{CANARY}x"),
        await Api(client, CANARY).get("/v1/keys"),
        await Api(client, told[2]).get("/v1/keys"),
        await Api(client, told[2] + "0").get("/v1/keys"),
        await admin.post(f"{key}/suspend"),
        await admin.post(f"{key}/resume"),
        await admin.post(f"{key}/revoke"),
    ]
    assert [answer.status for answer in answers[:3]] == [201, 201, 409]
    # A plan's name is told back as it was sent: it is the one field where the canary was put on purpose.
    return [answer.text.replace(repr(CANARY), "") for answer in answers], told


async def _ledger(engine: AsyncEngine) -> str:
    """Return every column of every row."""
    metadata = MetaData()
    async with engine.connect() as connection:
        await connection.run_sync(metadata.reflect)
        rows = [
            str(tuple(row))
            for table in metadata.sorted_tables
            for row in await connection.execute(select(table))
        ]
    return "\n".join(rows)


async def _redis(redis: Redis) -> str:
    """Return every name and value."""
    found = []
    async for name in redis.scan_iter():
        kind = await redis.type(name)
        if kind == b"string":
            found.append(f"{name} {await redis.get(name)}")
        elif kind == b"hash":
            found.append(f"{name} {await redis.hgetall(name)}")
        else:
            found.append(f"{name} {await redis.smembers(name)}")
    return "\n".join(found)
