"""The decision: may this key make this call now?

`conditions` says what holds for a key over a span of time, so that a worker may keep it until it ends;
`decide` applies it to one call. A refusal is a value with a reason out of a closed set, never an exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from zoneinfo import ZoneInfo

from policies.allow_lists import AllowLists
from policies.methods import Call
from policies.period import add_months, day_of, midnight
from policies.plans import Plan
from policies.quota import Window
from policies.record import KeyRecord
from policies.standing import Standing, Step, check_ladder, step_at
from policies.trial import TrialTerms, trial_of

FOREVER = float("inf")


class Reason(StrEnum):
    """Why a call is refused; every dialect has a form for each of them."""

    MISSING_KEY = "missing_key"
    AMBIGUOUS_KEY = "ambiguous_key"
    UNKNOWN_KEY = "unknown_key"
    REVOKED_KEY = "revoked_key"
    EXPIRED_KEY = "expired_key"
    SUSPENDED = "suspended"
    CLOSED = "closed"
    BANNED = "banned"
    RESTRICTED = "restricted"
    UNKNOWN_METHOD = "unknown_method"
    METHOD_NOT_IN_PLAN = "method_not_in_plan"
    UNREADABLE = "unreadable"
    MISSING_SIGNATURE = "missing_signature"
    INVALID_SIGNATURE = "invalid_signature"
    MISSING_TIMESTAMP = "missing_timestamp"
    INVALID_TIMESTAMP = "invalid_timestamp"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    SITE_NOT_ALLOWED = "site_not_allowed"
    QUOTA_EXCEEDED = "quota_exceeded"


@dataclass(frozen=True, slots=True)
class Contract:
    """The settings a decision depends on; raises ValueError when the steps are no ladder."""

    zone: ZoneInfo
    plans: Mapping[str, Plan]
    steps: tuple[Step, ...]
    trial: TrialTerms

    def __post_init__(self) -> None:
        check_ladder(self.steps)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What holds for a key from the moment it was asked for until `until` (epoch seconds, excluded).

    `refuse_all` is the reason that stands against every call, if one does. `limit` is in units, None
    for no limit.
    """

    standing: Standing
    refuse_all: Reason | None
    step: Step | None
    plan: Plan | None
    limit: int | None
    window: Window
    in_trial: bool
    until: float


@dataclass(frozen=True, slots=True)
class Allowed:
    """The call may be made if the quota grants its cost."""

    limit: int | None
    window: Window


@dataclass(frozen=True, slots=True)
class Denied:
    """The call may not be made."""

    reason: Reason


def conditions(record: KeyRecord, contract: Contract, now: float) -> Conditions:
    """Return what holds for a key at `now`, and until when it cannot change by itself."""
    plan = contract.plans.get(record.plan)
    trial = None
    if plan is not None and not plan.sandbox:
        trial = trial_of(record.first_request_at, record.purchased_at, contract.trial, contract.zone)
    in_trial = trial is not None and trial.start <= now < trial.end
    step, next_step_at = step_at(record.oldest_unpaid_issued_on, contract.steps, contract.zone, now)
    expires_at = expiry(record, plan, contract.zone)
    standing, refuse_all = _standing(record, plan, step, expires_at, now)
    moments = [next_step_at, expires_at, record.revoked_at, record.closed_at]
    if trial is not None:
        moments += [trial.start, trial.end]
    return Conditions(
        standing=standing,
        refuse_all=refuse_all,
        step=step,
        plan=plan,
        limit=_limit(record, plan, contract.trial if in_trial else None),
        window=record.window or (plan.window if plan is not None else Window.DAY),
        in_trial=in_trial,
        until=min((moment for moment in moments if moment is not None and moment > now), default=FOREVER),
    )


def credential_refusal(record: KeyRecord, digest: str, now: float) -> Reason | None:
    """Return why the text with this digest is no longer accepted as the key, or None when it is."""
    if digest not in record.credentials:
        return Reason.REVOKED_KEY
    end = record.credentials[digest]
    return Reason.EXPIRED_KEY if end is not None and now >= end else None


def place_refusal(lists: AllowLists, address: str, origin: str | None, referer: str | None) -> Reason | None:
    """Return why a key may not be used from an address or a site's page, or None when it may.

    `address` is the caller's; `origin` and `referer` are the fields of the call that a browser writes.
    Whoever calls from a wrong place is to learn nothing of how the key stands: this is asked first.
    """
    if not lists.allow_address(address):
        return Reason.ADDRESS_NOT_ALLOWED
    return None if lists.allow_site(origin, referer) else Reason.SITE_NOT_ALLOWED


def expiry(record: KeyRecord, plan: Plan | None, zone: ZoneInfo) -> float | None:
    """Return the instant at which a key ends by itself: the earlier of its own date and the plan's."""
    ends = [record.expires_at]
    if plan is not None and plan.lifetime_months is not None:
        ends.append(midnight(add_months(day_of(record.created_at, zone), plan.lifetime_months), zone))
    return min((end for end in ends if end is not None), default=None)


def decide(held: Conditions, call: Call) -> Allowed | Denied:
    """Apply what holds for a key to one call; the quota itself is taken afterwards, where it is counted."""
    if held.refuse_all is not None:
        return Denied(held.refuse_all)
    if held.step is not None and held.step.refuses(call.classes):
        return Denied(Reason.RESTRICTED)
    if held.plan is not None and not held.plan.allows(call.method, call.classes):
        return Denied(Reason.METHOD_NOT_IN_PLAN)
    return Allowed(held.limit, held.window)


def _standing(
    record: KeyRecord, plan: Plan | None, step: Step | None, expires_at: float | None, now: float
) -> tuple[Standing, Reason | None]:
    """The gravest fact wins: what ended a key outlasts what merely holds it."""
    if record.closed_at is not None and now >= record.closed_at:
        return Standing.CLOSED, Reason.CLOSED
    if record.revoked_at is not None and now >= record.revoked_at:
        return Standing.CLOSED, Reason.REVOKED_KEY
    if expires_at is not None and now >= expires_at:
        return Standing.CLOSED, Reason.EXPIRED_KEY
    if record.suspended or plan is None:
        # A plan that is gone from the configuration must not turn into a key without limits.
        return Standing.SUSPENDED, Reason.SUSPENDED
    if step is not None:
        return step.standing, Reason.BANNED if step.standing is Standing.BANNED else None
    return Standing.ACTIVE, None


def _limit(record: KeyRecord, plan: Plan | None, trial: TrialTerms | None) -> int | None:
    """A limit set on the key itself outranks the trial's, which outranks the plan's."""
    if record.unlimited:
        return None
    if record.daily_limit is not None:
        return record.daily_limit
    if trial is not None:
        return trial.daily_limit
    return plan.daily_limit if plan is not None else 0
