"""Running a script by itself, and all that it leaves in Redis."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from metering.names import day_name, record_name, roll_name, touched_name
from metering.scripts import Script
from tests.metering.samples import DAY, KEY

RECORD, COUNTS, TOUCHED, ROLL = record_name(KEY), day_name(KEY, DAY), touched_name("ab"), roll_name(KEY)
MEMBER = f"{KEY}:{DAY}"


async def run(redis: Redis, script: Script, keys: list[str], *arguments: str | int) -> Any:
    """Run a script; an error of its own is raised."""
    return await redis.eval(script.text.decode(), len(keys), *keys, *arguments)


async def everything(redis: Redis) -> dict[str, Any]:
    """All hashes, sets and strings there are, by name."""
    found: dict[str, Any] = {}
    for name in await redis.keys("*"):
        match (await redis.type(name)).decode():
            case "hash":
                pairs = (await redis.hgetall(name)).items()
                found[name.decode()] = {field.decode(): value.decode() for field, value in pairs}
            case "set":
                found[name.decode()] = {member.decode() for member in await redis.smembers(name)}
            case _:
                found[name.decode()] = (await redis.get(name)).decode()
    return found


class Lifetime:
    """How long what is made within the block lives, to the second on any machine that is fast enough."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._begun = self._ended = 0.0

    async def __aenter__(self) -> Lifetime:
        self._begun = await self._now()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended = await self._now()

    async def is_of(self, name: str, seconds: int) -> bool:
        """Say whether a name lives so many seconds from then on."""
        end = await self._redis.pexpiretime(name) / 1000
        return self._begun + seconds <= end <= self._ended + seconds

    async def _now(self) -> float:
        seconds, microseconds = await self._redis.time()
        return int(seconds * 1000 + microseconds // 1000) / 1000
