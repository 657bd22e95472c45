"""What a worker says when counting, or writing down what is not counted, stops and when it works again."""

from __future__ import annotations

from urllib.parse import urlsplit

import structlog

from gateway.failures import Failure
from gateway.proxy.service import Proxy
from gateway.settings import OnCounterFailure
from metering.breaker import Outage
from metering.open_calls import Admission

LOOK_AT = (
    "Redis: does it run, can it be reached, is its memory or disk full, did it fail over to a replica "
    "that is read-only? The gateway goes on by itself within seconds of its return."
)

log = structlog.get_logger("gateway.worker")


class OutageLog:
    """Listens to a worker's breaker and to its open calls."""

    def __init__(self, proxy: Proxy, worker: int) -> None:
        self._proxy = proxy
        self._worker = worker
        self._open_before = self._refused_before = 0

    def listen(self) -> None:
        """Begin to listen."""
        self._proxy.counters.breaker.listen(self._on_change)
        self._proxy.open_calls.listen(self._on_written)

    def _on_change(self, ended: Outage | None) -> None:
        opened = self._proxy.open_calls.calls[Admission.ADMITTED]
        refused = self._proxy.tally.with_result(Failure.COUNTING_UNAVAILABLE.value.name)
        if ended is None:
            self._open_before, self._refused_before = opened, refused
            self._begin()
            return
        log.warning(
            "calls are counted again",
            worker=self._worker,
            outage_s=round(ended.seconds, 1),
            calls_let_through=opened - self._open_before,
            calls_refused=refused - self._refused_before,
            then="what was let through is brought into the counters by the control process"
            if opened > self._open_before
            else "nothing was let through",
        )

    def _on_written(self, failure: str | None) -> None:
        if failure is None:
            log.warning("calls can be written down again, and are let through", worker=self._worker)
            return
        log.error(
            "calls cannot be written down and are not let through: open routes refuse as closed ones do",
            worker=self._worker,
            because=failure,
            look_at=f"the disk of {self._proxy.settings.stores.data_dir}: is it full, read-only or slow?",
        )

    def _begin(self) -> None:
        settings = self._proxy.settings
        modes: dict[OnCounterFailure, list[str]] = {mode: [] for mode in OnCounterFailure}
        for route in settings.routes:
            modes[route.on_counter_failure].append(route.path_prefix)
        log.error(
            "calls cannot be counted, as Redis does not answer as it should",
            worker=self._worker,
            because=self._proxy.counters.breaker.why,
            redis=_address(settings.stores.redis_url),
            routes_that_refuse=modes[OnCounterFailure.CLOSED],
            routes_that_let_through=modes[OnCounterFailure.OPEN],
            units_let_through_per_key=settings.stores.open_allowance if modes[OnCounterFailure.OPEN] else 0,
            look_at=LOOK_AT,
        )


def _address(url: str | None) -> str:
    """Return where Redis is, without what opens it."""
    parts = urlsplit(url or "")
    return parts.path if parts.scheme == "unix" else parts.netloc.rpartition("@")[2]
