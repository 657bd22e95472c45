"""A whole gateway with a fault proxy on every side (Redis, upstream, ledger) and stores of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from gateway.data_dir import run_directory
from gateway.stores import EmbeddedPostgres, EmbeddedValkey
from tests.faults.echo import Echo
from tests.faults.load import Key
from tests.faults.proxy import FaultProxy
from tests.serving import Serving, change, serving, wait_until, write_config

START_S = 60.0
UNLIMITED = 10**12
# What dies often is started again at once, or a run would wait for the supervisor most of its time.
IMPATIENT = "import gateway.child; gateway.child.BACKOFF_FIRST_S = gateway.child.BACKOFF_MAX_S = 0.05"


class Store:
    """A store of the test's own, which may be stopped, killed and started again. Its methods block."""

    def __init__(self, program: EmbeddedValkey | EmbeddedPostgres) -> None:
        self.program = program
        self.url = ""  # its own address, which no fault is in front of; known once it runs
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers; one that cannot start yet is tried again."""

        def is_up() -> bool:
            if self._process is None or self._process.poll() is not None:
                self._spawn()
            return self.program.is_ready()

        self._spawn()
        wait_until(is_up, START_S)
        self.url = self.program.url

    def _spawn(self) -> None:
        self.program.prepare()
        with self.program.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self.program.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def send(self, number: signal.Signals) -> None:
        """Signal its first process."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it, and wait for its end."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(START_S)

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(self.program.stop_signal)
            self._process.wait(START_S)


@dataclass(slots=True)
class Stage:
    """Everything that can fail, and what it fails for."""

    program: Serving
    valkey: Store
    postgres: Store
    redis: FaultProxy
    upstream: FaultProxy
    ledger: FaultProxy
    echo: Echo

    async def control(self, verb: str, path: str, body: object = None) -> Any:
        """Call the control API."""
        return await asyncio.to_thread(self.program.control, verb, path, body)

    async def new_keys(self, count: int, **fields: object) -> list[Key]:
        """Make keys of one account, bought now and without a limit that matters."""
        account = await self.control("POST", "/v1/accounts", {"name": "Faults"})
        wanted = {"account_id": account["id"], "plan": "K1", "daily_limit": UNLIMITED, **fields}
        made = [await self.control("POST", "/v1/keys", wanted) for _ in range(count)]
        return [Key(each["id"], each["key"]) for each in made]

    async def settle(self, workers: int) -> None:
        """Let everything pass again, and wait until all workers are up, and nothing is owed to Redis."""
        for proxy in (self.redis, self.upstream, self.ledger):
            proxy.disarm()

        def is_settled() -> bool:
            try:
                text = self.program.control_text("/metrics")
            except (AssertionError, OSError):
                return False
            figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
            up = [value for name, value in figures.items() if name.startswith("tallygate_worker_up")]
            owed = [value for name, value in figures.items() if name.startswith("tallygate_counts_pending")]
            if up != ["1.0"] * workers or len(owed) != workers or any(map(float, owed)):
                return False
            return not list((self.program.data_dir / "journal").glob("*.journal"))

        await asyncio.to_thread(wait_until, is_settled, START_S)


@contextlib.contextmanager
def own(store: EmbeddedValkey | EmbeddedPostgres) -> Iterator[Store]:
    """Run a store until the block ends."""
    made = Store(store)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@contextlib.asynccontextmanager
async def stage(
    place: Path, *, seed: int, workers: int = 2, impatient: bool = False, **settings: str
) -> AsyncIterator[Stage]:
    """Start everything in a directory of its own, and end it; `settings` go into the configuration."""
    stores = place / "stores"
    stores.mkdir()
    run = await asyncio.to_thread(run_directory, stores)
    async with contextlib.AsyncExitStack() as stack:
        valkey = await _entered(stack, own(EmbeddedValkey(stores, run)))
        postgres = await _entered(stack, own(EmbeddedPostgres(stores, run, durable=False)))
        echo = await stack.enter_async_context(Echo().listening())
        ledger = urlsplit(postgres.url)
        socket = unquote(ledger.query.removeprefix("host=")) + "/.s.PGSQL.5432"
        redis = FaultProxy(unquote(urlsplit(valkey.url).path), seed)
        proxies = [
            await stack.enter_async_context(proxy.listening())
            for proxy in (redis, FaultProxy(("127.0.0.1", echo.port), seed + 1), FaultProxy(socket, seed + 2))
        ]
        user = f"{ledger.username}:{ledger.password}"
        config_file = await asyncio.to_thread(
            _configured,
            place,
            workers,
            redis=f'"redis://127.0.0.1:{proxies[0].port}"',
            database=f'"postgresql://{user}@127.0.0.1:{proxies[2].port}{ledger.path}"',
            base_url=f'"http://127.0.0.1:{proxies[1].port}"',
            **settings,
        )
        first = IMPATIENT if impatient else ""
        program = await _entered(stack, serving(config_file, demo=False, first=first))
        yield Stage(program, valkey, postgres, *proxies, echo)


def _configured(place: Path, workers: int, **settings: str) -> Path:
    file = write_config(place, workers=workers)
    change(file, **settings)
    return file


async def _entered(stack: contextlib.AsyncExitStack, block: Any) -> Any:
    """Enter a block that blocks in a thread, and leave it there too."""
    made = await asyncio.to_thread(block.__enter__)

    async def leave(*_: object) -> None:
        await asyncio.to_thread(block.__exit__, None, None, None)

    stack.push_async_exit(leave)
    return made


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Signal a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
