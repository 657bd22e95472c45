"""Values as people type them: instants, days, and `none` to clear a field."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import typer

from policies.money import parse_money
from policies.period import month_of, parse_day, parse_period

NONE = "none"
INSTANT_HELP = "As 2026-11-21 or 2026-11-21T12:00+03:00; without an offset in UTC."


def cleared(text: str | None) -> bool:
    """Say whether the text stands for a field that is to be cleared."""
    return text is not None and text.lower() == NONE


def instant(text: str, option: str) -> str:
    """Return an instant in ISO 8601 with its offset; raises BadParameter that shows a right form."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no instant. {INSTANT_HELP}", param_hint=option) from error
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).isoformat()


def day(text: str, option: str) -> str:
    """Return a day as 2026-11-21; raises BadParameter."""
    try:
        return parse_day(text).isoformat()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def given(**fields: Any) -> dict[str, Any]:
    """Return the fields that were given at all."""
    return {name: value for name, value in fields.items() if value is not None}


def month(text: str, option: str) -> str:
    """Return a month as 2026-10; raises BadParameter."""
    try:
        period = parse_period(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
    if period != month_of(period.first):
        raise typer.BadParameter(f"{text!r} is no month: write it as 2026-10", param_hint=option)
    return f"{period.first:%Y-%m}"


def amount(text: str, option: str) -> str:
    """Return an amount of money as 34.50; raises BadParameter."""
    try:
        return str(parse_money(text))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
