"""One supervised process: started, watched, started again when it dies, and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import Mapping
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


class Program(Protocol):
    """What to run, and how to tell that it is up. Its methods may block; they are called in a thread."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def stop_signal(self) -> signal.Signals:
        """What asks it to end in order."""

    @property
    def log_file(self) -> Path | None:
        """Where its output goes; None leaves it on this process's own."""

    def prepare(self) -> None:
        """Make what a start needs; called before each one."""

    def command(self) -> list[str]:
        """Return the command line."""

    def is_ready(self) -> bool:
        """Say whether it does its work."""


class Child:
    """A program's process, over as many lives as it takes."""

    def __init__(self, program: Program, environ: Mapping[str, str]) -> None:
        """Keep what is to be run; `environ` is the whole environment of the process."""
        self.program = program
        self.restarts = 0
        self._environ = dict(environ)
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._spawning = asyncio.Lock()  # a process is not stopped half-way through its start

    @property
    def pid(self) -> int | None:
        """The id of the running process."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start and wait until it is ready, and keep it running from then on; raises ChildError."""
        async with self._spawning:
            if self._stopping.is_set():
                raise ChildError(f"{self.program.name} was stopped before it was started.")
            await self._spawn()
            process = self._process
        assert process is not None
        clock = asyncio.get_running_loop().time
        began = clock()
        told = False
        while not await asyncio.to_thread(self.program.is_ready):
            if process.returncode is not None:
                raise ChildError(await asyncio.to_thread(self._why, process.returncode))
            if clock() - began > READY_DEADLINE_S:
                raise ChildError(f"{self.program.name} is not ready after {READY_DEADLINE_S:.0f} s.")
            if not told and clock() - began > READY_TOLD_S:
                log.warning("still waiting for a process to be ready", process=self.program.name)
                told = True
            await asyncio.sleep(READY_POLL_S)
        self._watcher = asyncio.create_task(self._watch(), name=f"watch {self.program.name}")

    def send(self, number: signal.Signals) -> None:
        """Signal the process, if it runs."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def stop(self, grace_s: float) -> None:
        """Ask the process to end, and kill it when it has not after `grace_s`."""
        self._stopping.set()
        async with self._spawning:
            process = self._process
        if process is None:
            return
        self.send(self.program.stop_signal)
        try:
            async with asyncio.timeout(grace_s):
                await process.wait()
        except TimeoutError:
            log.warning("process did not stop in time and is killed", process=self.program.name)
            self.send(signal.SIGKILL)
            await process.wait()
        if self._watcher is not None:
            await self._watcher

    async def _spawn(self) -> None:
        program = self.program
        await asyncio.to_thread(program.prepare)
        command = await asyncio.to_thread(program.command)
        output = await asyncio.to_thread(self._open_log)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command, env=self._environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        finally:
            if output is not None:
                output.close()

    def _open_log(self) -> BinaryIO | None:
        if self.program.log_file is None:
            return None
        return self.program.log_file.open("wb")

    async def _watch(self) -> None:
        """Wait for the process to die and start it again, more slowly the more often it dies at once."""
        loop = asyncio.get_running_loop()
        failures = 0
        began = loop.time()
        while self._process is not None:
            status = await self._process.wait()
            if self._stopping.is_set():
                return
            failures = 0 if loop.time() - began > STEADY_S else failures + 1
            delay_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** max(0, failures - 1))
            name = self.program.name
            log.error("process died and is started again", process=name, status=status, delay_s=delay_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s)
            began = loop.time()
            async with self._spawning:
                if self._stopping.is_set():
                    return
                self.restarts += 1
                try:
                    await self._spawn()
                except Exception:  # whatever keeps it from starting now may be gone at the next try
                    log.exception("process could not be started", process=name)

    def _why(self, status: int) -> str:
        program = self.program
        if status == LOCKED:
            return f"{program.name} did not start: its data are in use by another process."
        said = ""
        if program.log_file is not None and program.log_file.exists():
            said = program.log_file.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        ending = f"signal {-status}" if status < 0 else f"status {status}"
        return f"{program.name} ended with {ending} before it was ready.\n{said}".rstrip()
