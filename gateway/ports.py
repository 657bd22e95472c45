"""Questions about addresses: may something listen there, does something, and which port is free."""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Callable
from pathlib import Path

POLL_S = 0.1
# An address for everybody is no address to connect to.
_REACHABLE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - recognised, not bound


class PortError(Exception):
    """Nothing can listen at an address; the message says why and what to do."""


def reachable(host: str) -> str:
    """Return the address at which this machine reaches a listener on `host`."""
    return _REACHABLE.get(host, host)


def check_port(setting: str, host: str, port: int, *, patience_s: float = 0.0) -> None:
    """Raise PortError when nothing can listen there; workers share a port and would not notice another's."""
    ends = time.monotonic() + patience_s
    while True:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                return
            except OSError as error:
                if error.errno == errno.EADDRINUSE and time.monotonic() < ends:
                    time.sleep(POLL_S)
                    continue
                reason = {
                    errno.EADDRINUSE: "another program listens there. End it, or choose another port",
                    errno.EACCES: "this user may not listen there. Choose a port from 1024 on",
                    errno.EADDRNOTAVAIL: "this machine does not have that address. Choose one that it has",
                }.get(error.errno or 0, f"{error.strerror}. Choose another address")
                raise PortError(f"{host}:{port} cannot be used: {reason} in [server] {setting}.") from error


def listens(host: str, port: int) -> Callable[[], bool]:
    """Return a question whether anybody accepts connections there."""

    def ask() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((reachable(host), port), timeout=1.0):
            return True
        return False

    return ask


def answers(path: Path) -> bool:
    """Say whether a process accepts connections on a Unix socket."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        client.connect(str(path))
        return True
    return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
