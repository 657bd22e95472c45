"""What all connections of a worker share: settings, counters, records, pools, figures, deadlines."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import structlog

from gateway.build import BUILD
from gateway.client_address import scheme_of, trusting
from gateway.failure_limit import FailureLimit
from gateway.proxy.access_log import AccessLogWriter
from gateway.proxy.carrier import Carrier
from gateway.proxy.exchange import Exchange
from gateway.proxy.front import Front
from gateway.proxy.headers import Header, forwarding_fields
from gateway.proxy.heads import Limits
from gateway.proxy.records import Records
from gateway.proxy.tally import Tally
from gateway.proxy.today import Today
from gateway.proxy.upstream_pool import UpstreamPool
from gateway.settings import AccessLog, Route, Settings, Upstream
from metering.lanes import AnyCounters
from metering.open_calls import OpenCalls

log = structlog.get_logger("gateway.proxy")

_ALL, _REFUSED = AccessLog.ALL, AccessLog.REFUSED
_TWO_DIGITS = [b"%02x" % number for number in range(256)]
TICK_S = 0.25  # how exactly deadlines are kept
CLOSED_AT_ONCE = 16  # connections whose deadline has passed
CLOSING_REST_S = 0.002


class Proxy:
    """One worker's data path."""

    def __init__(
        self,
        settings: Settings,
        *,
        loop: asyncio.AbstractEventLoop,
        counters: AnyCounters,
        open_calls: OpenCalls,
        records: Records,
        unseal: Callable[[str], str],
        access_log: AccessLogWriter,
        carrier: Carrier | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.loop = loop
        self.counters = counters
        self.open_calls = open_calls
        self.records = records
        self.unseal = unseal
        self.carrier = carrier
        self.clock = clock
        self.tally = Tally()
        self.tick = loop.time()
        self.leaving = self.draining = False
        self.buffered_bytes = 0  # of request bodies that have not come whole
        self._access_log = access_log
        self._fronts: set[Front] = set()
        self._exchanges: set[Exchange] = set()
        self._pools: dict[Upstream, UpstreamPool] = {}
        self.health_path: bytes | None = None
        self._request_base = self._request_beginning = secrets.token_hex(5).encode() + b"-"
        self._request_number = 0
        self._ticker: asyncio.TimerHandle | None = None
        self._overdue: list[Front] = []
        self.guesses = FailureLimit(settings.security.failures_allowed, settings.security.failures_window_s)
        self._take_settings(settings)

    # -- life

    def start(self) -> None:
        """Begin to keep deadlines."""
        self._ticker = self.loop.call_later(TICK_S, self._on_tick)

    def replace_settings(self, settings: Settings) -> None:
        """Go on under new settings; calls under way end under the old ones."""
        self.settings = settings
        self.records.replace_contract(settings.contract)
        self._take_settings(settings)

    def leave(self) -> None:
        """Say on the health path that this worker goes; calls are taken as before."""
        self.leaving = True

    def drain(self) -> None:
        """Tell each client in its next answer that its connection closes."""
        self.leaving = self.draining = True

    def close_idle(self) -> None:
        """Close the connections on which no call is under way or coming in, told or not."""
        for front in list(self._fronts):
            front.close_if_idle()

    def close(self) -> None:
        """Break off whatever is left."""
        if self._ticker is not None:
            self._ticker.cancel()
        self._overdue = []
        for front in list(self._fronts):
            front.abort()
        for pool in self._pools.values():
            pool.close()
        self._access_log.flush()

    @property
    def connections(self) -> int:
        """Return how many client connections stand."""
        return len(self._fronts)

    @property
    def calls_in_flight(self) -> int:
        """Return how many calls are under way, those included whose client has left."""
        return len(self._exchanges)

    # -- for fronts

    def admit(self, front: Front) -> bool:
        """Take a new connection on, unless the worker has its fill."""
        if len(self._fronts) >= self.settings.server.max_connections:
            self.tally.connections_refused += 1
            return False
        self._fronts.add(front)
        return True

    def dismiss(self, front: Front) -> None:
        """Forget a connection."""
        self._fronts.discard(front)

    def route(self, path: bytes) -> tuple[Route, UpstreamPool] | None:
        """Return the route with the longest prefix of `path`, and the connections to its upstream."""
        for prefix, route, pool in self._routes:
            if path.startswith(prefix):
                return route, pool
        return None

    def started(self, exchange: Exchange) -> None:
        """Enter a call into the books."""
        self._exchanges.add(exchange)

    def forwarded(self, headers: Sequence[Header], client: bytes, scheme: bytes) -> tuple[bytes, bytes]:
        """Return the client's address and scheme that a trusted proxy states, or what its connection says."""
        addresses, proto = forwarding_fields(headers)
        if addresses:
            client = self.trusted_proxies.client(client.decode(), addresses).encode()
        return client, scheme_of(proto, scheme) if proto else scheme

    # -- for exchanges

    def held_off_s(self, client: bytes) -> int:
        """Return for how many seconds more an address gets no further guess, 0 when it may go on."""
        wait_s = self.guesses.wait_s(client.decode(), self.loop.time())
        return int(wait_s) + 1 if wait_s else 0

    def note_failure(self, client: bytes) -> int:
        """Count a failed identification; returns what `held_off_s` said before it."""
        wait_s = self.held_off_s(client)
        self.tally.failed_identifications += 1
        if not wait_s and self.guesses.note(client.decode(), self.loop.time()):
            log.warning(
                "an address is held off: it has named too many wrong keys",
                client=client.decode(),
                failures=self.guesses.allowed,
                for_s=round(self.guesses.wait_s(client.decode(), self.loop.time())),
            )
        return wait_s

    def finished(self, exchange: Exchange, stage: int) -> None:
        """Take a call out of the books, and say how it went."""
        self._exchanges.discard(exchange)
        wanted = self._logged
        if wanted is _ALL or (wanted is _REFUSED and exchange.result != "answered"):
            self._access_log.write(exchange, stage)

    def next_request_id(self) -> bytes:
        """Return an id that no other request of any worker has."""
        number = self._request_number = self._request_number + 1
        last = number & 0xFF
        if not last:
            self._request_beginning = self._request_base + b"%x" % (number >> 8)
        return self._request_beginning + _TWO_DIGITS[last]

    # -- figures

    def troubles(self) -> list[str]:
        """Return what this worker lacks, as `/readyz` names it."""
        return ["counting_away"] if self.counters.breaker.is_open else []

    def snapshot(self) -> dict[str, Any]:
        """Return this worker's figures."""
        upstreams = []
        waiting = []
        for upstream, pool in self._pools.items():
            upstreams += [
                [{"upstream": upstream.name, "state": "idle"}, pool.idle_connections],
                [{"upstream": upstream.name, "state": "busy"}, pool.open_connections - pool.idle_connections],
            ]
            waiting.append([{"upstream": upstream.name}, pool.waiting])
        return self.tally.snapshot(
            gauges={
                "tallygate_build_info": [[asdict(BUILD), 1]],
                "tallygate_client_connections": [[{}, len(self._fronts)]],
                "tallygate_calls_in_flight": [[{}, len(self._exchanges)]],
                "tallygate_buffered_body_bytes": [[{}, self.buffered_bytes]],
                "tallygate_addresses_held_off": [[{}, self.guesses.held(self.loop.time())]],
                "tallygate_cached_keys": [[{}, len(self.records)]],
                "tallygate_counts_pending": [[{}, self.counters.pending]],
                "tallygate_counter_available": [[{}, int(not self.counters.breaker.is_open)]],
                "tallygate_counter_outage_seconds": [[{}, self.counters.breaker.outage_s]],
                "tallygate_journal_bytes": [[{}, self.open_calls.journal_bytes]],
                "tallygate_upstream_connections": upstreams,
                "tallygate_upstream_waiting": waiting,
            },
            lookups={"cache": self.records.hits, "store": self.records.misses},
            open_calls=self.open_calls.calls,
        )

    # -- inside

    def _take_settings(self, settings: Settings) -> None:
        self._logged = settings.logging.access
        # What each call asks for is found in one step.
        self.methods = settings.methods
        self.peppers = settings.security.peppers
        self.body_timeout_s = settings.server.body_timeout_s
        self.head_timeout_s = settings.server.head_timeout_s
        self.idle_timeout_s = settings.server.idle_timeout_s
        self.trusted_proxies = trusting(settings.server.trusted_proxies)
        security = settings.security
        if (self.guesses.allowed, self.guesses.window_s) != (
            security.failures_allowed,
            security.failures_window_s,
        ):
            self.guesses = FailureLimit(security.failures_allowed, security.failures_window_s)
        path = settings.server.health_path
        self.health_path = None if path is None else path.encode()
        self.today = Today(settings.contract.zone)
        self.limits = Limits(self.today)
        kept = {upstream: pool for upstream, pool in self._pools.items() if upstream in settings.upstreams}
        for upstream, pool in self._pools.items():
            if upstream not in kept:
                pool.retire()
        self._pools = kept
        for upstream in settings.upstreams:
            if upstream not in self._pools:
                self._pools[upstream] = UpstreamPool(upstream, self.loop)
        self._routes = sorted(
            ((route.path_prefix.encode(), route, self._pools[route.upstream]) for route in settings.routes),
            key=lambda item: len(item[0]),
            reverse=True,
        )

    def _close_overdue(self) -> None:
        """Close a few connections whose time is up: hundreds in one turn of the loop would hold calls up."""
        try:
            for _ in range(min(CLOSED_AT_ONCE, len(self._overdue))):
                front = self._overdue.pop()
                if front.deadline < self.tick and front in self._fronts:  # some have gone meanwhile
                    front.on_deadline()
        finally:
            if self._overdue:
                self.loop.call_later(CLOSING_REST_S, self._close_overdue)

    def _on_tick(self) -> None:
        # First: whatever goes wrong below, deadlines are looked at again.
        self._ticker = self.loop.call_later(TICK_S, self._on_tick)
        now = self.tick = self.loop.time()
        if self.clock() < self.records.judged_at:
            log.warning("the clock was set back", was=self.records.judged_at)
            self.records.judge_anew()
        for exchange in [exchange for exchange in self._exchanges if exchange.deadline < now]:
            exchange.on_deadline()
        if not self._overdue:
            self._overdue = [front for front in self._fronts if front.deadline < now]
            self._close_overdue()
        for pool in self._pools.values():
            pool.sweep()
        self._access_log.flush()
        if self.carrier is not None:
            self.carrier.flush()
