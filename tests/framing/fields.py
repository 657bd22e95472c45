"""Header fields: Host, malformed lines, fields of the hop, expectations, upgrades, limits."""

from __future__ import annotations

from tests.framing.case import ANSWERED, HIDDEN, ITEM, SEARCH, Rule, get, head, post


def hosts(*texts: str, version: str = "HTTP/1.1") -> dict[str, bytes]:
    """Return a case for each Host field, or fields."""
    return {text[:60]: head(f"GET {ITEM} {version}", host=text) for text in texts}


def fields(*texts: str) -> dict[str, bytes]:
    """Return a case for each field, as it stands."""
    return {text[:60]: get(ITEM, text) for text in texts}


HOP = "\r\n".join(
    f"{name}: SPOOFED" for name in ("Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Proxy-Authorization")
)

RULES = (
    Rule(
        "Host missing, empty, doubled or malformed",
        ("bad_request",),
        "It says for whom the request is; which of two is meant, servers decide differently.",
        {
            "no Host": head(f"GET {ITEM}", host=None),
            **hosts(
                "Host:",
                "Host: ",
                "Host: a\r\nHost: a",
                "Host: a\r\nHost: b",
                "Host: a\r\nhost: a",
                "Host: user@a",
                "Host: user:secret@a",
                "Host: a/b",
                "Host: a b",
                "Host: a, b",
                "Host: a:b",
                "Host: a:80:80",
                "Host: a:999999",
                "Host: http://a",
                "Host: a#",
                "Host: a?b",
                "Host: a\\b",
                "Host: [::1",
                "Host: ::1",
                "Host: a\x7f",
                "Host: \xe9",
                "Host: a%00b",
            ),
            "doubled in HTTP/1.0": head(f"GET {ITEM} HTTP/1.0", host="Host: a\r\nHost: a"),
        },
    ),
    Rule(
        "An ordinary Host",
        (ANSWERED,),
        "A name or an address with an optional port. The upstream gets its own (`host_header`).",
        {
            **hosts(
                "Host: a",
                "Host: A.example:8080",
                "Host: [::1]:80",
                "Host: a_b",
                "HOST: a",
                "Host:a",
                "Host: \t a \t",
            ),
            **hosts("X: y", version="HTTP/1.0"),
        },
    ),
    Rule(
        "A header line that is not `name: value CRLF`",
        ("bad_request",),
        "Spaces around a name, folds, bare CR or LF and controls hide a field from one server, not another.",
        {
            **fields(
                "X : y",
                "X\t: y",
                " X: y",
                "\tX: y",
                "X y: z",
                "X",
                ": y",
                "X\x00Y: z",
                "X: a\x00b",
                "X: a\rb",
                "X: a\nY: b",
                "X: a\r\n folded",
                "X: a\r\n\tfolded",
                "X:\r\n folded",
                "X: a\x01b",
                "X: a\x7fb",
                "X: a\x0bb",
                "X(: y",
                "X@Y: z",
                '"X": y',
                "X[0]: y",
                "\xe9: y",
                "X\r: y",
                "X: y\r\r",
                f"X: y\n\n{HIDDEN.decode()}",
                "Host\x0b: b",
            ),
            "folded first line": get().replace(b"Host:", b" Host:"),
            "space before Host's colon": get().replace(b"Host:", b"Host :"),
            "lines end in LF": get().replace(b"\r\n", b"\n"),
            "fields end in LF": get().replace(b"\r\nX-", b"\nX-"),
            "head ends in LF": get()[:-2] + b"\n",
        },
    ),
    Rule(
        "Fields that end at the gateway",
        (ANSWERED,),
        "Fields of the hop, those Connection lists, forged `X-Forwarded-*`, `X-Tallygate-*`, names with an "
        "underscore: none of them reaches the upstream, and none identifies anything.",
        fields(
            HOP,
            "Connection: close, X-Listed\r\nX-Listed: SPOOFED",
            "Connection: x-listed\r\nConnection: X-Other\r\nX-Listed: SPOOFED\r\nX-Other: SPOOFED",
            "Connection: ,,keep-alive, ,",
            "Connection: Host, Content-Length",
            "Connection: X-Forwarded-For, X-Request-Id",
            "X-Forwarded-For: SPOOFED",
            "X-Forwarded-Proto: SPOOFED",
            "X-Forwarded-Host: SPOOFED",
            "X-Forwarded-Port: SPOOFED",
            "X-Real-IP: SPOOFED",
            "Forwarded: for=SPOOFED",
            "X-Request-Id: SPOOFED",
            "X-Tallygate-Key: SPOOFED",
            "x-tallygate-anything: SPOOFED",
            "X_Forwarded_For: SPOOFED",
            "X_Api_Key: SPOOFED",
            "Content_Length: 5",
            "Transfer_Encoding: chunked",
            "Content-Length: 0\r\nContent_Length: 5",
            "Proxy-Authenticate: SPOOFED",
        ),
    ),
    Rule(
        "The key in a field that Connection lists",
        ("missing_key",),
        "What the upstream does not see, the gateway does not take for said.",
        fields("Connection: X-Api-Key", "Connection: close, x-api-key"),
    ),
    Rule(
        "Another HTTP method in a field (`X-HTTP-Method-Override`), where it is a part of the method",
        ("unreadable",),
        "Some frameworks obey it.",
        {
            name: head("POST /rest/items/1", f"{name}: GET", "Content-Length: 0")
            for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")
        },
    ),
    Rule(
        "An expectation other than `100-continue`",
        ("expectation_failed",),
        "It cannot be met, and a server that ignores it would read a body that the client holds back.",
        fields("Expect: 200-ok", "Expect: 100-continue, x", "Expect:", "Expect: 100-continue\r\nExpect: x"),
    ),
    Rule(
        "`Expect: 100-continue`",
        (ANSWERED,),
        "The gateway meets it itself; it ends there.",
        {
            "without a body": get(ITEM, "Expect: 100-continue"),
            "letter case": get(ITEM, "Expect: 100-Continue"),
            "HTTP/1.0": head(f"GET {ITEM} HTTP/1.0", "Expect: 100-continue"),
            "the body is there": post("abc", "Expect: 100-continue", "Content-Length: 3"),
        },
    ),
    Rule(
        "An upgrade to another protocol",
        ("not_implemented",),
        "Behind it bytes would pass that are no calls. An offer of HTTP/2 (`h2c`) is passed over instead.",
        {
            protocol: get(ITEM, "Connection: Upgrade", f"Upgrade: {protocol}") + HIDDEN
            for protocol in ("websocket", "h2c, websocket", "TLS/1.3", "h2", "x")
        },
    ),
    Rule(
        "An offer of HTTP/2",
        (ANSWERED,),
        "An offer may be ignored (RFC 9110 section 7.8); Java's client makes it with every first request.",
        {
            "h2c": get(
                ITEM, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"
            ),
            "with a body": post("abc", "Connection: Upgrade", "Upgrade: h2c", "Content-Length: 3"),
            "chunked": post(
                "3\r\nabc\r\n0\r\n\r\n", "Connection: Upgrade", "Upgrade: h2c", "Transfer-Encoding: chunked"
            ),
            "without Connection": get(ITEM, "Upgrade: websocket"),
        },
    ),
    Rule(
        "More fields than a request may have, or longer ones",
        ("head_too_large",),
        "`max_headers` and `max_head_bytes` bound what a connection can make a worker keep.",
        {
            "200 fields": get(ITEM, *(f"X-{number}: y" for number in range(200))),
            "200 equal fields": get(ITEM, *["X: y"] * 200),
            "long value": get(ITEM, "X: " + "y" * 70_000),
            "long name": get(ITEM, "X" * 70_000 + ": y"),
            "long host": get().replace(b"a.example", b"a" * 70_000),
            "long query and fields": get(SEARCH + "?a=" + "b" * 40_000, "X: " + "y" * 40_000),
        },
    ),
)
