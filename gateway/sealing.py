"""Sealing of signing secrets: they must be read back to check signatures, so they are stored encrypted.

The key is derived from a pepper, which lives outside the stores: a stolen database or Redis holds no secret.
A sealed secret names its pepper, so it can still be opened after a new one was put first.
"""

from __future__ import annotations

import base64
import binascii
import functools
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Peppers = tuple[tuple[str, bytes], ...]  # by id, the first one seals
NONCE_BYTES = 12
_PURPOSE = b"tallygate signing secret"


class SealError(ValueError):
    """A sealed secret cannot be opened: it is damaged, or its pepper is not configured."""


def seal(secret: str, peppers: Peppers) -> str:
    """Return a secret encrypted under the first pepper, as text that may be stored."""
    pepper_id, pepper = peppers[0]
    nonce = secrets.token_bytes(NONCE_BYTES)
    sealed = _cipher(pepper).encrypt(nonce, secret.encode(), pepper_id.encode())
    return f"{pepper_id}:{base64.urlsafe_b64encode(nonce + sealed).decode()}"


def unseal(sealed: str, peppers: Peppers) -> str:
    """Return the secret that `seal` was given; raises SealError."""
    pepper_id, _, text = sealed.rpartition(":")
    pepper = dict(peppers).get(pepper_id)
    if pepper is None:
        raise SealError(f"the pepper {pepper_id!r} that a signing secret was sealed with is not configured")
    try:
        data = base64.b64decode(text, altchars=b"-_", validate=True)
        plain = _cipher(pepper).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], pepper_id.encode())
    except (binascii.Error, ValueError, InvalidTag) as error:
        raise SealError("a sealed signing secret is damaged") from error
    return plain.decode()


@functools.lru_cache(maxsize=16)
def _cipher(pepper: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), length=32, salt=None, info=_PURPOSE).derive(pepper))
