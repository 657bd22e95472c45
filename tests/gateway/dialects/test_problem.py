from __future__ import annotations

import json

import pytest

from gateway.dialects import refuse
from gateway.failures import Failure
from gateway.settings import Dialect
from policies.decision import Reason


@pytest.mark.parametrize("cause", [*Reason, *Failure])
def test_refusals_are_problems(cause: Reason | Failure) -> None:
    """Every refusal is an RFC 9457 problem whose status member is its status."""
    found = refuse(Dialect.PROBLEM, cause, path=b"/x", request_id="r-1")
    problem = json.loads(found.body)
    assert dict(found.headers)[b"Content-Type"] == b"application/problem+json"
    assert problem["status"] == found.status >= 400
    assert problem["detail"].endswith(".")
    assert problem["title"]
    assert problem["type"] == f"urn:tallygate:{problem['reason']}"
    assert problem["request_id"] == "r-1"


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (Reason.MISSING_KEY, 401),
        (Reason.UNKNOWN_KEY, 401),
        (Reason.BANNED, 403),
        (Reason.RESTRICTED, 403),
        (Reason.UNKNOWN_METHOD, 404),
        (Reason.UNREADABLE, 400),
        (Reason.QUOTA_EXCEEDED, 429),
    ],
)
def test_reasons_have_the_status_that_http_has_for_them(reason: Reason, status: int) -> None:
    """A denial is told from another by its status."""
    assert refuse(Dialect.PROBLEM, reason, path=b"/", request_id="r").status == status


@pytest.mark.parametrize("failure", Failure)
def test_a_failure_never_looks_like_a_denial(failure: Failure) -> None:
    """A client that gives up on 401, 403 or 429 must not do so because the gateway or the upstream failed;
    only who guesses keys is told to slow down."""
    found = refuse(Dialect.PROBLEM, failure, path=b"/", request_id="r")
    assert found.status not in (401, 403)
    assert (found.status == 429) == (failure is Failure.TOO_MANY_FAILURES)
    wait = failure.value.retry_after_s
    assert dict(found.headers).get(b"Retry-After") == (None if wait is None else b"%d" % wait)


def test_a_401_names_a_scheme() -> None:
    """HTTP asks for a challenge beside a 401, and for none elsewhere."""
    assert b"WWW-Authenticate" in dict(
        refuse(Dialect.PROBLEM, Reason.MISSING_KEY, path=b"/", request_id="r").headers
    )
    assert b"WWW-Authenticate" not in dict(
        refuse(Dialect.PROBLEM, Reason.BANNED, path=b"/", request_id="r").headers
    )
