"""`tallygate serve`: the parent of every process.

It starts the embedded stores where the configuration asks for them, brings the ledger up to date, and runs
the proxy workers, the control process and, without a configuration, the demo marketplace. It starts again
what dies. SIGTERM and SIGINT drain and stop everything, a second one at once; SIGHUP reads the
configuration again, and a wrong one is refused with every error named while the old one stays.

Children are on a leash (`gateway.leash`): they end with this process, even when it is killed with -9.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateway import config, first_start, welcome
from gateway.child import Child, ChildError
from gateway.config import ConfigError
from gateway.data_dir import DataDirError, held, leave, was_left
from gateway.first_start import Demo, LedgerError
from gateway.leashing import OrphanError, leashed
from gateway.ports import PortError, answers, check_port, free_port, listens
from gateway.settings import Settings
from gateway.stores import ENVIRON, EmbeddedPostgres, EmbeddedValkey, StoreError, run_directory
from gateway.telemetry import configure_logging
from metering.clients import connect
from metering.ledger import make_engine

CONTROL_GRACE_S = 10.0
STORE_GRACE_S = 30.0
PORT_PATIENCE_S = 20.0
DRAIN_SLACK_S = 5.0  # beyond the drain itself, for flushing counts

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
    status = asyncio.run(Supervisor(config_path, settings, environ, demo=demo).run())
    _let_go_of_output()
    return status


def _let_go_of_output() -> None:
    """Write out what is left; where the terminal is gone write it nowhere, so that the status stays what it
    is."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path of ours
                os.dup2(nowhere.fileno(), stream.fileno())


@dataclass(frozen=True, slots=True)
class PythonProgram:
    """A module of this installation, run by this interpreter."""

    name: str
    arguments: tuple[str, ...]
    ready: Callable[[], bool]
    stop_signal: signal.Signals = signal.SIGTERM
    log_file: Path | None = None

    def prepare(self) -> None:
        """Nothing has to be made."""

    def command(self) -> list[str]:
        """Return the command line, on a leash."""
        return leashed([sys.executable, "-m", *self.arguments], on_parent_death=self.stop_signal)

    def is_ready(self) -> bool:
        """Say whether it answers."""
        return self.ready()


class Supervisor:
    """All processes of one `tallygate serve`."""

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
        self._environ = dict(environ)
        self._is_demo = demo if demo is not None else config_path is None and config.DEMO_URL not in environ
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._reloads: set[asyncio.Task[None]] = set()
        self._stores: list[Child] = []
        self._workers: list[Child] = []
        self._others: list[Child] = []  # control and demo
        self._has_terminal = _has_terminal()

    async def run(self) -> int:
        """Start everything, wait for a signal, stop everything; return the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
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
            for task in (starting, stopping, *self._reloads):
                task.cancel()
            await asyncio.gather(starting, stopping, *self._reloads, return_exceptions=True)
            await self._stop_all()
            await asyncio.to_thread(leave, data_dir)

    async def _start(self, data_dir: Path) -> None:
        await asyncio.to_thread(self._check_ports, data_dir)
        run_dir = await asyncio.to_thread(run_directory, data_dir)
        stores: list[EmbeddedValkey | EmbeddedPostgres] = []
        if self._settings.stores.redis_url is None:
            stores.append(EmbeddedValkey(data_dir, run_dir))
        if self._settings.stores.database_url is None:
            stores.append(EmbeddedPostgres(data_dir, run_dir))
        self._stores = [Child(store, ENVIRON) for store in stores]
        await asyncio.gather(*(store.start() for store in self._stores))
        for store in stores:
            name = config.REDIS_URL if isinstance(store, EmbeddedValkey) else config.DATABASE_URL
            self._environ[name] = store.url
        self._environ[config.DATA_DIR] = str(data_dir)
        self._environ["TALLYGATE_RUN_DIR"] = str(run_dir)
        self._environ.pop("TALLYGATE_CONFIG", None)
        if self._config_path is not None:
            self._environ["TALLYGATE_CONFIG"] = str(self._config_path)
        if self._is_demo:
            port = free_port()
            self._environ[config.DEMO_URL] = f"http://127.0.0.1:{port}"
            marketplace = PythonProgram("demo", ("demo", "--port", str(port)), listens("127.0.0.1", port))
            # It stands for somebody else's program: what the gateway is told in secret is not for it.
            public = {name: text for name, text in self._environ.items() if not name.startswith("TALLYGATE_")}
            self._others.append(Child(marketplace, public))
        self._settings = await asyncio.to_thread(config.load, self._config_path, self._environ)

        demo = await self._prepare_ledger()
        server = self._settings.server
        self._others.append(
            self._child("control", ("gateway.control",), listens(server.control_host, server.control_port))
        )
        self._workers = [self._worker(index, run_dir) for index in range(server.workers)]
        await asyncio.gather(*(child.start() for child in (*self._workers, *self._others)))
        log.info("serving", proxy=server.proxy_port, control=server.control_port, workers=server.workers)
        with contextlib.suppress(OSError):  # the terminal may be gone; serving does not hang on it
            print(welcome.text(self._settings, demo), flush=True)

    async def _prepare_ledger(self) -> Demo | None:
        stores = self._settings.stores
        assert stores.database_url is not None, "the embedded store's URL is in the environment by now"
        assert stores.redis_url is not None, "the embedded store's URL is in the environment by now"
        engine = make_engine(stores.database_url)
        redis = connect(stores.redis_url, timeout_s=stores.redis_timeout_s)
        try:
            await first_start.open_ledger(engine)
            await first_start.first_token(engine, self._settings)
            if not self._is_demo:
                return None
            return await first_start.demo_account(engine, redis, self._settings)
        finally:
            await redis.aclose()
            await engine.dispose()

    def _child(self, name: str, arguments: tuple[str, ...], ready: Callable[[], bool]) -> Child:
        return Child(PythonProgram(name, arguments, ready), self._environ)

    def _worker(self, index: int, run_dir: Path) -> Child:
        figures = run_dir / f"worker-{index}.sock"
        figures.unlink(missing_ok=True)
        return self._child(
            f"worker {index}", ("gateway.worker", "--index", str(index)), lambda: answers(figures)
        )

    async def _stop_all(self) -> None:
        """Stop in the order in which things need each other: workers, control and demo, stores."""
        grace_s = self._settings.server.drain_s + DRAIN_SLACK_S
        hurrying = asyncio.create_task(self._kill_when_hurried())
        await asyncio.gather(*(child.stop(grace_s) for child in self._workers))
        await asyncio.gather(*(child.stop(CONTROL_GRACE_S) for child in self._others))
        hurrying.cancel()
        await asyncio.gather(*(child.stop(STORE_GRACE_S) for child in self._stores))

    async def _kill_when_hurried(self) -> None:
        await self._hurry.wait()
        for child in (*self._workers, *self._others):
            child.send(signal.SIGKILL)

    # -- signals

    def _on_stop(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _on_hangup(self) -> None:
        if self._has_terminal and not _has_terminal():
            self._stop.set()  # the terminal that this was started in is gone: nobody means "reload"
            return
        task = asyncio.create_task(self._reload(), name="reload")
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        """Take the new configuration over when it is right, and pass the word on to the children."""
        async with self._reloading:
            try:
                settings = await asyncio.to_thread(config.load, self._config_path, self._environ)
            except ConfigError as error:
                log.error("configuration refused, the old one stays", errors=error.errors)
                return
            old, self._settings = self._settings, settings
            configure_logging(settings.logging.level)
            for name in _needs_restart(old, settings):
                log.warning("this setting changes with the next start only", setting=name)
            for child in (*self._workers, *self._others):
                if child.program.name != "demo":
                    child.send(signal.SIGHUP)
            await self._resize(settings)
            log.info("configuration reloaded")

    async def _resize(self, settings: Settings) -> None:
        run_dir = Path(self._environ["TALLYGATE_RUN_DIR"])
        more = [self._worker(index, run_dir) for index in range(len(self._workers), settings.server.workers)]
        for child in more:
            self._workers.append(child)
            try:
                await child.start()
            except ChildError as error:
                log.error("a further worker did not start", error=str(error))
        surplus = self._workers[settings.server.workers :]
        del self._workers[settings.server.workers :]
        await asyncio.gather(*(child.stop(settings.server.drain_s + DRAIN_SLACK_S) for child in surplus))
        for index in range(len(self._workers), len(self._workers) + len(surplus)):
            (run_dir / f"worker-{index}.sock").unlink(missing_ok=True)

    def _check_ports(self, data_dir: Path) -> None:
        server = self._settings.server
        # After a stop in order there is no such directory; else workers of a killed supervisor may still end.
        patience_s = 0.0 if was_left(data_dir) else PORT_PATIENCE_S
        check_port("proxy_listen", server.proxy_host, server.proxy_port, patience_s=patience_s)
        check_port("control_listen", server.control_host, server.control_port, patience_s=patience_s)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
    except OSError:
        return False
    return True


def _needs_restart(old: Settings, new: Settings) -> Sequence[str]:
    """Return the settings that differ and that a running process cannot take over."""
    pairs: dict[str, Callable[[Settings], object]] = {
        "server.proxy_listen": lambda s: (s.server.proxy_host, s.server.proxy_port),
        "server.control_listen": lambda s: (s.server.control_host, s.server.control_port),
        "server.proxy_tls": lambda s: s.server.proxy_tls,
        "server.control_tls": lambda s: s.server.control_tls,
        "stores": lambda s: s.stores,
    }
    return [name for name, value in pairs.items() if value(old) != value(new)]
