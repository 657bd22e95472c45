"""Plans and the versions of their prices: what applies when, what a quantity costs, announcing new ones."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.control.auth import Right
from gateway.control.models import Day, Input, KeyId, NoInput, NoQuery, Output, Query
from gateway.control.operations import Call, Operation, Reply
from gateway.control.problems import FieldError, conflict, invalid, not_found
from gateway.control.terms import shop_of
from gateway.validation import suggestion
from metering import catalogue
from metering import notices as texts
from metering.ledger import audit, notices, plan_versions, subscriptions
from metering.ledger.audit import Change
from policies.period import day_of
from policies.plan_versions import NoPriceError, PlanVersion, explain, newest_in_force, version_on
from policies.pricing import charges
from policies.quota import Window

MAX_QUANTITY = 2**53 - 1


class Version(Output):
    """A version of a plan's price; a version that was announced never changes."""

    version: int
    currency: str
    announced_at: datetime
    effective_from: date
    existing_from: date | None = Field(description="When it takes over those on older versions; null: never.")
    price: dict[str, Any]
    minimum: Decimal
    minimum_proration: str
    in_force: bool = Field(description="Whether a subscription that starts today gets it.")
    told: str = Field(description="The price in words.")


class Plan(Output):
    """A kind of key with its prices, the oldest version first."""

    plan: str
    daily_limit: int | None
    window: Window
    sandbox: bool
    versions: list[Version]


class Plans(Output):
    """All plans of the configuration."""

    items: list[Plan]


class PriceQuery(Query):
    """Whose price, on which day, and of how many units."""

    day: Day | None = Field(None, description="Default: today, in the billing timezone.")
    key: KeyId | None = Field(None, description="A subscription's price; without it that of a new one.")
    quantity: Annotated[int, Field(ge=0, le=MAX_QUANTITY)] | None = Field(None, description="Units.")


class ChargeLine(Output):
    """What a part of the quantity costs."""

    kind: str
    tier: str
    quantity: Decimal
    unit_price: Decimal
    amount: Decimal


class PriceAnswer(Output):
    """The price that applies, why, and what the quantity costs without minimum."""

    plan: str
    day: date
    version: Version
    because: str
    quantity: int | None
    lines: list[ChargeLine]
    total: Decimal | None


class Catalogue(Input):
    """A file of price lists."""

    toml: Annotated[str, Field(min_length=1, max_length=1_000_000)] = Field(description="The file's text.")
    dry_run: bool = Field(False, description="Say what would be added, and add nothing.")


class Applied(Output):
    """What applying a file did, or would do."""

    dry_run: bool
    added: list[str] = Field(description="Versions, such as K1/2.")
    told: list[str] = Field(description="The difference in lines: + is added, others were there.")
    notices: int = Field(description="Customers that are told of new prices.")


async def listed(call: Call[NoInput, NoQuery]) -> Reply:
    """List plans with their prices."""
    async with call.control.engine.connect() as connection:
        versions = await plan_versions.by_plan(connection)
    plans = call.control.settings.contract.plans
    return Reply(Plans(items=[_plan(call, name, versions.get(name, ())) for name in plans]))


async def show(call: Call[NoInput, NoQuery]) -> Reply:
    """Return one plan with its prices."""
    name = _name(call)
    async with call.control.engine.connect() as connection:
        return Reply(_plan(call, name, await plan_versions.listed(connection, name)))


async def price(call: Call[NoInput, PriceQuery]) -> Reply:
    """Say which version applies on a day and why, and what a quantity costs."""
    query, name = call.query, _name(call)
    settings = call.control.settings
    day = query.day or _today(call)
    async with call.control.engine.connect() as connection:
        versions = tuple(await plan_versions.listed(connection, name))
        found: PlanVersion | None
        if query.key is not None:
            held = await subscriptions.get(connection, query.key, contract=settings.contract)
            if held.plan != name:
                raise invalid([FieldError("query.key", f"is a subscription of the plan {held.plan}")])
            try:
                found = version_on(versions, held.started_on, held.moves, day)
                because = explain(versions, held.started_on, held.moves, day)
            except NoPriceError as error:
                raise conflict(f"{error}.") from error
            if held.trial_until is not None and day < held.trial_until:
                because += f"; until {held.trial_until} its free month charges nothing"
        else:
            found = newest_in_force(versions, day)
            if found is None:
                raise conflict(f"No price of {name} is in force on {day}; `tallygate plan apply` adds one.")
            because = f"version {found.version}, in force on {day} for a subscription that starts then"
    lines = charges(found.price, Decimal(query.quantity)) if query.quantity is not None else ()
    return Reply(
        PriceAnswer(
            plan=name,
            day=day,
            version=_version(call, found, versions),
            because=because,
            quantity=query.quantity,
            lines=[
                ChargeLine(
                    kind=each.kind.value,
                    tier=each.tier,
                    quantity=each.quantity,
                    unit_price=each.unit_price,
                    amount=each.amount,
                )
                for each in lines
            ],
            total=sum((each.amount for each in lines), Decimal("0.00"))
            if query.quantity is not None
            else None,
        )
    )


async def apply(call: Call[Catalogue, NoQuery]) -> Reply:
    """Add the versions of a file that are new; customers are told of those that are yet to come."""
    body, shop = call.body, shop_of(call.control.settings)
    try:
        entries = catalogue.parse(body.toml, shop, now=call.now)
        changes = await catalogue.apply(
            call.connection, entries, shop, now=call.now, by=call.by, dry_run=body.dry_run
        )
    except catalogue.CatalogueError as error:
        raise invalid([FieldError("body.toml", each) for each in error.errors]) from error
    told = 0 if body.dry_run else await _tell(call, call.connection, changes.new)
    return Reply(
        Applied(
            dry_run=body.dry_run,
            added=[f"{version.plan}/{version.version}" for version in changes.new],
            told=changes.told(),
            notices=told,
        )
    )


async def announce(call: Call[NoInput, NoQuery]) -> Reply:
    """Tell of prices that are yet to come whoever has not been told, such as customers that came since."""
    name = _name(call)
    versions = await plan_versions.listed(call.connection, name)
    told = await _tell(call, call.connection, versions)
    if told:
        change = Change("plan.announce", "plan", name, None, {"notices": told})
        await audit.write(call.connection, [change], now=call.now, by=call.by)
    ahead = [version for version in versions if version.effective_from > _today(call)]
    return Reply(
        Applied(
            dry_run=False,
            added=[],
            told=[f"  {catalogue.describe(version)}" for version in ahead],
            notices=told,
        )
    )


async def _tell(call: Call[Any, Any], connection: AsyncConnection, versions: Sequence[PlanVersion]) -> int:
    ahead = [version for version in versions if version.version > 1 and version.effective_from > _today(call)]
    told = []
    for version in ahead:
        for account_id in await notices.customers_of(connection, version.plan, now=call.now):
            told.append(
                texts.plan_announced(
                    account_id=account_id,
                    plan=version.plan,
                    version=version.version,
                    effective_from=version.effective_from,
                    existing_from=version.existing_from,
                )
            )
    return await notices.add(connection, told, now=call.now)


def _name(call: Call[Any, Any]) -> str:
    name, plans = call.request.match_info["plan"], call.control.settings.contract.plans
    if name not in plans:
        raise not_found("plan", f"of this name{suggestion(name, plans)} (plans: {', '.join(plans)})")
    return name


def _today(call: Call[Any, Any]) -> date:
    return day_of(call.now.timestamp(), call.control.settings.contract.zone)


def _plan(call: Call[Any, Any], name: str, versions: Sequence[PlanVersion]) -> Plan:
    plan = call.control.settings.contract.plans[name]
    return Plan(
        plan=name,
        daily_limit=plan.daily_limit,
        window=plan.window,
        sandbox=plan.sandbox,
        versions=[_version(call, each, versions) for each in versions],
    )


def _version(call: Call[Any, Any], version: PlanVersion, versions: Sequence[PlanVersion]) -> Version:
    return Version(
        version=version.version,
        currency=version.currency,
        announced_at=version.announced_at,
        effective_from=version.effective_from,
        existing_from=version.existing_from,
        price=plan_versions.price_facts(version.price),
        minimum=version.minimum,
        minimum_proration=version.minimum_proration.value,
        in_force=newest_in_force(versions, _today(call)) == version,
        told=catalogue.describe(version),
    )


OPERATIONS = (
    Operation(
        "listPlans",
        "GET",
        "/v1/plans",
        "List plans with the versions of their prices",
        listed,
        rights=(Right.PRICES_READ,),
        answer=Plans,
        etag=True,
    ),
    Operation(
        "applyPrices",
        "POST",
        "/v1/plans/apply",
        "Add the versions of prices that a file holds and the ledger does not",
        apply,
        rights=(Right.PRICES_WRITE,),
        body=Catalogue,
        answer=Applied,
        changes=True,
    ),
    Operation(
        "showPlan",
        "GET",
        "/v1/plans/{plan}",
        "Show a plan with the versions of its price",
        show,
        rights=(Right.PRICES_READ,),
        answer=Plan,
        etag=True,
    ),
    Operation(
        "showPrice",
        "GET",
        "/v1/plans/{plan}/price",
        "Say which price applies on a day and why, and what a quantity costs",
        price,
        rights=(Right.PRICES_READ,),
        query=PriceQuery,
        answer=PriceAnswer,
        conflicts=True,
    ),
    Operation(
        "announcePrices",
        "POST",
        "/v1/plans/{plan}/announce",
        "Tell of a plan's coming prices whoever has not been told",
        announce,
        rights=(Right.PRICES_WRITE,),
        body=NoInput,
        answer=Applied,
        changes=True,
    ),
)
