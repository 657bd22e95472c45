"""The proxy workers: as many as the configuration says, each at a listening socket that the supervisor keeps.

A worker that dies is started again at the same socket, and meanwhile new connections go to the others. On a
change to fewer workers the last ones take what has come to them and no more is sent their way, before their
sockets are closed. A rolling restart replaces one after another: the old process stops accepting when the new
one does so at the same socket, so there is no moment in which a connection could be lost.

A worker that lives and does nothing any more is killed and started again (`gateway.pulse`): what comes to its
socket would wait for good.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from gateway import pulse
from gateway.child import Child, ChildError, State
from gateway.leashing import SHORT_TURN_NS
from gateway.listeners import Listeners
from gateway.programs import Process

HUNG_S = 30.0  # without a word: no load makes a worker so slow, and clients have given up by then
# Until it is ready, which takes a second: it waits for no store. The next try gets twice the time.
START_HUNG_S = 120.0

log = structlog.get_logger("gateway.supervisor")


class Workforce:
    """The workers' processes."""

    def __init__(
        self, listeners: Listeners, run_dir: Path, environ: Mapping[str, str], on_change: Callable[[], None]
    ) -> None:
        """Keep what workers need; none is started."""
        self.children: list[Child] = []
        self._listeners = listeners
        self._run_dir = run_dir
        self._environ = environ
        self._tell = on_change
        self._watching: asyncio.Task[None] | None = None

    async def start(self, count: int) -> None:
        """Start workers, all at once; raises ChildError."""
        self.children = [self._worker(index) for index in range(count)]
        await asyncio.gather(*(child.start() for child in self.children))
        watching = pulse.watch(self._places, HUNG_S)
        self._watching = asyncio.create_task(watching, name="watch for workers that hang")

    async def resize(self, count: int, grace_s: float) -> None:
        """Start or end workers until there are so many; one that does not start is told and tried again."""
        for index in range(len(self.children), count):
            child = self._worker(index)
            self.children.append(child)
            try:
                await child.start()
            except ChildError as error:
                log.error("a further worker did not start", error=str(error))
                child.keep_trying()
        surplus = self.children[count:]
        del self.children[count:]
        self._on_change()
        await asyncio.gather(*(child.retire(grace_s) for child in surplus))
        if surplus:
            self._listeners.keep(count)
        for index in range(count, count + len(surplus)):
            self._figures(index).unlink(missing_ok=True)

    async def roll(self, grace_s: float) -> None:
        """Replace the workers' processes one after another.

        Raises ChildError when a new one does not come up; those that were not replaced by then go on.
        """
        for index, child in enumerate(list(self.children)):
            figures = self._figures(index)
            draining = figures.with_stem(f"{figures.stem}-draining")
            if figures.exists():
                figures.rename(draining)  # it still answers, under another label
            try:
                await child.replace(grace_s)
            except ChildError:
                if draining.exists() and not figures.exists():
                    draining.rename(figures)
                raise
            finally:
                draining.unlink(missing_ok=True)
            log.info("worker replaced", index=index, pid=child.pid)

    async def stop(self, grace_s: float) -> None:
        """Let all workers drain and end."""
        if self._watching is not None:
            self._watching.cancel()
        await asyncio.gather(*(child.stop(grace_s) for child in self.children))

    def send(self, number: signal.Signals) -> None:
        """Signal all workers."""
        for child in self.children:
            child.send(number)

    def notify(self, number: signal.Signals) -> None:
        """Signal all workers, those that are not ready as soon as they are."""
        for child in self.children:
            child.notify(number)

    def _places(self) -> list[tuple[Child, Path]]:
        return [(child, self._figures(index)) for index, child in enumerate(self.children)]

    def _worker(self, index: int) -> Child:
        self._figures(index).unlink(missing_ok=True)
        descriptor = self._listeners.descriptor(index)
        program = Process(
            f"worker {index}",
            "gateway.worker",
            self._run_dir,
            arguments=("--listen-fd", str(descriptor), "--index", str(index)),
            descriptors=(descriptor,),
            retire_signal=signal.SIGUSR1,
            turn_ns=SHORT_TURN_NS,
        )
        return Child(program, self._environ, self._on_change, start_hung_s=START_HUNG_S)

    def _figures(self, index: int) -> Path:
        return self._run_dir / f"worker-{index}.sock"

    def _on_change(self) -> None:
        """Send new connections to where they are taken at once."""
        ready = [index for index, child in enumerate(self.children) if child.state is State.READY]
        self._listeners.serve(ready)
        self._tell()
