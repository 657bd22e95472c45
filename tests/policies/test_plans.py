from __future__ import annotations

from policies.plans import Plan
from policies.quota import Window


def test_a_plan_without_a_list_allows_every_method() -> None:
    """A plan that names no methods lets a key call all of them."""
    assert Plan("K1", 10).allows("SearchItemsFrame", ("search",))
    assert Plan("K1", 10).allows("anything", ())


def test_a_plan_with_a_list_allows_only_what_it_names() -> None:
    """A sandbox with one search method allows that one and no other of its class (OT-3)."""
    plan = Plan("sandbox", 5_000, sandbox=True, methods=frozenset({"SearchItemsFrame"}))
    assert plan.allows("SearchItemsFrame", ("search",))
    assert plan.allows("SearchItemsFrame", ("official_search", "search"))
    assert not plan.allows("BatchSearchItemsFrame", ("search",))
    assert not plan.allows("GetItemInfo", ("item",))


def test_a_plan_can_name_whole_classes() -> None:
    """A class in the list allows its methods; official search falls under search, not the reverse."""
    official = Plan("official", 10, methods=frozenset({"class:official_search", "GetItemInfo"}))
    assert official.allows("SearchItemsFrame", ("official_search", "search"))
    assert not official.allows("SearchItemsFrame", ("search",))
    assert official.allows("GetItemInfo", ("item",))
    search = Plan("search", 10, methods=frozenset({"class:search"}))
    assert search.allows("SearchItemsFrame", ("official_search", "search"))
    assert not search.allows("search", ("item",))


def test_an_empty_list_allows_nothing() -> None:
    """A plan that names an empty list is not taken for one that names none."""
    assert not Plan("none", 10, methods=frozenset()).allows("SearchItemsFrame", ("search",))


def test_a_plan_counts_over_calendar_days_unless_it_says_otherwise() -> None:
    """The calendar day is the window by default, and plans end no key by themselves (OT-1)."""
    plan = Plan("K1", 10)
    assert plan.window is Window.DAY
    assert plan.lifetime_months is None
    assert not plan.sandbox
