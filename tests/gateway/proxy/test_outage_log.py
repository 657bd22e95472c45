"""An operator who reads two lines knows what happened, what customers notice, and where to look."""

from __future__ import annotations

import asyncio
import dataclasses

from redis.asyncio import Redis
from structlog.testing import capture_logs

from gateway.failures import Failure
from gateway.proxy.outage_log import OutageLog
from gateway.settings import OnCounterFailure
from metering.open_calls import Admission
from tests.rig import Rig


async def test_an_outage_is_told_when_it_begins_and_when_it_ends(path: Rig, redis: Redis) -> None:
    """One line each: why, which routes do what, where to look; how long, how many calls; no password."""
    settings = path.settings
    first, *others = settings.routes
    path.proxy.settings = dataclasses.replace(
        settings,
        routes=(dataclasses.replace(first, on_counter_failure=OnCounterFailure.OPEN), *others),
        stores=dataclasses.replace(settings.stores, redis_url="rediss://user:secret@redis.example:6380/0"),
    )
    proxy = path.proxy
    OutageLog(proxy, 3).listen()
    proxy.open_calls.calls[Admission.ADMITTED] = 5
    proxy.tally.call("/", "search", Failure.COUNTING_UNAVAILABLE.value.name, 0.0, None)
    with capture_logs() as lines:
        proxy.counters.breaker.open("READONLY You can't write against a read only replica.")
        proxy.open_calls.calls[Admission.ADMITTED] += 2
        for _ in range(3):
            proxy.tally.call("/", "search", Failure.COUNTING_UNAVAILABLE.value.name, 0.0, None)
        await asyncio.sleep(0)
        proxy.counters.breaker.close()
    began, ended = lines
    assert (began["log_level"], began["worker"], began["redis"]) == ("error", 3, "redis.example:6380")
    assert began["because"].startswith("READONLY")
    assert began["routes_that_let_through"] == [first.path_prefix]
    assert began["routes_that_refuse"] == [route.path_prefix for route in others]
    assert "read-only" in began["look_at"]
    assert (ended["log_level"], ended["calls_let_through"], ended["calls_refused"]) == ("warning", 2, 3)
    assert ended["outage_s"] >= 0
    assert "secret" not in str(lines)
