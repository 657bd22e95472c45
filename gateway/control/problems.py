"""Refusals of the control API as RFC 9457 problems, naming every wrong field at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aiohttp import web

CONTENT_TYPE = "application/problem+json"
# The type of a problem is relative to the API's own address: GET /problems is not served, the name is enough.
TYPE_PREFIX = "tallygate:problem:"


@dataclass(frozen=True, slots=True)
class FieldError:
    """A wrong field: `field` as in `body.daily_limit`, `query.limit` or `header.Idempotency-Key`."""

    field: str
    message: str


@dataclass
class Problem(Exception):  # noqa: N818 - a problem is what RFC 9457 calls it
    """An answer that is no success: `kind` is a stable name, `detail` says what to do."""

    status: int
    kind: str
    title: str
    detail: str
    errors: Sequence[FieldError] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self, request_id: str) -> web.Response:
        """Write the problem; `request_id` finds it in the log."""
        body: dict[str, object] = {
            "type": TYPE_PREFIX + self.kind,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
        }
        if self.errors:
            body["errors"] = [{"field": error.field, "message": error.message} for error in self.errors]
        return web.Response(
            status=self.status,
            text=json.dumps(body),
            content_type=CONTENT_TYPE,
            headers={**self.headers, "Cache-Control": "no-store"},
        )


def invalid(errors: Sequence[FieldError]) -> Problem:
    """Return the problem of input that does not fit; each error names its field."""
    count = "One field does not" if len(errors) == 1 else f"{len(errors)} fields do not"
    return Problem(422, "invalid", "The request is not valid", f"{count} fit.", errors)


def not_found(noun: str, object_id: str) -> Problem:
    """Return the problem of an object that does not exist."""
    return Problem(404, "not-found", "Not found", f"There is no {noun} {object_id}.")


def conflict(detail: str, errors: Sequence[FieldError] = ()) -> Problem:
    """Return the problem of a request that does not fit what is there already."""
    return Problem(409, "conflict", "Conflict", detail, errors)


def unavailable(detail: str) -> Problem:
    """Return the problem of a store that cannot be reached."""
    return Problem(503, "unavailable", "Not available right now", detail, headers={"Retry-After": "2"})
