"""From where a key may be used."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.allow_lists import AllowLists, Networks, domain_of, network_of, site_of
from policies.decision import Reason, place_refusal


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 32))
def test_a_network_holds_what_its_bits_say(inside: object, other: object, length: int) -> None:
    """An address lies in a network exactly when the network's leading bits are its own."""
    network = ip_network(f"{inside}/{length}", strict=False)
    held = Networks([str(network)])
    assert str(inside) in held
    assert (str(other) in held) == (other in network)


@pytest.mark.parametrize(
    ("network", "address", "within"),
    [
        ("203.0.113.0/24", "203.0.113.255", True),
        ("203.0.113.0/24", "203.0.114.0", False),
        ("203.0.113.7", "203.0.113.7", True),
        ("203.0.113.7", "203.0.113.8", False),
        ("0.0.0.0/0", "::1", False),
        ("::/0", "1.2.3.4", False),
        ("203.0.113.0/24", "::ffff:203.0.113.9", True),
        ("2001:db8::/32", "2001:db8:ffff::1", True),
        ("2001:db8::/32", "2001:db9::1", False),
        ("0.0.0.0/0", "unknown", False),
        ("0.0.0.0/0", "", False),
        ("0.0.0.0/0", "1.2.3.4.", False),
        ("0.0.0.0/0", "0x7f.1", False),
    ],
)
def test_addresses_are_compared_as_numbers(network: str, address: str, within: bool) -> None:
    """IPv4 within IPv6 is IPv4, and what is no address lies in no network."""
    assert (address in Networks([network])) == within


@pytest.mark.parametrize(
    "text", ["", "203.0.113.1/24", "10.0.0.0/33", "shop.example", "::ffff:1.2.3.4/128", "10.*"]
)
def test_what_is_no_network_is_refused(text: str) -> None:
    """Bits behind the length, other spellings and names are refused with a right form."""
    with pytest.raises(ValueError, match="network"):
        network_of(text)


def test_networks_have_one_spelling() -> None:
    """A single address is a network of one, and IPv6 is written short."""
    assert network_of("203.0.113.7") == "203.0.113.7/32"
    assert network_of("2001:0DB8:0000::/32") == "2001:db8::/32"
    assert ip_address("203.0.113.7") in ip_network(network_of("203.0.113.7"))


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("shop.example", "shop.example"),
        (" Shop.Example. ", "shop.example"),
        ("магазин.рф", "xn--80aaalim6c9a.xn--p1ai"),
        ("a-b.shop.example", "a-b.shop.example"),
    ],
)
def test_domains_have_one_spelling(text: str, domain: str) -> None:
    """Letter case, a dot at the end and national letters make no difference."""
    if not text.isascii():
        domain = text.encode("idna").decode()
    assert domain_of(text) == domain


@pytest.mark.parametrize(
    "text",
    [
        "",
        "shop",
        "https://shop.example",
        "shop.example/path",
        "*.shop.example",
        "1.2.3.4",
        "a..b",
        "-a.example",
        "a b.example",
    ],
)
def test_what_is_no_domain_is_refused(text: str) -> None:
    """URLs, patterns, addresses and single words are refused with a right form."""
    with pytest.raises(ValueError, match="domain"):
        domain_of(text)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://shop.example", "shop.example"),
        ("http://WWW.Shop.Example:8080/cart?x=1#y", "www.shop.example"),
        ("https://shop.example./", "shop.example"),
        ("https://shop.example/\u0442", "shop.example"),
        ("https://shop.example@evil.example/", ""),
        ("https://evil.example\\@shop.example/", ""),
        ("https://evil.example/ https://shop.example/", ""),
        ("https://evil.example\n.shop.example", ""),
        ("ftp://shop.example/", ""),
        ("shop.example", ""),
        ("null", ""),
        ("", ""),
        ("https://[::1]/", ""),
        (None, ""),
    ],
)
def test_a_site_is_read_only_for_certain(url: str | None, host: str) -> None:
    """A URL that two readers could take for different sites names none."""
    assert site_of(url) == host


@pytest.mark.parametrize(
    ("origin", "referer", "allowed"),
    [
        ("https://shop.example", None, True),
        ("https://www.shop.example", None, True),
        (None, "https://deep.www.shop.example/page", True),
        ("https://shop.example.evil.example", None, False),
        ("https://notshop.example", None, False),
        ("https://evil.example", "https://shop.example/", False),
        ("null", "https://shop.example/", False),
        ("", "https://shop.example/", False),
        (None, None, False),
    ],
)
def test_a_site_list_holds_subdomains_and_nothing_else(
    origin: str | None, referer: str | None, allowed: bool
) -> None:
    """The Origin decides where there is one, else the Referer; a call that names no page is refused."""
    lists = AllowLists((), ("shop.example",))
    assert lists.allow_site(origin, referer) == allowed
    found = place_refusal(lists, "192.0.2.1", origin, referer)
    assert found == (None if allowed else Reason.SITE_NOT_ALLOWED)


def test_both_lists_have_to_agree() -> None:
    """The network is asked first; without an entry a list allows everything."""
    both = AllowLists(("203.0.113.0/24",), ("shop.example",))
    page = "https://shop.example"
    assert place_refusal(both, "203.0.113.7", page, None) is None
    assert place_refusal(both, "192.0.2.1", page, None) is Reason.ADDRESS_NOT_ALLOWED
    assert place_refusal(both, "203.0.113.7", None, None) is Reason.SITE_NOT_ALLOWED
    assert place_refusal(AllowLists((), ()), "unknown", None, None) is None
