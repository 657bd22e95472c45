"""How often an address may fail."""

from __future__ import annotations

import pytest

from gateway.failure_limit import ADDRESSES_MAX, FailureLimit


def test_the_window_begins_with_the_first_failure() -> None:
    """The failure that reaches the limit says so once; the wait ends with the window."""
    limit = FailureLimit(3, 60.0)
    assert [limit.note("192.0.2.1", at) for at in (100.0, 110.0)] == [False, False]
    assert limit.wait_s("192.0.2.1", 120.0) == 0
    assert limit.note("192.0.2.1", 120.0)
    assert not limit.note("192.0.2.1", 121.0)
    assert limit.wait_s("192.0.2.1", 120.0) == 40.0
    assert limit.wait_s("192.0.2.1", 160.0) == 0
    assert not limit.note("192.0.2.1", 160.0)
    assert limit.wait_s("192.0.2.1", 160.0) == 0
    assert limit.wait_s("192.0.2.2", 120.0) == 0


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("unknown", "unknown", True),
    ],
)
def test_ipv6_counts_by_its_network(first: str, second: str, same: bool) -> None:
    """Of IPv6 a client has a whole /64 to choose from, so it counts as one."""
    limit = FailureLimit(1, 60.0)
    limit.note(first, 0.0)
    assert (limit.wait_s(second, 0.0) > 0) == same


def test_memory_is_bounded() -> None:
    """Of too many addresses those are forgotten whose last failure is the longest ago."""
    limit = FailureLimit(2, 60.0)
    limit.note("192.0.2.1", 0.0)
    for number in range(ADDRESSES_MAX - 1):
        limit.note(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
    assert limit.note("192.0.2.1", 1.0)
    limit.note("198.51.100.1", 1.0)
    assert limit.wait_s("192.0.2.1", 1.0) > 0
    assert len(limit._failures) == ADDRESSES_MAX
    assert limit.held(1.0) == 1
    assert limit.held(61.0) == 0
