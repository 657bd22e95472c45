"""One accepted key as a worker remembers it: what holds for it now, and what it has lately asked for."""

from __future__ import annotations

from typing import NamedTuple

from gateway.proxy.today import Moment
from metering.counters import Take, Taken
from policies.allow_lists import AllowLists
from policies.decision import (
    FOREVER,
    Allowed,
    Conditions,
    Contract,
    Denied,
    conditions,
    credential_refusal,
    decide,
)
from policies.methods import Call, MethodRule, Reading, classify
from policies.record import KeyRecord

RULINGS_MAX = 64  # remembered of a key


class Ruling(NamedTuple):
    """What was decided on a call. It holds what it was decided on, so that their ids stay theirs."""

    rule: MethodRule
    reading: Reading
    call: Call
    take: Take


class Entry:
    """One accepted key: its record, what holds for it now, and what it has lately asked for."""

    __slots__ = (
        "_moment",
        "_rulings",
        "_takes",
        "conditions",
        "digest",
        "ended",
        "lists",
        "offer_again_at",
        "record",
        "secret",
        "told",
        "told_fields",
        "until",
    )

    def __init__(self, digest: str, record: KeyRecord, contract: Contract, now: float) -> None:
        self.digest = digest
        self.offer_again_at = 0.0  # its text under the first pepper
        self.told: Taken | None = None  # what the last calls were granted, and the header fields that say so
        self.told_fields = b""
        self.secret: str | None = None  # the unsealed signing secret, filled by whoever needs it
        self.renew(record, contract, now)

    def renew(self, record: KeyRecord, contract: Contract, now: float) -> None:
        """Take a newer record, or look at the same one at a later time."""
        if record is not getattr(self, "record", None):
            self.secret = None
            self.lists = (
                AllowLists(record.allow_networks, record.allow_domains)
                if record.allow_networks or record.allow_domains
                else None
            )
        self.record = record
        self.ended = credential_refusal(record, self.digest, now)
        self.conditions: Conditions = conditions(record, contract, now)
        end = record.credentials.get(self.digest)
        self.until = min(self.conditions.until, end if end is not None and end > now else FOREVER)
        self._takes: dict[Call, Take] = {}
        self._rulings: dict[tuple[str, int, int], Ruling] = {}
        self._moment: Moment | None = None

    def recall(self, counted: str, rule: MethodRule, reading: Reading, moment: Moment) -> Ruling | None:
        """Return the ruling on a call of which nothing is new."""
        if moment is not self._moment:
            return None
        return self._rulings.get((counted, id(rule), id(reading)))

    def rule_on(
        self, counted: str, rule: MethodRule, reading: Reading, moment: Moment
    ) -> tuple[Call, Take | Denied]:
        """Decide on a call of a rule, as it was read, and remember what is allowed."""
        record = self.record
        call = classify(counted, rule, reading, record.default_provider, record.default_search_method)
        take = self.rule(call, moment)
        if not isinstance(take, Denied):
            if len(self._rulings) > RULINGS_MAX:
                self._rulings.clear()
            self._rulings[counted, id(rule), id(reading)] = Ruling(rule, reading, call, take)
        return call, take

    def rule(self, call: Call, moment: Moment) -> Take | Denied:
        """Decide on a call, and return what has to be counted for it to be made."""
        if moment is not self._moment:
            self._moment = moment
            self._takes.clear()
            self._rulings.clear()
        take = self._takes.get(call)
        if take is None:
            if self.ended is not None:
                return Denied(self.ended)
            verdict = decide(self.conditions, call)
            if not isinstance(verdict, Allowed):
                return verdict
            if len(self._takes) > RULINGS_MAX:
                self._takes.clear()
            take = self._takes[call] = Take(
                key_id=self.record.key_id,
                revision=self.record.revision,
                day=moment.day,
                method=call.method,
                klass=call.klass,
                cost=call.cost,
                billable=call.billable,
                limit=verdict.limit,
                window=verdict.window,
                bucket=moment.bucket,
            )
        return take
