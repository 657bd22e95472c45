"""Who really calls, behind one's own proxies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client_address import REMEMBERED, TrustedProxies, scheme_of, trusting

OWN = ("10.0.0.0/8", "2001:db8:1::/48")


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("6.6.6.6, 203.0.113.7", "203.0.113.7"),
        ("6.6.6.6, 203.0.113.7, 10.2.0.1, 10.3.0.1", "203.0.113.7"),
        ("203.0.113.7:4711", "203.0.113.7"),
        ("[2001:db8:2::1]:4711", "2001:db8:2::1"),
        ("2001:DB8:2::1", "2001:db8:2::1"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("10.9.9.9, 10.2.0.1", "10.9.9.9"),
        ("unknown", "10.0.0.1"),
        ("203.0.113.7, unknown, 10.2.0.1", "10.2.0.1"),
        ("203.0.113.7, ", "10.0.0.1"),
        ('fe80::1%"}', "10.0.0.1"),
        ("203.0.113.7\r\nX: y", "10.0.0.1"),
        ("203.0.113.777", "10.0.0.1"),
    ],
)
def test_the_first_stranger_from_the_right_is_the_client(forwarded: str, client: str) -> None:
    """What stands left of it is its own invention, and what is no address ends the reading."""
    proxies = TrustedProxies(OWN)
    assert proxies.client("10.0.0.1", forwarded) == client
    assert proxies.client("10.0.0.1", forwarded) == client  # remembered


@given(st.lists(st.ip_addresses().map(str), max_size=4), st.ip_addresses(v=4))
def test_nobody_outside_can_choose_the_address(invented: list[str], real: object) -> None:
    """Whatever a client claims, the address that the trusted proxy saw is the one that counts."""
    proxies = TrustedProxies(OWN)
    if str(real) not in proxies:
        assert proxies.client("10.0.0.1", ",".join([*invented, str(real)])) == str(real)


def test_memory_is_bounded() -> None:
    """Fields that never repeat leave no more behind than the bound."""
    proxies = TrustedProxies(OWN)
    for number in range(REMEMBERED + 10):
        proxies.client("10.0.0.1", f"198.51.{number // 250}.{number % 250}")
    proxies.client("10.0.0.1", "1.1.1.1," * 1000)
    assert len(proxies._remembered) <= REMEMBERED


def test_nobody_is_trusted_by_default() -> None:
    """Without networks no peer is a proxy."""
    assert not trusting(())
    assert "10.0.0.1" not in trusting(())
    assert trusting(OWN) is trusting(OWN)
    assert "10.0.0.1" in trusting(OWN)
    assert "unknown" not in trusting(OWN)


@pytest.mark.parametrize(
    ("stated", "scheme"),
    [("https", b"https"), ("HTTP", b"http"), ("http, https", b"https"), ("ftp", b"http"), ("", b"http")],
)
def test_the_nearest_proxy_states_the_scheme(stated: str, scheme: bytes) -> None:
    """Only http and https are believed."""
    assert scheme_of(stated, b"http") == scheme
