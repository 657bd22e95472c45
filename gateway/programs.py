"""The Python programs that the supervisor runs, and how each says that it is up."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

from gateway.leashing import leashed
from gateway.ports import listens


@dataclass(slots=True)
class Process:
    """A module of this installation that makes a file when it does its work (`announce`).

    Every life has a file of its own, so a new process is not taken for ready because an old one still is.
    """

    name: str
    module: str
    run_dir: Path
    arguments: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()
    retire_signal: signal.Signals = signal.SIGTERM
    stop_signal: signal.Signals = signal.SIGTERM
    log_file: Path | None = None
    nice: int = 0
    turn_ns: int = 0
    _life: int = field(default=0, init=False)

    @property
    def _ready(self) -> Path:
        return self.run_dir / f"{self.name.replace(' ', '-')}-{self._life}.ready"

    def prepare(self) -> None:
        """Begin a new life."""
        self._ready.unlink(missing_ok=True)
        self._life += 1
        self._ready.unlink(missing_ok=True)

    def command(self) -> list[str]:
        """Return the command line, on a leash."""
        line = [sys.executable, "-m", self.module, "--ready", str(self._ready), *self.arguments]
        return leashed(line, on_parent_death=self.stop_signal, nice=self.nice, turn_ns=self.turn_ns)

    def is_ready(self) -> bool:
        """Say whether this life's process has announced itself."""
        return self._ready.exists()


def announce(ready: Path | None) -> None:
    """Tell the supervisor that this process does its work."""
    if ready is not None:
        ready.touch()


class Marketplace:
    """The demo marketplace, which is somebody else's program: it is up when its port answers."""

    name = "demo"
    stop_signal = retire_signal = signal.SIGTERM
    descriptors = ()
    log_file = None

    def __init__(self, port: int) -> None:
        """Keep the port."""
        self._port = port
        self._listens = listens("127.0.0.1", port)

    def prepare(self) -> None:
        """Nothing has to be made."""

    def command(self) -> list[str]:
        """Return the command line, on a leash."""
        line = [sys.executable, "-m", "demo", "--port", str(self._port)]
        return leashed(line, on_parent_death=self.stop_signal)

    def is_ready(self) -> bool:
        """Say whether it answers."""
        return self._listens()
