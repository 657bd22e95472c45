from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.identify import Parts
from gateway.proxy.key_out import NEEDLESS_ESCAPE, rewrite
from gateway.proxy.requests import Framing
from gateway.proxy.signature import verify
from gateway.settings import KeyOut, Route, UpstreamCredential
from tests.gateway.proxy.calls import FORM, HOST, KEY, OFFICIAL, found, get, post, route_of

NOW = 1_795_000_000.0
OWN = "the/seller's+own key"
QUOTED = quote(OWN, safe="").encode()

PASS = route_of()
STRIP = route_of(key_out=KeyOut.STRIP)
REPLACE = route_of(key_out=KeyOut.REPLACE, credential=UpstreamCredential(OWN))
SIGNING = route_of(key_out=KeyOut.REPLACE, credential=UpstreamCredential(OWN, "upstream secret"))

SEARCH = "/service-json/SearchItemsFrame"
XML = quote(OFFICIAL, safe="")
XML_WITH_KEY = quote(OFFICIAL.replace("<Provider>", f"<ItemTitle>{KEY}</ItemTitle><Provider>"), safe="")

ROOTS = "/service-json/GetRootCategoryInfoList"


def test_passing_copies_nothing() -> None:
    """On a route that passes the key, target, headers and body are the very objects that came in."""
    parts = post(f"{ROOTS}?instanceKey={KEY}", f"instanceKey={KEY}".encode())
    target, headers, body = rewrite(PASS, parts, found(parts), NOW)
    assert target is parts.target
    assert headers is parts.headers
    assert body is parts.body


@pytest.mark.parametrize(
    ("query", "stripped"),
    [
        (f"?instanceKey={KEY}", ""),
        (f"?instanceKey={KEY}&a=%7e&b", "?a=%7e&b"),
        (f"?a=%7E&instanceKey={KEY}&&b=+", "?a=%7E&&b=+"),
        (f"?a=к&b=%D0%BA&instanceKey={KEY}", "?a=к&b=%D0%BA"),
        (f"?INSTANCEKEY={KEY}&a=1", "?a=1"),
        (f"?instanceKey={KEY}&a=1&instance%4Bey={KEY}", "?a=1"),
        (f"?instanceKey=%30{KEY[1:]}&a=1", "?a=1"),
        (f"?instanceKey={KEY}&copy={KEY}&url=http%3A%2F%2Fx%2F%3Fk%3D{KEY}&a=1", "?a=1"),
        (f"?instanceKey={KEY}&copy=%30{KEY[1:]}&a=1", "?a=1"),
    ],
)
def test_stripping_takes_the_key_out_of_a_query(query: str, stripped: str) -> None:
    """The key goes in every spelling and wherever it is repeated; all other bytes stay, in their order."""
    parts = get(ROOTS + query)
    target, headers, body = rewrite(STRIP, parts, found(parts, STRIP), NOW)
    assert target == (ROOTS + stripped).encode()
    assert headers == parts.headers
    assert body is None


@pytest.mark.parametrize(
    ("rest", "stripped"),
    [
        (f"xmlParameters={XML}&a=1", f"xmlParameters={XML}&a=1"),
        (f"xmlParameters={XML}&copy=%30{KEY[1:]}&a=1", f"xmlParameters={XML}&a=1"),
        (f"a=%30{KEY[1:]}{XML}&xmlParameters={XML}&b={XML}", f"xmlParameters={XML}&b={XML}"),
        (f"%30{KEY[1:]}={XML}&xmlParameters={XML}&b=%7e{XML}", f"xmlParameters={XML}&b=%7e{XML}"),
        (f"xmlParameters={XML_WITH_KEY}&a=1", "a=1"),
        (f"xmlParameters={XML_WITH_KEY.replace(KEY[0], f'%{ord(KEY[0]):x}', 1)}&a=1", None),
    ],
)
def test_a_document_that_is_plain_hides_no_key_beside_it(rest: str, stripped: str | None) -> None:
    """Escapes that hide a key are seen in all parameters, whichever of them is known to hold none."""
    for parts in (
        get(f"{SEARCH}?instanceKey={KEY}&{rest}"),
        post(SEARCH, f"instanceKey={KEY}&{rest}".encode()),
    ):
        for _ in range(5):  # a document that has to be decoded lets the next few be decoded too
            identified = found(parts, STRIP)
        target, _, body = rewrite(STRIP, parts, identified, NOW)
        sent = target.partition(b"?")[2] if body is None else body
        assert KEY.encode() not in unquote_to_bytes(sent)
        if stripped is not None:
            assert sent == stripped.encode()


UUID = "58d83a57-5f1c-4801-8569-03ef96c42217"


@pytest.mark.parametrize(
    "copy",
    [
        UUID,
        UUID.replace("-", "%2D"),
        UUID.replace("-", "%2d", 1),
        UUID.replace("0", "%30"),
        UUID.replace("-", "%2D").replace("f", "%66"),
        f"<{UUID}>",
        f"%3C{UUID}%3E",
    ],
)
@pytest.mark.parametrize("first", ["", "xmlParameters=" + XML + "&"])
def test_a_key_with_hyphens_is_taken_out_wherever_it_is_repeated(copy: str, first: str) -> None:
    """However its hyphens and letters are written, a copy of a UUID goes, and what resembles it stays."""
    alike = UUID.replace("-", "") + "&b=" + UUID.rpartition("-")[2] + "&c=" + UUID[:-1]
    parts = get(f"{ROOTS}?instanceKey={UUID}&{first}a={copy}&x={alike}")
    target, _, _ = rewrite(STRIP, parts, found(parts, STRIP), NOW)
    assert target == f"{ROOTS}?{first}x={alike}".encode()


def test_a_key_in_fields_that_are_repeated_is_taken_out() -> None:
    """Fields that say nothing of the call are looked through for the key of each call that they come with."""
    kept = (b"Cookie", b"session=1")
    fields = ((b"User-Agent", f"shop {UUID}".encode()), kept)
    framing = Framing(fields, fields, True, None, False, False)
    for key, left in ((KEY, fields), (UUID, (kept,)), ("another-key", fields)):
        parts = Parts("GET", f"{ROOTS}?instanceKey={key}".encode(), fields, None, True, framing)
        _, headers, _ = rewrite(STRIP, parts, found(parts, STRIP), NOW)
        assert tuple(headers) == left


def test_stripping_takes_the_key_out_of_a_form_and_headers() -> None:
    """The key goes from the form and from every header that holds it."""
    parts = post(
        f"{ROOTS}?a=1",
        f"b=2&instanceKey={KEY}&c=%7e".encode(),
        (b"X-RapidAPI-Key", KEY.encode()),
        (b"Referer", f"https://shop.example/?instanceKey={KEY}".encode()),
        (b"Accept", b"*/*"),
    )
    target, headers, body = rewrite(STRIP, parts, found(parts, STRIP), NOW)
    assert target == f"{ROOTS}?a=1".encode()
    assert body == b"b=2&c=%7e"
    assert [name for name, _ in headers] == [b"Host", b"Content-Type", b"Accept"]


def test_an_authorization_that_is_no_key_stays() -> None:
    """A route with bearer keys takes the bearer token out, and leaves another scheme's field alone."""
    route = route_of(key_in=("bearer", "header:x-api-key"), key_out=KeyOut.STRIP)
    parts = get(ROOTS, (b"Authorization", b"Bearer " + KEY.encode()))
    assert rewrite(route, parts, found(parts, route), NOW)[1] == [HOST]
    parts = get(ROOTS, (b"Authorization", b"Basic dTpw"), (b"X-Api-Key", KEY.encode()))
    assert rewrite(route, parts, found(parts, route), NOW)[1] == [HOST, (b"Authorization", b"Basic dTpw")]


def test_replacing_swaps_the_key_in_place() -> None:
    """The route's own key stands where the client's stood, encoded where it has to be."""
    parts = post(
        f"{ROOTS}?a=1&instanceKey={KEY}&b=%7e",
        f"x=1&instanceKey={KEY}&y=".encode(),
        (b"x-rapidapi-key", KEY.encode()),
    )
    target, headers, body = rewrite(REPLACE, parts, found(parts, REPLACE), NOW)
    assert target == f"{ROOTS}?a=1&instanceKey=".encode() + QUOTED + b"&b=%7e"
    assert body == b"x=1&instanceKey=" + QUOTED + b"&y="
    assert headers == [HOST, FORM, (b"x-rapidapi-key", OWN.encode())]


def test_replacing_keeps_an_authorization_in_its_form() -> None:
    """A bearer token stays one, and a Credential keeps its scope."""
    route = route_of(
        key_in=("bearer", "aws_credential"), key_out=KeyOut.REPLACE, credential=UpstreamCredential("own")
    )
    parts = get(ROOTS, (b"Authorization", b"Bearer " + KEY.encode()))
    assert rewrite(route, parts, found(parts, route), NOW)[1][1] == (b"Authorization", b"Bearer own")
    aws = f"AWS4-HMAC-SHA256 Credential={KEY}/20261121/x/y/aws4_request, Signature=00".encode()
    parts = get(ROOTS, (b"Authorization", aws))
    assert rewrite(route, parts, found(parts, route), NOW)[1][1][1] == aws.replace(KEY.encode(), b"own")


@pytest.mark.parametrize("stale", [{}, {"timestamp": "20200101000000", "signature": "00"}])
def test_replaced_calls_are_signed_anew(stale: dict[str, str]) -> None:
    """A signed call leaves with the gateway's timestamp and a signature that the upstream verifies."""
    rest = {"xmlParameters": OFFICIAL, **stale}
    form = {"instanceKey": KEY, **rest}
    for parts in (
        get("/service/SearchItemsFrame?" + urlencode(form)),
        post("/service/SearchItemsFrame", urlencode(form).encode()),
        post(f"/service/SearchItemsFrame?instanceKey={KEY}", urlencode(rest).encode()),
    ):
        target, headers, body = rewrite(SIGNING, parts, found(parts, SIGNING), NOW)
        sent = found(Parts(parts.http_method, target, headers, body, True))
        assert sent.credential == OWN
        assert verify(sent, "upstream secret", NOW, 1.0) is None
        assert sent.reading == found(parts).reading


def test_a_call_without_parameters_can_be_signed() -> None:
    """A call whose key came in a header gets timestamp and signature in its query."""
    parts = get(ROOTS, (b"x-rapidapi-key", KEY.encode()))
    target, headers, _ = rewrite(SIGNING, parts, found(parts, SIGNING), NOW)
    sent = found(Parts("GET", target, headers, None, True))
    assert verify(sent, "upstream secret", NOW, 1.0) is None


def test_a_streamed_body_is_left_alone() -> None:
    """Where the body was not buffered, only target and headers are rewritten."""
    parts = Parts(
        "POST", f"{ROOTS}?instanceKey={KEY}".encode(), [(b"Content-Type", b"image/png")], None, False
    )
    target, _, body = rewrite(STRIP, parts, found(parts, STRIP), NOW)
    assert target == ROOTS.encode()
    assert body is None


def test_an_envelope_is_rid_of_the_key() -> None:
    """A JSON-RPC client that repeats its key in the parameters does not pass it on."""
    body = f'{{"method":"GetRootCategoryInfoList","params":{{"instanceKey":"{KEY}"}}}}'.encode()
    for key_out, credential, left in (
        (KeyOut.STRIP, None, b""),
        (KeyOut.REPLACE, UpstreamCredential("own"), b"own"),
    ):
        route = route_of(method_from=("json_rpc",), key_out=key_out, credential=credential)
        parts = post(f"/rpc?instanceKey={KEY}", body, (b"Content-Type", b"application/json"))
        assert rewrite(route, parts, found(parts, route), NOW)[2] == body.replace(KEY.encode(), left)


@given(
    st.lists(st.binary(max_size=12).filter(lambda data: b"&" not in data and b"#" not in data), max_size=6),
    st.integers(0, 6),
    st.sampled_from([STRIP, REPLACE]),
)
def test_all_other_bytes_survive(segments: list[bytes], at: int, route: Route) -> None:
    """Whatever else a query holds arrives byte for byte and in its order."""
    harmless = [segment for segment in segments if b";" not in segment]
    own = [b"instanceKey=" + QUOTED] if route is REPLACE else []
    parts = get(
        b"/service/GetItemFullInfo?"
        + b"&".join([*harmless[:at], b"instanceKey=" + KEY.encode(), *harmless[at:]])
    )
    target, _, _ = rewrite(route, parts, found(parts, route), NOW)
    assert target.partition(b"?")[2] == b"&".join([*harmless[:at], *own, *harmless[at:]])


def test_the_clients_key_never_leaves() -> None:
    """Neither stripping nor replacing lets the client's key through in any place that it was found in."""
    parts = post(
        f"{ROOTS}?instanceKey={KEY}&InstanceKey={KEY}&x={KEY}",
        f"instanceKey={KEY}&y={KEY}".encode(),
        (b"x-rapidapi-key", KEY.encode()),
        (b"X_RapidAPI_Key", KEY.encode()),
        (b"Cookie", f"k={KEY}".encode()),
    )
    for route in (STRIP, REPLACE, SIGNING):
        target, headers, body = rewrite(route, parts, found(parts, route), NOW)
        assert KEY.encode() not in target + repr(headers).encode() + (body or b"")


@pytest.mark.parametrize("first", "0123456789ABCDEFabcdef")
def test_escapes_that_could_hide_a_key_are_seen(first: str) -> None:
    """Those of letters, digits and the underscore are, and no other escape costs a closer look."""
    for second in "0123456789ABCDEFabcdef":
        hides = re.fullmatch(r"\w", chr(int(first + second, 16)), re.ASCII) is not None
        assert (NEEDLESS_ESCAPE.search(f"a%2Fb%{first}{second}c".encode()) is not None) is hides
