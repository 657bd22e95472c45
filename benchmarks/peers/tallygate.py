"""The gateway itself: one worker process on the example configuration as it is shipped, everything on."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import redis.asyncio

from benchmarks.machine import Process, free_port, python
from benchmarks.peers import DAY_LIMIT, MissingError, Peer
from gateway import config
from gateway.leashing import SHORT_TURN_NS
from gateway.settings import Settings
from metering.projection import project
from policies import keys
from policies.record import KeyRecord

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
COMPILED = Path(__file__).parents[2] / "build" / "compiled"
COUNTED_TOGETHER = 10_000  # keys whose counters are read at once
_LISTEN = 'proxy_listen = "127.0.0.1:8080"'


class Tallygate(Peer):
    """One worker; the supervisor, the control process and the ledger stand outside a call's way."""

    title = "tallygate, one worker"
    name = "tallygate"

    def environment(self) -> dict[str, str]:
        """Return what the worker needs besides its configuration."""
        return {}

    def start(self) -> None:
        self.home.mkdir()
        environment = self.configured()
        self._make_keys(config.load(Path(environment["TALLYGATE_CONFIG"]), dict(os.environ) | environment))
        self.serve(environment, 0)

    @property
    def home(self) -> Path:
        """Return the data directory."""
        return self.bench.folder / self.name

    def configured(self) -> dict[str, str]:
        """Choose a port, write the configuration, and return the environment that names it."""
        self.port = free_port()
        text = EXAMPLE.read_text()
        assert text.count(_LISTEN) == 1, "the example configuration names its port in another way"
        path = self.home / f"config-{self.port}.toml"
        path.write_text(text.replace(_LISTEN, f'proxy_listen = "127.0.0.1:{self.port}"'))
        return self.environment() | {
            "TALLYGATE_CONFIG": str(path),
            "TALLYGATE_DATA_DIR": str(self.home),
            "TALLYGATE_RUN_DIR": str(self.home),
            "TALLYGATE_DEMO_URL": f"http://127.0.0.1:{self.bench.origin_port}",
            "TALLYGATE_REDIS_URL": self.bench.store.url,
            "TALLYGATE_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/unused",  # a worker asks it nothing
        }

    def serve(self, environment: dict[str, str], index: int) -> None:
        """Start the worker with this index on its core."""
        command = python("gateway.worker", "--index", str(index))
        self.process = Process(
            f"{self.name}-{index}",
            command,
            self.bench.layout.proxy,
            self.bench.folder,
            environment,
            turn_ns=SHORT_TURN_NS,
        )
        self.process.wait_for_port(self.port)

    def _make_keys(self, settings: Settings) -> None:
        if self.bench.keys == 1:
            self.credential = keys.issue(secrets.token_bytes(keys.ENTROPY_BYTES))
        _, pepper = settings.security.peppers[0]
        account = f"acc_{secrets.token_hex(8)}"
        records = [
            KeyRecord(
                key_id=f"key_{secrets.token_hex(8)}",
                account_id=account,
                plan="K1",
                revision=1,
                created_at=time.time(),
                credentials={keys.digest(credential, pepper): None},
                daily_limit=DAY_LIMIT,
            )
            for credential in self.credentials
        ]
        self.key_ids = {record.key_id for record in records}
        asyncio.run(_put(self.bench.store.url, records))

    def counted(self) -> int:
        store, total = self.bench.store.client, 0
        names = (name for name in store.scan_iter(match="tg:{??}:day:*", count=10_000) if self._is_own(name))
        while some := list(islice(names, COUNTED_TOGETHER)):
            with store.pipeline(transaction=False) as pipeline:
                for name in some:
                    pipeline.hmget(name, "used", "back")
                total += sum(int(used or 0) - int(back or 0) for used, back in pipeline.execute())
        return total

    def _is_own(self, name: str) -> bool:
        return name.split(":")[3] in self.key_ids


class CompiledTallygate(Tallygate):
    """The same with its data path compiled (`make compiled`)."""

    title = "tallygate compiled, one worker"
    name = "tallygate-compiled"

    def environment(self) -> dict[str, str]:
        if not COMPILED.is_dir():
            raise MissingError("It is built by `make compiled`, which needs a C compiler.")
        return {"PYTHONPATH": str(COMPILED), "PYTHONSAFEPATH": "1"}


async def _put(url: str, records: Sequence[KeyRecord]) -> None:
    client = redis.asyncio.Redis.from_url(url)
    try:
        await project(client, records)
    finally:
        await client.aclose()
