"""Slow sockets by the hundred: `python -m benchmarks.slow_clients PORT KEY SOCKETS SECONDS`.

For so many seconds a socket that the gateway closes is opened anew, so that their number stands; then each
waits for its end. What it prints as JSON is, for each kind, how many were opened, how many the gateway
closed, and the longest life of one in seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import time
from dataclasses import asdict, dataclass

TARGET = "/service-json/GetItemInfo"
END_S = 180.0  # by when even the most patient deadline has passed
PIPELINED = 4
TCP_ESTABLISHED = 1


@dataclass
class Kind:
    """What became of the sockets of one kind."""

    opened: int = 0
    closed: int = 0
    longest_s: float = 0.0


class Attack:
    """All slow sockets, a fifth of each kind."""

    def __init__(self, port: int, key: str, seconds: float) -> None:
        self.port = port
        self.key = key
        self.until = time.monotonic() + seconds
        self.kinds = {
            name: Kind() for name in ("silent", "slow head", "slow body", "slow reader", "kept idle")
        }

    async def run(self, sockets: int) -> None:
        """Keep the sockets standing, then wait for the end of each."""
        names = list(self.kinds)
        await asyncio.gather(*(self._stand(names[number % len(names)]) for number in range(sockets)))

    async def _stand(self, name: str) -> None:
        kind = self.kinds[name]
        again = True
        while again:
            began = time.monotonic()
            kind.opened += 1
            if await self._one(name):
                kind.closed += 1
                kind.longest_s = max(kind.longest_s, time.monotonic() - began)
            again = time.monotonic() < self.until

    async def _one(self, name: str) -> bool:
        """Open a socket of a kind, and return whether the gateway closed it before the last deadline."""
        narrow = socket.socket()
        narrow.setblocking(False)
        if name == "slow reader":
            narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(END_S):
                await loop.sock_connect(narrow, ("127.0.0.1", self.port))
                await loop.sock_sendall(narrow, self._first(name))
                await self._linger(narrow, name)
        except TimeoutError:
            return False
        except OSError:
            return True
        finally:
            narrow.close()
        return True

    async def _linger(self, narrow: socket.socket, name: str) -> None:
        """Be slow until the other side closes."""
        loop = asyncio.get_running_loop()
        drips = {"slow head": (b"X", 1.0), "slow body": (b"a", 3.0)}
        if name == "slow reader":
            # A connection that was reset still gives what had arrived, so its end is asked of the system.
            while _stands(narrow) and await loop.sock_recv(narrow, 1):  # noqa: ASYNC110
                await asyncio.sleep(1.0)
            return
        reading = asyncio.ensure_future(self._read_on(narrow))
        try:
            while not reading.done():
                byte, pause_s = drips.get(name, (b"", 1.0))
                await asyncio.wait((reading,), timeout=pause_s)
                if byte and not reading.done():
                    await loop.sock_sendall(narrow, byte)
        finally:
            reading.cancel()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await reading

    async def _read_on(self, narrow: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while await asyncio.get_running_loop().sock_recv(narrow, 65536):
                pass

    def _first(self, name: str) -> bytes:
        """Return what a socket of a kind sends at once."""
        call = f"GET {TARGET}?instanceKey={self.key}&itemId=1 HTTP/1.1\r\nHost: a\r\n\r\n"
        texts = {
            "silent": "",
            "slow head": f"GET {TARGET} HTTP/1.1\r\nHost: a\r\nX-Slow: ",
            "slow body": f"POST {TARGET} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\n\r\n",
            "slow reader": call * PIPELINED,
            "kept idle": call,
        }
        return texts[name].encode()


def _stands(connection: socket.socket) -> bool:
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_ESTABLISHED


def main() -> None:
    """Run the attack that the arguments name."""
    port, key, sockets, seconds = sys.argv[1:]
    attack = Attack(int(port), key, float(seconds))
    asyncio.run(attack.run(int(sockets)))
    print(json.dumps({name: asdict(kind) for name, kind in attack.kinds.items()}))


if __name__ == "__main__":
    main()
