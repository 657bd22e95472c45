"""The processes of one `tallygate serve`: stores, workers, control, and the demo marketplace if asked for.

They are started and stopped in the order in which they need each other, and how they do is written down for
the control process and `tallygate restart`.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from pathlib import Path

import structlog

from gateway import config, pulse, run_state
from gateway.child import Child
from gateway.leashing import BEHIND_CALLS
from gateway.listeners import Listeners
from gateway.programs import Marketplace, Process
from gateway.run_state import ProcessState, Roll, RunState
from gateway.settings import Server, Stores
from gateway.stores import ENVIRON, EmbeddedPostgres, EmbeddedValkey
from gateway.workforce import Workforce

CONTROL_GRACE_S = 10.0
# Without a word. Work may keep it for seconds, longer on busy cores as it is nicer, and no call waits for it.
CONTROL_HUNG_S = 120.0
# Until it is ready, for which it waits for no store either; a minute was seen on busy cores.
CONTROL_START_HUNG_S = 300.0
STORE_GRACE_S = 30.0
DRAIN_SLACK_S = 5.0  # beyond the drain itself, for flushing counts
SYNC_EVERY_S = 1.0  # of counts: what the machine's own death may cost

log = structlog.get_logger("gateway.supervisor")


class Processes:
    """All children of a supervisor, and the listening sockets that it keeps for them."""

    def __init__(self, server: Server) -> None:
        """Keep the addresses; nothing is opened or started."""
        self._proxy_port = Listeners(server.proxy_host, server.proxy_port)
        self._control_port = Listeners(server.control_host, server.control_port)
        self._run_dir: Path
        self._stores: list[Child] = []
        self._valkey: EmbeddedValkey | None = None
        self._syncing: asyncio.Task[None] | None = None
        self._workers: Workforce | None = None
        self._control: Child | None = None
        self._watching: asyncio.Task[None] | None = None
        self._others: list[Child] = []  # control and demo
        self._roll = Roll()
        self.are_started = False  # all that serve calls

    async def start_stores(self, stores: Stores, data_dir: Path, run_dir: Path) -> dict[str, str]:
        """Start the stores that are embedded; return their URLs by the variable that the others read.

        Raises OrphanError, StoreError and ChildError.
        """
        self._run_dir = run_dir
        embedded: dict[str, EmbeddedValkey | EmbeddedPostgres] = {}
        if stores.redis_url is None:
            embedded[config.REDIS_URL] = EmbeddedValkey(data_dir, run_dir)
        if stores.database_url is None:
            embedded[config.DATABASE_URL] = EmbeddedPostgres(data_dir, run_dir)
        self._stores = [Child(store, ENVIRON) for store in embedded.values()]
        await asyncio.gather(*(store.start() for store in self._stores))
        for store in embedded.values():
            if isinstance(store, EmbeddedValkey):
                self._valkey = store
                self._syncing = asyncio.create_task(_keep_synced(store), name="sync")
        return {name: store.url for name, store in embedded.items()}

    async def start(self, workers: int, environ: Mapping[str, str], *, demo_port: int | None) -> None:
        """Start all that serve calls, at once; raises ChildError."""
        if demo_port is not None:
            # It stands for somebody else's program: what the gateway is told in secret is not for it.
            public = {name: text for name, text in environ.items() if not name.startswith("TALLYGATE_")}
            self._others.append(Child(Marketplace(demo_port), public, self._tell))
        listening = self._control_port.descriptor(0)
        program = Process(
            "control",
            "gateway.control",
            self._run_dir,
            arguments=("--listen-fd", str(listening)),
            descriptors=(listening,),
            nice=BEHIND_CALLS,
        )
        self._control = Child(program, environ, self._tell, start_hung_s=CONTROL_START_HUNG_S)
        self._others.append(self._control)
        self._workers = Workforce(self._proxy_port, self._run_dir, environ, self._tell)
        await asyncio.gather(self._workers.start(workers), *(child.start() for child in self._others))
        place = self._control, self._run_dir / pulse.CONTROL_SOCKET
        watching = pulse.watch(lambda: [place], CONTROL_HUNG_S)
        self._watching = asyncio.create_task(watching, name="watch for a control process that hangs")
        self.are_started = True

    @property
    def are_begun(self) -> bool:
        """Whether those that serve calls were begun to be started."""
        return self._workers is not None

    async def resize(self, server: Server) -> None:
        """Have as many workers as the settings say."""
        assert self._workers is not None, "there are workers to be more or fewer than"
        await self._workers.resize(server.workers, server.drain_s + DRAIN_SLACK_S)

    async def replace(self, server: Server) -> None:
        """Replace control and workers by new processes, one by one; raises ChildError, which ends it."""
        assert self._workers is not None, "there are workers to replace"
        assert self._control is not None, "it is started before the workers"
        await self._control.replace(CONTROL_GRACE_S)
        await self._workers.roll(server.drain_s + DRAIN_SLACK_S)
        await self.resize(server)

    async def stop(self, server: Server, hurry: asyncio.Event) -> None:
        """Stop in the order in which things need each other: workers, control and demo, stores.

        From `hurry` on nothing but the stores is waited for.
        """
        if self._watching is not None:
            self._watching.cancel()
        hurrying = asyncio.create_task(self._kill(hurry))
        # Workers have the sockets too. When they have taken what waits there and close them, nobody is left
        # waiting at a door that no one opens.
        self._proxy_port.close()
        self._control_port.close()
        if self._workers is not None:
            await self._workers.stop(server.leave_s + server.drain_s + DRAIN_SLACK_S)
        await asyncio.gather(*(child.stop(CONTROL_GRACE_S) for child in self._others))
        hurrying.cancel()
        await asyncio.gather(*(child.stop(STORE_GRACE_S) for child in self._stores))
        if self._syncing is not None:
            self._syncing.cancel()
        if self._valkey is not None:
            try:
                await asyncio.to_thread(self._valkey.end)
            except OSError as error:
                log.error("counts could not be brought to the disk", error=str(error))

    def send(self, number: signal.Signals) -> None:
        """Signal workers and control."""
        if self._workers is not None:
            self._workers.send(number)
        if self._control is not None:
            self._control.send(number)

    def reload(self) -> None:
        """Let workers and control read the configuration again."""
        if self._workers is not None:
            self._workers.notify(signal.SIGHUP)
        if self._control is not None:
            self._control.notify(signal.SIGHUP)

    def begin_roll(self) -> None:
        """Write down that a further rolling restart runs."""
        self._note(Roll(self._roll.number + 1, "running"))

    def end_roll(self, error: Exception | None = None) -> None:
        """Write down that the rolling restart is done, or what it failed of."""
        if error is None:
            self._note(Roll(self._roll.number, "done"))
        else:
            self._note(Roll(self._roll.number, "failed", str(error)))

    async def _kill(self, hurry: asyncio.Event) -> None:
        await hurry.wait()
        self.send(signal.SIGKILL)
        for child in self._others:
            child.send(signal.SIGKILL)

    def _note(self, roll: Roll) -> None:
        self._roll = roll
        self._tell()

    def _tell(self) -> None:
        workers = () if self._workers is None else tuple(map(_state_of, self._workers.children))
        state = RunState(workers, tuple(map(_state_of, self._others)), self._roll)
        try:
            run_state.write(self._run_dir, state)
        except OSError as error:
            log.warning("how the processes do cannot be written down", error=str(error))


async def _keep_synced(valkey: EmbeddedValkey) -> None:
    while True:
        await asyncio.sleep(SYNC_EVERY_S)
        try:
            await asyncio.to_thread(valkey.sync)
        except OSError as error:
            log.error("counts could not be brought to the disk", error=str(error))


def _state_of(child: Child) -> ProcessState:
    return ProcessState(child.program.name, child.pid, child.state, child.restarts)
