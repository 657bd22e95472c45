"""From where a key may be used: the networks of its callers, and the sites whose pages may call with it.

Both lists are off until a key has one. A network list holds against whoever stole a key; a list of sites only
against pages of other sites in an honest browser, since a program may state any Origin it likes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

LIST_MAX = 64  # entries of one list, so that the check of a call stays short

_DOMAIN = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{2,63}\Z")
# No user, no backslash, no blank: what two readers could take for different hosts names none.
_SITE = re.compile(
    r"https?://([a-z0-9.-]{1,253})(?::[0-9]{1,5})?(?:[/?#][\x21-\x7e\x80-\uffff]*)?\Z", re.IGNORECASE
)


class Networks:
    """A set of networks that an address may lie in."""

    __slots__ = ("_ranges",)

    def __init__(self, networks: Iterable[str]) -> None:
        """Read networks such as `10.0.0.0/8` or single addresses; raises ValueError for anything else."""
        self._ranges: list[tuple[int, int, int]] = []
        for text in networks:
            network = ip_network(network_of(text))
            bounds = int(network.network_address), int(network.broadcast_address)
            self._ranges.append((network.version, *bounds))

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def __contains__(self, address: str) -> bool:
        """Say whether an address lies in one of them; what is no address lies in none."""
        read = address_of(address)
        if read is None:
            return False
        version, number = read.version, int(read)
        return any(version == kind and first <= number <= last for kind, first, last in self._ranges)


class AllowLists:
    """The lists of one key, read once; without an entry a list allows everything."""

    __slots__ = ("_domains", "_networks")

    def __init__(self, networks: Sequence[str], domains: Sequence[str]) -> None:
        self._networks = Networks(networks)
        self._domains = frozenset(domains)

    def allow_address(self, address: str) -> bool:
        """Say whether a caller with this address may use the key."""
        return not self._networks or address in self._networks

    def allow_site(self, origin: str | None, referer: str | None) -> bool:
        """Say whether a page may use the key that its Origin names, or without one its Referer."""
        if not self._domains:
            return True
        host = site_of(origin if origin is not None else referer)
        while host:
            if host in self._domains:
                return True
            _, _, host = host.partition(".")
        return False


def network_of(text: str) -> str:
    """Return a network in its usual spelling; raises ValueError that shows a right form."""
    try:
        network = ip_network(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no network: write it as 203.0.113.0/24 or 2001:db8::/32, with no bits set behind "
            "its length, or as a single address"
        ) from None
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError(f"{text!r} must be written as an IPv4 network")
    return str(network)


def domain_of(text: str) -> str:
    """Return a domain in lower case, an international one in its form for DNS; raises ValueError."""
    folded = text.strip().lower().removesuffix(".")
    try:
        domain = folded.encode("idna").decode("ascii")
    except UnicodeError:
        domain = ""
    if not _DOMAIN.match(domain) or address_of(domain) is not None:
        raise ValueError(
            f"{text!r} is no domain: write it as shop.example, without https:// and without a path"
        )
    return domain


def address_of(text: str) -> IPv4Address | IPv6Address | None:
    """Read an address, IPv4 within IPv6 as IPv4; None for what is none, and for one with a zone."""
    if "%" in text:
        return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def site_of(url: str | None) -> str:
    """Return the host of an Origin or Referer in lower case, empty for what names no site for certain."""
    found = _SITE.match(url) if url is not None else None
    return found.group(1).lower().removesuffix(".") if found is not None else ""
