"""One supervised process: started, watched, started again when it dies, replaced, and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Protocol

import structlog

from gateway.leash import LOCKED

READY_DEADLINE_S = 600.0  # a store may have much to read again; what dies is noticed at once anyway
READY_TOLD_S = 10.0  # a start that takes longer is worth a line in the log
READY_POLL_S = 0.02
STEADY_S = 30.0  # a process that ran this long had started well; the next death is a new story
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 10.0
LOG_TAIL_BYTES = 2000

log = structlog.get_logger("gateway.supervisor")


class ChildError(Exception):
    """A process did not come up; the message says which and what it said."""


class LateError(ChildError):
    """A process lives and is not ready in the time that it was given."""


class State(StrEnum):
    """How a child does."""

    DOWN = "down"
    STARTING = "starting"
    READY = "ready"


class Program(Protocol):
    """What to run, and how to tell that it is up. Its methods may block; they are called in a thread."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def stop_signal(self) -> signal.Signals:
        """What asks it to end in order."""

    @property
    def retire_signal(self) -> signal.Signals:
        """What asks it to end in order when another process has taken its place."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Descriptors that it is given under the same numbers."""

    @property
    def log_file(self) -> Path | None:
        """Where its output goes; None leaves it on this process's own."""

    def prepare(self) -> None:
        """Make what a start needs; called before each one."""

    def command(self) -> list[str]:
        """Return the command line."""

    def is_ready(self) -> bool:
        """Say whether the process that was started last does its work."""


class Child:
    """A program's process, over as many lives as it takes."""

    def __init__(
        self,
        program: Program,
        environ: Mapping[str, str],
        on_change: Callable[[], None] = lambda: None,
        *,
        start_hung_s: float | None = None,
    ) -> None:
        """Keep what is to be run; `environ` is its whole environment, `on_change` hears of every change.

        Started again and not ready after `start_hung_s`, it is killed; without it, it may take its time.
        """
        self.program = program
        self.restarts = 0  # after deaths that nobody asked for
        self.state = State.DOWN
        self._environ = dict(environ)
        self._on_change = on_change
        self._process: asyncio.subprocess.Process | None = None
        self._retiring: set[asyncio.subprocess.Process] = set()
        self._watchers: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._spawning = asyncio.Lock()  # a process is not stopped half-way through its start
        self._failures = 0
        self._start_hung_s = start_hung_s
        self._late = 0  # starts on end that were killed for their time
        self._notices: set[signal.Signals] = set()

    @property
    def pid(self) -> int | None:
        """The id of the running process."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start and wait until it is ready, and keep it running from then on; raises ChildError."""
        async with self._spawning:
            self._process = process = await self._spawn()
        self._turn(State.STARTING)
        await self._await_ready(process, READY_DEADLINE_S)
        self._turn(State.READY)
        self._watch(process)

    def keep_trying(self) -> None:
        """Start it again and again after a `start` that failed; a process that came of it is ended."""
        if self._process is not None:
            self.kill()
            self._watch(self._process)

    async def replace(self, grace_s: float) -> None:
        """Start another process and, once it is ready, let the running one end in order.

        Raises ChildError when the new one does not come up; the old one then goes on as if nothing had been.
        Returns when the old one has ended, which is killed when it has not after `grace_s`.
        """
        async with self._spawning:
            old = self._process
            new = await self._spawn()
            try:
                await self._await_ready(new, READY_DEADLINE_S)
            except BaseException:
                await _kill(new)
                raise
            self._process = new
        self._turn(State.READY)
        self._watch(new)
        if old is not None and old.returncode is None:
            self._retiring.add(old)  # and there it stays when this is cancelled: `stop` sees to it
            await self._end(old, self.program.retire_signal, grace_s)
            self._retiring.discard(old)

    def send(self, number: signal.Signals) -> None:
        """Signal the process, if it runs, and those that it has replaced."""
        for process in (self._process, *self._retiring):
            if process is not None:
                _signal(process, number)

    def notify(self, number: signal.Signals) -> None:
        """Signal the process as `send` does, but not before it is ready: it could not bear it on its way."""
        if self.state is State.READY:
            self.send(number)
        else:
            self._notices.add(number)

    def kill(self) -> None:
        """End the process at once; it is started again."""
        if self._process is not None:
            _signal(self._process, signal.SIGKILL)

    async def stop(self, grace_s: float) -> None:
        """Ask the process to end, and kill it when it has not after `grace_s`."""
        await self._finish(self.program.stop_signal, grace_s)

    async def retire(self, grace_s: float) -> None:
        """Stop it, while others go on doing the same work."""
        await self._finish(self.program.retire_signal, grace_s)

    async def _finish(self, number: signal.Signals, grace_s: float) -> None:
        self._stopping.set()
        async with self._spawning:
            processes = [each for each in (self._process, *self._retiring) if each is not None]
        await asyncio.gather(*(self._end(each, number, grace_s) for each in processes))
        await asyncio.gather(*self._watchers)
        self._turn(State.DOWN)

    async def _spawn(self) -> asyncio.subprocess.Process:
        program = self.program
        if self._stopping.is_set():
            raise ChildError(f"{program.name} was stopped before it was started.")
        await asyncio.to_thread(program.prepare)
        command = await asyncio.to_thread(program.command)
        output = await asyncio.to_thread(self._open_log)
        try:
            return await asyncio.create_subprocess_exec(
                *command,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=program.descriptors,
            )
        finally:
            if output is not None:
                output.close()

    def _open_log(self) -> BinaryIO | None:
        if self.program.log_file is None:
            return None
        return self.program.log_file.open("wb")

    async def _await_ready(self, process: asyncio.subprocess.Process, deadline_s: float) -> None:
        """Wait until the process does its work; raises ChildError when it ends, LateError when it is late."""
        name = self.program.name
        waited_s = 0.0  # as looked: by the clock a process would be late because this one was stopped
        told = False
        while not await asyncio.to_thread(self.program.is_ready):
            if process.returncode is not None:
                raise ChildError(await asyncio.to_thread(self._why, process.returncode))
            if self._stopping.is_set():
                raise ChildError(f"{name} was stopped before it was ready.")
            if waited_s > deadline_s:
                raise LateError(f"{name} is not ready after {deadline_s:.0f} s.")
            if not told and waited_s > READY_TOLD_S:
                log.warning("still waiting for a process to be ready", process=name)
                told = True
            await asyncio.sleep(READY_POLL_S)
            waited_s += READY_POLL_S

    def _watch(self, process: asyncio.subprocess.Process) -> None:
        task = asyncio.create_task(self._keep_running(process), name=f"watch {self.program.name}")
        self._watchers.add(task)
        task.add_done_callback(self._watchers.discard)

    async def _keep_running(self, process: asyncio.subprocess.Process) -> None:
        """Wait for the process to die and start it again, more slowly the more often it dies at once."""
        loop = asyncio.get_running_loop()
        name = self.program.name
        began = loop.time()
        while True:
            status = await process.wait()
            async with self._spawning:
                if self._stopping.is_set() or process is not self._process:
                    return  # it was asked to end, or another one took its place
            self._turn(State.DOWN)
            self._failures = 0 if loop.time() - began > STEADY_S else self._failures + 1
            delay_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** max(0, self._failures - 1))
            log.error("process died and is started again", process=name, status=status, delay_s=delay_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s)
            began = loop.time()
            async with self._spawning:
                if self._stopping.is_set() or process is not self._process:
                    return
                self.restarts += 1
                try:
                    self._process = process = await self._spawn()
                except Exception:  # whatever keeps it from starting now may be gone at the next try
                    log.exception("process could not be started", process=name)
                    continue
            self._turn(State.STARTING)
            if await self._comes_up(process):
                self._turn(State.READY)

    async def _comes_up(self, process: asyncio.subprocess.Process) -> bool:
        """Wait until the process is ready; return False when it has ended instead, or hung and was killed."""
        while True:
            deadline_s = self._patience_s()
            try:
                await self._await_ready(process, deadline_s)
            except LateError as error:
                if self._start_hung_s is None:
                    log.warning("a process is not ready", process=self.program.name, error=str(error))
                    continue
                log.error(
                    "a process hangs before it is ready and is killed",
                    process=self.program.name,
                    pid=process.pid,
                    after_s=deadline_s,
                )
                self._late += 1
                await _kill(process)
                return False
            except ChildError as error:
                log.warning("a process is not ready", process=self.program.name, error=str(error))
                return False
            self._late = 0
            return True

    def _patience_s(self) -> float:
        """Return how long to wait for a start: each time longer, so that a slow machine comes to its end."""
        if self._start_hung_s is None:
            return READY_DEADLINE_S
        return self._start_hung_s * 2.0**self._late

    async def _end(self, process: asyncio.subprocess.Process, number: signal.Signals, grace_s: float) -> None:
        _signal(process, number)
        try:
            async with asyncio.timeout(grace_s):
                await process.wait()
        except TimeoutError:
            log.warning("process did not stop in time and is killed", process=self.program.name)
            await _kill(process)

    def _turn(self, state: State) -> None:
        self.state = state
        self._on_change()
        if state is State.READY:
            for number in self._notices:
                self.send(number)
            self._notices.clear()

    def _why(self, status: int) -> str:
        program = self.program
        if status == LOCKED:
            return f"{program.name} did not start: its data are in use by another process."
        said = ""
        if program.log_file is not None and program.log_file.exists():
            said = program.log_file.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        ending = f"signal {-status}" if status < 0 else f"status {status}"
        return f"{program.name} ended with {ending} before it was ready.\n{said}".rstrip()


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)


async def _kill(process: asyncio.subprocess.Process) -> None:
    _signal(process, signal.SIGKILL)
    await process.wait()
