"""The credential a client site sends: its format, its checksum, and the digest by which it is known.

An issued key is `tg_` + 26 characters that carry 128 random bits + 7 characters of checksum. The checksum
lets a mistyped key be refused before any store is asked: every change of one character and every swap of two
neighbours is noticed (a CRC-32 sees all errors within 32 neighbouring bits). Keys that were issued elsewhere
are *imported*: any printable ASCII of 8 to 256 characters that is neither an issued key nor one with a slip
in its `tg_`.

A key's text is never stored. It is known by HMAC-SHA-256 under a pepper that lives outside the stores, so a
stolen database or Redis holds nothing that can be sent as a key.
"""

from __future__ import annotations

import functools
import hashlib
import re
import zlib

PREFIX = "tg_"
ENTROPY_BYTES = 16
IMPORTED_MIN, IMPORTED_MAX = 8, 256

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u to misread
_BLOCK_BYTES = 64  # of SHA-256
_SECRET_LENGTH = 26
_CHECKSUM_LENGTH = 7
_BODY = re.compile(rf"[{_ALPHABET}]{{{_SECRET_LENGTH + _CHECKSUM_LENGTH}}}\Z")
_IMPORTED = re.compile(rf"[\x21-\x7e]{{{IMPORTED_MIN},{IMPORTED_MAX}}}\Z")


def issue(entropy: bytes) -> str:
    """Return the key made of 16 random bytes; raises ValueError for another length."""
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"a key is made of {ENTROPY_BYTES} random bytes, not {len(entropy)}")
    secret = _base32(int.from_bytes(entropy), _SECRET_LENGTH)
    return PREFIX + secret + _checksum(secret)


def is_well_formed(credential: str) -> bool:
    """Say whether `credential` can be a key at all: issued with a right checksum, or importable."""
    if credential.startswith(PREFIX):
        return _is_body(credential[len(PREFIX) :])
    return _IMPORTED.match(credential) is not None and not _has_slip_in_prefix(credential)


def digest(credential: str, pepper: bytes) -> str:
    """Return the HMAC-SHA-256 of a key under `pepper`, 64 hex digits."""
    inner, outer = _keyed(pepper)
    first = inner.copy()
    first.update(credential.encode())
    second = outer.copy()
    second.update(first.digest())
    return second.hexdigest()


def hint(credential: str) -> str:
    """Return the last characters, by which people tell keys apart: four, or a quarter of a short key."""
    return credential[-min(4, len(credential) // 4) :]


@functools.lru_cache(maxsize=16)
def _keyed(pepper: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    """Return both halves of HMAC (RFC 2104) with the key already in them, which halves its time for every
    call."""
    block = hashlib.sha256(pepper).digest() if len(pepper) > _BLOCK_BYTES else pepper
    block = block.ljust(_BLOCK_BYTES, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))
    return inner, outer


def _is_body(text: str) -> bool:
    """Say whether `text` is what follows the prefix of an issued key."""
    return _BODY.match(text) is not None and _checksum(text[:_SECRET_LENGTH]) == text[_SECRET_LENGTH:]


def _has_slip_in_prefix(credential: str) -> bool:
    """Say whether this is an issued key but for one slip in its prefix, which the checksum does not cover.

    The last of the prefix's characters may also have changed places with the first one of the secret.
    """
    return _is_body(credential[3:]) or _is_body(credential[2] + credential[4:])


def _checksum(secret: str) -> str:
    return _base32(zlib.crc32(secret.encode()), _CHECKSUM_LENGTH)


def _base32(number: int, length: int) -> str:
    return "".join(_ALPHABET[(number >> 5 * place) & 31] for place in reversed(range(length)))
