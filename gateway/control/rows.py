"""Rows of usage as CSV and NDJSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol

from aiohttp import web

from gateway.cells import safe_cell
from gateway.control.operations import Call

NEXT_CURSOR = "X-Next-Cursor"


class Form(StrEnum):
    """How rows are written."""

    JSON = "json"
    CSV = "csv"
    NDJSON = "ndjson"


MEDIA: Mapping[str, str] = {
    "text/csv": f"With format=csv: a header, then a row a line; {NEXT_CURSOR} continues it.",
    "application/x-ndjson": f"With format=ndjson: an object a line; {NEXT_CURSOR} continues it.",
}


class Page(Protocol):
    """Rows that may go on."""

    @property
    def items(self) -> list[dict[str, Any]]:
        """The rows."""

    @property
    def next_cursor(self) -> str | None:
        """Where they go on."""


def written(call: Call[Any, Any], form: Form, columns: Sequence[str], page: Page) -> web.Response | None:
    """Return a page in the form that was asked for, or None for JSON; the next page is named in headers."""
    if form is Form.JSON:
        return None
    headers = {"Cache-Control": "no-store"}
    if page.next_cursor is not None:
        headers[NEXT_CURSOR] = page.next_cursor
        following = call.request.rel_url.update_query(cursor=page.next_cursor)
        headers["Link"] = f'<{following}>; rel="next"'
    if form is Form.NDJSON:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in page.items)
        return web.Response(text=text, content_type="application/x-ndjson", headers=headers)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([safe_cell(row[column]) for column in columns] for row in page.items)
    return web.Response(text=buffer.getvalue(), content_type="text/csv", charset="utf-8", headers=headers)
