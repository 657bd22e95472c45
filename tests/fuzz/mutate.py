"""A plain mutator, not guided by coverage: for short runs of the test suite, and where atheris is absent."""

from __future__ import annotations

import random

# What parsers trip over.
BITS = (
    b"\0", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b"%", b"%00", b"%0d%0a", b"%25", b"%2f", b"+",
    b"&", b"=", b";", b"<", b">", b"/", b"</", b"<!--", b"-->", b"<![CDATA[", b"]]>",
    b"<!DOCTYPE a [<!ENTITY e 'x'>]>", b"&lt;", b"&#60;", b"?", b"#", b"..", b"//", b"\\", b"\\u003c", b'"',
    b"'", b"{", b"}", b"[", b"]", b"\xff", b"\xc3\xa9", b"\xef\xbb\xbf", b"-1", b"0", b"1e999", b"NaN",
    b"99999999999999999999", b"true", b"null", b"0x10", b"Provider", b"SearchMethod", b"instanceKey=",
    b"xmlParameters=", b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n", b"_",
)  # fmt: skip


def mutated(chance: random.Random, inputs: list[bytes], most: int = 4_096) -> bytes:
    """Return one of the inputs with a few changes."""
    data = bytearray(chance.choice(inputs))
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice((1, 1, 2, 4, 16, 64)))
        match chance.randrange(6):
            case 0:
                data[at:at] = chance.choice(BITS)
            case 1:
                data[at:end] = chance.choice(BITS)
            case 2:
                del data[at:end]
            case 3:
                data[at:at] = data[at:end] * chance.choice((1, 2, 40))
            case 4 if data:
                data[at % len(data)] = chance.randrange(256)
            case _:
                other = chance.choice(inputs)
                start = chance.randrange(len(other) + 1)
                data[at:end] = other[start : start + chance.choice((4, 16, 64))]
    return bytes(data[:most])
