"""A running data path for tests of its parts together."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.settings import OnCounterFailure
from tests.gateway.proxy.away import Store, path_of
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


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A running Valkey of the test's own."""
    with contextlib.ExitStack() as stack:
        yield Store(tmp_path, stack)


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
