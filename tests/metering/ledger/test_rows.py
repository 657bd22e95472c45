from __future__ import annotations

import base64
import json
from datetime import UTC, date, datetime
from typing import Any

import pytest

from metering.ledger.rows import CursorError, read_cursor, write_cursor


def written(*position: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(position).encode()).rstrip(b"=").decode()


def test_a_cursor_is_read_as_it_was_written() -> None:
    """Each kind of value comes back."""
    position = [datetime(2026, 11, 22, 1, 2, 3, 4, tzinfo=UTC), date(2026, 11, 22), "acc_1", -(2**63)]
    assert read_cursor(write_cursor(position), datetime, date, str, int) == position


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("\ud800", str),
        ("\x00", str),
        (2**63, int),
        ("0001-01-01T00:00:00+14:00", datetime),
        ("9999-12-31T23:59:59-14:00", datetime),
        ("2026-11-22T00:00:00", datetime),
        ("0001-01-01", date),
    ],
)
def test_what_the_database_cannot_be_asked_about_is_no_cursor(value: Any, kind: type[Any]) -> None:
    """A cursor that somebody made up is a wrong parameter, and not a ledger that is away."""
    with pytest.raises(CursorError):
        read_cursor(written(value), kind)
