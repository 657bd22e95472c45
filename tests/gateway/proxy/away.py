"""A Redis that goes away, data paths that bear it, and what they are asked meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.data_dir import run_directory
from gateway.settings import OnCounterFailure
from gateway.stores import EmbeddedValkey
from metering.journal import read
from metering.replay import bring_in, released
from tests import servers
from tests.origin import Origin
from tests.rig import Answer, Rig, rig, until

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
    counters = path.proxy.counters

    def is_noticed() -> bool:
        # Somebody has waited for a minute. Told again, as a round that was answered before may be under way.
        counters.doubt(asyncio.get_running_loop().time() - 60)
        return counters.breaker.is_open

    await until(is_noticed)


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
