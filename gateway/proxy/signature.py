"""OTAPI's signatures: SHA-256 over the method, all values in the order of their names, and the secret.

The values are signed before URL encoding, `timestamp` included and `signature` not. The key is one of the
values, so a gateway that swaps the key has to verify the client's signature and sign anew.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from datetime import UTC, datetime

from gateway.proxy.identify import Identified
from gateway.proxy.parameters import percent_decode, split
from policies.decision import Reason

SIGNATURE = b"signature"
TIMESTAMP = b"timestamp"
TIMESTAMP_FORMAT = "%Y%m%d%H%M%S"

_TIMESTAMP = re.compile(rb"[0-9]{14}\Z")


def verify(identified: Identified, secret: str, now: float, skew_s: float) -> Reason | None:
    """Return why a call of a key with a secret is refused, or None when its signature is right.

    A timestamp may be off by `skew_s` in either direction, the bound included.
    """
    signatures: list[bytes] = []
    timestamps: list[bytes] = []
    values: list[tuple[bytes, bytes]] = []
    for name, value in _parameters(identified):
        if name == SIGNATURE:
            signatures.append(value)
            continue
        if name == TIMESTAMP:
            timestamps.append(value)
        values.append((name, value))
    if not any(signatures):
        return Reason.MISSING_SIGNATURE
    if not any(timestamps):
        return Reason.MISSING_TIMESTAMP
    at = _instant(timestamps[0])
    if len(timestamps) > 1 or at is None or abs(now - at) > skew_s:
        return Reason.INVALID_TIMESTAMP
    if len(signatures) > 1 or len({name for name, _ in values}) < len(values):
        # A doubled name has no one value to sign.
        return Reason.INVALID_SIGNATURE
    expected = sign(identified.method, values, secret).encode()
    return None if hmac.compare_digest(signatures[0].lower(), expected) else Reason.INVALID_SIGNATURE


def sign(method: str, parameters: Iterable[tuple[bytes, bytes]], secret: str) -> str:
    """Return the signature of decoded parameters, 64 hex digits; one named `signature` is left out."""
    digest = hashlib.sha256(method.encode())
    for name, value in sorted(parameters, key=lambda pair: pair[0]):
        if name != SIGNATURE:
            digest.update(value)
    digest.update(secret.encode())
    return digest.hexdigest()


def timestamp_of(now: float) -> bytes:
    """Return an instant as signatures state it: yyyyMMddHHmmss in UTC."""
    return datetime.fromtimestamp(now, UTC).strftime(TIMESTAMP_FORMAT).encode()


def decoded(raw: bytes) -> bytes:
    """Decode a name or a value as signatures see it; with a malformed escape it is taken as it stands."""
    found = percent_decode(raw)
    return raw if found is None else found


def decoded_arguments(identified: Identified) -> list[tuple[bytes, bytes]]:
    """Return the parameters that stand in a call's envelope."""
    if identified.envelope is None:
        return []
    return [(each.name.encode(), each.value.encode()) for each in identified.envelope.arguments]


def _parameters(identified: Identified) -> list[tuple[bytes, bytes]]:
    pairs = split(identified.query.raw) if identified.query is not None else []
    if identified.form is not None:
        pairs += split(identified.form.raw)
    return [(decoded(name), decoded(value)) for name, value in pairs] + decoded_arguments(identified)


def _instant(raw: bytes) -> float | None:
    if _TIMESTAMP.match(raw) is None:
        return None
    try:
        return datetime.strptime(raw.decode(), TIMESTAMP_FORMAT).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
