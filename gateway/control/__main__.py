"""The control process: the control API and the periodic jobs.

Started by the supervisor as `python -m gateway.control --listen-fd F --ready FILE`. SIGTERM stops it in
order, SIGHUP reads the configuration again.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
from dataclasses import asdict
from pathlib import Path

import structlog
import uvloop
from aiohttp import web

from gateway import collector, config
from gateway.behind_calls import put_behind_calls
from gateway.build import BUILD
from gateway.config import ConfigError
from gateway.control.app import make_app
from gateway.control.connections import Port
from gateway.control.periodic import JOBS, running
from gateway.control.resources import CONTROL
from gateway.listeners import listening_socket
from gateway.programs import announce
from gateway.pulse import CONTROL_SOCKET, answer_at
from gateway.settings import Settings
from gateway.telemetry import WorkerMetricsCollector, configure_logging
from gateway.tls import tls_context
from metering.clients import connect
from metering.ledger import make_engine

REDIS_TIMEOUT_S = (
    5.0  # for jobs that move many counters; calls of client sites have a shorter one of their own
)
SHUTDOWN_S = 5.0

log = structlog.get_logger("gateway.control")


def main() -> None:
    """Run the control process until it is told to stop."""
    parser = argparse.ArgumentParser(prog="gateway.control")
    parser.add_argument("--listen-fd", type=int, help="a listening socket; by default one is opened")
    parser.add_argument("--ready", type=Path, help="a file to make when requests are taken")
    given = parser.parse_args()
    path = os.environ.get("TALLYGATE_CONFIG")
    config_path = Path(path) if path else None
    settings = config.load(config_path, os.environ)
    configure_logging(settings.logging.level)
    server = settings.server
    if given.listen_fd is None:
        listening = listening_socket(server.control_host, server.control_port)
    else:
        listening = socket.socket(fileno=given.listen_fd)
    uvloop.run(serve(settings, config_path, listening, given.ready))


async def serve(
    settings: Settings, config_path: Path | None, listening: socket.socket, ready: Path | None = None
) -> None:
    """Serve the control API and run the jobs until a signal to stop."""
    assert settings.stores.redis_url is not None, "the supervisor starts the store and names its URL"
    assert settings.stores.database_url is not None, "the supervisor starts the store and names its URL"
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    engine = make_engine(settings.stores.database_url)
    put_behind_calls(engine)
    redis = connect(settings.stores.redis_url, timeout_s=REDIS_TIMEOUT_S)
    run_dir = os.environ.get("TALLYGATE_RUN_DIR")
    workers = WorkerMetricsCollector(Path(run_dir)) if run_dir is not None else None
    app = make_app(settings, engine, redis, workers)
    control = app[CONTROL]

    runner = web.AppRunner(app, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    assert runner.server is not None, "it was just set up"
    server = settings.server
    port = Port(runner.server, listening, lambda: control.settings.server)
    openings: set[asyncio.Task[None]] = set()

    def reload() -> None:
        try:
            control.settings = config.load(config_path, os.environ)
        except ConfigError as error:
            log.error("configuration refused, the old one stays", file=error.source, errors=error.errors)
            return
        opening = loop.create_task(port.open(tls_context(control.settings.server.control_tls)))
        openings.add(opening)
        opening.add_done_callback(openings.discard)
        configure_logging(control.settings.logging.level)
        log.info("configuration reloaded")

    loop.add_signal_handler(signal.SIGHUP, reload)
    pulse: asyncio.AbstractServer | None = None
    try:
        await port.open(tls_context(server.control_tls))
        if run_dir is not None:
            pulse = await answer_at(Path(run_dir) / CONTROL_SOCKET, lambda: b"\n")
        collector.settle()
        log.info("control ready", port=server.control_port, **asdict(BUILD))
        announce(ready)
        async with running(app[JOBS]) as jobs:
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({stopping, jobs}, return_when=asyncio.FIRST_COMPLETED)
            if jobs.done():
                jobs.result()  # a job that ends has failed in a way nobody thought of: let it be seen
            log.info("control stops")
    finally:
        if pulse is not None:
            pulse.close()
        port.close()
        await runner.cleanup()
        await redis.aclose()
        await engine.dispose()


if __name__ == "__main__":
    main()
