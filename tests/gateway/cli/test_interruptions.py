"""`tallygate interruption`, and how `tallygate reconcile` tells of one."""

from __future__ import annotations

import csv

import pytest
from redis.asyncio import Redis

from tests.gateway.cli.conftest import Cli
from tests.gateway.control.conftest import Api
from tests.gateway.control.interrupting import interrupted

RECONCILE = ("reconcile", "--period", "2026-11")


@pytest.fixture
async def noticed(admin: Api, redis: Redis) -> str:
    """The id of an interruption of November."""
    return await interrupted(admin, redis)


async def test_reconciling_ends_with_one_until_it_is_acknowledged(noticed: str, cli: Cli) -> None:
    """A row in every form, an exit code, and a hint; after the acknowledgement all books agree."""
    table = await cli(*RECONCILE)
    assert (table.code, noticed in table.out) == (1, True)
    assert "may lack in the count" in table.out
    assert "1 differences." in table.err
    assert "tallygate interruption show ID" in table.err
    sheet = await cli(*RECONCILE, "--format", "csv")
    (row,) = csv.DictReader(sheet.out.splitlines())
    assert (sheet.code, row["kind"], row["object_id"]) == (1, "interruption", noticed)
    told = await cli(*RECONCILE, "--format", "json")
    assert [each["object_id"] for each in told.json["differences"]] == [noticed]
    line = ("interruption", "acknowledge", noticed, "--reason", "compared with the upstream")
    assert (await cli(*line, "--dry-run")).code == 0
    assert (await cli(*RECONCILE)).code == 1
    done = await cli(*line, "--yes")
    assert (done.code, "compared with the upstream" in done.out) == (0, True)
    after = await cli(*RECONCILE)
    assert (after.code, "All books agree." in after.err) == (0, True)
    again = await cli(*line, "--yes")
    assert (again.code, "before; there is nothing to acknowledge" in again.err) == (1, True)


async def test_interruptions_are_listed_and_shown(noticed: str, cli: Cli) -> None:
    """By month, and those that are open; one of them with all that is known."""
    for options in ((), ("--open",), ("--period", "2026-11")):
        listed = await cli("interruption", "list", *options, "--format", "json")
        assert [each["id"] for each in listed.json] == [noticed], options
    assert (await cli("interruption", "list", "--period", "2026-10", "--format", "json")).json == []
    shown = await cli("interruption", "show", noticed)
    assert (shown.code, "emptied" in shown.out, "has older data" in shown.out) == (0, True, True)
    assert (await cli("interruption", "show", "int_0123456789abcdef")).code == 1


async def test_other_differences_bring_no_hint(admin: Api, cli: Cli) -> None:
    """Where nothing was interrupted nobody is sent to look for it."""
    agreed = await cli(*RECONCILE)
    assert (agreed.code, "interruption" in agreed.err) == (0, False)
