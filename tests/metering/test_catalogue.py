from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from metering import catalogue
from metering.catalogue import CatalogueError, Changes, changes, parse, read
from metering.catalogue_entry import Entry, Shop
from metering.ledger import audit, plan_versions
from metering.ledger.audit import Author
from policies.plan_versions import PlanVersion, Proration
from policies.pricing import Model, Price, Tier, total
from tests.policies.samples import MOSCOW

EXAMPLE = (Path(__file__).parents[2] / "catalogue.example.toml").read_text(encoding="utf-8")
NOW = datetime(2026, 3, 1, 12, tzinfo=MOSCOW)
SHOP = Shop(plans={"K1", "K2", "K3"}, currency="USD", zone=MOSCOW)
BY = Author("tok_test")
SECOND = """
[[plans.K1.versions]]
version = 2
effective_from = {effective_from}
model = "graduated"
tiers = [{{ up_to = 1000000, unit = "0.002" }}, {{ unit = "0.0018" }}]
minimum = "100.00"
"""


def known(entries: Sequence[Entry]) -> dict[str, list[PlanVersion]]:
    found: dict[str, list[PlanVersion]] = {}
    for entry in entries:
        found.setdefault(entry.version.plan, []).append(entry.version)
    return found


def applied(text: str, before: str = EXAMPLE, now: datetime = NOW) -> Changes:
    there = known(parse(before, SHOP, now=NOW)) if before else {}
    return changes(there, parse(text, SHOP, now=now), SHOP, now=now)


def refusals(text: str, before: str = EXAMPLE, now: datetime = NOW) -> tuple[str, ...]:
    with pytest.raises(CatalogueError) as refused:
        applied(text, before, now)
    return refused.value.errors


def test_the_example_holds_the_contract() -> None:
    """The example's minimums are the contract's (OT-5), and its price is the one public figure (OT-4)."""
    versions = {version.plan: version for version in applied(EXAMPLE, before="").new}
    assert {plan: version.minimum for plan, version in versions.items()} == {"K1": 100, "K2": 100, "K3": 15}
    assert {total(version.price, Decimal(1000)) for version in versions.values()} == {Decimal("1.00")}


def test_applying_again_changes_nothing() -> None:
    """A file that the ledger has already adds nothing, and says so."""
    again = applied(EXAMPLE)
    assert again.new == ()
    assert len(again.unchanged) == 3
    assert all(line.startswith("  version 1 of K") for line in again.told())


def test_29_days_of_notice_are_refused_and_30_are_not() -> None:
    """The refusal names the earliest day, and that day is accepted (OT-12)."""
    assert refusals(EXAMPLE + SECOND.format(effective_from="2026-03-30")) == (
        "version 2 of K1 cannot come into force on 2026-03-30: new prices are announced at least 30 days "
        "ahead, so the earliest day is 2026-03-31",
    )
    (version,) = applied(EXAMPLE + SECOND.format(effective_from="2026-03-31")).new
    assert (version.version, version.announced_at, version.effective_from) == (2, NOW, date(2026, 3, 31))


def test_an_announcement_cannot_be_dated_back() -> None:
    """A date in the past would get round the notice, so a version announced here has today's date."""
    dated = SECOND.format(effective_from="2026-03-31") + "announced_at = 2026-02-01\n"
    assert refusals(EXAMPLE + dated) == (
        "version 2 of K1 is announced by applying it, on 2026-03-01: leave announced_at out",
    )
    today = SECOND.format(effective_from="2026-03-31") + "announced_at = 2026-03-01\n"
    assert len(applied(EXAMPLE + today).new) == 1


def test_history_of_an_earlier_system_is_taken_over() -> None:
    """Versions of a plan that the ledger does not know keep their dates, and must have had notice."""
    both = EXAMPLE + SECOND.format(effective_from="2026-02-01") + "announced_at = 2026-01-02\n"
    assert len(applied(both, before="").new) == 4
    late = both.replace("2026-01-02", "2026-01-03")
    assert "earliest day is 2026-02-02" in refusals(late, before="")[0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('unit = "0.0008"', 'unit = "0.0007"', "price is"),
        ('minimum = "15.00"', 'minimum = "15.01"', "minimum is 15.00 and not 15.01"),
        (
            "effective_from = 2026-01-01",
            "effective_from = 2026-01-02",
            "effective_from is 2026-01-01 and not",
        ),
        ("announced_at = 2025-12-01", "announced_at = 2025-12-02", "announced_at is"),
        ('model = "volume"', 'model = "graduated"', "price is"),
        ("version = 1\n", "version = 1\nexisting_from = 2026-05-01\n", "existing_from is nothing and not"),
    ],
)
def test_a_silent_change_is_refused(old: str, new: str, said: str) -> None:
    """A version that was announced cannot be changed in the file, whatever of it changes."""
    errors = refusals(EXAMPLE.replace(old, new))
    assert said in errors[0]
    assert "was announced and cannot change" in errors[0]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('unit = "0.0008"', 'unit = "0.000800"'),
        ('unit = "0.0008"', "unit = 0.0008"),
        ('minimum = "15.00"', "minimum = 15"),
        ("announced_at = 2025-12-01\n", ""),
        ("effective_from = 2026-01-01", 'effective_from = "2026-01-01"'),
        ("up_to = 1000000", 'up_to = "1000000"'),
    ],
)
def test_writing_the_same_otherwise_is_no_change(old: str, new: str) -> None:
    """Trailing zeros, numbers in place of text and a date left out are the same version."""
    assert old in EXAMPLE
    assert applied(EXAMPLE.replace(old, new)).new == ()


def test_a_version_left_out_stays() -> None:
    """A file with one plan leaves the others' versions as they are, and says so."""
    k3 = EXAMPLE[EXAMPLE.index("[[plans.K3") :]
    told = applied(k3)
    assert [version.plan for version in told.left_out] == ["K1", "K2"]
    assert told.told()[1].endswith("(not in the file; stays)")


def test_numbers_without_gaps_and_dates_that_rise() -> None:
    """A version that skips a number, or comes into force before the one it follows, is refused."""
    skipped = SECOND.format(effective_from="2026-04-10").replace("version = 2", "version = 3")
    assert "this one is 2" in refusals(EXAMPLE + skipped)[0]
    (early,) = refusals(EXAMPLE + SECOND.format(effective_from="2026-01-01"))
    assert "after version 1" in early


def test_everything_wrong_is_named_at_once() -> None:
    """Each wrong setting is named by its path, with what is right."""
    text = """
[[plans.K1.versions]]
version = "one"
effective_from = "soon"
model = "free"
tiers = [{ up_to = -1, unit = "0,5", price = 3 }]
minimum = "1.001"
minimum_proration = "weekly"
currency = "EUR"
colour = "red"
[[plans.K9.versions]]
version = 1
"""
    errors = refusals(text, before="")
    starts = [error.partition(":")[0] for error in errors]
    prefix = "plans.K1.versions[0]"
    wrong = ("colour", "version", "effective_from", "currency", "minimum_proration", "minimum", "model")
    wrong += ("tiers[0].price", "tiers[0].unit", "tiers[0].up_to")
    assert sorted(starts) == sorted([*(f"{prefix}.{name}" for name in wrong), "plans.K9"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("plans", "not TOML"),
        ("", "holds"),
        ("colour = 1", "holds"),
        ("plans.K1 = 3", r"plans\.K1"),
        ("plans.K1.versions = [3]", "a table is expected"),
        ("[[plans.K1.versions]]\nversion = 1", "effective_from"),
        (EXAMPLE.replace('unit = "0.0008"', "up_to = 5"), "the last tier must be open"),
        (EXAMPLE.replace("version = 1\n", "version = 0\n"), "numbered from 1"),
        (EXAMPLE.replace('"0.0008"', "nan"), "digits"),
        (EXAMPLE.replace('"0.0008"', "true"), "digits"),
        (EXAMPLE.replace("= 2026-01-01", "= 9999-12-31"), "effective_from: must lie between the years 2000"),
        (EXAMPLE.replace("= 2025-12-01", "= 0001-01-01"), "announced_at: must lie between the years 2000"),
    ],
)
def test_a_file_that_is_no_catalogue_is_refused(text: str, said: str) -> None:
    """Whatever stands in a file, the refusal is a sentence."""
    with pytest.raises(CatalogueError, match=said):
        parse(text, SHOP, now=NOW)


def test_binary_fractions_are_refused() -> None:
    """A float from JSON has lost digits already, so it is not taken for a price."""
    facts = {"version": 1, "effective_from": "2026-01-01", "model": "per_unit", "tiers": [{"unit": 0.001}]}
    with pytest.raises(CatalogueError, match="digits"):
        read({"plans": {"K1": {"versions": [facts]}}}, SHOP, now=NOW)


def test_a_price_reads_like_a_sentence() -> None:
    """A version is described with its tiers, minimum and dates."""
    version = PlanVersion(
        plan="K1",
        version=2,
        currency="USD",
        announced_at=NOW,
        effective_from=date(2026, 4, 1),
        price=Price(
            Model.GRADUATED,
            (
                Tier(Decimal(1000), Decimal("0.01"), Decimal("2.00")),
                Tier(Decimal(5000), Decimal("0.008")),
                Tier(None, flat=Decimal("5")),
            ),
            Decimal(100),
        ),
        minimum=Decimal("100.00"),
        existing_from=date(2026, 6, 1),
    )
    assert catalogue.describe(version) == (
        "version 2 of K1 from 2026-04-01: graduated, the first 100 are free, "
        "up to 1,000 at 0.01 USD each plus 2.00 USD flat, over 1,000 up to 5,000 at 0.008 USD each, "
        "over 5,000 at 5 USD flat; "
        "minimum 100.00 USD a month, by the day; for those already connected from 2026-06-01"
    )
    package = Price(Model.PACKAGE, (Tier(None, Decimal(5)),), package_size=Decimal(1000))
    assert catalogue.describe_price(package, "USD") == "package, all units at 5 USD for every 1,000"


async def test_the_ledger_keeps_what_was_applied(engine: AsyncEngine) -> None:
    """Versions come back from the ledger as applied, each with its audit row; a dry run adds none."""
    entries = parse(EXAMPLE, SHOP, now=NOW)
    async with engine.begin() as connection:
        await catalogue.apply(connection, entries, SHOP, now=NOW, by=BY, dry_run=True)
        assert await plan_versions.listed(connection) == []
        told = await catalogue.apply(connection, entries, SHOP, now=NOW, by=BY)
    async with engine.connect() as connection:
        assert tuple(await plan_versions.listed(connection)) == told.new
        assert await plan_versions.by_plan(connection) == {v.plan: (v,) for v in told.new}
        assert await plan_versions.listed(connection, "K3") == [told.new[2]]
        written = (await audit.listed(connection, object_id="K1/1")).items
    assert [(entry.action, entry.actor) for entry in written] == [("plan.announce", BY.actor)]


async def test_every_kind_of_price_survives_the_ledger(engine: AsyncEngine) -> None:
    """Prices of each model, with all their parts and digits, come back equal."""
    prices = [
        Price(Model.PER_UNIT, (Tier(None, Decimal("0.000000000001"), Decimal("1.50")),), Decimal("0.5")),
        Price(Model.GRADUATED, (Tier(Decimal("1.5"), Decimal("1"), Decimal("2")), Tier(None, Decimal(3)))),
        Price(Model.VOLUME, (Tier(Decimal(10**15), Decimal("7")), Tier(None, Decimal("0")))),
        Price(Model.PACKAGE, (Tier(None, Decimal("5")),), Decimal(10), Decimal("1000")),
        Price(Model.STAIRSTEP, (Tier(Decimal(5), flat=Decimal("10.00")), Tier(None, flat=Decimal(20)))),
    ]
    versions = [
        PlanVersion(
            plan="K1",
            version=number,
            currency="USD",
            announced_at=NOW.astimezone(UTC),
            effective_from=date(2026, 1, number),
            price=price,
            minimum=Decimal("15.00"),
            minimum_proration=Proration.NONE,
            existing_from=date(2026, 2, 1) if number % 2 else None,
        )
        for number, price in enumerate(prices, start=1)
    ]
    async with engine.begin() as connection:
        await plan_versions.add(connection, versions, now=NOW, by=BY)
        assert await plan_versions.listed(connection) == versions


async def test_two_who_announce_at_once_come_one_after_the_other(engine: AsyncEngine) -> None:
    """Of two different second versions applied at the same time one is added and the other is refused."""
    async with engine.begin() as connection:
        await catalogue.apply(connection, parse(EXAMPLE, SHOP, now=NOW), SHOP, now=NOW, by=BY)

    async def announce(day: date) -> bool:
        entries = parse(EXAMPLE + SECOND.format(effective_from=day), SHOP, now=NOW)
        try:
            async with engine.begin() as connection:
                await catalogue.apply(connection, entries, SHOP, now=NOW, by=BY)
        except CatalogueError:
            return False
        return True

    days = [date(2026, 5, 1) + timedelta(days=offset) for offset in range(4)]
    assert sorted(await asyncio.gather(*(announce(day) for day in days))) == [False, False, False, True]
