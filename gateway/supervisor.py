"""`tallygate serve`: the parent of every process.

It starts the embedded stores where the configuration asks for them, brings the ledger up to date, and runs
the proxy workers, the control process and, without a configuration, the demo marketplace (`processes`). It
starts again what dies, and keeps the listening sockets for those that take its place.

SIGTERM and SIGINT drain and stop everything, a second one at once; SIGHUP reads the configuration again, and
a wrong one is refused with every error named while the old one stays; SIGUSR2 replaces control and workers
one by one, calls going on.

Children are on a leash (`gateway.leash`): they end with this process, even when it is killed with -9.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path

import structlog

from gateway import config, first_start, migration, welcome
from gateway.child import ChildError
from gateway.config import ConfigError
from gateway.data_dir import DataDirError, held, leave, run_directory, was_left
from gateway.first_start import LedgerError
from gateway.kept_config import KeptConfig
from gateway.leashing import OrphanError
from gateway.ports import PortError, check_port, free_port
from gateway.processes import Processes
from gateway.settings import Settings, Stores, needs_restart
from gateway.stores import StoreError
from gateway.telemetry import configure_logging
from gateway.terminal import has_terminal, let_go_of_output

PORT_PATIENCE_S = 20.0

log = structlog.get_logger("gateway.supervisor")


def serve(config_path: Path | None, environ: Mapping[str, str], *, demo: bool | None = None) -> int:
    """Serve until told to stop; return the exit status: 0 after an orderly stop, 2 for a wrong configuration.

    `demo` runs the demo marketplace as the upstream named "demo" and makes a key to call it with; by default
    that is done when there is no configuration, for which the example stands in.
    """
    try:
        settings = config.load(config_path, environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    configure_logging(settings.logging.level)
    _warn(settings)
    status = asyncio.run(Supervisor(config_path, settings, environ, demo=demo).run())
    let_go_of_output()
    return status


class Supervisor:
    """What one `tallygate serve` was told, by its configuration and by signals, and what it does about it."""

    def __init__(
        self,
        config_path: Path | None,
        settings: Settings,
        environ: Mapping[str, str],
        *,
        demo: bool | None = None,
    ) -> None:
        """Keep the configuration; nothing is started."""
        self._config_path = config_path.absolute() if config_path is not None else None
        self._settings = settings
        self._environ = {name: text for name, text in environ.items() if name != config.KEPT}
        self._is_demo = demo if demo is not None else config_path is None and config.DEMO_URL not in environ
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._changing = asyncio.Lock()  # one reload or rolling restart at a time
        self._changes: set[asyncio.Task[None]] = set()
        self._processes = Processes(settings.server)
        self._started_with: Settings  # as the configuration has it, without the URLs of embedded stores
        self._stores_in_use: Stores
        self._kept: KeptConfig
        self._has_terminal = has_terminal()

    async def run(self) -> int:
        """Start everything, wait for a signal, stop everything; return the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        loop.add_signal_handler(signal.SIGUSR2, self._change, self._replace_all, "rolling restart")
        try:
            with held(self._settings.stores.data_dir) as data_dir:
                return await self._run(data_dir)
        except DataDirError as error:
            print(f"tallygate: {error}", file=sys.stderr)
            return 1

    async def _run(self, data_dir: Path) -> int:
        starting = asyncio.create_task(self._start(data_dir))
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await stopping
            return 0
        except (ConfigError, PortError, OrphanError, StoreError, ChildError, LedgerError) as error:
            print(f"tallygate: {error}", file=sys.stderr)
            return 1
        finally:
            for task in (starting, stopping, *self._changes):
                task.cancel()
            await asyncio.gather(starting, stopping, *self._changes, return_exceptions=True)
            await self._processes.stop(self._settings.server, self._hurry)
            await asyncio.to_thread(leave, data_dir)

    async def _start(self, data_dir: Path) -> None:
        await asyncio.to_thread(self._check_ports, data_dir)
        run_dir = await asyncio.to_thread(run_directory, data_dir)
        urls = await self._processes.start_stores(self._settings.stores, data_dir, run_dir)
        self._environ[config.DATA_DIR] = str(data_dir)
        self._environ["TALLYGATE_RUN_DIR"] = str(run_dir)
        self._environ.pop("TALLYGATE_CONFIG", None)
        if self._config_path is not None:
            self._environ["TALLYGATE_CONFIG"] = str(self._config_path)
        port = free_port() if self._is_demo else None
        if port is not None:
            self._environ[config.DEMO_URL] = f"http://127.0.0.1:{port}"
        self._kept = KeptConfig(self._config_path, run_dir)
        self._settings = await asyncio.to_thread(self._kept.read, self._environ)
        self._kept.take()
        self._started_with = self._settings
        self._stores_in_use = stores = replace(
            self._settings.stores,
            redis_url=urls.get(config.REDIS_URL, self._settings.stores.redis_url),
            database_url=urls.get(config.DATABASE_URL, self._settings.stores.database_url),
        )

        demo = await first_start.prepare(replace(self._settings, stores=stores), demo=self._is_demo)
        server = self._settings.server
        environ = self._kept.environ(self._environ, stores)
        await self._processes.start(server.workers, environ, demo_port=port)
        log.info("serving", proxy=server.proxy_port, control=server.control_port, workers=server.workers)
        with contextlib.suppress(OSError):  # the terminal may be gone; serving does not hang on it
            print(welcome.text(self._settings, demo), flush=True)

    # -- signals

    def _on_stop(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _on_hangup(self) -> None:
        if self._has_terminal and not has_terminal():
            self._stop.set()  # the terminal that this was started in is gone: nobody means "reload"
            return
        self._change(self._reload, "reload")

    def _change(self, change: Callable[[], Coroutine[None, None, None]], name: str) -> None:
        """Do a change once those that were asked for before are done."""

        async def in_turn() -> None:
            async with self._changing:
                await change()

        task = asyncio.create_task(in_turn(), name=name)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)

    async def _reload(self) -> None:
        """Take the new configuration over when it is right, and pass the word on to the children."""
        if not self._processes.are_begun:
            return  # what is started next reads it anyway
        settings = await self._read_settings()
        if settings is None:
            return
        self._take(settings)
        self._processes.reload()
        await self._processes.resize(self._settings.server)
        log.info("configuration reloaded")

    async def _read_settings(self) -> Settings | None:
        try:
            return await asyncio.to_thread(self._kept.read, self._environ)
        except ConfigError as error:
            log.error("configuration refused, the old one stays", file=error.source, errors=error.errors)
            return None

    def _take(self, settings: Settings) -> None:
        """Run with what was read last."""
        self._kept.take()
        self._settings = settings
        configure_logging(settings.logging.level)
        _warn(settings)
        for name in needs_restart(self._started_with, settings):
            log.warning("this setting changes with the next start only", setting=name)

    async def _replace_all(self) -> None:
        """Replace control and workers by new processes, one by one; the first that fails ends it."""
        if not self._processes.are_begun:
            log.warning("asked for a rolling restart before the start was done")
            return
        self._processes.begin_roll()
        try:
            await self._roll_over()
        except (ChildError, LedgerError, OSError) as error:
            log.error("rolling restart broken off; what was not replaced goes on", error=str(error))
            self._processes.end_roll(error)
        else:
            log.info("rolling restart done")
            self._processes.end_roll()

    async def _roll_over(self) -> None:
        """Run what is installed now, with the configuration as it is now.

        The ledger comes first, since new processes need its new schema; the old ones go on with it.
        """
        if not self._processes.are_started:
            raise ChildError("The start is not done yet.")
        settings = await self._read_settings()
        if settings is None:
            raise ChildError("The configuration is wrong: see the log, or `tallygate check`.")
        if settings.stores != self._started_with.stores:
            raise ChildError("[stores] was changed, which needs a stop and a start.")
        self._take(settings)
        await migration.in_new_process(self._kept.environ(self._environ, self._stores_in_use))
        await self._processes.replace(settings.server)

    def _check_ports(self, data_dir: Path) -> None:
        server = self._settings.server
        # After a stop in order there is no such directory; else workers of a killed supervisor may still end.
        patience_s = 0.0 if was_left(data_dir) else PORT_PATIENCE_S
        check_port("proxy_listen", server.proxy_host, server.proxy_port, patience_s=patience_s)
        check_port("control_listen", server.control_host, server.control_port, patience_s=patience_s)


def _warn(settings: Settings) -> None:
    for caution in settings.cautions:
        log.warning("the configuration is right and yet unwise", caution=caution)
