"""What every model of the control API is made of: strict bodies, queries, and values within bounds."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
)

from policies.money import parse_money
from policies.period import FIRST_YEAR, LAST_YEAR, parse_period, sensible

MAX_PAGE, DEFAULT_PAGE = 1_000, 100
EARLIEST, LATEST = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC), datetime(LAST_YEAR + 1, 1, 1, tzinfo=UTC)


def _identifier(text: str) -> str:
    if not re.match(r"[a-z]{3}_[0-9a-f]{16}\Z", text):
        raise ValueError("must be an id: three letters, _ and 16 hex digits")
    return text


def _printable(text: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError("must not hold control characters")
    return text


def _telling(text: str) -> str:
    if text and not text.strip():
        raise ValueError("must not be blank")
    return text


def _sensible(instant: datetime) -> datetime:
    if not EARLIEST <= instant < LATEST:
        raise ValueError(f"must lie between the years {FIRST_YEAR} and {LAST_YEAR}")
    return instant.astimezone(UTC)


def _amount(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("must be text with digits and a point, such as 34.50")
    return parse_money(value)


def _month(text: str) -> str:
    if not re.match(r"[0-9]{4}-[0-9]{2}\Z", text):
        raise ValueError("must be a month such as 2026-10")
    parse_period(text)
    return text


def _printable_lines(text: str) -> str:
    if any(
        (ord(character) < 32 and character not in "\t\r\n") or ord(character) == 127 for character in text
    ):
        raise ValueError("must not hold control characters")
    return text


AccountId = Annotated[
    str, AfterValidator(_identifier), WithJsonSchema({"type": "string", "pattern": "^acc_[0-9a-f]{16}$"})
]
InvoiceId = Annotated[
    str, AfterValidator(_identifier), WithJsonSchema({"type": "string", "pattern": "^inv_[0-9a-f]{16}$"})
]
KeyId = Annotated[
    str, AfterValidator(_identifier), WithJsonSchema({"type": "string", "pattern": "^key_[0-9a-f]{16}$"})
]
Text = Annotated[
    str, Field(min_length=1, max_length=200), AfterValidator(_printable), AfterValidator(_telling)
]
Instant = Annotated[AwareDatetime, AfterValidator(_sensible)]
Amount = Annotated[
    Decimal,
    BeforeValidator(_amount),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]{1,15}(\.[0-9]{1,2})?$", "examples": ["34.50"]}),
]
Day = Annotated[date, AfterValidator(sensible)]
Month = Annotated[
    str,
    AfterValidator(_month),
    WithJsonSchema({"type": "string", "pattern": "^2[01][0-9]{2}-(0[1-9]|1[0-2])$"}),
]
Reason = Annotated[
    str, Field(min_length=1, max_length=4_000), AfterValidator(_printable_lines), AfterValidator(_telling)
]


class Input(BaseModel):
    """A body: unknown fields are refused, and types are not guessed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Query(BaseModel):
    """The parameters of a query: unknown ones are refused, and texts are read as numbers and flags."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Output(BaseModel):
    """An answer."""

    model_config = ConfigDict(frozen=True)


class NoInput(Input):
    """A body that holds nothing."""


class NoQuery(Query):
    """A query without parameters."""


class PageQuery(Query):
    """Where a list goes on, and how much of it."""

    cursor: Annotated[str, Field(max_length=1_000)] | None = Field(
        None, description="The `next_cursor` of the page before, as it came."
    )
    limit: int = Field(DEFAULT_PAGE, ge=1, le=MAX_PAGE, description="Entries on a page.")
