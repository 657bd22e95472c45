"""Listening sockets that outlive the processes that accept on them.

The kernel drops what waits in the queue of a listening socket when its last descriptor is closed, and it
closes the descriptors of a process that dies. So the supervisor opens the sockets, keeps them for as long as
the program runs, and hands each one to the process of its place: a connection that nobody has accepted yet
waits for the next process of that place.

The kernel shares new connections out among the sockets of a port. On Linux it is told to leave out those
whose process is away, so that nobody waits while a worker is started again
(docs/decisions/0016-the-supervisor-keeps-the-listening-sockets.md).
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import sys
from collections.abc import Collection

BACKLOG = 1024  # connections that wait to be accepted, on each socket

# From <linux/filter.h>, <linux/bpf_common.h> and <asm-generic/socket.h>.
_SO_ATTACH_REUSEPORT_CBPF, _SO_DETACH_REUSEPORT_BPF = 51, 68
_LOAD_WORD, _MODULO, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x94, 0x15, 0x06
_RANDOM = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM


def listening_socket(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Open a socket that connections can wait at; with `shared` further ones can be opened on the port."""
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.bind((host, port))
        opened.listen(BACKLOG)
    except BaseException:
        opened.close()
        raise
    return opened


class Listeners:
    """The sockets of one port, by the place of the process that accepts on each."""

    def __init__(self, host: str, port: int) -> None:
        """Keep the address; nothing is opened."""
        self._address = host, port
        self._sockets: list[socket.socket] = []
        self._serving: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self._sockets)

    def descriptor(self, place: int) -> int:
        """Return the descriptor of a place's socket, opening those up to it."""
        while len(self._sockets) <= place:
            self._sockets.append(listening_socket(*self._address, shared=True))
            self._steer()
        return self._sockets[place].fileno()

    def serve(self, places: Collection[int]) -> None:
        """Let new connections go to these places only; to all of them when none is left."""
        serving = frozenset(places)
        if serving != self._serving:
            self._serving = serving
            self._steer()

    def keep(self, count: int) -> None:
        """Close the sockets of the places from `count` on; what waits there is lost."""
        while len(self._sockets) > count:
            self._sockets.pop().close()  # the last one: the kernel numbers them in the order of their opening
        self._steer()

    def close(self) -> None:
        """Close all sockets; processes that have them go on accepting."""
        while self._sockets:
            self._sockets.pop().close()

    def _steer(self) -> None:
        if sys.platform != "linux" or not self._sockets:
            return
        chosen = sorted(self._serving & set(range(len(self._sockets))))
        first = self._sockets[0]
        if not chosen or len(chosen) == len(self._sockets):
            with contextlib.suppress(OSError):  # there was none
                first.setsockopt(socket.SOL_SOCKET, _SO_DETACH_REUSEPORT_BPF, 0)
            return
        program = _choice(chosen)
        code = ctypes.create_string_buffer(program, len(program))
        header = struct.pack("HP", len(program) // 8, ctypes.addressof(code))
        with contextlib.suppress(OSError):  # a kernel without it shares out by a hash, as it did before
            first.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, header)


def _choice(places: list[int]) -> bytes:
    """Return a filter program that gives one of the places at random."""
    steps = [(_LOAD_WORD, 0, 0, _RANDOM), (_MODULO, 0, 0, len(places))]
    for number, place in enumerate(places):
        steps += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, place)]
    steps.append((_RETURN, 0, 0, places[0]))
    return b"".join(struct.pack("HBBI", *step) for step in steps)
