"""What can go wrong with a call that the contract does not refuse: whose fault it is, when to try again."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum


class Fault(StrEnum):
    """Who has to act for the failure to go away."""

    CLIENT = "client"
    UPSTREAM = "upstream"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class FailureFacts:
    """Name in logs and metrics, HTTP status where a dialect uses one, and a sentence for the client."""

    name: str
    fault: Fault
    status: int
    sentence: str
    retry_after_s: int | None = None


class Failure(Enum):
    """A failed call: not a decision of the contract, and never 401 or 403; 429 is for guessing alone."""

    BAD_REQUEST = FailureFacts("bad_request", Fault.CLIENT, 400, "The request is not well-formed HTTP/1.1.")
    NO_ROUTE = FailureFacts("no_route", Fault.CLIENT, 404, "No API is served under this path.")
    REQUEST_TIMEOUT = FailureFacts(
        "request_timeout", Fault.CLIENT, 408, "The request did not arrive in time."
    )
    BODY_TOO_LARGE = FailureFacts(
        "body_too_large", Fault.CLIENT, 413, "The request's body is larger than allowed."
    )
    EXPECTATION_FAILED = FailureFacts(
        "expectation_failed", Fault.CLIENT, 417, "The only expectation that can be met is 100-continue."
    )
    HEAD_TOO_LARGE = FailureFacts(
        "head_too_large", Fault.CLIENT, 431, "The request's headers are larger than allowed."
    )
    NOT_IMPLEMENTED = FailureFacts(
        "not_implemented", Fault.CLIENT, 501, "This HTTP method, version or upgrade is not supported."
    )
    TOO_MANY_FAILURES = FailureFacts(
        "too_many_failures",
        Fault.CLIENT,
        429,
        "Too many calls from this address had a wrong key or signature. Wait, and check the key.",
        60,
    )
    INTERNAL = FailureFacts("internal", Fault.GATEWAY, 500, "The gateway failed to handle the call.")
    UPSTREAM_UNREACHABLE = FailureFacts(
        "upstream_unreachable", Fault.UPSTREAM, 502, "The API behind the gateway cannot be reached.", 5
    )
    UPSTREAM_BROKEN = FailureFacts(
        "upstream_broken", Fault.UPSTREAM, 502, "The API behind the gateway broke off its answer.", 5
    )
    UPSTREAM_TIMEOUT = FailureFacts(
        "upstream_timeout", Fault.UPSTREAM, 504, "The API behind the gateway did not answer in time.", 5
    )
    COUNTING_UNAVAILABLE = FailureFacts(
        "counting_unavailable",
        Fault.GATEWAY,
        503,
        "The call cannot be counted right now; it was not made.",
        2,
    )
    OVERLOADED = FailureFacts(
        "overloaded", Fault.GATEWAY, 503, "The gateway has no capacity left for the call.", 2
    )
