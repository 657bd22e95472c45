"""The machine under measurement: which core runs what, and what a process has used of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.leashing import leashed

START_DEADLINE_S = 20.0
STOP_DEADLINE_S = 10.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class StartError(Exception):
    """A process that a measurement needs ended or stayed silent; the text says what it wrote."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The cores of the measured proxy, and those of everything else."""

    proxy: frozenset[int]
    rest: frozenset[int]

    @property
    def sentence(self) -> str:
        """Say where things run."""
        if self.proxy == self.rest:
            return "There is only one core: all share it, and the figures mean little."
        rest = ", ".join(map(str, sorted(self.rest)))
        return f"The proxy runs on core {min(self.proxy)}; load, upstream and Redis on core {rest}."


def layout() -> Layout:
    """Give the proxy the first core this process may use, and the second one to the rest.

    Further cores stay unused, so that figures of a larger machine can be compared with those of a small one.
    """
    cores = sorted(os.sched_getaffinity(0))
    return Layout(frozenset(cores[:1]), frozenset(cores[1:2] or cores[:1]))


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def placed_on(cores: frozenset[int]) -> Iterator[None]:
    """Let processes that are started in the block run on `cores` only.

    A child inherits its parent's affinity from its first instruction on, its later threads included.
    """
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


class Process:
    """A pinned child process whose output goes to a file; stop it with `stop`, or leave the `with` block.

    It is started as the supervisor starts what it starts: in a session of its own, for Linux may share the
    cores out among sessions, and bound to this process, so that it ends with it however that ends.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        cores: frozenset[int],
        folder: Path,
        env: Mapping[str, str] | None = None,
        turn_ns: int = 0,
    ) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        environ = dict(os.environ) | dict(env or {})
        with placed_on(cores), self._log.open("wb") as log:
            self._child = subprocess.Popen(
                leashed(
                    [shutil.which(command[0]) or command[0], *command[1:]],
                    on_parent_death=signal.SIGTERM,
                    turn_ns=turn_ns,
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ,
                cwd=_ROOT,
            )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Return the process id of the child itself."""
        return self._child.pid

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready()` holds; otherwise ends the process and raises StartError with what it wrote."""
        deadline = time.monotonic() + START_DEADLINE_S
        try:
            while not ready():
                if self._child.poll() is not None or time.monotonic() > deadline:
                    told = self._log.read_text(errors="replace")[-2000:]
                    raise StartError(f"{self.name} did not start. It wrote:\n{told}")
                time.sleep(0.02)
        except BaseException:
            self.stop()
            raise

    def wait_for_port(self, port: int) -> None:
        """Wait until the process listens on a port of the loopback interface."""
        self.wait_until(lambda: accepts(port))

    def stop(self) -> None:
        """End the process in good order, and by force when it does not follow."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
            try:
                self._child.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()

    def cpu_s(self) -> float:
        """Return the CPU seconds that the process and its descendants have used so far."""
        return sum(self.cpu_parts_s())

    def cpu_parts_s(self) -> tuple[float, float]:
        """Return what of it was spent in the processes themselves, and what in the system for them."""
        parts = [_cpu_parts_s(pid) for pid in _family(self.pid)]
        return sum(user for user, _ in parts), sum(system for _, system in parts)

    def memory_bytes(self) -> int:
        """Return the memory of the process and its descendants, shared pages divided among their users."""
        return sum(_memory_bytes(pid) for pid in _family(self.pid))


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def accepts(port: int) -> bool:
    """Say whether somebody listens on a port of the loopback interface."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


_ROOT = Path(__file__).resolve().parents[1]


def _family(pid: int) -> list[int]:
    found, waiting = [], [pid]
    while waiting:
        member = waiting.pop()
        found.append(member)
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            try:
                waiting += map(int, children.read_text().split())
            except OSError:
                continue  # the thread has just ended
    return found


def _cpu_parts_s(pid: int, *, with_ended: bool = False) -> tuple[float, float]:
    try:
        # The second field is the name in parentheses, which may hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0, 0.0
    ticks = [int(each) for each in fields[11 : 15 if with_ended else 13]]  # user, system, those of ended ones
    return sum(ticks[::2]) / _TICKS_PER_S, sum(ticks[1::2]) / _TICKS_PER_S


def _memory_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def cpu_s_by_program() -> dict[str, float]:
    """Return the CPU seconds of all processes below this one by the name of their program.

    What a process has ended counts as its own.
    """
    used: dict[str, float] = {}
    for pid in _family(os.getpid())[1:]:
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            continue
        used[name] = used.get(name, 0.0) + sum(_cpu_parts_s(pid, with_ended=True))
    return used


def busy_s(cores: frozenset[int]) -> float:
    """Return the seconds for which `cores` have worked for anybody, a hypervisor's other guests too."""
    lines = Path("/proc/stat").read_text().splitlines()
    names = {f"cpu{core}" for core in cores}
    total = 0
    for line in lines:
        name, *ticks = line.split()
        if name in names:
            user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, ticks[:8])
            total += user + nice + system + irq + softirq + steal
    return total / _TICKS_PER_S
