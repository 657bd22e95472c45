from __future__ import annotations

from urllib.parse import quote, quote_plus, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.parameters import decode_text, folded_name, percent_decode, split


@given(st.binary(max_size=200))
def test_decoding_undoes_encoding(data: bytes) -> None:
    """Whatever a client encodes, with `+` or `%20` for a space, is decoded to the same bytes."""
    assert percent_decode(quote_plus(data).encode()) == data
    assert percent_decode(quote(data, safe="").encode()) == data


@given(st.text(alphabet="%2fFgzZ+= \n\r", max_size=24))
def test_decoding_agrees_with_the_standard_or_refuses(text: str) -> None:
    """Any text is either decoded as the standard library does, or refused because an escape is malformed."""
    raw = text.encode()
    escapes = [raw[at + 1 : at + 3] for at in range(len(raw)) if raw[at : at + 1] == b"%"]
    # An escape's digits may themselves not begin another escape: `%%41` has a malformed first one.
    is_sound = all(
        len(digits) == 2 and all(digit in b"0123456789abcdefABCDEF" for digit in digits) for digits in escapes
    )
    assert percent_decode(raw) == (unquote_to_bytes(raw.replace(b"+", b" ")) if is_sound else None)


@pytest.mark.parametrize("raw", [b"%", b"%4", b"%zz", b"%u0441", b"a%", b"%%41", b"%4g", b"%\n41", b"% 41"])
def test_malformed_escapes_are_told(raw: bytes) -> None:
    """A malformed escape gives no value, because servers read it in different ways."""
    assert percent_decode(raw) is None


def test_text_of_any_bytes_can_be_compared() -> None:
    """A value that is no UTF-8, or has a malformed escape, still gives a text."""
    assert decode_text(b"%D0%BA") == "к"
    assert decode_text("к".encode()) == "к"
    assert decode_text(b"\xff") == "\ufffd"
    assert decode_text(b"a%zz") == "a%zz"


@pytest.mark.parametrize(
    ("raw", "text", "core"),
    [
        (b"INSTANCEKEY", "instancekey", "instancekey"),
        (b"instance%4Bey", "instancekey", "instancekey"),
        (b"SECURITY-APPNAME", "security-appname", "security-appname"),
        (b"instanceKey[]", "instancekey[]", "instancekey"),
        (b"instanceKey[0][a]", "instancekey[0][a]", "instancekey"),
        (b"+instanceKey", " instancekey", "instancekey"),
        (b"instanceKey%20", "instancekey ", "instancekey"),
        (b"instanceKey%00x", "instancekey\0x", "instancekey"),
        (b"instanceKeys", "instancekeys", "instancekeys"),
        (b"", "", ""),
        (b"%", "%", ""),
    ],
)
def test_names_are_folded_for_exact_and_for_trimming_readers(raw: bytes, text: str, core: str) -> None:
    """A name is decoded and put in lower case, and what is left without brackets and blanks is told too."""
    assert folded_name(raw) == (text, core)


def test_splitting_keeps_order_and_bytes() -> None:
    """Names and values come raw and in order, a value keeps its `=`, and empty segments are dropped."""
    assert split(b"a=1&&b=2=3&c&a=%20") == [(b"a", b"1"), (b"b", b"2=3"), (b"c", b""), (b"a", b"%20")]
