"""What a request's head may say without being refused, and what of it counts."""

from __future__ import annotations

import pytest

from tests.origin import OK_JSON, Origin
from tests.rig import Rig

OFFER = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {}\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"


def get(key: str, extra: str = "", target: str = "/service-json/GetItemInfoList") -> bytes:
    """Return a plain call."""
    return f"GET {target}?instanceKey={key} HTTP/1.1\r\nHost: a\r\n{extra}\r\n".encode()


async def test_an_offer_of_http_2_is_passed_over(path: Rig, upstream: Origin) -> None:
    """Clients that offer HTTP/2 with their first request are answered in HTTP/1.1, and so are the requests
    behind it; the upstream sees nothing of the offer."""
    key = await path.add_key()
    form = f"instanceKey={key}&itemId=1"
    post = (
        "POST /service-json/GetItemFullInfo HTTP/1.1\r\nHost: a\r\n" + OFFER.format("H2C") +
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(form)}\r\n\r\n{form}"
    )  # fmt: skip
    async with path.client() as client:
        client.writer.write(
            get(key, OFFER.format("h2c")) + post.encode() + get(key, OFFER.format("h2c")) * 400
        )
        for _ in range(402):
            assert (await client.read()).body == OK_JSON
        assert (await client.send(get(key))).body == OK_JSON
    assert upstream.received[1].body == form.encode()
    names = {name.lower() for request in upstream.received for name, _ in request.headers}
    assert names.isdisjoint({b"upgrade", b"http2-settings", b"connection"})


@pytest.mark.parametrize(
    "wanted", ["websocket", "h2c, websocket", "h2c\r\nUpgrade: websocket", "TLS/1.2", "h2"]
)
async def test_other_upgrades_are_refused(path: Rig, upstream: Origin, wanted: str) -> None:
    """A client that wants another protocol is told that there is none, and the connection closes."""
    key = await path.add_key()
    async with path.client() as client:
        got = await client.send(get(key, OFFER.format(wanted)))
        assert (got.status, got.header("connection")) == (501, "close")
        assert await client.at_end()
    assert upstream.received == []


async def test_listed_fields_identify_nothing(path: Rig, upstream: Origin) -> None:
    """A key in a field that Connection lists, or in a name with an underscore, is no key, as the upstream
    would not see it; nor is a form a form whose type it would not see."""
    key = await path.add_key()
    anonymous = get("").replace(b"?instanceKey=", b"")
    for fields in (
        f"Connection: X-Rapidapi-Key\r\nX-Rapidapi-Key: {key}\r\n",
        f"Connection: close\r\nConnection: a, x-rapidapi-KEY\r\nX-Rapidapi-Key: {key}\r\n",
        f"X_Rapidapi_Key: {key}\r\n",
    ):
        got = await path.send(anonymous[:-2] + fields.encode() + b"\r\n")
        assert got.json()["ErrorCode"] == "AccessDenied"
    form = f"instanceKey={key}"
    form_type = "application/x-www-form-urlencoded"
    for field in ("Connection: Content-Type\r\nContent-Type", "Content_Type"):
        got = await path.send(
            f"POST /service-json/GetItemInfo HTTP/1.1\r\nHost: a\r\n{field}: {form_type}\r\n"
            f"Content-Length: {len(form)}\r\n\r\n{form}".encode()
        )
        assert got.json()["ErrorCode"] == "AccessDenied"
    assert upstream.received == []
    assert (await path.send(anonymous[:-2] + f"X-Rapidapi-Key: {key}\r\n\r\n".encode())).body == OK_JSON


@pytest.mark.parametrize(
    "rest",
    ["a%2f..%2fsearch", "..%2fsearch", "a/%2e%2e;x/search", "a/.%20/b", "v1%2fsearch", "a;b=c/search",
     "a%3b/b", "a%3fb", "%c0%ae%c0%ae/search", "a%c0%afb", "a%c1%9cb", "a%e0%80%afb", "a\\b", "a/. /b"],
)  # fmt: skip
async def test_a_rest_path_that_servers_read_differently_is_refused(
    path: Rig, upstream: Origin, rest: str
) -> None:
    """Where the whole path is the method, no server can be led to another one than was identified."""
    key = await path.add_key()
    got = await path.send(
        f"GET /rest/{rest} HTTP/1.1\r\nHost: a\r\nX-Api-Key: {key}\r\n\r\n".encode("latin-1")
    )
    assert (got.status, got.json()["reason"]) == (400, "unreadable")
    assert upstream.received == []
