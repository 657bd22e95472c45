"""Keys that may be used from some networks and sites only, on the wire."""

from __future__ import annotations

import pytest

from tests.origin import OK_JSON, Origin
from tests.rig import Rig


def get(key: str, *fields: str) -> bytes:
    """Return a call with further header fields."""
    lines = "".join(f"{field}\r\n" for field in fields)
    return f"GET /service-json/GetItemInfoList?instanceKey={key} HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode()


async def test_a_key_is_refused_outside_its_networks(path: Rig, upstream: Origin) -> None:
    """The refusal is OTAPI's CallFromIP, counted as denied; nothing is forwarded and no quota used."""
    key = await path.add_key(allow_networks=("203.0.113.0/24",))
    got = await path.send(get(key))
    assert got.json()["ErrorCode"] == "AccessDenied"
    assert got.json()["SubErrorCode"] == "CallFromIP"
    assert upstream.received == []
    assert await path.counts(key) == {"d:address_not_allowed": 1}


async def test_a_key_works_within_its_networks(path: Rig) -> None:
    """A call from a listed network is a call like any other."""
    key = await path.add_key(allow_networks=("203.0.113.0/24", "127.0.0.1/32"))
    assert (await path.send(get(key))).body == OK_JSON


async def test_a_change_of_the_list_holds_from_the_next_call_on(path: Rig) -> None:
    """Adding an address ends the refusal at once, taking it out begins it at once."""
    key = await path.add_key(allow_networks=("203.0.113.0/24",))
    assert (await path.send(get(key))).json()["ErrorCode"] == "AccessDenied"
    await path.change_key(key, allow_networks=("127.0.0.0/8",))
    assert (await path.send(get(key))).body == OK_JSON
    await path.change_key(key, allow_networks=("203.0.113.0/24",))
    assert (await path.send(get(key))).json()["ErrorCode"] == "AccessDenied"
    await path.change_key(key, allow_networks=())
    assert (await path.send(get(key))).body == OK_JSON


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        (("Origin: https://www.shop.example",), True),
        (("Referer: https://shop.example/cart",), True),
        (("origin: https://evil.example", "Referer: https://shop.example/"), False),
        (("Origin: https://shop.example", "Origin: https://shop.example"), False),
        (("Referer: https://evil.example/?https://shop.example/",), False),
        ((), False),
    ],
)
async def test_a_key_is_used_from_its_sites_only(path: Rig, fields: tuple[str, ...], allowed: bool) -> None:
    """The page has to be one of the site's, named once and plainly."""
    key = await path.add_key(allow_domains=("shop.example",))
    got = await path.send(get(key, *fields))
    assert (got.body == OK_JSON) == allowed
    if not allowed:
        assert (await path.counts(key))["d:site_not_allowed"] == 1


async def test_a_stranger_learns_nothing_of_how_the_key_stands(path: Rig) -> None:
    """From outside the list a suspended key is refused for the place, not for its standing."""
    key = await path.add_key(allow_networks=("203.0.113.0/24",), suspended=True)
    assert (await path.send(get(key))).json()["SubErrorCode"] == "CallFromIP"


async def test_a_wrong_signature_is_told_before_a_wrong_place(path: Rig) -> None:
    """Who does not know the secret hears of the signature alone."""
    key = await path.add_key(allow_networks=("203.0.113.0/24",), signing_secret="sealed:word")
    assert (await path.send(get(key))).json()["ErrorCode"] == "AccessDenied"
