from __future__ import annotations

from datetime import date
from functools import partial

from sqlalchemy.ext.asyncio import create_async_engine

from metering.billing.terms import Terms
from metering.rehearsal.fleet import Customer, Habit
from metering.rehearsal.stage import Member, Stage
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

    async def note(name: str, at: float) -> None:
        happened.append((name, at))

    for at in (3.0, 1.0, 5.0):
        for number, each in enumerate(members):
            played.at(at, partial(note, f"customer {number}"), each)
    played.at(4.0, partial(note, "all"))
    while played.next_at is not None:
        await played.play(100.0)
    assert sorted(happened[:4]) == [(f"customer {n}", at) for n in (0, 1) for at in (1.0, 3.0)]
    for name in ("customer 0", "customer 1"):
        assert [at for who, at in happened if who == name] == [1.0, 3.0, 5.0]
    assert happened[4] == ("all", 4.0)


async def test_a_day_ends_where_it_ends() -> None:
    """What is queued for later waits, and what is queued at one instant keeps its order."""
    played, happened = stage(), list[str]()

    async def note(name: str, at: float) -> None:
        happened.append(name)

    one = member(1)
    for name in ("first", "second"):
        played.at(1.0, partial(note, name), one)
    played.at(9.0, partial(note, "tomorrow"), one)
    await played.play(5.0)
    assert happened == ["first", "second"]
    assert played.next_at == 9.0
