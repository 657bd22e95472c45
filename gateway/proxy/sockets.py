"""What the system holds for a connection: asked for and let go when a client does not read."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import socket
import struct
import termios

_NO_LINGERING = struct.pack("ii", 1, 0)


def unread_bytes(transport: asyncio.Transport) -> int:
    """Return how many bytes the system has sent or keeps that the other side has not acknowledged."""
    found = array.array("i", [0])
    connection = _standing(transport)
    if connection is not None:
        with contextlib.suppress(OSError):
            fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, found)
    return found[0]


def reset(transport: asyncio.Transport) -> None:
    """Close a connection with what the system still keeps for it, which can be megabytes.

    Without this the system would go on to offer it to a client that does not read, long after the process has
    forgotten the connection.
    """
    connection = _standing(transport)
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
    transport.abort()


def _standing(transport: asyncio.Transport) -> socket.socket | None:
    """Return a connection's socket; None once it is closed, when uvloop has none or one without a number."""
    connection: socket.socket | None = transport.get_extra_info("socket")
    return None if connection is None or connection.fileno() < 0 else connection
