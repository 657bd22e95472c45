"""The second half of a call's life: forwarded, answered, settled.

The client's connection is only a place to write to: when it goes away before the answer's outcome is known,
the exchange lives on until it is, because the outcome decides whether the call is charged (contract OT-15).
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from gateway.dialects import OutcomeReader, read_outcome, refuse
from gateway.failures import Failure
from gateway.proxy.admission import Admission, Stage
from gateway.proxy.answers import AnswerHead
from gateway.proxy.headers import Header, request_fields
from gateway.proxy.heads import LAST_CHUNK, chunk, refusal_head
from gateway.proxy.identify import Parts
from gateway.proxy.key_out import rewrite
from gateway.settings import Dialect, KeyOut, Route
from policies.decision import Reason
from policies.waiver import Waiver

if TYPE_CHECKING:
    from gateway.proxy.front import Front
    from gateway.proxy.requests import Request
    from gateway.proxy.service import Proxy
    from gateway.proxy.upstream import UpstreamConnection
    from gateway.proxy.upstream_pool import UpstreamPool
    from metering.lanes import AnyCounters
    from metering.open_calls import OpenCalls

_PASS = KeyOut.PASS
# Servers may insist on a length for these, be it 0 (RFC 9110 section 8.6); IIS answers 411 without one.
_WITH_LENGTH = frozenset(("POST", "PUT", "PATCH"))
_PROBLEM = Dialect.PROBLEM  # in which no outcome is read from a body, but items may be counted in it


class Exchange(Admission):
    """One call. Made by a front when a request's head is complete."""

    __slots__ = (
        "_added_s",
        "_chunk_answer",
        "_connection",
        "_opened",
        "_out",
        "_outcome",
        "_pool",
        "_settled",
        "_started",
        "head_request",
        "request_id",
        "result",
        "sent_bytes",
        "status",
    )

    def __init__(
        self, proxy: Proxy, front: Front, request: Request, route: Route, pool: UpstreamPool
    ) -> None:
        super().__init__(proxy, front, request, route)
        self._pool = pool
        self.request_id = proxy.next_request_id()
        self.head_request = request.method == "HEAD"
        self._started = perf_counter()
        self._added_s: float | None = None
        self._opened = False
        self._settled = False
        self._chunk_answer = False
        self._connection: UpstreamConnection | None = None
        self._outcome: OutcomeReader | None = None
        self._out: list[bytes] = []
        self.status = 0
        self.result = "answered"  # or client_left, or why it was refused or failed
        self.sent_bytes = 0

    # -- forwarded

    def _connect(self) -> None:
        self.stage = Stage.CONNECTING
        self.deadline = self._proxy.tick + self._pool.connect_timeout_s
        self._pool.acquire(self)

    def on_connected(self, connection: UpstreamConnection) -> None:
        """Send the request, or what there is of it."""
        if self.stage != Stage.CONNECTING:
            connection.exchange = None
            self._pool.release(connection)
            return
        self._connection = connection
        self.stage = Stage.WAITING
        self.deadline = self._proxy.tick + self._pool.answer_timeout_s
        self._added_s = perf_counter() - self._started
        body = b""
        if self._body:
            body = b"".join(self._body)
            self._body = []
            self._keep(0)
        route = self._route
        request = self.request
        target = request.target
        framing = request.framing
        headers: Sequence[Header] = request.headers
        if route.key_out is not _PASS:
            assert self._identified is not None
            parts = self._parts
            if parts is None or not parts.body_complete:  # more of the body has come since
                whole = body if self._body_whole else None
                parts = Parts(request.method, target, headers, whole, self._body_whole, framing)
            target, headers, rewritten = rewrite(route, parts, self._identified, self._proxy.clock())
            if rewritten is not None:
                body = rewritten
        front = self.front
        assert front is not None  # an exchange whose client has left asks for no connection
        call = self._call
        assert call is not None
        readable = route.dialect is not _PROBLEM or call.cost_items is not None
        lines = (
            framing.lines(readable=readable)
            if headers is framing.end_to_end
            else request_fields(headers, readable=readable)
        )
        framed = b""
        if not self._body_whole:
            framed = (
                b"Transfer-Encoding: chunked\r\n"
                if request.length is None
                else b"Content-Length: %d\r\n" % request.length
            )
        elif request.has_body or request.method in _WITH_LENGTH:
            framed = b"Content-Length: %d\r\n" % len(body)
        head = self._pool.head.write(request, target, lines, self.request_id, framed)
        if self._body_whole:
            connection.write(head + body if body else head)
            return
        self._streaming = True
        self.deadline = self._proxy.tick + self._proxy.body_timeout_s
        self._welcome_body()
        connection.write(head + chunk(body) if body and request.length is None else head + body)
        front.release_body()

    def _send_body(self, data: bytes) -> None:
        connection = self._connection
        if connection is None:
            return
        if self.request.length is None:
            if data:
                data = chunk(data)
            if self._body_whole:
                data += LAST_CHUNK
        if data:
            connection.write(data)
        if self._body_whole:
            self.deadline = self._proxy.tick + self._pool.answer_timeout_s

    def on_upstream_writable(self, writable: bool) -> None:
        """Let the client send more of its body, or stop it."""
        if self.front is not None and self._streaming and not self._body_whole:
            self._upstream_holds = not writable
            if writable:
                self.deadline = self._proxy.tick + self._proxy.body_timeout_s
                self.front.release_body()
            else:
                self.deadline = self._proxy.tick + self._pool.answer_timeout_s
                self.front.hold_body()

    def on_connect_failed(self, failure: Failure) -> None:
        """Answer that the upstream cannot be reached; the call is not charged."""
        if self.stage == Stage.CONNECTING:
            self.fail(failure)

    # -- answered

    def on_answer_head(self, head: AnswerHead) -> None:
        """Begin the client's answer: the same status and fields, framed for this connection."""
        self.stage = Stage.STREAMING
        self.status = head.status
        self.deadline = self._proxy.tick + self._pool.answer_timeout_s
        call = self._call
        assert call is not None
        self._outcome = read_outcome(
            self._route.dialect, status=head.status, codings=head.codings, cost_items=call.cost_items
        )
        front = self.front
        if front is None:
            return
        self._opened = True
        out = self._out = head.pieces.copy()
        framing = head.framing(self.request, out)
        if framing is not None:
            self._chunk_answer = framing == b"chunked"
            if not self._chunk_answer:
                front.close_after()
        out += (
            self._limit_fields,
            b"X-Request-Id: ",
            self.request_id,
            b"\r\n",
            front.connection_field(),
            b"\r\n",
        )

    def on_answer_data(self, data: bytes) -> None:
        """Pass a piece of the answer on, and read the outcome in it."""
        outcome = self._outcome
        assert outcome is not None
        self.deadline = self._proxy.tick + self._pool.answer_timeout_s
        if not self._outcome_is_settled(outcome):
            outcome.feed(data)
        if self.front is not None:
            if self._chunk_answer:
                self._out += (b"%x\r\n" % len(data), data, b"\r\n")
            else:
                self._out.append(data)
        elif self._outcome_is_settled(outcome):
            # The client is gone and what the call costs is settled: nothing is left to wait for.
            self._settle(complete=True)
            self._close("client_left")

    def on_answer_end(self) -> None:
        """Finish the client's answer."""
        if self.stage == Stage.DONE:
            return
        self._connection_done()
        self._settle(complete=True)
        front = self.front
        if front is None:
            self._close("client_left")
            return
        if self._chunk_answer:
            self._out.append(LAST_CHUNK)
        self._flush(front)
        self._close("answered")
        front.on_answered(self)

    def on_answer_broken(self, failure: Failure) -> None:
        """Show the client that the answer is not whole, or tell it what happened when it has seen nothing of
        it."""
        if self.stage == Stage.DONE:
            return
        self._connection = None
        if not self._opened:
            self.fail(failure)
            return
        self._waive(Waiver.UPSTREAM_BROKEN)
        front = self.front
        self._close(failure.value.name)
        if front is not None:
            front.abort()

    def on_answer_flush(self) -> None:
        """Write out the pieces that one read from the upstream brought."""
        front = self.front
        if front is not None and self._out:
            self._flush(front)

    def _flush(self, front: Front) -> None:
        out, self._out = self._out, []
        data = b"".join(out)
        self.sent_bytes += len(data)
        front.write(data)

    def on_client_writable(self, writable: bool) -> None:
        """Stop reading the answer while the client does not keep up."""
        connection = self._connection
        if connection is not None:
            if writable:
                connection.unhold()
                self.deadline = self._proxy.tick + self._pool.answer_timeout_s
            else:
                connection.hold()

    # -- the ways out

    def on_client_left(self) -> None:
        """Go on without the client where the outcome is still open, stop where nothing depends on it."""
        self.front = None
        if self.stage in (Stage.RECEIVED, Stage.IDENTIFIED):
            self._close("client_left")
        elif self.stage == Stage.CONNECTING:
            self._pool.withdraw(self)
            self._waive(Waiver.NOT_FORWARDED)
            self._close("client_left")
        elif self.stage == Stage.WAITING and not self._body_whole:
            # The upstream never got the whole request, so it can give no outcome.
            self._waive(Waiver.NOT_FORWARDED)
            self._close("client_left")
        elif self.stage == Stage.STREAMING:
            assert self._outcome is not None
            if self._outcome_is_settled(self._outcome):
                self._settle(complete=True)
                self._close("client_left")
            else:
                self.on_client_writable(True)

    def on_deadline(self) -> None:
        """Give up what has taken too long."""
        match self.stage:
            case Stage.RECEIVED:
                self.fail(Failure.REQUEST_TIMEOUT)
            case Stage.CONNECTING:
                self._pool.withdraw(self)
                self.fail(Failure.OVERLOADED)
            case Stage.WAITING:
                client_owes = not self._body_whole and not self._upstream_holds
                self.fail(Failure.REQUEST_TIMEOUT if client_owes else Failure.UPSTREAM_TIMEOUT)
            case Stage.STREAMING:
                front = self.front
                if front is not None and front.stalled:
                    # It is the client that does not read; what it was sent is charged by its outcome.
                    self._settle(complete=True)
                    self._close("client_stalled")
                    front.abort()
                else:
                    self.on_answer_broken(Failure.UPSTREAM_TIMEOUT)
            case _:
                # Counting has a deadline of its own, kept by the counters.
                self.deadline = self._proxy.tick + self._proxy.body_timeout_s

    def fail(self, failure: Failure) -> None:
        """Answer that the call failed, in the route's dialect; what was counted is waived."""
        if self.stage == Stage.DONE:
            return
        if self._connection is not None:
            self._drop_connection()
        if self._opened:
            # The client has seen the head of an answer already; nothing else can be said to it.
            self.on_answer_broken(failure)
            return
        if self._take is not None and self.stage in (Stage.CONNECTING, Stage.WAITING, Stage.STREAMING):
            self._waive(_WAIVER_OF.get(failure, Waiver.NOT_FORWARDED))
        self._refuse(failure, failure.value.retry_after_s)

    def _refuse(self, cause: Reason | Failure, retry_after_s: int | None) -> None:
        front = self.front
        refusal = refuse(
            self._route.dialect,
            cause,
            path=self.request.target,
            request_id=self.request_id.decode(),
            retry_after_s=retry_after_s,
        )
        self.status = refusal.status
        self._close(cause.value.name if isinstance(cause, Failure) else cause.value)
        if front is None:
            return
        if not self._body_whole:
            front.close_after()
        own = b"%bX-Request-Id: %b\r\n" % (self._limit_fields, self.request_id)
        data = b"%b%b\r\n" % (refusal_head(refusal, own), front.connection_field())
        if not self.head_request:
            data += refusal.body
        self.sent_bytes += len(data)
        front.write(data)
        front.on_answered(self)

    # -- settling

    def _settle(self, *, complete: bool) -> None:
        outcome, take = self._outcome, self._take
        if self._settled or outcome is None or take is None:
            return
        if not self._outcome_is_settled(outcome):
            outcome.finish(complete)
        if outcome.verdict is not None:
            self._waive(outcome.verdict)
        elif outcome.items is not None and outcome.items > take.cost:
            self._settled = True
            self._counted_by().charge_more(take, outcome.items - take.cost)
        self._settled = True

    def _outcome_is_settled(self, outcome: OutcomeReader) -> bool:
        """Say whether the rest of the answer cannot change what the call costs."""
        return outcome.known and (
            outcome.verdict is not None or self._call is None or not self._call.cost_items
        )

    def _waive(self, waiver: Waiver) -> None:
        take = self._take
        if self._settled or take is None:
            return
        self._settled = True
        self._counted_by().waive(take, waiver)
        self._proxy.tally.waive(waiver.value, take.cost)

    def _counted_by(self) -> AnyCounters | OpenCalls:
        return self._proxy.open_calls if self._let_through else self._proxy.counters

    def _connection_done(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and not self._body_whole:
            # The upstream answered before it had the whole request: the rest must not be read as another one.
            connection.abort()
            if self.front is not None:
                self.front.close_after()

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def _close(self, result: str) -> None:
        """Leave the worker's books; nothing that comes later changes what was settled."""
        if self.stage == Stage.DONE:
            return
        stage, self.stage = self.stage, Stage.DONE
        self._drop_connection()
        if self._buffered:
            self._keep(0)
        self.result = result
        call = self._call
        klass = "" if call is None else call.klass
        seconds = perf_counter() - self._started
        self._proxy.tally.call(self._route.path_prefix, klass, result, seconds, self._added_s)
        self._proxy.finished(self, stage)

    # -- what logs and figures say of it

    def figures(self) -> tuple[str, str, str, float, float | None]:
        """Return route, class, result, seconds in all and seconds added."""
        call = self._call
        return (
            self._route.path_prefix,
            "" if call is None else call.klass,
            self.result,
            perf_counter() - self._started,
            self._added_s,
        )

    def identity(self) -> tuple[str, str]:
        """Return the key's id and the counted method, as far as they are known."""
        identified = self._identified
        return (
            "" if self._entry is None else self._entry.record.key_id,
            "" if identified is None else identified.counted,
        )


_WAIVER_OF = {
    Failure.UPSTREAM_UNREACHABLE: Waiver.UPSTREAM_UNREACHABLE,
    Failure.UPSTREAM_TIMEOUT: Waiver.UPSTREAM_TIMEOUT,
    Failure.UPSTREAM_BROKEN: Waiver.UPSTREAM_BROKEN,
}
