"""A proxy worker: one process, one event loop, one share of the proxy port.

Started by the supervisor as `python -m gateway.worker --listen-fd F --ready FILE --index N`. SIGTERM drains
because everything stops, SIGUSR1 because another process has taken this one's place; SIGHUP reads the
configuration again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import signal
import socket
import sys
import time
from dataclasses import asdict
from pathlib import Path

import structlog
import uvloop

from gateway import collector, config, sealing
from gateway.build import BUILD
from gateway.listeners import listening_socket
from gateway.programs import announce
from gateway.proxy.access_log import AccessLogWriter
from gateway.proxy.carrier import Carrier
from gateway.proxy.listening import Listener
from gateway.proxy.outage_log import OutageLog
from gateway.proxy.records import Records
from gateway.proxy.service import Proxy
from gateway.pulse import answer_at
from gateway.settings import Settings
from gateway.telemetry import configure_logging
from gateway.tls import tls_context
from metering.clients import connect
from metering.lanes import counters_on
from metering.lookups import Lookups
from metering.open_calls import DIRECTORY as JOURNALS
from metering.open_calls import OpenCalls

# Connections are accepted for so long after the signal: what waits at the socket may have nobody else.
LAST_ACCEPTS_S = 0.1
RETIRED_ACCEPTS_S = 1.0  # handshakes that were begun before the kernel sent new ones elsewhere
DRAIN_POLL_S = 0.02

log = structlog.get_logger("gateway.worker")


def main() -> None:
    """Run the worker until it is told to stop."""
    parser = argparse.ArgumentParser(prog="gateway.worker")
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--listen-fd", type=int, help="a listening socket; by default one is opened")
    parser.add_argument("--ready", type=Path, help="a file to make when calls are taken")
    given = parser.parse_args()
    path = os.environ.get("TALLYGATE_CONFIG")
    settings = config.load(Path(path) if path else None, os.environ)
    configure_logging(settings.logging.level)
    server = settings.server
    if given.listen_fd is None:
        listening = listening_socket(server.proxy_host, server.proxy_port, shared=True)
    else:
        listening = socket.socket(fileno=given.listen_fd)
    worker = Worker(given.index, settings, Path(path) if path else None)
    uvloop.run(worker.run(listening, given.ready))


class Worker:
    """The process around one `Proxy`."""

    def __init__(self, index: int, settings: Settings, config_path: Path | None) -> None:
        self._index = index
        self._settings = settings
        self._config_path = config_path
        self._stop = asyncio.Event()
        self._retired = False
        self._openings: set[asyncio.Task[None]] = set()

    async def run(self, listening: socket.socket, ready: Path | None = None) -> None:
        """Serve at a socket until stopped, then drain; make the file `ready` when calls are taken."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        assert settings.stores.redis_url is not None, "the supervisor starts the store and names its URL"
        redis = connect(settings.stores.redis_url, timeout_s=settings.stores.redis_timeout_s)
        counting = connect(settings.stores.redis_url, timeout_s=settings.stores.redis_timeout_s)
        counters = counters_on(
            counting,
            writer=secrets.token_hex(4),
            deadline_s=settings.stores.counter_deadline_s,
            retention_days=settings.stores.counter_retention_days,
            replicas=settings.stores.redis_replicas,
        )
        open_calls = OpenCalls(
            counters,
            settings.stores.data_dir / JOURNALS,
            allowance=settings.stores.open_allowance,
            journal_max_bytes=settings.stores.journal_max_bytes,
            deadline_s=settings.stores.counter_deadline_s,
        )
        lookups = Lookups(redis)
        records = Records(
            lookups,
            contract=settings.contract,
            capacity=settings.server.cached_keys,
            negative_s=settings.security.negative_cache_s,
            timeout_s=settings.stores.counter_deadline_s,
            clock=time.time,
            breaker=counters.breaker,
            doubt=counters.doubt,
        )
        proxy = Proxy(
            settings,
            loop=loop,
            counters=counters,
            open_calls=open_calls,
            records=records,
            unseal=lambda sealed: sealing.unseal(sealed, self._settings.security.peppers),
            carrier=Carrier(redis),
            access_log=AccessLogWriter(sys.stdout, time.time, self._index),
        )
        self._proxy = proxy
        OutageLog(proxy, self._index).listen()
        await counters.start()
        await open_calls.start()
        proxy.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop)
        loop.add_signal_handler(signal.SIGUSR1, self._on_retire)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        listener = self._listener = Listener(listening, proxy)
        await listener.open(tls_context(settings.server.proxy_tls))
        figures = await self._serve_figures(proxy)
        collector.settle()
        log.info("worker ready", index=self._index, port=settings.server.proxy_port, **asdict(BUILD))
        announce(ready)
        await self._stop.wait()

        await self._drain(proxy, listener)
        if proxy.calls_in_flight:
            log.warning("calls broken off at the end of the drain", calls=proxy.calls_in_flight)
        proxy.close()
        await counters.close()
        open_calls.keep(counters.unsettled(), counters.in_doubt())
        await open_calls.close()
        if open_calls.unkept:
            log.error(
                "calls stay charged that are not to be: neither Redis nor the disk takes it",
                key_days=open_calls.unkept,
                look_at=f"the disk of {settings.stores.data_dir}: is it full, read-only or slow?",
            )
        if figures is not None:
            figures.close()
        await lookups.close()
        await redis.aclose()
        await counting.aclose()
        log.info("worker stopped", index=self._index)

    async def _drain(self, proxy: Proxy, listener: Listener) -> None:
        """Finish what is under way, and tell clients before their connections are closed.

        Replaced by another process, this one waits until each client has read `Connection: close` in an
        answer. When everything stops, nobody could take the next call anyway.
        """
        clock = asyncio.get_running_loop().time
        proxy.leave()
        if not self._retired:
            await asyncio.sleep(self._settings.server.leave_s)
        ends = clock() + self._settings.server.drain_s
        proxy.drain()
        await asyncio.sleep(RETIRED_ACCEPTS_S if self._retired else LAST_ACCEPTS_S)
        listener.close()
        while (proxy.connections or proxy.calls_in_flight) and clock() < ends:
            if not self._retired:
                proxy.close_idle()
            await asyncio.sleep(DRAIN_POLL_S)
        proxy.close_idle()

    def _on_stop(self) -> None:
        self._retired = False
        self._stop.set()

    def _on_retire(self) -> None:
        self._retired = not self._stop.is_set()
        self._stop.set()

    def _reload(self) -> None:
        """Take the new settings when they are right; keep the old ones when they are not."""
        try:
            settings = config.load(self._config_path, os.environ)
        except config.ConfigError as error:
            log.error("configuration refused, the old one stays", file=error.source, errors=error.errors)
            return
        self._settings = settings
        self._proxy.replace_settings(settings)
        opening = asyncio.create_task(self._listener.open(tls_context(settings.server.proxy_tls)))
        self._openings.add(opening)
        opening.add_done_callback(self._openings.discard)
        configure_logging(settings.logging.level)
        log.info("configuration reloaded", index=self._index)

    async def _serve_figures(self, proxy: Proxy) -> asyncio.AbstractServer | None:
        """Write a snapshot of the figures to whoever connects to the worker's socket in the run directory."""
        run_dir = os.environ.get("TALLYGATE_RUN_DIR")
        if run_dir is None:
            return None

        path = Path(run_dir) / f"worker-{self._index}.sock"
        return await answer_at(path, lambda: json.dumps(proxy.snapshot()).encode())


if __name__ == "__main__":
    main()
