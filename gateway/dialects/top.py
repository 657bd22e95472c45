"""Taobao's TOP and its relatives: HTTP 200 always, an error is an `error_response` at the top of the body.

TOP's Python client raises on any other status and would hide the code. The format follows the `format`
parameter of the query; JSON when it does not say XML.
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

# Cause -> code, msg, sub_code, by TOP's table of platform errors.
_NO_PERMISSION = (11, "Insufficient ISV permissions")
_BAD_KEY = (29, "Invalid App Key")
_UNAVAILABLE = (10, "Service currently unavailable")
_BAD_ARGUMENTS = (41, "Invalid arguments")
CODES: Final[dict[Reason | Failure, tuple[int, str, str]]] = {
    Reason.MISSING_KEY: (28, "Missing App Key", "isv.missing-app-key"),
    Reason.AMBIGUOUS_KEY: (*_BAD_KEY, "isv.ambiguous-app-key"),
    Reason.UNKNOWN_KEY: (*_BAD_KEY, "isv.appkey-not-exists"),
    Reason.REVOKED_KEY: (*_BAD_KEY, "isv.appkey-revoked"),
    Reason.EXPIRED_KEY: (*_BAD_KEY, "isv.appkey-expired"),
    Reason.SUSPENDED: (*_NO_PERMISSION, "isv.appkey-suspended"),
    Reason.CLOSED: (*_BAD_KEY, "isv.appkey-closed"),
    Reason.BANNED: (*_NO_PERMISSION, "isv.appkey-banned"),
    Reason.RESTRICTED: (*_NO_PERMISSION, "isv.appkey-restricted"),
    Reason.UNKNOWN_METHOD: (22, "Invalid Method", "isv.invalid-method"),
    Reason.METHOD_NOT_IN_PLAN: (*_NO_PERMISSION, "isv.method-not-in-plan"),
    Reason.UNREADABLE: (*_BAD_ARGUMENTS, "isv.unreadable-method"),
    Reason.MISSING_SIGNATURE: (24, "Missing Signature", "isv.missing-signature"),
    Reason.INVALID_SIGNATURE: (25, "Invalid Signature", "isv.invalid-signature"),
    Reason.MISSING_TIMESTAMP: (30, "Missing Timestamp", "isv.missing-timestamp"),
    Reason.INVALID_TIMESTAMP: (31, "Invalid Timestamp", "isv.invalid-timestamp"),
    Reason.ADDRESS_NOT_ALLOWED: (*_NO_PERMISSION, "isv.address-not-allowed"),
    Reason.SITE_NOT_ALLOWED: (*_NO_PERMISSION, "isv.site-not-allowed"),
    Reason.QUOTA_EXCEEDED: (7, "App Call Limited", "accesscontrol.limited-by-app-access-count"),
    Failure.BAD_REQUEST: (*_BAD_ARGUMENTS, "isv.bad-request"),
    Failure.NO_ROUTE: (22, "Invalid Method", "isv.no-route"),
    Failure.REQUEST_TIMEOUT: (*_BAD_ARGUMENTS, "isv.request-timeout"),
    Failure.BODY_TOO_LARGE: (*_BAD_ARGUMENTS, "isv.body-too-large"),
    Failure.EXPECTATION_FAILED: (*_BAD_ARGUMENTS, "isv.expectation-failed"),
    Failure.HEAD_TOO_LARGE: (*_BAD_ARGUMENTS, "isv.head-too-large"),
    Failure.NOT_IMPLEMENTED: (8, "HTTP Action Not Allowed", "isv.not-implemented"),
    Failure.TOO_MANY_FAILURES: (*_BAD_KEY, "isv.too-many-failures"),
    Failure.INTERNAL: (*_UNAVAILABLE, "isp.internal-error"),
    Failure.UPSTREAM_UNREACHABLE: (15, "Remote service error", "isp.remote-service-unreachable"),
    Failure.UPSTREAM_BROKEN: (15, "Remote service error", "isp.remote-service-error"),
    Failure.UPSTREAM_TIMEOUT: (15, "Remote service error", "isp.remote-service-timeout"),
    Failure.COUNTING_UNAVAILABLE: (*_UNAVAILABLE, "isp.counting-unavailable"),
    Failure.OVERLOADED: (*_UNAVAILABLE, "isp.service-overloaded"),
}

_JSON = b"application/json; charset=utf-8"
_XML = b"text/xml; charset=utf-8"
_WANTS_XML = re.compile(rb"[?&]format=xml(?:&|\Z)", re.IGNORECASE)
_ERROR = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:\{\s*\"error_response\"\s*:|(?:<\?xml[^>]*\?>\s*)?<error_response[\s>])"
)
# Longest beginning of an answer in which an error_response can still appear.
_ENOUGH = 256


def refuse(cause: Reason | Failure, path: bytes, request_id: str, retry_after_s: int | None) -> Refusal:
    """Write a refusal as JSON, or as XML when the target asks for it."""
    code, message, sub_code = CODES[cause]
    request_id = safe_id(request_id)
    if _WANTS_XML.search(path):
        text = (
            f'<?xml version="1.0" encoding="utf-8" ?><error_response><code>{code}</code><msg>{message}</msg>'
            f"<sub_code>{sub_code}</sub_code><sub_msg>{sentence(cause)}</sub_msg>"
            f"<request_id>{request_id}</request_id></error_response>"
        )
        return Refusal(200, fields(_XML, retry_after_s), text.encode())
    error = {
        "code": code,
        "msg": message,
        "sub_code": sub_code,
        "sub_msg": sentence(cause),
        "request_id": request_id,
    }
    text = json.dumps({"error_response": error}, separators=(",", ":"))
    return Refusal(200, fields(_JSON, retry_after_s), text.encode())


def judge(prefix: bytes, ended: bool) -> tuple[bool, Waiver | None]:
    """Say whether an answer's beginning tells its outcome yet, and why the call is waived if it is."""
    if _ERROR.match(prefix, 0, _ENOUGH):  # so that it does not matter how much came at once
        return True, Waiver.ERROR_CODE
    if len(prefix) >= _ENOUGH:
        return True, None
    if ended:
        return True, None if prefix.strip() else Waiver.UPSTREAM_BROKEN
    return False, None
