"""Months by command: told page by page before they are closed or issued, and compared afterwards."""

from __future__ import annotations

import asyncio
import csv
import json
from datetime import date
from decimal import Decimal

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.cli import months
from gateway.cli.output import Format, write_rows
from tests.gateway.cli.conftest import Cli
from tests.gateway.control.bills import CLOSING, ISSUING, Shop
from tests.gateway.control.conftest import Api, Clock


@pytest.fixture
async def shops(admin: Api, engine: AsyncEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> list[Shop]:
    """Three shops whose October costs 125.00 each, told one on a page."""
    monkeypatch.setattr(months, "PAGE", 1)
    first = Shop(admin, engine, clock)
    await first.open()
    made = [first]
    for name in ("Second", "Third"):
        shop = Shop(admin, engine, clock)
        shop.account = (await admin.post("/v1/accounts", {"name": name})).body["id"]
        key = await admin.post("/v1/keys", {"account_id": shop.account, "plan": "K1"})
        shop.key = key.body["id"]
        made.append(shop)
    for shop in made:
        await shop.count(date(2026, 10, 5), 1_500)
    return made


async def test_what_closing_would_do_is_told_over_pages(
    shops: list[Shop], cli: Cli, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All accounts are summed up; a table shows as many as are read, CSV and JSON have every one."""
    clock.now = CLOSING
    monkeypatch.setattr(months, "SHOWN", 2)
    told = await cli("bill", "close", "2026-10", "--dry-run")
    assert "3 of 3 accounts differ from what there is; all would be charged 375.00 USD." in told.err
    assert "The first 2 of 3 are shown" in told.err
    assert told.out.count("125.00") == 4  # the charge and the difference of two
    sheet = await cli("bill", "close", "2026-10", "--dry-run", "--format", "csv")
    assert len(list(csv.DictReader(sheet.out.splitlines()))) == 3
    rows = (await cli("bill", "close", "2026-10", "--dry-run", "--format", "json")).json
    assert [row["account_id"] for row in rows] == sorted(shop.account for shop in shops)
    assert all(sum(Decimal(line["amount"]) for line in row["lines"]) == 125 for row in rows)


async def test_who_closes_a_month_reads_when_it_is_issued(shops: list[Shop], cli: Cli, clock: Clock) -> None:
    """Closing and holding say until when drafts can be looked at; a month that is issued says nothing."""
    clock.now = CLOSING
    when = "Drafts that nobody issues before are issued by themselves at"
    closed = await cli("bill", "close", "2026-10")
    assert f"{when} 2026-11-10 00:00 UTC+03:00." in " ".join(closed.err.split())
    clock.now = ISSUING
    held = await cli("bill", "issue", "2026-10", "--yes", "--hold", shops[1].account)
    assert f"{when} 2026-11-11 12:00 UTC+03:00." in " ".join(held.err.split())
    assert when not in (await cli("bill", "issue", "2026-10", "--yes")).err


async def test_a_dry_run_after_issuing_shows_what_changed(shops: list[Shop], cli: Cli, clock: Clock) -> None:
    """Each account's invoice stands beside what it would be now; those that differ can be asked for alone."""
    await shops[0].bill()
    await shops[1].count(date(2026, 10, 6), 200)
    same = await cli("bill", "close", "2026-10", "--dry-run", "--format", "json")
    assert {row["invoice_status"] for row in same.json} == {"issued"}
    told = await cli("bill", "close", "2026-10", "--dry-run", "--changed", "--format", "json")
    [row] = told.json
    assert (row["account_id"], row["invoice_total"], row["total"], row["difference"]) == (
        shops[1].account,
        "125.00",
        "135.00",
        "10.00",
    )
    assert "1 of 3 accounts differ" in told.err
    assert (
        await cli("bill", "close", "2026-10", "--dry-run", "--changed", "--account", shops[0].account)
    ).code == 0


async def test_what_issuing_would_do_is_told_over_pages(
    shops: list[Shop], cli: Cli, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drafts of all pages are summed up before anything is issued, and the answer shows the first."""
    clock.now = CLOSING
    await cli("bill", "close", "2026-10")
    clock.now = ISSUING
    dry = await cli("bill", "issue", "2026-10", "--dry-run", "--format", "json")
    assert "Would: Issue 3 invoices of 2026-10: 375.00 USD." in dry.err
    assert {row["status"] for row in dry.json} == {"draft"}
    monkeypatch.setattr(months, "SHOWN", 2)
    held = shops[2].account
    done = await cli("bill", "issue", "2026-10", "--hold", held, "--yes", "--format", "json")
    assert [row["reference"] for row in done.json] == ["INV-000001", "INV-000002"]
    assert f"Left as drafts: {held}." in done.err


async def test_what_was_not_shown_is_not_issued(shops: list[Shop], cli: Cli, clock: Clock) -> None:
    """A month without drafts is not closed and issued unseen: the question would have named no invoice."""
    clock.now = ISSUING
    done = await cli("bill", "issue", "2026-10", "--yes", "--format", "json")
    assert (done.code, done.json) == (0, [])
    assert "There is no draft of 2026-10 to issue; `tallygate bill close 2026-10` makes them." in done.err
    assert (await cli("bill", "list", "--format", "json")).json == []
    await cli("bill", "close", "2026-10")
    assert len((await cli("bill", "issue", "2026-10", "--yes", "--format", "json")).json) == 3


async def test_what_changed_after_the_question_is_not_issued(
    shops: list[Shop], cli: Cli, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts that come between the question and the issuing leave every draft a draft, and it is said."""
    clock.now = ISSUING
    await cli("bill", "close", "2026-10")
    asked, loop = months.confirmed, asyncio.get_running_loop()

    def meanwhile(what: str, *, yes: bool, dry_run: bool) -> bool:
        late = shops[2].count(date(2026, 10, 9), 100)
        asyncio.run_coroutine_threadsafe(late, loop).result(timeout=30)
        return asked(what, yes=yes, dry_run=dry_run)

    monkeypatch.setattr(months, "confirmed", meanwhile)
    refused = await cli("bill", "issue", "2026-10", "--yes")
    assert refused.code == 1
    assert "no longer those that were confirmed, and none was issued" in refused.err
    assert (await cli("bill", "list", "--status", "issued", "--format", "json")).json == []
    monkeypatch.undo()
    assert len((await cli("bill", "issue", "2026-10", "--yes", "--format", "json")).json) == 3


async def test_a_cursor_goes_with_a_dry_run(admin: Api) -> None:
    """What is done is done for the whole month, and a cursor that is none is refused by its name."""
    for body in ({"cursor": "x"}, {"cursor": "x", "dry_run": True}):
        for path in ("/v1/invoices/close", "/v1/invoices/issue"):
            refused = await admin.post(path, {"period": "2026-10", **body})
            assert (refused.status, refused.fields) == (422, {"body.cursor"}), (path, body)


def test_json_is_written_row_by_row(capsys: pytest.CaptureFixture[str]) -> None:
    """A list that is written as it comes reads as one that is written whole, odd line ends included."""
    rows = [{"name": "a\u2028b\nc", "list": []}, {"name": None, "list": [{"x": 1}]}]
    for some in (rows, rows[:1], []):
        write_rows(iter(some), ("name",), Format.JSON)
        assert capsys.readouterr().out == json.dumps(some, indent=2, ensure_ascii=False) + "\n"
