"""OTAPI: HTTP 200 always, the error code first, JSON under `service-json` and XML elsewhere.

Its clients see an error only when a JSON body starts with `{"ErrorCode":` and has an ErrorDescription beside
it, and old shops cut an XML body from `<?xml`. SessionExpired is never used: it would log the shop's user
out.
"""

from __future__ import annotations

import json
import re
from typing import Final

from gateway.dialects.refusal import Refusal, fields, safe_id
from gateway.dialects.sentences import sentence
from gateway.failures import Failure
from policies.decision import Reason
from policies.waiver import Waiver

CHARGED: Final = frozenset({b"Ok", b"BatchError"})

# Cause -> ErrorCode, SubErrorCode.
CODES: Final[dict[Reason | Failure, tuple[str, str | None]]] = {
    Reason.MISSING_KEY: ("AccessDenied", None),
    Reason.AMBIGUOUS_KEY: ("AccessDenied", None),
    Reason.UNKNOWN_KEY: ("AccessDenied", None),
    Reason.REVOKED_KEY: ("AccessDenied", None),
    Reason.EXPIRED_KEY: ("AccessDenied", None),
    Reason.SUSPENDED: ("AccessDenied", "InstanceKeyBan"),
    Reason.CLOSED: ("AccessDenied", None),
    Reason.BANNED: ("InstanceKeyBan", None),
    Reason.RESTRICTED: ("ContractViolation", None),
    Reason.UNKNOWN_METHOD: ("NotFound", None),
    Reason.METHOD_NOT_IN_PLAN: ("ContractViolation", None),
    Reason.UNREADABLE: ("ValidationError", None),
    Reason.MISSING_SIGNATURE: ("AccessDenied", "MissingSignature"),
    Reason.INVALID_SIGNATURE: ("AccessDenied", "InvalidSignature"),
    Reason.MISSING_TIMESTAMP: ("AccessDenied", "MissingTimestamp"),
    Reason.INVALID_TIMESTAMP: ("AccessDenied", "InvalidTimestamp"),
    Reason.ADDRESS_NOT_ALLOWED: ("AccessDenied", "CallFromIP"),
    Reason.SITE_NOT_ALLOWED: ("AccessDenied", None),
    Reason.QUOTA_EXCEEDED: ("CallLimit", None),
    Failure.BAD_REQUEST: ("ValidationError", None),
    Failure.NO_ROUTE: ("NotFound", None),
    Failure.REQUEST_TIMEOUT: ("NotAvailable", None),
    Failure.BODY_TOO_LARGE: ("ValidationError", None),
    Failure.EXPECTATION_FAILED: ("ValidationError", None),
    Failure.HEAD_TOO_LARGE: ("ValidationError", None),
    Failure.NOT_IMPLEMENTED: ("ValidationError", None),
    Failure.TOO_MANY_FAILURES: ("AccessDenied", None),
    Failure.INTERNAL: ("InternalError", None),
    Failure.UPSTREAM_UNREACHABLE: ("NotAvailable", None),
    Failure.UPSTREAM_BROKEN: ("NotAvailable", None),
    Failure.UPSTREAM_TIMEOUT: ("NotAvailable", None),
    Failure.COUNTING_UNAVAILABLE: ("NotAvailable", None),
    Failure.OVERLOADED: ("NotAvailable", None),
}

_JSON = b"application/json; charset=utf-8"
_XML = b"text/xml; charset=utf-8"
# How nearly all good answers begin; the pattern says the same of it.
_JSON_OK = b'{"ErrorCode":"Ok"'
_JSON_CODE = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"ErrorCode"\s*:\s*"([^"\\]*)"')
# In a SOAP answer the code stands some elements deeper; in all of them it is the first of its name.
_XML_CODE = re.compile(rb"<(?:[A-Za-z_][\w.\-]*:)?ErrorCode(?:\s[^<>]*)?>\s*([^<]*?)\s*</")


def refuse(cause: Reason | Failure, path: bytes, request_id: str, retry_after_s: int | None) -> Refusal:
    """Write a refusal as JSON or XML, by the path."""
    segments = path.partition(b"?")[0].lower().split(b"/")
    is_json = b"service-json" in segments
    head, tail = _BODIES[cause, is_json]
    body = head + safe_id(request_id).encode() + tail
    return Refusal(200, fields(_JSON if is_json else _XML, retry_after_s), body)


def judge(prefix: bytes, ended: bool) -> tuple[bool, Waiver | None]:
    """Say whether an answer's beginning tells its outcome yet, and why the call is waived if it is."""
    if prefix.startswith(_JSON_OK):
        return True, None
    found = _JSON_CODE.match(prefix) or (_XML_CODE.search(prefix) if _begins_as_xml(prefix) else None)
    if found is not None:
        return True, None if found.group(1) in CHARGED else Waiver.ERROR_CODE
    return ended, Waiver.UPSTREAM_BROKEN if ended else None


def _begins_as_xml(prefix: bytes) -> bool:
    return prefix.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<"


def _body(cause: Reason | Failure, is_json: bool) -> tuple[bytes, bytes]:
    """Return what stands before and after the request's id."""
    code, sub_code = CODES[cause]
    text = sentence(cause)
    if is_json:
        members = json.dumps(
            {"ErrorCode": code, "SubErrorCode": sub_code, "ErrorDescription": text, "RequestId": "?"},
            separators=(",", ":"),
        )
        before, _, after = members.rpartition("?")
        return before.encode(), after.encode()
    before = (
        '<?xml version="1.0" encoding="utf-8"?>'
        f"<OtapiAnswer><ErrorCode>{code}</ErrorCode><SubErrorCode>{sub_code or ''}</SubErrorCode>"
        f"<ErrorDescription>{text}</ErrorDescription><RequestId>"
    )
    return before.encode(), b"</RequestId></OtapiAnswer>"


_BODIES: Final = {(cause, is_json): _body(cause, is_json) for cause in CODES for is_json in (True, False)}
