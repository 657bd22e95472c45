"""Who really calls, when the connection comes from a proxy of one's own.

`X-Forwarded-For` is a claim: each proxy adds the address it saw at the right end. It is believed only as far
as the chain of trusted proxies reaches, so the first address from the right that is none of theirs is the
client, and whatever stands left of it is that client's own invention. Pure.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from policies.allow_lists import Networks, address_of

# An address, perhaps with the port that some proxies add. No zone: it may hold any text.
_ENTRY = re.compile(r"(?:([0-9.]+)(?::[0-9]{1,5})?|\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9A-Fa-f:.]+))\Z")
REMEMBERED = 4096  # values of the field; a client that sends more only loses the shortcut
REMEMBERED_LENGTH = 256


class TrustedProxies:
    """The networks of one's own proxies, and what was read of their fields before."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = Networks(networks)
        self._remembered: dict[str, str | None] = {}

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, address: str) -> bool:
        return address in self._networks

    def client(self, peer: str, forwarded_for: str) -> str:
        """Return the client's address that a trusted `peer` states, the field's lines joined by commas.

        What is no address ends the reading: behind it nothing can be known, and the nearest proxy that was
        reached stands for the client.
        """
        try:
            found = self._remembered[forwarded_for]
        except KeyError:
            found = self._read(forwarded_for)
            if len(forwarded_for) <= REMEMBERED_LENGTH:
                if len(self._remembered) >= REMEMBERED:
                    self._remembered.clear()
                self._remembered[forwarded_for] = found
        return peer if found is None else found

    def _read(self, forwarded_for: str) -> str | None:
        nearest = None
        for entry in reversed(forwarded_for.split(",")):
            address = _address(entry.strip())
            if address is None:
                break
            nearest = address
            if address not in self._networks:
                break
        return nearest


@functools.lru_cache(maxsize=8)
def trusting(networks: tuple[str, ...]) -> TrustedProxies:
    """Return the proxies in these networks, the same object for the same networks."""
    return TrustedProxies(networks)


def scheme_of(forwarded_proto: str, otherwise: bytes) -> bytes:
    """Return the scheme that a trusted proxy states of the client's connection, the last one of several."""
    last = forwarded_proto.rpartition(",")[2].strip().lower()
    return last.encode() if last in ("http", "https") else otherwise


def _address(entry: str) -> str | None:
    found = _ENTRY.match(entry)
    address = address_of(found.group(1) or found.group(2) or found.group(3)) if found is not None else None
    return None if address is None else str(address)
