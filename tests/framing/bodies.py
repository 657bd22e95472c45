"""Bodies: how long a request is, told in two ways, in wrong ones, or in chunks."""

from __future__ import annotations

from tests.framing.case import ANSWERED, CLOSED, HIDDEN, ITEM, Rule, chunked, head, post

LONG = f"Content-Length: {len(HIDDEN)}"
CHUNK = b"5\r\nabcde\r\n0\r\n\r\n"


def lengths(*values: str, body: bytes | str = "abcde") -> dict[str, bytes]:
    """Return a case for each value of Content-Length."""
    return {value[:60] or "empty": post(body, f"Content-Length: {value}") for value in values}


def codings(*values: str) -> dict[str, bytes]:
    """Return a case for each value of Transfer-Encoding, with a chunked body and a hidden request behind."""
    return {value[:60] or "empty": post(CHUNK + HIDDEN, f"Transfer-Encoding: {value}") for value in values}


def bodies(*texts: str) -> dict[str, bytes]:
    """Return a case for each chunked body, as it stands."""
    return {text[:40]: chunked(text) for text in texts}


RULES = (
    Rule(
        "Content-Length beside Transfer-Encoding",
        ("bad_request",),
        "One server believes this, the next that: the root of request smuggling (RFC 9112 section 6.1).",
        {
            "CL.TE": post(
                b"0\r\n\r\n" + HIDDEN, f"Content-Length: {5 + len(HIDDEN)}", "Transfer-Encoding: chunked"
            ),
            "TE.CL": post(
                b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN),
                "Transfer-Encoding: chunked",
                "Content-Length: 4",
            ),
            "CL 0": post(CHUNK, "Content-Length: 0", "Transfer-Encoding: chunked"),
            "TE identity": post("abcde", "Content-Length: 5", "Transfer-Encoding: identity"),
            "TE unknown": post("abcde", "Content-Length: 5", "Transfer-Encoding: x"),
            "TE empty": post("abcde", "Content-Length: 5", "Transfer-Encoding:"),
            "TE doubled": post(
                CHUNK, "Transfer-Encoding: chunked", "Content-Length: 15", "Transfer-Encoding: chunked"
            ),
            "GET": head(f"GET {ITEM}", "Content-Length: 5", "Transfer-Encoding: chunked") + CHUNK + HIDDEN,
            "HTTP/1.0": head(f"POST {ITEM} HTTP/1.0", "Content-Length: 15", "Transfer-Encoding: chunked")
            + CHUNK,
        },
    ),
    Rule(
        "Content-Length that is not one plain number",
        ("bad_request",),
        "Signs, lists, fractions, hexadecimals and doubled fields are read as different numbers.",
        {
            **lengths(
                "+5",
                "-5",
                "0x5",
                "5a",
                "5 5",
                "5,5",
                "5, 5",
                "5, 6",
                "5;",
                "5.0",
                "5e0",
                "1_0",
                "\xa05",
                "5\x0b",
                "\x0c5",
                "18446744073709551616",
                "18446744073709551621",
                "9" * 40,
                "",
                " ",
                "five",
                "\xb2",
                "0x0",
            ),
            "twice, different": post("abcde", "Content-Length: 5", "Content-Length: 4"),
            "twice, equal": post("abcde", "Content-Length: 5", "Content-Length: 5"),
            "twice, 0 last": post(HIDDEN, LONG, "Content-Length: 0"),
            "space before the colon": post(HIDDEN, LONG.replace(":", " :")),
            "tab before the colon": post(HIDDEN, LONG.replace(":", "\t:")),
            "NUL in the name": post(HIDDEN, LONG.replace("-", "-\x00")),
            "folded": post(HIDDEN, LONG.replace(": ", ":\r\n ")),
        },
    ),
    Rule(
        "A plain Content-Length, also with zeros before it or spaces around it",
        (ANSWERED,),
        "It is read once, and written anew for the upstream.",
        {
            **lengths("5", "005", "00000000000000000000000000005", "  5", "5\t "),
            "letter case": post("abcde", "CONTENT-length: 5"),
            "GET": head(f"GET {ITEM}", LONG) + HIDDEN,
            "HEAD": head(f"HEAD {ITEM}", LONG) + HIDDEN,
            "OPTIONS": head(f"OPTIONS {ITEM}", LONG) + HIDDEN,
            "DELETE": head(f"DELETE {ITEM}", LONG) + HIDDEN,
            "HTTP/1.0": head(f"POST {ITEM} HTTP/1.0", "Content-Length: 5") + b"abcde",
            "no length at all": head(f"POST {ITEM}"),
            "an underscore": post("", "Content_Length: 5", "Content-Length: 0"),
        },
    ),
    Rule(
        "Transfer-Encoding other than one plain `chunked`",
        ("bad_request",),
        "What one server takes for chunked, another takes for no coding it knows, and reads on elsewhere.",
        {
            **codings(
                "gzip, chunked",
                "chunked, gzip",
                "chunked, chunked",
                "identity",
                "chunked, identity",
                "xchunked",
                "chunkedx",
                '"chunked"',
                "'chunked'",
                "chunked;q=1",
                "chunked;x",
                ", chunked",
                "chunked,",
                "chunk",
                "cow",
                "",
                "\x0bchunked",
                "chunked\x0b",
                "chunked\x00",
                "chun ked",
                "chu\r\n nked",
                "\r\n chunked",
                "chunked\r\nTransfer-Encoding: identity",
                "identity\r\nTransfer-Encoding: chunked",
                "chunked\r\nTransfer-Encoding: chunked",
                "c\u017fhunked".encode().decode("latin-1"),
            ),
            "space before the colon": post(CHUNK, "Transfer-Encoding : chunked"),
            "bare LF in the name": post(CHUNK, "Transfer-Encoding\n: chunked"),
            "tabs": post(CHUNK, "Transfer-Encoding: \t chunked \t"),
            "HTTP/1.0": head(f"POST {ITEM} HTTP/1.0", "Transfer-Encoding: chunked") + CHUNK,
            "HTTP/1.0 keep-alive": head(
                f"POST {ITEM} HTTP/1.0", "Transfer-Encoding: chunked", "Connection: keep-alive"
            )
            + CHUNK
            + HIDDEN,
        },
    ),
    Rule(
        "Chunks, also with extensions and trailers",
        (ANSWERED,),
        "The body is framed anew for the upstream; extensions and trailers go no further, whatever they say.",
        {
            "plain": chunked(CHUNK),
            "letter case": post(CHUNK, "transfer-ENCODING: ChUnKeD"),
            "TE: trailers": chunked(CHUNK, "TE: trailers"),
            "GET": head(f"GET {ITEM}", "Transfer-Encoding: chunked") + CHUNK,
            "zeros before the size": chunked("0000000000000005\r\nabcde\r\n0\r\n\r\n"),
            "capitals": chunked("A\r\nabcdeabcde\r\n0\r\n\r\n"),
            "zeros at the end": chunked("5\r\nabcde\r\n0000\r\n\r\n"),
            "extension": chunked("5;a=b\r\nabcde\r\n0;last\r\n\r\n"),
            "quoted extension": chunked('5;a="b;c\\"d"\r\nabcde\r\n0\r\n\r\n'),
            "trailers with forbidden names": chunked(
                b"5\r\nabcde\r\n0\r\nHost: b\r\nConnection: close\r\n"
                b"X-Api-Key: SPOOFED\r\nX-Forwarded-For: SPOOFED\r\n\r\n"
            ),
            "a request as a body": chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)),
            "single bytes": chunked("1\r\na\r\n" * 500 + "0\r\n\r\n"),
        },
    ),
    Rule(
        "Chunks that break their syntax",
        ("bad_request",),
        "Where the next chunk begins cannot be told, so neither can where the next request does.",
        bodies(
            "g\r\nabcde\r\n0\r\n\r\n",
            "0x5\r\nabcde\r\n0\r\n\r\n",
            "+5\r\nabcde\r\n0\r\n\r\n",
            "-5\r\nabcde\r\n0\r\n\r\n",
            " 5\r\nabcde\r\n0\r\n\r\n",
            "5 \r\nabcde\r\n0\r\n\r\n",
            "\r\nabcde\r\n0\r\n\r\n",
            "5\t\r\nabcde\r\n0\r\n\r\n",
            "0_5\r\nabcde\r\n0\r\n\r\n",
            "5,5\r\nabcde\r\n0\r\n\r\n",
            "5\x00\r\nabcde\r\n0\r\n\r\n",
            "five\r\nabcde\r\n0\r\n\r\n",
            "ffffffffffffffff5\r\nabcde\r\n0\r\n\r\n",
            "10000000000000005\r\nabcde\r\n0\r\n\r\n",
            "5 ;a\r\nabcde\r\n0\r\n\r\n",
            "5\nabcde\n0\n\n",
            "5\r\nabcde\n0\r\n\r\n",
            "5\r\nabcde\r\n0\n\n",
            "5\rabcde\r0\r\r",
            "5\r\nabcde0\r\n\r\n",
            "4\r\nabcde\r\n0\r\n\r\n",
            "5\r\nabcdefgh\r\n0\r\n\r\n",
            "5;a\nb\r\nabcde\r\n0\r\n\r\n",
            "5;a\rb\r\nabcde\r\n0\r\n\r\n",
            "5;\r\n\r\nabcde\r\n0\r\n\r\n",
            "5;a=\x00\r\nabcde\r\n0\r\n\r\n",
            '5;a="b\r\nabcde\r\n0\r\n\r\n',
            "5\r\nabcde\r\n0\r\nX : y\r\n\r\n",
            "5\r\nabcde\r\n0\r\n X: y\r\n\r\n",
            "5\r\nabcde\r\n0\r\nX: a\x00\r\n\r\n",
            "5\r\nabcde\r\n0\r\nX: a\nY: b\r\n\r\n",
            "5\r\nabcde\r\n0\r\nX\r\n\r\n",
        )
        | {
            "Content-Length as a trailer": chunked("5\r\nabcde\r\n0\r\nContent-Length: 5\r\n\r\n"),
            "Transfer-Encoding as a trailer": chunked("5\r\nabcde\r\n0\r\nTransfer-Encoding: x\r\n\r\n"),
            "a request in place of trailers": chunked(b"5\r\nabcde\r\n0\r\n" + HIDDEN),
            "endless extension": chunked("5;" + "a" * 400_000 + "\r\nabcde\r\n0\r\n\r\n"),
        },
    ),
    Rule(
        "A body that is not whole when the client closes its side",
        (CLOSED,),
        "Half a body is no call.",
        {
            "Content-Length": post("abc", "Content-Length: 5"),
            "no last chunk": chunked("5\r\nabcde\r\n"),
            "no end of trailers": chunked("5\r\nabcde\r\n0\r\nX: y\r\n"),
            "a short chunk": chunked("ffff\r\nabcde\r\n0\r\n\r\n"),
            "endless trailer": chunked("5\r\nabcde\r\n0\r\nX: " + "y" * 20_000),
        },
    ),
    Rule(
        "A body larger than the route allows",
        ("body_too_large",),
        "`max_body_bytes` is checked against what is announced and what comes.",
        {
            "Content-Length": post("abc", "Content-Length: 9223372036854775807"),
            "chunk": chunked(f"{70_000:x}\r\n{'a' * 70_000}\r\n0\r\n\r\n", "X-Large: 1"),
            "a little more than allowed": post("a" * 70_000, "Content-Length: 70000"),
        },
    ),
)
