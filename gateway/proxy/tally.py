"""A worker's own figures: plain numbers that cost nanoseconds to change, read once a scrape.

No series is labelled by key, address or anything else that a client can choose, so their number is bounded by
the configuration.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

from gateway.failures import Failure, Fault
from metering.open_calls import Admission

# Seconds. The first bounds are where a proxied call on one machine lies, the last is beyond any upstream's
# patience.
LATENCY_BOUNDS = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
)

SETTLED_TOGETHER = 512  # latencies

# What alarms go by, from zero on: a rate does not see the first call of a series that begins with it.
ALARMING = tuple(each.value.name for each in Failure if each.value.fault is not Fault.CLIENT)

HELP = {
    "tallygate_calls_total": "Calls by route, class and result (answered, or why not).",
    "tallygate_failed_calls_total": "Calls that the gateway or an upstream failed, by failure.",
    "tallygate_waived_units_total": "Units that were counted and are not charged, by reason.",
    "tallygate_call_seconds": "From a call's complete head to its last byte, by route.",
    "tallygate_added_seconds": "The part of it that is the gateway's own: until the call is sent on.",
    "tallygate_build_info": "1, with the worker's version, Python's, and whether its data path is compiled.",
    "tallygate_client_connections": "Client connections that stand.",
    "tallygate_calls_in_flight": "Calls under way.",
    "tallygate_upstream_connections": "Connections to an upstream, by state.",
    "tallygate_upstream_waiting": "Calls that wait for an upstream connection.",
    "tallygate_cached_keys": "Key records held by the worker.",
    "tallygate_key_lookups_total": "Lookups of key records, by where they were found.",
    "tallygate_buffered_body_bytes": "Bytes of request bodies that are kept until they have come whole.",
    "tallygate_counts_pending": "Counts that are queued or under way to Redis.",
    "tallygate_counter_available": "Whether calls can be counted: 0 while Redis is away or unfit.",
    "tallygate_counter_outage_seconds": "How long calls have not been countable; 0 when they are.",
    "tallygate_open_calls_total": "Calls that asked to be let through uncounted, by what became of them.",
    "tallygate_journal_bytes": "What was written to journals that were not brought into the counters yet.",
    "tallygate_connections_refused_total": "Connections closed at once because the worker has its fill.",
    "tallygate_failed_identifications_total": "Calls with a key that is not known, or a wrong signature.",
    "tallygate_addresses_held_off": "Addresses from which no further guess is taken for now.",
    "tallygate_bad_requests_total": "Requests refused before a route was known, by failure.",
}


class Histogram:
    """Counts per bucket, and the sum, in seconds; `new` holds values that are not in them yet.

    A value is put into its bucket together with the next few hundred, which costs a tenth of looking for the
    bucket of each.
    """

    __slots__ = ("counts", "new", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BOUNDS) + 1)
        self.sum = 0.0
        self.new: list[float] = []

    def settle(self) -> None:
        """Put all values into their buckets."""
        new = self.new
        self.sum += sum(new)
        new.sort()
        below = 0
        for at, bound in enumerate(LATENCY_BOUNDS):
            up_to = bisect_right(new, bound)
            self.counts[at] += up_to - below
            below = up_to
        self.counts[-1] += len(new) - below
        new.clear()


class Tally:
    """All figures of one worker."""

    def __init__(self) -> None:
        self.calls: dict[tuple[str, str, str], int] = {}  # (route, class, result)
        self.waived: dict[str, int] = {}
        self.bad_requests: dict[str, int] = {}
        self.connections_refused = 0
        self.failed_identifications = 0
        self.call_seconds: dict[str, Histogram] = {}
        self.added_seconds: dict[str, Histogram] = {}

    def call(self, route: str, klass: str, result: str, seconds: float, added_seconds: float | None) -> None:
        """Count one finished call."""
        series = (route, klass, result)
        self.calls[series] = self.calls.get(series, 0) + 1
        histogram = self.call_seconds.get(route)
        if histogram is None:
            histogram = self.call_seconds[route] = Histogram()
            self.added_seconds[route] = Histogram()
        histogram.new.append(seconds)
        if added_seconds is not None:
            self.added_seconds[route].new.append(added_seconds)
        if len(histogram.new) >= SETTLED_TOGETHER:
            histogram.settle()
            self.added_seconds[route].settle()

    def waive(self, reason: str, units: int) -> None:
        """Count units that are not charged."""
        self.waived[reason] = self.waived.get(reason, 0) + units

    def with_result(self, result: str) -> int:
        """Return how many calls ended so."""
        return sum(count for (_, _, ended), count in self.calls.items() if ended == result)

    def bad_request(self, failure: str) -> None:
        """Count a request that got no further than its head."""
        self.bad_requests[failure] = self.bad_requests.get(failure, 0) + 1

    def snapshot(
        self,
        gauges: dict[str, list[list[Any]]],
        lookups: Mapping[str, int],
        open_calls: Mapping[Admission, int],
    ) -> dict[str, Any]:
        """Return everything in the form that the control process reads."""
        for histogram in (*self.call_seconds.values(), *self.added_seconds.values()):
            histogram.settle()
        return {
            "help": HELP,
            "counters": {
                "tallygate_calls_total": [
                    [{"route": route, "class": klass, "result": result}, count]
                    for (route, klass, result), count in self.calls.items()
                ],
                "tallygate_failed_calls_total": [
                    [{"failure": name}, self.with_result(name)] for name in ALARMING
                ],
                "tallygate_waived_units_total": [[{"reason": name}, n] for name, n in self.waived.items()],
                "tallygate_bad_requests_total": [
                    [{"failure": name}, n] for name, n in self.bad_requests.items()
                ],
                "tallygate_connections_refused_total": [[{}, self.connections_refused]],
                "tallygate_failed_identifications_total": [[{}, self.failed_identifications]],
                "tallygate_key_lookups_total": [[{"found": name}, n] for name, n in lookups.items()],
                "tallygate_open_calls_total": [
                    [{"outcome": outcome.value}, n] for outcome, n in open_calls.items()
                ],
            },
            "gauges": gauges,
            "histograms": {
                name: {
                    "bounds": list(LATENCY_BOUNDS),
                    "series": [[{"route": route}, h.counts, h.sum] for route, h in family.items()],
                }
                for name, family in (
                    ("tallygate_call_seconds", self.call_seconds),
                    ("tallygate_added_seconds", self.added_seconds),
                )
            },
        }
