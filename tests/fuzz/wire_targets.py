"""What arrives over the wire, fuzzed: requests, their parameters and documents, and answers."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import quote_plus

from gateway.dialects import read_outcome
from gateway.dialects.otapi import CHARGED
from gateway.failures import Failure
from gateway.proxy import proxy_protocol
from gateway.proxy.envelopes import Envelope, UnreadableError, read_json_rpc, read_soap
from gateway.proxy.identify import Identified, Parts, identify
from gateway.proxy.incoming import PLAIN_BYTES
from gateway.proxy.key_out import rewrite
from gateway.proxy.parameters import folded_name, percent_decode, split
from gateway.proxy.request_reader import RequestReader
from gateway.proxy.requests import Request, read_head
from gateway.proxy.xml_values import Watch
from gateway.settings import Dialect, KeyOut, Route, UnknownMethods, UpstreamCredential
from policies.methods import OFFICIAL_SEARCH, classify
from tests.fuzz import oracle
from tests.gateway.proxy.calls import METHODS, route_of

NOW = 1_795_000_000.0
WATCHED = frozenset({"Provider", "SearchMethod", "CategoryId", "ForceUpdate"})
WATCH = Watch(WATCHED)
TOP = ("query:app_key", "form:app_key"), ("query:method", "form:method")
ROUTES = (
    route_of(),
    route_of(key_out=KeyOut.STRIP),
    route_of(key_out=KeyOut.REPLACE, credential=UpstreamCredential("own", "secret")),
    route_of(key_in=TOP[0], method_from=TOP[1], dialect=Dialect.TOP),
    route_of(method_from=("soap", "path"), key_out=KeyOut.STRIP),
    route_of(method_from=("json_rpc",), key_out=KeyOut.STRIP),
    route_of(key_in=("bearer",), unknown_methods=UnknownMethods.ALLOW, key_out=KeyOut.STRIP),
)

# Of bodies that look like parts of requests nothing is to be read as such.
BODIES = (b"x\r\nTransfer-Encoding: chunked\r\nX-A: ", b"DELETE /a b HTTP/1.1\r\nHost: h\r\n\r\n", b"\r\r\n")

Read = tuple[bool, list[tuple[object, ...]]]


def check_request(data: bytes) -> None:
    """Read a request however it is split, identify it, and let its key be taken out."""
    if not data:
        return
    route, raw = ROUTES[data[0] % len(ROUTES)], data[1:]
    whole = _read([raw])
    for at in {1, len(raw) // 3, len(raw) // 2, len(raw) - 1}:
        _check_same(whole, _read([raw[:at], raw[at:]]), f"split at {at}")
    if len(raw) <= 300:
        _check_same(whole, _read(raw[at : at + 1] for at in range(len(raw))), "byte by byte")
    _check_same(_read([raw + raw + raw]), _read([raw, raw, raw]), "again and again")
    before = b"GET / HTTP/1.1\r\n" + raw.partition(b"\n")[2]  # with the same lines, which are remembered
    _check_same(_read([before + raw]), _read([before, raw]), "behind a head with its lines")
    for body in BODIES:
        posted = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body)
        # With lines that it would have had if the body were a part of it.
        after = b"GET /two HTTP/1.1\r\n" + body.partition(b"\n")[2] + raw
        for first in ([posted], []):
            joined = [*first, (b"" if first else posted) + body + raw, after]
            _check_same(_read(joined), _read([posted, body, raw, after]), f"behind the end of {body!r}")
    reader = RequestReader(16_384, 100)
    if reader.feed(raw) is not None or not reader.requests or not reader.requests[0].whole:
        return
    incoming = reader.requests[0]
    request = read_head(incoming, None, b"192.0.2.1", b"http")
    if isinstance(request, Failure):
        return
    parts = Parts(request.method, request.target, request.headers, incoming.take_body(), True)
    identified = identify(route, METHODS, parts)
    if isinstance(identified, Identified):
        _check_identified(route, request, parts, identified)


def _check_same(one: Read, other: Read, how: str) -> None:
    """Both ways of arriving bring the same requests, though one may be refused earlier than the other.

    What comes whole may wait for the end of a line that byte by byte is refused at once; and a request line
    that is only read leniently is refused behind another request in the same piece.
    """
    if one == other:
        return
    (failed, requests), (_, more) = sorted((one, other), key=lambda read: (len(read[1]), not read[0]))
    assert failed and more[: len(requests)] == requests and (requests or not more), how


def _read(pieces: Iterable[bytes]) -> Read:
    """Return whether reading failed, and all requests that are read out of what comes in pieces."""
    reader = RequestReader(16_384, 100)
    failed = False
    for piece in pieces:
        failed = reader.feed(piece) is not None
        if failed:
            break
    found = [
        (each.method, each.target, each.headers, each.version, each.keep_alive, each.upgrade, each.whole)
        + ((each.take_body(),) if each.whole else ())
        for each in reader.requests
    ]
    return failed, found


def _check_identified(route: Route, request: Request, parts: Parts, identified: Identified) -> None:
    target, headers, body = rewrite(route, parts, identified, NOW)
    if route.key_out is KeyOut.PASS:
        assert target is parts.target and headers is parts.headers and body is parts.body
    elif route.key_out is KeyOut.STRIP:
        key = identified.credential.encode()
        query = target.partition(b"?")[2]
        form = b"" if identified.form is None else body or b""
        for segment in (*query.split(b"&"), *form.split(b"&")):
            assert key not in segment and key not in (oracle.unescaped(segment) or b""), "the key stayed"
        assert not any(key in value for _, value in headers), "the key stayed in a header"
        if identified.envelope is not None:
            assert key not in (body or b""), "the key stayed in the body"
    call = classify(identified.counted, identified.rule, identified.reading)
    if call.klass == OFFICIAL_SEARCH and identified.envelope is None:
        _check_official(request, identified)


def _check_official(request: Request, identified: Identified) -> None:
    """A search that passes for official is one to whoever reads queries, forms and XML by the standard."""
    in_query = request.method in ("GET", "HEAD", "DELETE", "OPTIONS")
    parted = identified.query if in_query else identified.form
    texts = oracle.parameters(b"" if parted is None else parted.raw).get("xmlParameters", [])
    assert len(texts) == 1, "not one document"
    root = oracle.xml_root(texts[0])
    assert root is not None, "no document"
    found = oracle.children(root, WATCHED)
    assert (found.get("Provider"), found.get("SearchMethod")) == ("Taobao", "Official"), "another search"


def check_xml(data: bytes) -> None:
    """What is certain of a document is what expat reads, and what a reader who forgives everything sees."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return
    reading = WATCH.read(text)
    assert WATCH.read_encoded(data) == reading
    for raw in (quote_plus(data).encode(), data):
        WATCH._pause = 0
        sent = WATCH.read_sent(raw, plain=False)
        if not raw.translate(None, PLAIN_BYTES) and b"&" not in raw:
            WATCH._pause = 0
            assert WATCH.read_sent(raw, plain=True) == sent
        decoded = percent_decode(raw)
        assert sent is None or (decoded is not None and sent == WATCH.read(decoded.decode()) and sent.certain)
    if not reading.certain:
        assert reading.mentions <= WATCHED
        return
    root = oracle.xml_root(text)
    if root is not None:
        assert oracle.children(root, WATCHED) == dict(reading.values)
        everywhere = [element for element in root.iter() if oracle.local(element.tag) in WATCHED]
        assert len(everywhere) == len(reading.values)
    else:
        assert "<" not in text or "&" in text or not text.strip(), "certain, and no document to expat"
    assert sorted(oracle.tags(text, WATCHED)) == sorted(name.lower() for name in reading.values)


def check_parameters(data: bytes) -> None:
    """Percent-encoding is undone as by the standard library, or refused; splitting loses nothing."""
    assert percent_decode(data) == oracle.unescaped(data)
    folded_name(data)
    segments = [segment for segment in data.split(b"&") if segment]
    for (name, value), segment in zip(split(data), segments, strict=True):
        assert segment == (name + b"=" + value if b"=" in segment else name)


def check_envelope(data: bytes) -> None:
    """A method that is read out of an envelope is the one that other readers find, with its arguments."""
    try:
        soap = read_soap(data)
    except UnreadableError:
        pass
    else:
        _check_soap(soap, data)
    try:
        rpc = read_json_rpc(data)
    except UnreadableError:
        return
    try:
        members = oracle.json_without_doubles(data.decode())
    except ValueError:
        return
    assert rpc.method == members["method"]
    given = members.get("params")
    if isinstance(given, dict):
        assert [each.name for each in rpc.arguments] == list(given)
        for each in rpc.arguments:
            assert not isinstance(given[each.name], str) or each.value == given[each.name]


def _check_soap(soap: Envelope, data: bytes) -> None:
    if b"}" in data:
        return  # the other reader puts names of namespaces into braces, and takes none that holds one
    method, arguments = oracle.soap_call(data)
    assert soap.method == method
    for own, (name, text, plain) in zip(soap.arguments, arguments, strict=True):
        assert (own.name, own.plain) == (name, plain)
        assert not plain or own.value == text


CODINGS = ((b"", bytes), (b"gzip", gzip.compress), (b"deflate", zlib.compress), (b"gzip", bytes))
DIALECTS = (Dialect.OTAPI, Dialect.TOP, Dialect.PROBLEM)
FIRST_CODE = re.compile(r'\s*\{\s*"ErrorCode"\s*:\s*"([^"\\]*)"')


def check_outcome(data: bytes) -> None:
    """An answer is judged alike however it is split, and as its JSON says; its items are counted right."""
    if len(data) < 2:
        return
    dialect = DIALECTS[data[0] % len(DIALECTS)]
    coding, encode = CODINGS[data[1] % len(CODINGS)]
    codings = [coding] if coding else []
    plain = data[2:]
    sent = encode(plain)

    def judged(pieces: Iterable[bytes]) -> tuple[object, object]:
        reader = read_outcome(dialect, status=200, codings=codings, cost_items="Result.Items")
        for piece in pieces:
            reader.feed(piece)
        reader.finish(True)
        assert reader.known
        return reader.verdict, reader.items

    verdict, items = judged([sent])
    for at in {1, len(sent) // 2, max(len(sent) - 1, 0)}:
        assert judged([sent[:at], sent[at:]]) == (verdict, items), f"split at {at}"
    try:
        body = oracle.json_without_doubles(plain.decode())
    except (ValueError, RecursionError):
        return
    if (encode is bytes and coding) or not isinstance(body, dict):
        return
    code = FIRST_CODE.match(plain.decode())
    if dialect is Dialect.OTAPI and code is not None and code.end() < 8_000:
        assert (verdict is None) == (body["ErrorCode"].encode() in CHARGED)
    result = body.get("Result")
    if items is not None and isinstance(result, dict) and isinstance(result.get("Items"), list):
        assert items == len(result["Items"])


def check_proxy_header(data: bytes) -> None:
    """A header of the PROXY protocol is read the same whatever follows it, and never before it is whole."""
    whole = _proxy_header(data)
    for end in range(len(data) if len(data) <= 200 else 0):
        part = _proxy_header(data[:end])
        assert part is None or part == whole, f"after {end} bytes"
        assert whole is None or isinstance(whole, str) or end >= whole.length or part is None
    if isinstance(whole, proxy_protocol.Header):
        assert whole.length <= len(data)
        assert _proxy_header(data[: whole.length] + b"GET / HTTP/1.1") == whole
        assert whole.address is None or str(ip_address(whole.address)) == whole.address


def _proxy_header(data: bytes) -> proxy_protocol.Header | str | None:
    try:
        return proxy_protocol.read(data)
    except proxy_protocol.ProxyProtocolError:
        return "refused"
