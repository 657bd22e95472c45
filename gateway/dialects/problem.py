"""Plain HTTP APIs: refusals are RFC 9457 problems with a status that says what they are."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Final

from gateway.dialects.refusal import Refusal, fields, safe_id
from gateway.dialects.sentences import sentence
from gateway.failures import Failure
from policies.decision import Reason

STATUSES: Final = {
    Reason.MISSING_KEY: 401,
    Reason.AMBIGUOUS_KEY: 400,
    Reason.UNKNOWN_KEY: 401,
    Reason.REVOKED_KEY: 401,
    Reason.EXPIRED_KEY: 401,
    Reason.SUSPENDED: 403,
    Reason.CLOSED: 403,
    Reason.BANNED: 403,
    Reason.RESTRICTED: 403,
    Reason.UNKNOWN_METHOD: 404,
    Reason.METHOD_NOT_IN_PLAN: 403,
    Reason.UNREADABLE: 400,
    Reason.MISSING_SIGNATURE: 401,
    Reason.INVALID_SIGNATURE: 401,
    Reason.MISSING_TIMESTAMP: 401,
    Reason.INVALID_TIMESTAMP: 401,
    Reason.ADDRESS_NOT_ALLOWED: 403,
    Reason.SITE_NOT_ALLOWED: 403,
    Reason.QUOTA_EXCEEDED: 429,
}

_CONTENT_TYPE = b"application/problem+json"
# A 401 has to name a scheme; the sentence says where the key belongs.
_CHALLENGE = (b"WWW-Authenticate", b"Bearer")


def refuse(cause: Reason | Failure, request_id: str, retry_after_s: int | None) -> Refusal:
    """Write a refusal as a problem."""
    name, status = (
        (cause.value.name, cause.value.status)
        if isinstance(cause, Failure)
        else (cause.value, STATUSES[cause])
    )
    text = json.dumps(
        {
            "type": f"urn:tallygate:{name}",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": sentence(cause),
            "reason": name,
            "request_id": safe_id(request_id),
        },
        separators=(",", ":"),
    )
    headers = fields(_CONTENT_TYPE, retry_after_s)
    return Refusal(
        status, (*headers, _CHALLENGE) if status == HTTPStatus.UNAUTHORIZED else headers, text.encode()
    )
