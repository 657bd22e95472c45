"""A proxy worker: one process, one event loop, one share of the proxy port.

Started by the supervisor as `python -m gateway.worker --index N`. SIGTERM drains, SIGHUP reads the
configuration again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import os
import secrets
import signal
import socket
import sys
import time
from pathlib import Path

import structlog
import uvloop

from gateway import collector, config, sealing
from gateway.proxy.access_log import AccessLogWriter
from gateway.proxy.listening import Listener
from gateway.proxy.outage_log import OutageLog
from gateway.proxy.records import Records
from gateway.proxy.service import Proxy
from gateway.settings import Settings
from gateway.telemetry import configure_logging
from gateway.tls import tls_context
from metering.clients import connect
from metering.counters import Counters
from metering.open_calls import DIRECTORY as JOURNALS
from metering.open_calls import OpenCalls
from metering.projection import Projection

log = structlog.get_logger("gateway.worker")


def main() -> None:
    """Run the worker until it is told to stop."""
    parser = argparse.ArgumentParser(prog="gateway.worker")
    parser.add_argument("--index", type=int, required=True)
    index = parser.parse_args().index
    path = os.environ.get("TALLYGATE_CONFIG")
    settings = config.load(Path(path) if path else None, os.environ)
    configure_logging(settings.logging.level)
    uvloop.run(Worker(index, settings, Path(path) if path else None).run())


class Worker:
    """The process around one `Proxy`."""

    def __init__(self, index: int, settings: Settings, config_path: Path | None) -> None:
        self._index = index
        self._settings = settings
        self._config_path = config_path
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Serve until stopped, then drain."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        assert settings.stores.redis_url is not None, "the supervisor starts the store and names its URL"
        redis = connect(settings.stores.redis_url, timeout_s=settings.stores.redis_timeout_s)
        counting = connect(settings.stores.redis_url, timeout_s=settings.stores.redis_timeout_s)
        counters = Counters(
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
        records = Records(
            Projection(redis),
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
            unseal=functools.partial(sealing.unseal, peppers=settings.security.peppers),
            access_log=AccessLogWriter(sys.stdout, time.time, self._index),
        )
        self._proxy = proxy
        OutageLog(proxy, self._index).listen()
        await counters.start()
        await open_calls.start()
        proxy.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        listener = Listener(_listening_socket(settings), proxy)
        await listener.open(tls_context(settings.server.proxy_tls))
        figures = await self._serve_figures(proxy)
        collector.settle()
        log.info("worker ready", index=self._index, port=settings.server.proxy_port)
        await self._stop.wait()

        listener.close()
        proxy.drain()
        ends = loop.time() + self._settings.server.drain_s
        while proxy.calls_in_flight and loop.time() < ends:  # noqa: ASYNC110 - once in a life
            await asyncio.sleep(0.02)
        if proxy.calls_in_flight:
            log.warning("calls broken off at the end of the drain", calls=proxy.calls_in_flight)
        proxy.close()
        await open_calls.close()
        await counters.close()
        if figures is not None:
            figures.close()
        await redis.aclose()
        await counting.aclose()
        log.info("worker stopped", index=self._index)

    def _reload(self) -> None:
        """Take the new settings when they are right; keep the old ones when they are not."""
        try:
            settings = config.load(self._config_path, os.environ)
        except config.ConfigError as error:
            log.error("configuration refused, the old one stays", errors=error.errors)
            return
        self._settings = settings
        self._proxy.replace_settings(settings)
        configure_logging(settings.logging.level)
        log.info("configuration reloaded", index=self._index)

    async def _serve_figures(self, proxy: Proxy) -> asyncio.Server | None:
        """Write a snapshot of the figures to whoever connects to the worker's socket in the run directory."""
        run_dir = os.environ.get("TALLYGATE_RUN_DIR")
        if run_dir is None:
            return None

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                writer.write(json.dumps(proxy.snapshot()).encode())
                await writer.drain()
                writer.close()

        path = Path(run_dir) / f"worker-{self._index}.sock"
        path.unlink(missing_ok=True)
        return await asyncio.start_unix_server(answer, path=path)


def _listening_socket(settings: Settings) -> socket.socket:
    server = settings.server
    family = socket.AF_INET6 if ":" in server.proxy_host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((server.proxy_host, server.proxy_port))
    return listening


if __name__ == "__main__":
    main()
