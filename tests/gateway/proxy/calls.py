"""Calls as clients write them, and short ways to identify them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from gateway.proxy.identify import Identified, Parts, identify
from gateway.settings import Dialect, KeyOut, Place, Route, Source, UnknownMethods, Upstream
from policies.decision import Denied, Reason
from policies.methods import OFFICIAL_SEARCH, MethodRule, MethodTable, Surcharge, classify

KEY = "0123456789abcdef0123456789abcdef"
OTHER_KEY = "fedcba9876543210fedcba9876543210"
FORM = (b"Content-Type", b"application/x-www-form-urlencoded")
HOST = (b"Host", b"api.example.com")

OFFICIAL = (
    "<SearchItemsParameters><Provider>Taobao</Provider><SearchMethod>Official</SearchMethod>"
    "<ItemTitle>red dress</ItemTitle></SearchItemsParameters>"
)

UPSTREAM = Upstream(
    name="origin",
    host="127.0.0.1",
    port=80,
    tls=False,
    base_path="",
    host_header="origin",
    ca_file=None,
    connect_timeout_s=1,
    answer_timeout_s=1,
    idle_s=1,
    max_connections=1,
)

METHODS = MethodTable(
    (
        MethodRule(
            ("SearchItemsFrame", "BatchSearchItemsFrame", "FindItemInfoListFrameByTitle"),
            "search",
            billable=True,
            official=("Taobao", "Official"),
            read=("xmlParameters",),
        ),
        MethodRule(
            ("GetItemFullInfo", "BatchGetItemFullInfo"),
            "item",
            billable=True,
            read=("itemParameters",),
            surcharges=(Surcharge("ForceUpdate", "true", 5, {"Pinduoduo": 25}),),
        ),
        MethodRule(("GetRootCategoryInfoList",), "category", billable=True),
        MethodRule(("SearchOrders", "CreateOrder"), "order"),
        MethodRule(("taobao.*", "find*"), "item"),
        MethodRule(("GET /rest/items/*",), "item"),
    )
)


def place(text: str) -> Place:
    """Return a place as the configuration writes it."""
    source, _, name = text.partition(":")
    return Place(Source(source), name)


def route_of(
    *,
    key_in: tuple[str, ...] = ("query:instanceKey", "form:instanceKey", "header:x-rapidapi-key"),
    method_from: tuple[str, ...] = ("path",),
    **changes: Any,
) -> Route:
    """Return an OTAPI route with changes."""
    fields: dict[str, Any] = {
        "path_prefix": "/",
        "upstream": UPSTREAM,
        "dialect": Dialect.OTAPI,
        "key_in": tuple(place(text) for text in key_in),
        "key_out": KeyOut.PASS,
        "credential": None,
        "method_from": tuple(place(text) for text in method_from),
        "unknown_methods": UnknownMethods.REFUSE,
        "signed": True,
        "signature_skew_s": 3600.0,
        "max_body_bytes": 1 << 30,
        "identify_body_bytes": 1 << 20,
        "item_id_prefixes": (("abb-", "Alibaba1688"), ("pdd-", "Pinduoduo")),
        **changes,
    }
    return Route(**fields)


OTAPI = route_of()


def get(target: str | bytes, *headers: tuple[bytes, bytes], method: str = "GET") -> Parts:
    """Return a request without a body; text in the target goes out as raw UTF-8, as old clients send it."""
    raw = target.encode() if isinstance(target, str) else target
    return Parts(method, raw, [HOST, *headers], None, True)


def post(target: str | bytes, body: bytes, *headers: tuple[bytes, bytes], method: str = "POST") -> Parts:
    """Return a request with a buffered body, an urlencoded form unless a Content-Type is given."""
    raw = target.encode() if isinstance(target, str) else target
    if not any(name.lower() == b"content-type" for name, _ in headers):
        headers = (FORM, *headers)
    return Parts(method, raw, [HOST, *headers], body, True)


def search_by_get(xml: str, *, more: str = "", path: str = "/service-json/SearchItemsFrame") -> Parts:
    """Return a search by GET, its XML percent-encoded as the official client does it."""
    return get(f"{path}?instanceKey={KEY}&language=ru&xmlParameters={quote(xml, safe='')}{more}")


def search_by_post(xml: str, *, more: bytes = b"", path: str = "/service/SearchItemsFrame") -> Parts:
    """Return a search by POST, its XML form-encoded."""
    form = urlencode({"instanceKey": KEY, "language": "ru", "xmlParameters": xml}).encode()
    return post(path, form + more)


def found(parts: Parts, route: Route = OTAPI, methods: MethodTable = METHODS) -> Identified:
    """Identify a call that must not be refused."""
    result = identify(route, methods, parts)
    assert isinstance(result, Identified), result
    return result


def refusal(parts: Parts, route: Route = OTAPI, methods: MethodTable = METHODS) -> Reason:
    """Identify a call that must be refused, and return why it is."""
    result = identify(route, methods, parts)
    assert isinstance(result, Denied), result
    return result.reason


def is_official(identified: Identified) -> bool:
    """Say whether a call is an official search, for a key whose default is another."""
    call = classify(identified.counted, identified.rule, identified.reading, "Taobao", "Extended")
    return call.klass == OFFICIAL_SEARCH


def cost_of(identified: Identified) -> int:
    """Return what a call costs."""
    return classify(identified.counted, identified.rule, identified.reading).cost
