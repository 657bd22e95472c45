"""What people read: the invoice page and the texts of e-mails, as templates over plain data.

Templates are loaded with this module, so that nothing is read from disk while requests are served.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import jinja2

MINUS = "\N{MINUS SIGN}"


def day(value: date | str) -> str:
    """Write a day for people, such as 7 November 2026."""
    found = date.fromisoformat(value) if isinstance(value, str) else value
    return f"{found.day} {found:%B %Y}"


def days(first: date, last: date) -> str:
    """Write days from the first to the last, both included, such as 9 to 31 October 2026."""
    if first == last:
        return day(first)
    if (first.year, first.month) == (last.year, last.month):
        return f"{first.day} to {day(last)}"
    return f"{day(first)} to {day(last)}"


def moment(value: datetime | str) -> str:
    """Write an instant for people in the offset it came with, such as 7 November 2026, 00:00 (UTC+03:00)."""
    found = datetime.fromisoformat(value) if isinstance(value, str) else value
    return f"{day(found.date())}, {found:%H:%M} ({found:%Z})" if found.tzinfo else f"{found}"


def date_of(value: str) -> str:
    """Write the local day of an instant for people."""
    return day(datetime.fromisoformat(value).date())


def month(value: date | str) -> str:
    """Write a month for people, such as November 2026."""
    found = (
        date.fromisoformat(f"{value}-01" if len(value) == 7 else value) if isinstance(value, str) else value
    )
    return f"{found:%B %Y}"


def money(value: Decimal | str) -> str:
    """Write an amount with its cents and groups of thousands, such as 1,234.50."""
    amount = Decimal(value)
    text = f"{abs(amount):,.2f}"
    return MINUS + text if amount < 0 else text


def count(value: Decimal | int | str) -> str:
    """Write a quantity with groups of thousands and no needless places, such as 1,234.5."""
    number = Decimal(value)
    text = f"{abs(number):,f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return MINUS + text if number < 0 else text


def price(value: Decimal | str) -> str:
    """Write a price of a unit, which may have more places than cents: 0.001, 10.00."""
    text = f"{Decimal(value):,f}"
    whole, _, places = text.partition(".")
    return f"{whole}.{places.rstrip('0').ljust(2, '0')}"


environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=jinja2.select_autoescape(["html"]),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    auto_reload=False,
)
environment.filters.update(
    day=day, date=date_of, moment=moment, month=month, money=money, count=count, price=price
)
environment.globals.update(days=days)
