"""The upstream's own key and signature, checked when the marketplace is started with them."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from demo.answers import MethodError
from demo.request import Request

SKEW_S = 3600.0
KEY_PARAMETERS = ("instancekey", "app_key")
KEY_FIELDS = (b"x-rapidapi-key", b"x-api-key")


class Access:
    """Who may call: everyone, or who shows the key and, with a secret, signs."""

    def __init__(self, key: str | None, secret: str | None) -> None:
        self._key = key
        self._secret = secret
        self.is_open = key is None and secret is None

    def check(self, request: Request, method: str) -> None:
        """Raise MethodError AccessDenied for a wrong key or signature."""
        if self.is_open:
            return
        if self._key is not None and self._key not in _keys(request):
            raise MethodError("AccessDenied", "The instance key is not known")
        if self._secret is not None:
            _check_signature(method, request.parameters, self._secret)


def _keys(request: Request) -> list[str]:
    found = [request.parameters[name] for name in KEY_PARAMETERS if name in request.parameters]
    found += [request.fields[name].decode("latin-1") for name in KEY_FIELDS if name in request.fields]
    scheme, _, token = request.fields.get(b"authorization", b"").decode("latin-1").partition(" ")
    return [*found, token.strip()] if scheme.lower() == "bearer" else found


def _check_signature(method: str, parameters: Mapping[str, str], secret: str) -> None:
    signature, timestamp = parameters.get("signature"), parameters.get("timestamp")
    if not signature:
        raise MethodError("AccessDenied", "Signature is missing", "MissingSignature")
    if not timestamp:
        raise MethodError("AccessDenied", "Timestamp is missing", "MissingTimestamp")
    try:
        at = datetime.strptime(timestamp, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError as error:
        raise MethodError("AccessDenied", "Timestamp is malformed", "InvalidTimestamp") from error
    if abs(at.timestamp() - time.time()) > SKEW_S:
        raise MethodError("AccessDenied", "Timestamp is too far off", "InvalidTimestamp")
    signed = method + "".join(parameters[name] for name in sorted(parameters) if name != "signature") + secret
    if not hmac.compare_digest(hashlib.sha256(signed.encode()).hexdigest(), signature.lower()):
        raise MethodError("AccessDenied", "Signature does not match", "InvalidSignature")
