"""All targets with the inputs they start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from gateway.config import example_path
from gateway.proxy import proxy_protocol
from policies import keys
from tests.fuzz import file_targets, wire_targets
from tests.gateway.proxy.calls import KEY, OFFICIAL
from tests.wire import test_clients as clients

ROOT = Path(__file__).parent.parent.parent
FOUND = Path(__file__).parent / "found"  # inputs that once broke something, by target


@dataclass(frozen=True, slots=True)
class Target:
    """Code that is fed any bytes; `check` raises for what must not be."""

    name: str
    check: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]

    def inputs(self) -> list[bytes]:
        """Return what the target starts from: its seeds, and what was found before."""
        return self.seeds() + [path.read_bytes() for path in sorted((FOUND / self.name).glob("*"))]


SOAP = (
    b'<?xml version="1.0" encoding="utf-8"?>'
    b'<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Header/><s:Body>'
    b'<SearchItemsFrame xmlns="urn:otapi"><instanceKey>' + KEY.encode() + b"</instanceKey>"
    b"<xmlParameters>" + OFFICIAL.replace("<", "&lt;").encode() + b"</xmlParameters><language>ru</language>"
    b"</SearchItemsFrame></s:Body></s:Envelope>"
)
RPC = (
    b'{"jsonrpc":"2.0","id":1,"method":"GetItemFullInfo","params":{"instanceKey":"%b","itemId":"pdd-1"}}'
    % KEY.encode()
)


def _request(head: str, body: bytes = b"", *fields: str) -> bytes:
    lines = [head, "Host: api.example.com", *fields]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def requests() -> list[bytes]:
    """Requests as clients make them, each under every route."""
    form = urlencode({"instanceKey": KEY, "language": "ru", "xmlParameters": OFFICIAL}).encode()
    urlencoded = "Content-Type: application/x-www-form-urlencoded"
    quoted = quote(OFFICIAL, safe="")
    raw = [
        clients.official_client(KEY),
        clients.old_shop(KEY),
        clients.old_post_shop(KEY),
        _request(f"GET /service-json/SearchItemsFrame?instanceKey={KEY}&xmlParameters={quoted} HTTP/1.1"),
        _request("POST /service/SearchItemsFrame HTTP/1.1", form, urlencoded),
        _request(
            f"POST /service/SearchItemsFrame?instanceKey={KEY} HTTP/1.1",
            b"",
            urlencoded,
            "Transfer-Encoding: chunked",
        )
        + b"%x\r\n%b\r\n0\r\n\r\n" % (len(form), form),
        _request(f"GET /router/rest?app_key={KEY}&method=taobao.item.get&format=xml HTTP/1.0"),
        _request(
            "POST /OtapiWebService2.asmx HTTP/1.1",
            SOAP,
            "Content-Type: text/xml; charset=utf-8",
            'SOAPAction: "urn:otapi/SearchItemsFrame"',
            f"x-rapidapi-key: {KEY}",
        ),
        _request(f"POST /rpc?instanceKey={KEY} HTTP/1.1", RPC, "Content-Type: application/json"),
        _request("GET /rest/items/1 HTTP/1.1", b"", f"Authorization: Bearer {KEY}", "Connection: close, x-y"),
        _request("GET /service/GetItemFullInfo HTTP/1.1", b"", f"X-RapidAPI-Key: {KEY}", "Upgrade: h2c")
        + _request(f"GET /service/GetItemFullInfo?itemId=abb-1&instanceKey={KEY};x=%2B HTTP/1.1"),
    ]
    return [bytes([number]) + each for each in raw for number in range(len(wire_targets.ROUTES))]


def documents() -> list[bytes]:
    """XML of searches, plain and with what is not plain."""
    texts = [
        OFFICIAL,
        '<?xml version="1.0" encoding="utf-8"?>' + OFFICIAL,
        '<P xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><Provider>Jd</Provider><T a="b">&</T></P>',
        "<P><!-- --><Provider>Taobao</Provider><![CDATA[<SearchMethod>]]></P>",
        "<P><Q><CategoryId/></Q><ForceUpdate>1</ForceUpdate><T>%3CProvider%3E &lt;Provider&gt; +ADw-</T></P>",
        "<P><x:SearchMethod/><searchMethod>a</searchMethod></P>",
    ]
    return [text.encode() for text in texts]


def proxy_headers() -> list[bytes]:
    """Headers of both versions of the PROXY protocol."""
    addresses = bytes([192, 0, 2, 1, 198, 51, 100, 1, 0x1F, 0x90, 1, 187])
    fields = b"\x20\x00\x05\x01\x00\x00\x00\x00" + b"\x01\x00\x02h2"
    start = proxy_protocol.V2_START
    return [
        b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\nGET / HTTP/1.1\r\n",
        b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 1 65535\r\n",
        b"PROXY UNKNOWN\r\n",
        start + b"\x21\x11\x00\x0c" + addresses,
        start + b"\x21\x11\x00" + bytes([12 + len(fields)]) + addresses + fields,
        start + b"\x20\x00\x00\x00",
        start + b"\x21\x21\x00\x24" + bytes(36),
    ]


def answers() -> list[bytes]:
    """Answers of marketplaces, each under every dialect and coding."""
    bodies = [
        b'{"ErrorCode":"Ok","SubErrorCode":null,"Result":{"Items":[{"Id":"1"},{"Id":"2"},[],3]}}',
        b'\xef\xbb\xbf { "ErrorCode" : "BatchError", "Result": {"Items": []}}',
        b'<?xml version="1.0"?><A><ErrorCode>Ok</ErrorCode><Result><Items><I/><I>x</I></Items></Result></A>',
        b'{"error_response":{"code":29,"msg":"Invalid App Key"}}',
        b'<?xml version="1.0" encoding="utf-8" ?><error_response><code>7</code></error_response>',
        b'{"Result":{"Items":[1,2,3]},"Items":[1]}',
        b"",
    ]
    return [bytes([number % 3, number // 3]) + each for each in bodies for number in range(12)]


def configurations() -> list[bytes]:
    """The example, and its tables one by one."""
    whole = example_path().read_text(encoding="utf-8")
    plain = "\n".join(line for line in whole.splitlines() if line.strip() and not line.startswith("#"))
    return [plain.encode(), *(b"[" + part.encode() for part in plain.split("\n[")[1:])]


def price_lists() -> list[bytes]:
    """The example, and its versions one by one."""
    plain = (ROOT / "catalogue.example.toml").read_text(encoding="utf-8")
    lines = "\n".join(line for line in plain.splitlines() if line.strip() and not line.startswith("#"))
    return [lines.encode(), *(b"[[" + part.encode() for part in lines.split("[[")[1:])]


TARGETS = {
    target.name: target
    for target in (
        Target("request", wire_targets.check_request, requests),
        Target("xml", wire_targets.check_xml, documents),
        Target(
            "parameters",
            wire_targets.check_parameters,
            lambda: [b"a=b&c=%41+%zz&&=;x=%0d%0a", b"x%5B%5D=1&X=%C3%A9&=&y"],
        ),
        Target("envelope", wire_targets.check_envelope, lambda: [SOAP, RPC]),
        Target("outcome", wire_targets.check_outcome, answers),
        Target("proxy_header", wire_targets.check_proxy_header, proxy_headers),
        Target(
            "key",
            file_targets.check_key,
            lambda: [keys.issue(bytes(range(16))).encode(), KEY.encode(), b"tg-0123"],
        ),
        Target("config", file_targets.check_config, configurations),
        Target("catalogue", file_targets.check_catalogue, price_lists),
        Target(
            "journal",
            file_targets.check_journal,
            lambda: [bytes([0, 200, how, 1, *range(12)]) for how in range(3)],
        ),
    )
}
