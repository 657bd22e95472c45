"""The first half of a call's life: who calls what, whether the contract allows it, whether the quota grants
it.

RECEIVED    the head is here; perhaps the body has to come before the call can be identified
IDENTIFIED  key and method are known; the key's record is looked up, and the contract asked
COUNTING    the quota is asked for
CONNECTING  granted; waits for a connection to the upstream
WAITING     sent, wholly or in part; the answer has not begun
STREAMING   the answer passes
DONE        from any stage: refused or failed in the first five, answered or truncated in the last
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from gateway.failures import Failure
from gateway.proxy import signature
from gateway.proxy.entry import Entry
from gateway.proxy.headers import page_of
from gateway.proxy.identify import Identified, Parts, hangs_on_body, identify, needs_body
from gateway.proxy.records import Unavailable
from gateway.sealing import SealError
from gateway.settings import OnCounterFailure, Route
from metering import open_calls
from metering.counters import Outcome, Take, Taken
from policies import keys
from policies.allow_lists import AllowLists
from policies.decision import Denied, Reason, place_refusal
from policies.methods import Call
from policies.quota import Window, seconds_until_bucket_expires
from policies.waiver import Waiver

if TYPE_CHECKING:
    from gateway.proxy.front import Front
    from gateway.proxy.requests import Request
    from gateway.proxy.service import Proxy

log = structlog.get_logger("gateway.proxy")

STREAM_BUFFER_BYTES = 64 * 1024  # of a request's body, kept while the call is being decided
REDECISIONS_MAX = 5  # a record that changes under every attempt is refused rather than chased
EXHAUSTED_RETRY_MAX_S = 86_400
# Members of an enumeration are found ten times slower than names of a module.
_OPEN, _ADMITTED, _GRANTED = OnCounterFailure.OPEN, open_calls.Admission.ADMITTED, Outcome.GRANTED


class Stage:
    """How far a call has come: a number whose name stands in `NAMES`.

    Not an enumeration, because members of one are found ten times slower on Python 3.11, dozens of times a
    call.
    """

    RECEIVED: Final = 0
    IDENTIFIED: Final = 1
    COUNTING: Final = 2
    CONNECTING: Final = 3
    WAITING: Final = 4
    STREAMING: Final = 5
    DONE: Final = 6
    NAMES: Final = ("received", "identified", "counting", "connecting", "waiting", "streaming", "done")


class Admission:
    """A call on its way to being granted; what follows the grant is up to the subclass."""

    __slots__ = (
        "_admitted",
        "_attempts",
        "_body",
        "_body_bytes",
        "_body_whole",
        "_buffered",
        "_call",
        "_candidates",
        "_entry",
        "_identified",
        "_let_through",
        "_limit_fields",
        "_parts",
        "_proxy",
        "_route",
        "_streaming",
        "_take",
        "_upstream_holds",
        "deadline",
        "front",
        "request",
        "stage",
    )

    def __init__(self, proxy: Proxy, front: Front, request: Request, route: Route) -> None:
        self._proxy = proxy
        self.front: Front | None = front
        self.request = request
        self._route = route
        self.stage: int = Stage.RECEIVED
        self.deadline = proxy.tick + proxy.body_timeout_s
        self._admitted = 0.0
        self._attempts = 0
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._body_whole = False
        self._buffered = 0  # bytes of the body that are kept and stand in the worker's books
        self._streaming = False
        self._upstream_holds = False  # it takes no more of the body for now
        self._parts: Parts | None = None
        self._identified: Identified | None = None
        self._entry: Entry | None = None
        self._take: Take | None = None
        self._call: Call | None = None
        self._limit_fields = b""
        self._let_through = False  # without being counted; the journal has it

    # -- received

    def begin(self, body: bytes, whole: bool) -> None:
        """Identify the call, or wait for the part of its body that tells who makes it."""
        request = self.request
        route = self._route
        self._body_whole = whole
        if not request.has_body:
            self._identify(b"", complete=True)
            return
        self._body_bytes = len(body)
        if body:
            self._body.append(body)
        if max(request.length or 0, self._body_bytes) > route.max_body_bytes:
            self.fail(Failure.BODY_TOO_LARGE)
        elif whole:
            self._identify(body, complete=True)
        elif max(request.length or 0, self._body_bytes) > route.identify_body_bytes:
            self._identify(None, complete=False)
        elif needs_body(route, request.method, request.headers) or hangs_on_body(
            route, self._proxy.methods, self._parts_with(None, complete=False)
        ):
            self._welcome_body()
        else:
            self._identify(None, complete=False)

    def on_body(self, data: bytes, whole: bool) -> None:
        """Take a piece of the request's body."""
        self._body_bytes += len(data)
        self._body_whole = whole
        if self.stage == Stage.DONE:
            return
        if self._body_bytes > self._route.max_body_bytes:
            self.fail(Failure.BODY_TOO_LARGE)
            return
        if self._streaming:
            if not self._upstream_holds:
                self._earn_time(data)
            self._send_body(data)
            return
        if self.stage == Stage.RECEIVED:
            self._earn_time(data)
        if data:
            self._body.append(data)
            self._keep(len(data))
            if self._proxy.buffered_bytes > self._proxy.settings.server.max_buffered_bytes:
                self.fail(Failure.OVERLOADED)
                return
        if self.stage == Stage.RECEIVED:
            if whole:
                self._identify(b"".join(self._body), complete=True)
            elif self._body_bytes > self._route.identify_body_bytes:
                self._identify(None, complete=False)
        decided_upon = self.stage != Stage.RECEIVED and not self._streaming
        if decided_upon and not whole and self._body_bytes > STREAM_BUFFER_BYTES and self.front is not None:
            self.front.hold_body()

    def _earn_time(self, data: bytes) -> None:
        """Move the deadline of a body that comes: no silence may be too long, nor the whole too slow."""
        server = self._proxy.settings.server
        silence_ends = self._proxy.tick + server.body_timeout_s
        earned = self.deadline + len(data) / server.min_body_rate
        self.deadline = silence_ends if silence_ends < earned else earned

    def _keep(self, size: int) -> None:
        """Enter bytes of a body into the worker's books, or with 0 take all out again."""
        self._proxy.buffered_bytes += size if size else -self._buffered
        self._buffered = self._buffered + size if size else 0

    def _welcome_body(self) -> None:
        if self.request.expects_continue and self.front is not None and not self._body_bytes:
            self.front.write_continue()

    # -- identified

    def _identify(self, body: bytes | None, *, complete: bool) -> None:
        proxy = self._proxy
        parts = self._parts = self._parts_with(body, complete=complete)
        found = identify(self._route, proxy.methods, parts)
        self.stage = Stage.IDENTIFIED
        if isinstance(found, Denied):
            self.deny(found.reason)
            return
        self._identified = found
        self._look_up(0)

    def _parts_with(self, body: bytes | None, *, complete: bool) -> Parts:
        request = self.request
        return Parts(
            request.method,
            request.target,
            request.headers,
            body,
            complete,
            request.framing,
            request.plain_target,
        )

    def _look_up(self, pepper: int) -> None:
        """Look for the key under one pepper after the other: a rotation leaves keys under an older one."""
        proxy = self._proxy
        peppers = proxy.peppers
        now = proxy.clock()
        assert self._identified is not None
        credential = self._identified.credential
        unasked = False
        for index in range(pepper, len(peppers)):
            digest = self._digest(credential, peppers[index][1])
            entry = proxy.records.get(digest, now)
            if entry is None:
                # The form of a cached key is known to be right; of others it is checked before any I/O.
                if not keys.is_well_formed(credential):
                    break
                if proxy.counters.breaker.is_open:
                    unasked = True  # nobody can be asked now, but it may be cached under the next pepper
                    continue
                self._candidates = index
                client = self.request.client
                if not proxy.held_off_s(client):
                    proxy.records.fetch(digest, now, self._on_fetched)
                    return
                if proxy.records.fetch_slowly(digest, client, self._on_fetched):
                    return
                break
            if isinstance(entry, Entry):
                if index and proxy.carrier is not None:
                    proxy.carrier.note(entry, credential, peppers, now)
                self._decide(entry, now)
                return
        if unasked:
            self.fail(Failure.COUNTING_UNAVAILABLE)
        else:
            self._not_identified(Reason.UNKNOWN_KEY)

    def _digest(self, credential: str, pepper: bytes) -> str:
        """Return a key's digest; most connections bring the same key again and again."""
        front = self.front
        if front is None:
            return keys.digest(credential, pepper)
        known = front.digest_of
        if known is None or known[0] != credential or known[1] is not pepper:
            known = front.digest_of = (credential, pepper, keys.digest(credential, pepper))
        return known[2]

    def _not_identified(self, reason: Reason) -> None:
        """Refuse who does not say rightly who it is, and hold its address off when that happens too often."""
        wait_s = self._proxy.note_failure(self.request.client)
        if wait_s:
            self._refuse(Failure.TOO_MANY_FAILURES, wait_s)
        else:
            self.deny(reason)

    def _on_fetched(self, found: Entry | Reason | Unavailable) -> None:
        if self.stage != Stage.IDENTIFIED:
            return
        if isinstance(found, Entry):
            self._decide(found, self._proxy.clock())
        elif isinstance(found, Unavailable):
            self.fail(Failure.COUNTING_UNAVAILABLE)
        else:
            self._look_up(self._candidates + 1)

    # -- decided and counted

    def _decide(self, entry: Entry, now: float) -> None:
        proxy = self._proxy
        identified = self._identified
        assert identified is not None
        self._entry = entry
        record = entry.record
        self._admitted = now
        reason = None
        if self._route.signed and record.signing_secret is not None:
            try:
                reason = self._verify(entry, identified, now)
            except SealError as error:
                log.error("a key's signatures cannot be checked", key=record.key_id, error=str(error))
                self.fail(Failure.INTERNAL)
                return
        if entry.lists is not None:
            reason = reason or self._misplaced(entry.lists)
        counted, rule, reading = identified.counted, identified.rule, identified.reading
        moment = proxy.today.at(now)
        known = entry.recall(counted, rule, reading, moment)
        ruling: Take | Denied
        if known is not None:
            self._call, ruling = known.call, known.take
        else:
            self._call, ruling = entry.rule_on(counted, rule, reading, moment)
        if reason is not None:
            ruling = Denied(reason)
        if isinstance(ruling, Denied):
            if self._attempts and reason is Reason.INVALID_SIGNATURE:
                self._not_identified(reason)
            elif self._attempts:
                self.deny(ruling.reason)
            else:
                self._attempts = 1
                proxy.records.confirm(entry, self._on_confirmed)
            return
        self.stage = Stage.COUNTING
        self._take = ruling
        proxy.counters.take(ruling, now, self._on_taken)

    def _verify(self, entry: Entry, identified: Identified, now: float) -> Reason | None:
        if entry.secret is None:
            assert entry.record.signing_secret is not None
            entry.secret = self._proxy.unseal(entry.record.signing_secret)
        return signature.verify(identified, entry.secret, now, self._route.signature_skew_s)

    def _misplaced(self, lists: AllowLists) -> Reason | None:
        request = self.request
        origin, referer = page_of(request.headers)
        return place_refusal(lists, request.client.decode(), origin, referer)

    def _on_confirmed(self, renewed: bool | Unavailable) -> None:
        if self.stage != Stage.IDENTIFIED:
            return
        if isinstance(renewed, Unavailable) and self._route.on_counter_failure is not _OPEN:
            # What is cached forbids the call; not to be able to ask is no reason to let it through.
            self.fail(Failure.COUNTING_UNAVAILABLE)
            return
        # An open route goes by the cached record, in what it allows and in what it forbids.
        assert self._entry is not None
        self._decide(self._entry, self._proxy.clock())

    def _on_taken(self, taken: Taken) -> None:
        take, entry = self._take, self._entry
        assert take is not None and entry is not None
        outcome = taken.outcome
        if outcome is _GRANTED:
            self._limit_fields = self._proxy.limits.fields(take, taken, self._admitted)
            if self.front is None:
                self._waive(Waiver.NOT_FORWARDED)
                self._close("client_left")
            elif self.stage != Stage.COUNTING:
                self._waive(Waiver.NOT_FORWARDED)
            else:
                self._connect()
        elif outcome is Outcome.EXHAUSTED:
            self._limit_fields = self._proxy.limits.fields(take, taken, self._admitted)
            if self.stage == Stage.COUNTING:
                self._refuse(Reason.QUOTA_EXCEEDED, self._retry_after(taken))
        elif outcome is Outcome.STALE:
            self._decide_anew(entry, taken)
        elif self._route.on_counter_failure is _OPEN:
            self._admit_uncounted(take)
        else:
            if outcome is Outcome.MISSING:
                self._proxy.records.forget(entry)
            self.fail(Failure.COUNTING_UNAVAILABLE)

    def _decide_anew(self, entry: Entry, taken: Taken) -> None:
        if self.stage != Stage.COUNTING:
            return
        proxy = self._proxy
        assert taken.record is not None
        now = proxy.clock()
        proxy.records.renew(entry, taken.record, now)
        self._attempts += 1
        if self._attempts > REDECISIONS_MAX:
            self.fail(Failure.COUNTING_UNAVAILABLE)
        else:
            self.stage = Stage.IDENTIFIED
            self._decide(entry, now)

    def _admit_uncounted(self, take: Take) -> None:
        if self.front is None or self.stage != Stage.COUNTING:
            self.fail(Failure.COUNTING_UNAVAILABLE)
        else:
            self._proxy.open_calls.admit(take, self._admitted, self._on_admitted)

    def _on_admitted(self, admission: open_calls.Admission) -> None:
        if admission is not _ADMITTED:
            self.fail(Failure.COUNTING_UNAVAILABLE)
            return
        self._let_through = True
        if self.front is None or self.stage != Stage.COUNTING:
            self._waive(Waiver.NOT_FORWARDED)
            self._close("client_left")
        else:
            self._connect()

    def _retry_after(self, taken: Taken) -> int:
        assert self._take is not None
        if self._take.window is Window.DAY:
            return self._proxy.today.seconds_left(self._admitted)
        if taken.oldest_bucket is None:
            return EXHAUSTED_RETRY_MAX_S
        return seconds_until_bucket_expires(self._proxy.clock(), taken.oldest_bucket)

    # -- what the second half does

    def deny(self, reason: Reason) -> None:
        """Refuse the call by the contract, and count the refusal where the key is known."""
        if self._entry is not None:
            proxy = self._proxy
            proxy.counters.deny(self._entry.record.key_id, proxy.today.at(proxy.clock()).day, reason)
        self._refuse(reason, None)

    def fail(self, failure: Failure) -> None:
        """Answer that the call failed."""
        raise NotImplementedError

    def _connect(self) -> None:
        raise NotImplementedError

    def _send_body(self, data: bytes) -> None:
        raise NotImplementedError

    def _refuse(self, cause: Reason | Failure, retry_after_s: int | None) -> None:
        raise NotImplementedError

    def _waive(self, waiver: Waiver) -> None:
        raise NotImplementedError

    def _close(self, result: str) -> None:
        raise NotImplementedError
