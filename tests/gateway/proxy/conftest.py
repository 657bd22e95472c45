"""A running data path for tests of its parts together."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from tests.origin import Origin, origin
from tests.rig import Rig, rig


@pytest.fixture
async def upstream() -> AsyncIterator[Origin]:
    """An origin that records what reaches it."""
    async with origin() as made:
        yield made


@pytest.fixture
async def path(redis: Redis, valkey_url: str, upstream: Origin) -> AsyncIterator[Rig]:
    """The example's data path in front of the origin, with the key passed on as it came."""
    async with rig(valkey_url, upstream) as made:
        yield made
