"""Usage: what was counted, grouped and paged, for billing and for a client site about itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Annotated, Any

from pydantic import Field

from gateway.control.auth import Right
from gateway.control.me import own_key, quota_of
from gateway.control.models import AccountId, KeyId, NoInput, Output, Query, Text
from gateway.control.operations import Call, Operation, Reply, wrong_cursor
from gateway.control.problems import FieldError, invalid
from gateway.control.rows import MEDIA, Form, written
from gateway.validation import suggestion
from metering import usage as metering
from metering.usage import GROUPS, REASON_GROUPS, UsageRow
from policies.period import Period, day_of, month_of, parse_period
from policies.quota import Window
from policies.standing import Standing

DEFAULT_PAGE, MAX_PAGE = 1_000, 10_000
OWN_GROUPS = ("site", "method", "class", "day", "month")
COUNTS = ("calls", "taken", "waived", "billable")


class RowsQuery(Query):
    """What all lists of usage take."""

    period: Text | None = Field(
        None, description="2026-10, 2026-10-05, or 2026-10-01..2026-10-08 (end excluded); default this month."
    )
    live: bool = Field(False, description="With what was counted since the last roll-up.")
    format: Form = Form.JSON
    cursor: Annotated[str, Field(max_length=4_000)] | None = Field(
        None, description="The `next_cursor` of the page before, as it came."
    )
    limit: int = Field(DEFAULT_PAGE, ge=1, le=MAX_PAGE, description="Rows on a page.")


class OwnUsageQuery(RowsQuery):
    """Usage of the caller's own key."""

    group_by: str = Field("method,class", description=f"Out of {', '.join(OWN_GROUPS)}; with commas.")


class FilteredQuery(RowsQuery):
    """Whose usage."""

    account: AccountId | None = None
    key: KeyId | None = None
    site: Text | None = None


class UsageQuery(FilteredQuery):
    """Which usage, grouped how."""

    group_by: str = Field("key,method,class", description=f"Out of {', '.join(GROUPS)}; with commas.")
    method: Text | None = None
    klass: Text | None = Field(None, alias="class")


class ReasonsQuery(FilteredQuery):
    """Which denied calls and waived units."""

    group_by: str = Field("", description=f"Out of {', '.join(REASON_GROUPS)}; with commas, or none.")


class Days(Output):
    """Whole days of the billing timezone."""

    first: date
    last_excluded: date
    timezone: str


class UsagePage(Output):
    """Rows of usage: the groups that were asked for, `calls`, and units `taken`, `waived` and `billable`."""

    period: Days
    items: list[dict[str, Any]]
    next_cursor: str | None


class ReasonsPage(Output):
    """Rows of `effect`, `reason` and `units`, which are calls where the effect is `denied`."""

    period: Days
    items: list[dict[str, Any]]
    next_cursor: str | None


class Quota(Output):
    """What a key may still use at present; `used` and `left` are null while Redis is away."""

    standing: Standing
    limit: int | None
    window: Window
    used: int | None
    left: int | None


class OwnUsagePage(UsagePage):
    """Usage of the caller's own key, and its quota at present."""

    key_id: str
    quota: Quota


async def show(call: Call[NoInput, UsageQuery]) -> Reply:
    """Return usage of all keys, or of those asked for."""
    query = call.query
    asked = metering.UsageQuery(
        period=_period(call),
        group_by=_groups(query.group_by, GROUPS),
        account_id=query.account,
        key_id=query.key,
        site=query.site,
        method=query.method,
        klass=query.klass,
        live=query.live,
        cursor=query.cursor,
        limit=query.limit,
    )
    page = await _asked(call, asked)
    content = UsagePage(
        period=_days(call, asked.period), items=_rows(page.rows), next_cursor=page.next_cursor
    )
    return Reply(written(call, query.format, (*asked.group_by, *COUNTS), content) or content)


async def show_own(call: Call[NoInput, OwnUsageQuery]) -> Reply:
    """Return usage of the key that the request carries."""
    key = await own_key(call)
    query = call.query
    asked = metering.UsageQuery(
        period=_period(call),
        group_by=_groups(query.group_by, OWN_GROUPS),
        key_id=key.id,
        live=query.live,
        cursor=query.cursor,
        limit=query.limit,
    )
    page = await _asked(call, asked)
    content = OwnUsagePage(
        period=_days(call, asked.period),
        items=_rows(page.rows),
        next_cursor=page.next_cursor,
        key_id=key.id,
        quota=Quota(**await quota_of(call, key)),
    )
    return Reply(written(call, query.format, (*asked.group_by, *COUNTS), content) or content)


async def show_reasons(call: Call[NoInput, ReasonsQuery]) -> Reply:
    """Return denied calls and waived units by reason."""
    query = call.query
    asked = metering.UsageQuery(
        period=_period(call),
        group_by=_groups(query.group_by, REASON_GROUPS),
        account_id=query.account,
        key_id=query.key,
        site=query.site,
        live=query.live,
        cursor=query.cursor,
        limit=query.limit,
    )
    try:
        page = await metering.reasons(call.control.engine, call.control.redis, asked)
    except ValueError as error:
        raise wrong_cursor(error) from error
    items = [
        {**row.group, "effect": row.effect, "reason": row.reason, "units": row.units} for row in page.rows
    ]
    content = ReasonsPage(period=_days(call, asked.period), items=items, next_cursor=page.next_cursor)
    return Reply(
        written(call, query.format, (*asked.group_by, "effect", "reason", "units"), content) or content
    )


async def _asked(call: Call[NoInput, Any], asked: metering.UsageQuery) -> metering.UsagePage:
    try:
        return await metering.usage(call.control.engine, call.control.redis, asked)
    except ValueError as error:
        # Groups and limits are checked before: only the cursor is left to be wrong.
        raise wrong_cursor(error) from error


def _rows(rows: Sequence[UsageRow]) -> list[dict[str, Any]]:
    return [{**row.group, **{name: getattr(row, name) for name in COUNTS}} for row in rows]


def _days(call: Call[NoInput, Any], period: Period) -> Days:
    zone = call.control.settings.contract.zone
    return Days(first=period.first, last_excluded=period.last_excluded, timezone=zone.key)


def _period(call: Call[NoInput, Any]) -> Period:
    text = call.query.period
    if text is None:
        return month_of(day_of(call.now.timestamp(), call.control.settings.contract.zone))
    try:
        return parse_period(text)
    except ValueError as error:
        raise invalid([FieldError("query.period", str(error))]) from error


def _groups(text: str, known: Sequence[str]) -> tuple[str, ...]:
    groups = tuple(group.strip() for group in text.split(",")) if text else ()
    errors = [
        FieldError(
            "query.group_by", f"{group!r} is no group{suggestion(group, known)} (groups: {', '.join(known)})"
        )
        for group in groups
        if group not in known
    ]
    if not errors and len(set(groups)) < len(groups):
        errors = [FieldError("query.group_by", "names a group twice")]
    if errors:
        raise invalid(errors)
    return groups


OPERATIONS = (
    Operation(
        "showUsage",
        "GET",
        "/v1/usage",
        "What was used, grouped and paged",
        show,
        rights=(Right.USAGE_READ,),
        query=UsageQuery,
        answer=UsagePage,
        media=MEDIA,
        etag=True,
    ),
    Operation(
        "showReasons",
        "GET",
        "/v1/usage/reasons",
        "Denied calls and waived units by reason",
        show_reasons,
        rights=(Right.USAGE_READ,),
        query=ReasonsQuery,
        answer=ReasonsPage,
        media=MEDIA,
        etag=True,
    ),
    Operation(
        "showOwnUsage",
        "GET",
        "/v1/me/usage",
        "What the key that is sent along has used, and may still use",
        show_own,
        query=OwnUsageQuery,
        answer=OwnUsagePage,
        media=MEDIA,
    ),
)
