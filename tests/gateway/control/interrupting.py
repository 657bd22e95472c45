"""An interruption as roll-ups find it, for tests of what is done about it."""

from __future__ import annotations

from redis.asyncio import Redis

from tests.gateway.control.conftest import Api


async def interrupted(api: Api, redis: Redis) -> str:
    """Let Redis lose its data between two roll-ups; return the interruption's id."""
    assert (await api.post("/v1/rollup", {})).status == 200
    await redis.flushall()
    rolled = await api.post("/v1/rollup", {})
    [noticed] = rolled.body["interruptions"]
    return str(noticed)
