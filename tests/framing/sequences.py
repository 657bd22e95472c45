"""Several requests in one breath: each is a call of its own, and none hides in another."""

from __future__ import annotations

from tests.framing.case import ANSWERED, HIDDEN, ITEM, SEARCH, Rule, chunked, get, head, post

TWO = (ANSWERED, ANSWERED)

RULES = (
    Rule(
        "Requests behind one another (pipelining)",
        TWO,
        "Each is identified and counted, in order, whatever it stood behind.",
        {
            "GET and GET": get() + HIDDEN,
            "line ends between": get() + b"\r\n\r\n" + HIDDEN,
            "line ends before": b"\r\n\r\n" + get() + HIDDEN,
            "behind a body": post("abcde", "Content-Length: 5") + HIDDEN,
            "behind an empty body": post(b"", "Content-Length: 0") + HIDDEN,
            "behind a POST without a length": head(f"POST {ITEM}") + HIDDEN,
            "behind chunks": chunked("5\r\nabcde\r\n0\r\n\r\n") + HIDDEN,
            "behind trailers": chunked("0\r\nHost: b\r\n\r\n") + HIDDEN,
            "behind HEAD": head(f"HEAD {ITEM}") + HIDDEN,
            "behind OPTIONS": head(f"OPTIONS {ITEM}") + HIDDEN,
            "behind GET with a body": head(f"GET {ITEM}", "Content-Length: 3") + b"abc" + HIDDEN,
            "behind a line end too many": post("abcde\r\n", "Content-Length: 5") + HIDDEN,
            "behind HTTP/1.0 with keep-alive": head(f"GET {ITEM} HTTP/1.0", "Connection: keep-alive")
            + HIDDEN,
            "behind an offer of HTTP/2": get(ITEM, "Connection: Upgrade", "Upgrade: h2c") + HIDDEN,
            "behind 100-continue": post("abc", "Expect: 100-continue", "Content-Length: 3") + HIDDEN,
            "other routes": get("/rest/items/1") + get("/router/rest?method=SearchItemsFrame"),
        },
    ),
    Rule(
        "A request behind one that closes the connection",
        (ANSWERED,),
        "The client said that it was the last one.",
        {
            "Connection: close": get(ITEM, "Connection: close") + HIDDEN,
            "close among others": get(ITEM, "Connection: x, close") + HIDDEN,
            "HTTP/1.0": head(f"GET {ITEM} HTTP/1.0") + HIDDEN,
            "behind a body": post("abc", "Content-Length: 3", "Connection: close") + HIDDEN,
        },
    ),
    Rule(
        "Nonsense behind a request",
        (ANSWERED, "bad_request"),
        "The request is answered; what follows ends the connection.",
        {
            "a second Host": get() + get(SEARCH, "Host: b"),
            "CL beside TE": get() + post(b"0\r\n\r\n", "Content-Length: 5", "Transfer-Encoding: chunked"),
            "absolute form": get() + get(f"http://b.example{SEARCH}"),
            "a space in a name": get() + get(SEARCH, "X y: z"),
        },
    ),
    Rule(
        "Bytes behind a body that are no request",
        (ANSWERED, "not_implemented"),
        "A length that is too short leaves them behind; they are no part of the call.",
        {
            "the rest of a body": post("abcdefgh\r\n\r\n", "Content-Length: 3"),
            "NUL": get() + b"\x00" + HIDDEN,
            "a chunk too many": chunked("3\r\nabc\r\n0\r\n\r\n5\r\nabcde\r\n0\r\n\r\n"),
        },
    ),
)
