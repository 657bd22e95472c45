from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.methods import (
    OFFICIAL_SEARCH,
    OTHER,
    SEARCH,
    UNKNOWN_METHOD,
    Call,
    MethodRule,
    MethodTable,
    Reading,
    Surcharge,
    classes_of,
    classify,
)

FORCE_UPDATE = Surcharge("ForceUpdate", "true", 5, {"Pinduoduo": 25})
SEARCH_RULE = MethodRule(
    match=("SearchItemsFrame",),
    klass=SEARCH,
    billable=True,
    official=("Taobao", "Official"),
    read=("xmlParameters",),
)
ITEM_RULE = MethodRule(
    match=("GetItemFullInfo",),
    klass="item",
    billable=True,
    read=("itemParameters",),
    surcharges=(FORCE_UPDATE,),
)
BULK_RULE = MethodRule(
    match=("GetBulkSearchItemsResult",), klass=SEARCH, billable=True, cost=0, cost_items="Result.Items"
)
ORDERS = MethodRule(match=("GetOrders", "SearchOrders*"), klass="order")
ADMIN = MethodRule(match=("Admin*", "*Operator*"), klass="admin")
CATCH_ALL = MethodRule(match=("Get*",), klass="other")
TABLE = MethodTable((SEARCH_RULE, ITEM_RULE, BULK_RULE, ORDERS, ADMIN, CATCH_ALL))


def read(**values: str) -> Reading:
    return Reading(values=values)


def doubtful(*mentions: str, **values: str) -> Reading:
    return Reading(certain=False, values=values, mentions=frozenset(mentions))


@pytest.mark.parametrize(
    ("method", "counted", "rule"),
    [
        ("SearchItemsFrame", "SearchItemsFrame", SEARCH_RULE),
        ("searchitemsframe", "SearchItemsFrame", SEARCH_RULE),
        ("SEARCHITEMSFRAME", "SearchItemsFrame", SEARCH_RULE),
        ("GetOrders", "GetOrders", ORDERS),
        ("SearchOrders", "SearchOrders*", ORDERS),
        ("searchORDERSforoperator", "SearchOrders*", ORDERS),
        ("AddOperatorNote", "*Operator*", ADMIN),
        ("AdminOperator", "Admin*", ADMIN),
        ("GetBulkSearchItemsResult", "GetBulkSearchItemsResult", BULK_RULE),
        ("GetAnything", "Get*", CATCH_ALL),
        ("Get", "Get*", CATCH_ALL),
    ],
)
def test_methods_are_found_by_name_and_then_by_pattern(method: str, counted: str, rule: MethodRule) -> None:
    """Explicit names win over patterns, the first of several patterns wins, and letter case is no matter."""
    assert TABLE.lookup(method) == (counted, rule)


@pytest.mark.parametrize(
    "method", ["", "SearchItemsFrame2", "XSearchItemsFrame", "SearchItems", "Frame", "ſearchItemsFrame"]
)
def test_unlisted_methods_are_unknown(method: str) -> None:
    """A method that no name and no pattern matches whole has no rule."""
    assert TABLE.lookup(method) is None


def test_a_table_keeps_its_rules_in_order() -> None:
    """The rules can be listed as the configuration has them."""
    assert TABLE.rules == (SEARCH_RULE, ITEM_RULE, BULK_RULE, ORDERS, ADMIN, CATCH_ALL)


def test_a_list_to_count_is_known_whatever_else_a_rule_reads() -> None:
    """A rule with a surcharge that counts items in the answer says where they stand."""
    rule = MethodRule(match=("x",), klass="item", cost_items="Result.Items", surcharges=(FORCE_UPDATE,))
    assert classify("x", rule, read()).cost_items == "Result.Items"


def test_zero_is_false_where_a_surcharge_asks_for_false() -> None:
    """`0` and `false` are one value to XML, as `1` and `true` are."""
    rule = MethodRule(match=("x",), klass="item", surcharges=(Surcharge("Cached", "False", 7),))
    values = ("0", "false", " FALSE ", "1", "true", "")
    assert [classify("x", rule, read(Cached=value)).cost for value in values] == [7, 7, 7, 1, 1, 1]


def test_an_explicit_name_wins_over_a_pattern_that_stands_before_it() -> None:
    """The order of rules decides among patterns and among equal names, but never between the two kinds."""
    table = MethodTable((CATCH_ALL, ITEM_RULE, MethodRule(match=("getitemfullinfo",), klass="second")))
    assert table.lookup("GetItemFullInfo") == ("GetItemFullInfo", ITEM_RULE)
    assert table.lookup("GetItem") == ("Get*", CATCH_ALL)


def test_a_slash_at_the_end_of_a_path_makes_no_other_method() -> None:
    """A paid search does not become a free call of a wider pattern because a slash is added or left out."""
    search = MethodRule(match=("GET /rest/search", "GET /rest/*/search"), klass="search", billable=True)
    listed = MethodRule(match=("GET /rest/items/",), klass="item", billable=True)
    table = MethodTable((search, listed, MethodRule(match=("* /rest/*", "find*"), klass="other")))
    assert table.lookup("GET /rest/Search/") == ("GET /rest/search", search)
    assert table.lookup("GET /rest/shop/search/") == ("GET /rest/*/search", search)
    assert table.lookup("GET /rest/items") == table.lookup("GET /rest/items/") == ("GET /rest/items/", listed)
    assert table.lookup("POST /rest/search/") == ("* /rest/*", table.rules[2])
    assert table.lookup("search/") is None


def test_only_the_star_has_a_meaning_in_a_pattern() -> None:
    """Question marks, brackets and dots in a pattern stand for themselves."""
    table = MethodTable((MethodRule(match=("a?c*", "[ab]*", "x.y*"), klass="other"),))
    assert table.lookup("a?cd") is not None
    assert table.lookup("[ab]d") is not None
    assert table.lookup("x.yz") is not None
    assert table.lookup("abcd") is None
    assert table.lookup("ad") is None
    assert table.lookup("xxyz") is None


def test_a_pattern_takes_linear_time_on_a_hostile_name() -> None:
    """A client cannot make a pattern with many stars try all ways to match a long name."""
    table = MethodTable((MethodRule(match=("*a*a*a*a*a*a*b",), klass="other"),))
    begun = time.process_time()
    assert table.lookup("a" * 8_000) is None
    assert time.process_time() - begun < 5.0


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=30), max_size=50))
def test_the_number_of_counted_names_is_bounded_by_the_rules(methods: list[str]) -> None:
    """However a client names its methods, they are counted under names that stand in the configuration."""
    names = {name for rule in TABLE.rules for name in rule.match}
    found = [TABLE.lookup(method) for method in [*methods, *("Get" + method for method in methods)]]
    assert {entry[0] for entry in found if entry is not None} <= names


@given(st.sampled_from(["SearchItemsFrame", "GetOrders", "GetItemFullInfo"]), st.data())
def test_spelling_does_not_change_the_rule(method: str, data: st.DataObject) -> None:
    """Every letter-case spelling of a method has the rule of the method."""
    spelled = "".join(data.draw(st.sampled_from([letter.lower(), letter.upper()])) for letter in method)
    assert TABLE.lookup(spelled) == TABLE.lookup(method)


def test_a_rule_knows_what_it_has_to_read() -> None:
    """Rules with an exempt search or a surcharge need the parameters and say which ones; others need none."""
    assert SEARCH_RULE.needs_parameters
    assert SEARCH_RULE.watched == {"Provider", "SearchMethod", "CategoryId"}
    assert ITEM_RULE.needs_parameters
    assert ITEM_RULE.watched == {"ForceUpdate", "Provider"}
    plain = MethodRule(match=("x",), klass="item", surcharges=(Surcharge("ForceUpdate", "true", 5),))
    assert plain.watched == {"ForceUpdate"}
    assert not ORDERS.needs_parameters
    assert ORDERS.watched == frozenset()


def test_a_call_has_the_class_the_pay_and_the_cost_of_its_rule() -> None:
    """A rule that needs no parameters decides alone, whatever could be read."""
    assert classify("GetOrders", ORDERS, doubtful("Provider")) == Call(
        "GetOrders", "order", billable=False, cost=1
    )
    assert classify("GetBulkSearchItemsResult", BULK_RULE, read()) == Call(
        "GetBulkSearchItemsResult", SEARCH, billable=True, cost=0, cost_items="Result.Items"
    )


def test_an_unknown_method_is_free_and_of_no_special_class() -> None:
    """Where a route lets unknown methods pass they are counted under one name, as unpaid calls of class
    other.
    """
    name = UNKNOWN_METHOD.match[0]
    assert classify(name, UNKNOWN_METHOD, read()) == Call("*", OTHER, billable=False, cost=1)


def test_official_search_is_a_search_too() -> None:
    """A call belongs to its class and to the wider one, so that a plan or a step can name either."""
    assert classes_of(OFFICIAL_SEARCH) == (OFFICIAL_SEARCH, SEARCH)
    assert classes_of(SEARCH) == (SEARCH,)
    call = Call("SearchItemsFrame", OFFICIAL_SEARCH, billable=True)
    assert (call.classes, call.cost) == ((OFFICIAL_SEARCH, SEARCH), 1)


@pytest.mark.parametrize(
    ("reading", "provider", "search_method", "klass"),
    [
        (read(Provider="Taobao", SearchMethod="Official"), None, None, OFFICIAL_SEARCH),
        (read(Provider="Taobao", SearchMethod="Official"), "Alibaba1688", "Extended", OFFICIAL_SEARCH),
        (read(Provider="Taobao", SearchMethod="Extended"), None, "Official", SEARCH),
        (read(Provider="Alibaba1688", SearchMethod="Official"), "Taobao", None, SEARCH),
        (read(Provider="Taobao"), None, None, SEARCH),
        (read(Provider="Taobao"), None, "Official", OFFICIAL_SEARCH),
        (read(Provider="Taobao"), None, "Extended", SEARCH),
        (read(SearchMethod="Official"), None, None, SEARCH),
        (read(SearchMethod="Official"), "Taobao", None, OFFICIAL_SEARCH),
        (read(SearchMethod="Official", CategoryId="otc-50"), "Taobao", None, SEARCH),
        (read(SearchMethod="Official", CategoryId=""), "Taobao", None, OFFICIAL_SEARCH),
        (read(Provider="Taobao", SearchMethod="Official", CategoryId="otc-50"), None, None, OFFICIAL_SEARCH),
        (read(), "Taobao", "Official", OFFICIAL_SEARCH),
        (read(), None, None, SEARCH),
        (read(Provider="", SearchMethod=""), "Taobao", "Official", OFFICIAL_SEARCH),
        (read(Provider="taobao", SearchMethod="Official"), None, None, SEARCH),
        (read(Provider="Taobao", SearchMethod="official"), None, None, SEARCH),
        (read(Provider="Taobao ", SearchMethod="Official"), None, None, SEARCH),
    ],
)
def test_a_search_is_official_only_when_that_is_certain(
    reading: Reading, provider: str | None, search_method: str | None, klass: str
) -> None:
    """Provider and search method must be the exempt pair to the letter, the key's defaults filling what is
    absent.
    """
    call = classify("SearchItemsFrame", SEARCH_RULE, reading, provider, search_method)
    assert call == Call("SearchItemsFrame", klass, billable=True, cost=1)


@pytest.mark.parametrize(
    "reading",
    [
        doubtful(),
        doubtful("Provider", "SearchMethod"),
        doubtful(Provider="Taobao", SearchMethod="Official"),
        doubtful("Provider", "SearchMethod", Provider="Taobao", SearchMethod="Official"),
    ],
)
def test_what_cannot_be_read_for_certain_is_not_official(reading: Reading) -> None:
    """A doubtful reading is never the exempt search, whatever it found and the key's defaults are."""
    assert classify("SearchItemsFrame", SEARCH_RULE, reading, "Taobao", "Official").klass == SEARCH


@pytest.mark.parametrize(
    ("reading", "provider", "cost"),
    [
        (read(), None, 1),
        (read(ForceUpdate="true"), None, 5),
        (read(ForceUpdate="True"), None, 5),
        (read(ForceUpdate=" TRUE "), None, 5),
        (read(ForceUpdate="1"), None, 5),
        (read(ForceUpdate="false"), None, 1),
        (read(ForceUpdate="0"), None, 1),
        (read(ForceUpdate=""), None, 1),
        (read(ForceUpdate="yes"), None, 1),
        (read(ForceUpdate="true", Provider="Taobao"), None, 5),
        (read(ForceUpdate="true", Provider="Pinduoduo"), None, 25),
        (read(ForceUpdate="true", Provider="pinduoduo "), None, 25),
        (read(ForceUpdate="true"), "Pinduoduo", 25),
        (read(ForceUpdate="true", Provider="Taobao"), "Pinduoduo", 5),
        (read(Provider="Pinduoduo"), None, 1),
        (doubtful(), "Pinduoduo", 1),
        (doubtful("Provider"), "Pinduoduo", 1),
        (doubtful("ForceUpdate"), "Taobao", 5),
        (doubtful("ForceUpdate"), "Pinduoduo", 25),
        (doubtful("ForceUpdate"), None, 5),
        (doubtful("ForceUpdate", "Provider"), "Taobao", 25),
        (doubtful("ForceUpdate", "Provider", Provider="Taobao"), None, 25),
        (doubtful("ForceUpdate", ForceUpdate="false"), None, 5),
    ],
)
def test_a_forced_update_costs_more(reading: Reading, provider: str | None, cost: int) -> None:
    """ForceUpdate costs 5 and 25 at Pinduoduo; seen but unreadable it applies, at the dearest price where the
    provider is in doubt as well (OT-15).
    """
    assert classify("GetItemFullInfo", ITEM_RULE, reading, provider) == Call(
        "GetItemFullInfo", "item", billable=True, cost=cost
    )


def test_a_surcharge_without_providers_has_one_price_in_doubt_too() -> None:
    """A surcharge that knows no providers costs the same whether it was read or only seen."""
    rule = MethodRule(match=("x",), klass="item", surcharges=(Surcharge("ForceUpdate", "true", 5),))
    assert classify("x", rule, read(ForceUpdate="true")).cost == 5
    assert classify("x", rule, doubtful("ForceUpdate")).cost == 5


def test_the_dearest_of_several_surcharges_is_taken() -> None:
    """Surcharges replace the cost and do not add up, and none makes a call cheaper than its rule says."""
    rule = MethodRule(
        match=("x",),
        klass="item",
        cost=3,
        surcharges=(Surcharge("A", "true", 5), Surcharge("B", "true", 9), Surcharge("C", "true", 2)),
    )
    assert classify("x", rule, read(A="true")).cost == 5
    assert classify("x", rule, read(A="true", B="true", C="true")).cost == 9
    assert classify("x", rule, read(C="true")).cost == 3
    assert classify("x", rule, read()).cost == 3


names = st.sampled_from(["", "Taobao", "Official", "Extended", "Alibaba1688", "taobao"])


@given(st.dictionaries(st.sampled_from(["Provider", "SearchMethod", "CategoryId"]), names), names, names)
def test_doubt_never_helps_a_client(values: dict[str, str], provider: str, search_method: str) -> None:
    """Making a call harder to read never makes it official and never makes it cheaper."""
    clear = Reading(values=values | {"ForceUpdate": "true"})
    dim = Reading(certain=False, mentions=frozenset({*values, "ForceUpdate"}))
    assert classify("S", SEARCH_RULE, dim, provider, search_method).klass == SEARCH
    assert classify("I", ITEM_RULE, dim, provider).cost >= classify("I", ITEM_RULE, clear, provider).cost
