from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import pytest

from gateway.dialects import Refusal, refuse
from gateway.dialects.otapi import CODES
from gateway.failures import Failure
from gateway.settings import Dialect
from policies.decision import Reason

CAUSES = [*Reason, *Failure]
JSON_PATH = b"/service-json/SearchItemsFrame"
XML_PATHS = [b"/service/SearchItemsFrame", b"/OtapiWebService2.asmx/SearchItemsFrame", b"/?x=/service-json/"]

SEEN_ON_THE_WIRE = {
    "AccessDenied",
    "InstanceKeyBan",
    "CallLimit",
    "NotFound",
    "NotAvailable",
    "ValidationError",
    "ContractViolation",
    "InternalError",
}


def refusal(cause: Reason | Failure, path: bytes = JSON_PATH, retry_after_s: int | None = None) -> Refusal:
    """Write a refusal."""
    return refuse(Dialect.OTAPI, cause, path=path, request_id="req-1", retry_after_s=retry_after_s)


def official_client(body: bytes) -> tuple[str, str] | None:
    """Read an error as the vendor's PHP client does: only at the very beginning, with the description beside
    it.
    """
    if not body.startswith(b'{"ErrorCode":'):
        return None
    answer = json.loads(body)
    return answer["ErrorCode"], answer["ErrorDescription"]


def old_shop(body: bytes) -> tuple[str, str] | None:
    """Read an error as old shops do: they cut the body from the declaration and read the elements by name."""
    at = body.find(b"<?xml")
    if at != 0:
        return None
    root = ElementTree.fromstring(body[at:])  # noqa: S314 - of our own making
    return root.findtext("ErrorCode", ""), root.findtext("ErrorDescription", "")


CLIENTS: list[tuple[bytes, Callable[[bytes], tuple[str, str] | None]]] = [
    (JSON_PATH, official_client),
    (b"/API/Service-JSON/SearchItemsFrame?x=1", official_client),
    *((path, old_shop) for path in XML_PATHS),
]


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize(("path", "client"), CLIENTS)
def test_existing_clients_read_every_refusal(
    cause: Reason | Failure, path: bytes, client: Callable[[bytes], tuple[str, str] | None]
) -> None:
    """Every refusal has status 200 and a code and a sentence that clients in the field can read."""
    found = refusal(cause, path)
    assert found.status == 200
    read = client(found.body)
    assert read is not None
    code, description = read
    assert code in SEEN_ON_THE_WIRE
    assert description.endswith(".")


@pytest.mark.parametrize(
    ("cause", "code", "sub_code"),
    [
        (Reason.MISSING_KEY, "AccessDenied", None),
        (Reason.UNKNOWN_KEY, "AccessDenied", None),
        (Reason.SUSPENDED, "AccessDenied", "InstanceKeyBan"),
        (Reason.BANNED, "InstanceKeyBan", None),
        (Reason.RESTRICTED, "ContractViolation", None),
        (Reason.UNKNOWN_METHOD, "NotFound", None),
        (Reason.QUOTA_EXCEEDED, "CallLimit", None),
        (Reason.MISSING_SIGNATURE, "AccessDenied", "MissingSignature"),
        (Reason.INVALID_SIGNATURE, "AccessDenied", "InvalidSignature"),
        (Reason.MISSING_TIMESTAMP, "AccessDenied", "MissingTimestamp"),
        (Reason.INVALID_TIMESTAMP, "AccessDenied", "InvalidTimestamp"),
        (Failure.COUNTING_UNAVAILABLE, "NotAvailable", None),
        (Failure.UPSTREAM_TIMEOUT, "NotAvailable", None),
        (Failure.INTERNAL, "InternalError", None),
        (Failure.BODY_TOO_LARGE, "ValidationError", None),
    ],
)
def test_refusals_use_the_vendors_codes(cause: Reason | Failure, code: str, sub_code: str | None) -> None:
    """Codes and sub-codes are the ones that OTAPI itself uses for the same trouble, in both formats."""
    answer = json.loads(refusal(cause).body)
    assert (answer["ErrorCode"], answer["SubErrorCode"]) == (code, sub_code)
    root = ElementTree.fromstring(refusal(cause, b"/service/X").body)  # noqa: S314 - of our own making
    assert (root.findtext("ErrorCode"), root.findtext("SubErrorCode") or None) == (code, sub_code)


def test_no_refusal_logs_a_shops_user_out() -> None:
    """SessionExpired would make a shop drop its user's session, so no cause has that code."""
    assert "SessionExpired" not in {code for code, _ in CODES.values()}
    assert set(CODES) == set(CAUSES)


def test_the_fields_come_in_otapis_order() -> None:
    """ErrorCode, SubErrorCode and ErrorDescription are the first fields in both formats."""
    order = ["ErrorCode", "SubErrorCode", "ErrorDescription", "RequestId"]
    assert list(json.loads(refusal(Reason.BANNED).body)) == order
    assert re.findall(rb"<(\w+)>", refusal(Reason.BANNED, b"/service/X").body)[1:] == [
        each.encode() for each in order
    ]


def test_content_types_and_retry_after() -> None:
    """The content type says the format, nothing is to be stored, and a wait is told where there is one."""
    as_json = dict(refusal(Reason.QUOTA_EXCEEDED, retry_after_s=17).headers)
    assert as_json[b"Content-Type"] == b"application/json; charset=utf-8"
    assert as_json[b"Retry-After"] == b"17"
    assert as_json[b"Cache-Control"] == b"no-store"
    as_xml = dict(refusal(Reason.BANNED, b"/service/X").headers)
    assert as_xml[b"Content-Type"] == b"text/xml; charset=utf-8"
    assert b"Retry-After" not in as_xml
    assert dict(refusal(Failure.OVERLOADED).headers)[b"Retry-After"] == b"2"


def test_refusals_repeat_nothing_of_the_request() -> None:
    """Neither the path nor the query appears, and a request id cannot break out of its place."""
    found = refuse(
        Dialect.OTAPI,
        Reason.UNKNOWN_KEY,
        path=b"/service-json/SECRET?instanceKey=SECRET",
        request_id='a"<b>&',
    )
    assert b"SECRET" not in found.body
    assert json.loads(found.body)["RequestId"] == "ab"
