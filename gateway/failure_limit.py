"""How often an address may fail to say who it is, before it is held off for the rest of a window.

Memory is bounded: of more addresses than fit, those are forgotten whose last failure is the longest ago.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address, IPv6Network

from policies.allow_lists import address_of

ADDRESSES_MAX = 10_000
IPV6_PREFIX = 64  # what one customer of a provider has to choose from


class FailureLimit:
    """`allowed` failures within `window_s` seconds for each address; times are the caller's, in seconds."""

    def __init__(self, allowed: int, window_s: float) -> None:
        self.allowed = allowed
        self.window_s = window_s
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def wait_s(self, address: str, now: float) -> float:
        """Return for how much longer an address is held off, 0 when it is not."""
        since, count = self._failures.get(_place(address), (now, 0))
        return max(0.0, self.window_s - (now - since)) if count >= self.allowed else 0.0

    def note(self, address: str, now: float) -> bool:
        """Count a failure; returns whether it is the one from which on the address is held off."""
        place = _place(address)
        since, count = self._failures.pop(place, (now, 0))
        if now - since >= self.window_s:
            since, count = now, 0
        self._failures[place] = (since, count + 1)
        if len(self._failures) > ADDRESSES_MAX:
            self._failures.popitem(last=False)
        return count + 1 == self.allowed

    def held(self, now: float) -> int:
        """Return how many addresses are held off."""
        return sum(
            count >= self.allowed and now - since < self.window_s for since, count in self._failures.values()
        )


def _place(address: str) -> str:
    """Return what failures are counted for: the address, of IPv6 the network that one customer has."""
    read = address_of(address)
    if isinstance(read, IPv6Address):
        return str(IPv6Network((int(read), IPV6_PREFIX), strict=False))
    return address
