"""One accepted key as a worker remembers it: what holds for it now, and what it has lately asked for."""

from __future__ import annotations

from typing import NamedTuple

from gateway.proxy.today import Moment
from metering.counters import Take
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

    counted: str
    rule: MethodRule
    reading: Reading
    call: Call
    take: Take


class Entry:
    """One accepted key: its record, what holds for it now, and what it has lately asked for.

    A worker remembers a hundred thousand of them, most of which ask for one and the same again and again: the
    first ruling and the first take stand by themselves, and only further ones are worth a dictionary.
    """

    __slots__ = (
        "_first_ruling",
        "_first_take",
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
        "until",
    )

    def __init__(self, digest: str, record: KeyRecord, contract: Contract, now: float) -> None:
        # The record's own text, so that it is in memory once.
        self.digest = next((each for each in record.credentials if each == digest), digest)
        self.offer_again_at = 0.0  # its text under the first pepper
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
        self._moment: Moment | None = None
        self._forget_rulings()

    def _forget_rulings(self) -> None:
        self._first_take: Take | None = None
        self._takes: dict[Call, Take] | None = None
        self._first_ruling: Ruling | None = None
        self._rulings: dict[tuple[str, int, int], Ruling] | None = None

    def recall(self, counted: str, rule: MethodRule, reading: Reading, moment: Moment) -> Ruling | None:
        """Return the ruling on a call of which nothing is new."""
        if moment is not self._moment:
            return None
        first = self._first_ruling
        if first is not None and first.rule is rule and first.reading is reading and first.counted == counted:
            return first
        return None if self._rulings is None else self._rulings.get((counted, id(rule), id(reading)))

    def rule_on(
        self, counted: str, rule: MethodRule, reading: Reading, moment: Moment
    ) -> tuple[Call, Take | Denied]:
        """Decide on a call of a rule, as it was read, and remember what is allowed."""
        record = self.record
        call = classify(counted, rule, reading, record.default_provider, record.default_search_method)
        take = self.rule(call, moment)
        if not isinstance(take, Denied):
            ruling = Ruling(counted, rule, reading, call, take)
            if self._first_ruling is None:
                self._first_ruling = ruling
            else:
                if self._rulings is None or len(self._rulings) > RULINGS_MAX:
                    self._rulings = {}
                self._rulings[counted, id(rule), id(reading)] = ruling
        return call, take

    def rule(self, call: Call, moment: Moment) -> Take | Denied:
        """Decide on a call, and return what has to be counted for it to be made."""
        if moment is not self._moment:
            self._moment = moment
            self._forget_rulings()
        take = self._known_take(call)
        if take is None:
            if self.ended is not None:
                return Denied(self.ended)
            verdict = decide(self.conditions, call)
            if not isinstance(verdict, Allowed):
                return verdict
            take = Take(
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
                priced_later=call.billable and call.cost_items is not None and not call.cost,
            )
            if self._first_take is None:
                self._first_take = take
            else:
                if self._takes is None or len(self._takes) > RULINGS_MAX:
                    self._takes = {}
                self._takes[call] = take
        return take

    def _known_take(self, call: Call) -> Take | None:
        first = self._first_take
        if (
            first is not None
            and (first.method, first.klass, first.cost) == (call.method, call.klass, call.cost)
            and first.billable is call.billable
        ):
            return first
        return None if self._takes is None else self._takes.get(call)
