"""What all queries of the ledger share: identifiers, pages, and the two errors a caller can act on."""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

Item = TypeVar("Item")
Query = TypeVar("Query", bound=sa.Select[Any])
MAX_PAGE = 10_000


class NotFoundError(LookupError):
    """There is no such row."""

    def __init__(self, noun: str, object_id: str) -> None:
        super().__init__(f"there is no {noun} {object_id}")
        self.noun = noun
        self.object_id = object_id


class CredentialTakenError(ValueError):
    """Texts that are accepted as a key already were given for another; `indexes` says which ones."""

    def __init__(self, indexes: Sequence[int]) -> None:
        super().__init__("a credential is in use already")
        self.indexes = tuple(indexes)


class CursorError(ValueError):
    """What was given as a cursor is none of this list."""

    def __init__(self) -> None:
        super().__init__("this is not a cursor of this list; take `next_cursor` of a page as it came")


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """A part of a list; `next_cursor` continues it and is None at the end."""

    items: tuple[Item, ...]
    next_cursor: str | None


def new_id(prefix: str) -> str:
    """Return an identifier such as `key_` and 16 random hex digits."""
    return f"{prefix}_{secrets.token_hex(8)}"


def write_cursor(position: Sequence[Any]) -> str:
    """Write where a list was left, as text that travels in a URL."""
    text = json.dumps([plain(value) for value in position], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def read_cursor(cursor: str, *kinds: type[Any]) -> list[Any]:
    """Read what `write_cursor` wrote for values of these kinds; raises CursorError for anything else."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        values = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if not isinstance(values, list) or len(values) != len(kinds):
            raise ValueError(cursor)
        return [_read(value, kind) for value, kind in zip(values, kinds, strict=True)]
    except (ValueError, TypeError, binascii.Error) as error:
        raise CursorError from error


def _read(value: object, kind: type[Any]) -> Any:
    """Return a value of a kind that the database can be asked about; raises ValueError."""
    if kind in {datetime, date} and isinstance(value, str):
        read = kind.fromisoformat(value)
        # Near the ends of the calendar another offset lies beyond it.
        if not 1 < read.year < 9999 or (kind is datetime and read.tzinfo is None):
            raise ValueError(value)
        return read
    if type(value) is not kind or (isinstance(value, int) and not -(2**63) <= value < 2**63):
        raise ValueError(value)
    if isinstance(value, str) and b"\x00" in value.encode():  # which raises for half a surrogate pair
        raise ValueError(value)
    return value


def plain(value: object) -> Any:
    """Return a column's value as JSON knows it; instants and days in ISO 8601."""
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    return value


def oldest_first(
    query: Query, instant: sa.Column[datetime], identifier: sa.Column[str], *, cursor: str | None, limit: int
) -> Query:
    """Put rows in the order of an instant and an id, behind a cursor, and take one more than a page has.

    Raises CursorError, and ValueError for a wrong limit.
    """
    if cursor is not None:
        after = read_cursor(cursor, datetime, str)
        query = query.where(sa.tuple_(instant, identifier) > sa.tuple_(*after))
    return query.order_by(instant, identifier).limit(check_limit(limit) + 1)


def page_of(items: Sequence[Item], limit: int, position: Any) -> Page[Item]:
    """Cut a page out of up to `limit + 1` items; `position(item)` is where the list goes on after it."""
    if len(items) <= limit:
        return Page(tuple(items), None)
    kept = tuple(items[:limit])
    return Page(kept, write_cursor(position(kept[-1])))


def check_limit(limit: int) -> int:
    """Return `limit` when a page can be so long; raises ValueError otherwise."""
    if not 1 <= limit <= MAX_PAGE:
        raise ValueError(f"a page has 1 to {MAX_PAGE} entries, not {limit}")
    return limit
