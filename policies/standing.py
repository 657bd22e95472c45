"""The ladder from an unpaid invoice to a ban (contract OT-8, OT-9, OT-10).

Standing is computed from dates, never stored: there is no job that flips a key, so no flip can be late, lost
or doubled, and a payment that clears the date lifts everything on the very next call.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from itertools import pairwise
from zoneinfo import ZoneInfo

from policies.methods import OTHER, classes_of
from policies.period import midnight

EVERYTHING = "*"


class Standing(StrEnum):
    """How a key stands: who may call what with it."""

    ACTIVE = "active"
    RESTRICTED = "restricted"
    BANNED = "banned"
    SUSPENDED = "suspended"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the ladder: `after_days` whole days after invoicing, `deny` these classes but `exempt`.

    A step takes the place of the one before it, so it names everything that it denies.
    """

    after_days: int
    standing: Standing
    deny: frozenset[str]
    exempt: frozenset[str] = frozenset()

    def refuses(self, classes: tuple[str, ...]) -> bool:
        """Say whether a call that belongs to all of `classes` is refused on this step."""
        if not self.exempt.isdisjoint(classes):
            return False
        return EVERYTHING in self.deny or not self.deny.isdisjoint(classes)


def check_ladder(steps: tuple[Step, ...]) -> None:
    """Check that steps come one after another and that none allows what the one before it refuses.

    Raises ValueError that says which one does not; a ladder that is written wrong would lift a restriction
    silently.
    """
    for step in steps:
        if step.standing is Standing.BANNED and (EVERYTHING not in step.deny or step.exempt):
            raise ValueError(f"the step after {step.after_days} days bans the key, so it denies everything")
    for before, step in pairwise(steps):
        if step.after_days <= before.after_days:
            raise ValueError(f"the step after {step.after_days} days follows one after {before.after_days}")
        for klass in sorted(before.deny | before.exempt | step.exempt | {OTHER}):
            if before.refuses(classes_of(klass)) and not step.refuses(classes_of(klass)):
                raise ValueError(
                    f"the step after {step.after_days} days allows {klass!r}, "
                    f"which the step after {before.after_days} days denies"
                )


def step_begins(issued_on: date, step: Step, zone: ZoneInfo) -> float:
    """Return the epoch second at which `step` begins for an invoice issued on a day of the billing timezone.

    "Not paid within 7 calendar days after invoicing" leaves the customer the seven days after day D whole, so
    the step begins at 00:00 of D+8.
    """
    return midnight(issued_on + timedelta(days=step.after_days + 1), zone)


def step_at(
    oldest_unpaid: date | None, steps: tuple[Step, ...], zone: ZoneInfo, now: float
) -> tuple[Step | None, float | None]:
    """Return the step in force at `now` and the instant at which the next one begins.

    `steps` are in rising order of `after_days` (see `check_ladder`). Only the oldest unpaid invoice counts.
    """
    if oldest_unpaid is None:
        return None, None
    current: Step | None = None
    for step in steps:
        begins = step_begins(oldest_unpaid, step, zone)
        if now < begins:
            return current, begins
        current = step
    return current, None
