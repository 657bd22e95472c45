"""How a marketplace's API says no, and how it says whether a call succeeded.

A *refusal* is written so that the API's existing clients understand it. An *outcome reader* looks at an
answer as it passes and tells whether the contract charges it. Both are pure: bytes in, bytes or a verdict
out.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.dialects import otapi, problem, top
from gateway.dialects.items import ItemCounter
from gateway.dialects.outcome import OutcomeReader, PrefixReader, StatusReader
from gateway.dialects.refusal import Refusal
from gateway.failures import Failure
from gateway.settings import Dialect
from policies.decision import Reason

__all__ = ["OutcomeReader", "Refusal", "read_outcome", "refuse"]

# Members of an enumeration are found ten times slower than names of a module.
_OTAPI, _PROBLEM = Dialect.OTAPI, Dialect.PROBLEM


def refuse(
    dialect: Dialect,
    cause: Reason | Failure,
    *,
    path: bytes,
    request_id: str,
    retry_after_s: int | None = None,
) -> Refusal:
    """Write a refusal in a route's dialect; `path` is the request's raw path or target.

    The key, the query and the body are never repeated in it.
    """
    if retry_after_s is None and isinstance(cause, Failure):
        retry_after_s = cause.value.retry_after_s
    match dialect:
        case Dialect.OTAPI:
            return otapi.refuse(cause, path, request_id, retry_after_s)
        case Dialect.TOP:
            return top.refuse(cause, path, request_id, retry_after_s)
        case Dialect.PROBLEM:
            return problem.refuse(cause, request_id, retry_after_s)


def read_outcome(
    dialect: Dialect, *, status: int, codings: Sequence[bytes], cost_items: str | None
) -> OutcomeReader:
    """Make the reader of one answer's outcome.

    `codings` are the values of its Content-Encoding fields. `cost_items` is the path of a list in the answer,
    such as `Result.Items`, whose elements are to be counted.
    """
    if dialect is _PROBLEM:
        return StatusReader(status, codings, ItemCounter(cost_items) if cost_items and status < 400 else None)
    if status != 200:
        return StatusReader(status, codings, None, good_below=0)
    counter = ItemCounter(cost_items) if cost_items else None
    return PrefixReader(otapi.judge if dialect is _OTAPI else top.judge, codings, counter)
