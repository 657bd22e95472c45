from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from sqlalchemy.ext.asyncio import create_async_engine

from metering.billing.terms import Terms
from metering.rehearsal.fleet import Customer, Habit
from metering.rehearsal.stage import Deed, Member, Stage, one_by_one
from policies.decision import Contract
from policies.period import Period
from policies.trial import TrialTerms
from tests.policies.samples import MOSCOW


def stage() -> Stage:
    contract = Contract(zone=MOSCOW, plans={}, steps=(), trial=TrialTerms())
    engine = create_async_engine("postgresql+asyncpg://unused/unused")
    return Stage(engine, Terms(contract), Period(date(2026, 1, 1), date(2026, 2, 1)), seed=1)


def member(number: int) -> Member:
    return Member(Customer(number, f"customer {number}", 0.0, Habit.PROMPT, False, False, ()))


async def test_things_happen_in_the_order_of_time() -> None:
    """Each customer acts in its own order, and nobody acts across what is about all."""
    played, happened, members = stage(), list[tuple[str, float]](), [member(1), member(2)]

    @one_by_one
    async def act(on: Stage, who: Member, at: float) -> None:
        happened.append((who.customer.name, at))

    async def about_all(at: float) -> None:
        happened.append(("all", at))

    for at in (3.0, 1.0, 5.0):
        for each in members:
            played.plan(at, each, act)
    played.at(4.0, about_all)
    while played.next_at is not None:
        await played.play()
    assert sorted(happened[:4]) == [(f"customer {n}", at) for n in (1, 2) for at in (1.0, 3.0)]
    for name in ("customer 1", "customer 2"):
        assert [at for who, at in happened if who == name] == [1.0, 3.0, 5.0]
    assert happened[4] == ("all", 4.0)


async def test_deeds_of_a_kind_are_done_together() -> None:
    """Deeds of one kind come together, one a customer; one that follows from another keeps its time."""
    played, lists = stage(), list[list[tuple[int, float]]]()
    one, two = member(1), member(2)

    async def pay(on: Stage, deeds: Sequence[Deed]) -> None:
        lists.append([(deed.member.customer.number, deed.at) for deed in deeds])
        for deed in deeds:
            if deed.given == ("comes back",):
                on.plan(deed.at + 1.0, deed.member, pay)

    played.plan(1.0, one, pay, "comes back")
    played.plan(9.0, one, pay)
    played.plan(2.5, two, pay)
    while played.next_at is not None:
        await played.play()
    assert lists == [[(1, 1.0), (2, 2.5)], [(1, 2.0)], [(1, 9.0)]]


async def test_what_is_planned_at_one_instant_keeps_its_order() -> None:
    """Of two deeds of a customer at the same instant the first that was planned comes first."""
    played, happened, one = stage(), list[str](), member(1)

    @one_by_one
    async def note(on: Stage, who: Member, at: float, name: str) -> None:
        happened.append(name)

    for name in ("first", "second"):
        played.plan(1.0, one, note, name)
    await played.play()
    assert (happened, played.next_at) == (["first"], 1.0)
    await played.play()
    assert (happened, played.next_at) == (["first", "second"], None)
