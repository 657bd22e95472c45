"""When an outage begins and ends, and who is told."""

from __future__ import annotations

from metering.breaker import Breaker, Outage


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_outage_is_told_once_when_it_begins_and_once_when_it_ends() -> None:
    """However often counting is said to fail or to work, listeners hear of each change once."""
    clock = Clock()
    breaker = Breaker(clock)
    told: list[Outage | None] = []
    breaker.listen(told.append)
    assert (breaker.is_open, breaker.outage_s, breaker.openings, breaker.why) == (False, 0.0, 0, "")
    breaker.close()
    for why in ("refused", "timed out"):
        breaker.open(why)
        clock.now += 2
    assert (breaker.is_open, breaker.outage_s, breaker.why) == (True, 4.0, "refused")
    breaker.close()
    breaker.close()
    assert told == [None, Outage(4.0, "refused")]
    assert (breaker.is_open, breaker.outage_s, breaker.openings) == (False, 0.0, 1)
    breaker.open("refused again")
    assert (breaker.outage_s, breaker.openings, breaker.why) == (0.0, 2, "refused again")


def test_an_ended_breaker_stays_open_in_silence() -> None:
    """When counting ends for good, calls are refused and nobody takes it for an outage."""
    breaker = Breaker(Clock())
    told: list[Outage | None] = []
    breaker.listen(told.append)
    breaker.end()
    assert (breaker.is_open, breaker.why) == (True, "counting has ended")
    assert told == []
