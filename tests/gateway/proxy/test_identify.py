from __future__ import annotations

from time import process_time
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.identify import Parts, identify, needs_body
from gateway.proxy.parameters import MAX_PARAMETERS
from gateway.proxy.request_plan import REMEMBERED_NAMES
from gateway.settings import Dialect, KeyOut, Route, UnknownMethods
from policies.decision import Reason
from policies.methods import MethodRule, MethodTable
from tests.gateway.proxy.calls import (
    FORM,
    HOST,
    KEY,
    METHODS,
    OFFICIAL,
    OTAPI,
    OTHER_KEY,
    cost_of,
    found,
    get,
    is_official,
    place,
    post,
    refusal,
    route_of,
    search_by_get,
    search_by_post,
)

ROOTS = "/service-json/GetRootCategoryInfoList"


# -- the key


@pytest.mark.parametrize(
    ("parts", "where"),
    [
        (get(f"{ROOTS}?instanceKey={KEY}"), "query:instanceKey"),
        (get(f"{ROOTS}?language=ru&instanceKey={KEY}&sessionId="), "query:instanceKey"),
        (get(f"{ROOTS}?INSTANCEKEY={KEY}"), "query:instanceKey"),
        (get(f"{ROOTS}?instance%4bey={KEY}"), "query:instanceKey"),
        (get(f"{ROOTS}?instanceKey=%30{KEY[1:]}"), "query:instanceKey"),
        (post(ROOTS, f"instanceKey={KEY}&language=ru".encode()), "form:instanceKey"),
        (get(ROOTS, (b"X-RapidAPI-Key", KEY.encode())), "header:x-rapidapi-key"),
        (get(ROOTS, (b"x_rapidapi_key", KEY.encode())), "header:x-rapidapi-key"),
    ],
)
def test_the_key_is_found_where_clients_put_it(parts: Parts, where: str) -> None:
    """Query, form and header are read, in any letter case and percent-encoded."""
    identified = found(parts)
    assert identified.credential == KEY
    assert identified.credential_places == (place(where),)


def test_the_same_key_in_several_places_is_one_key() -> None:
    """A client that repeats its key in query, form and header is known by it, and all places are told."""
    parts = post(
        f"{ROOTS}?instanceKey={KEY}", f"instanceKey={KEY}".encode(), (b"x-rapidapi-key", KEY.encode())
    )
    identified = found(parts)
    assert identified.credential == KEY
    assert {str(each.source) for each in identified.credential_places} == {"query", "form", "header"}


@pytest.mark.parametrize(
    "parts",
    [
        get(f"{ROOTS}?instanceKey={KEY}&instanceKey={OTHER_KEY}"),
        get(f"{ROOTS}?instanceKey={KEY}&InstanceKey={OTHER_KEY}"),
        get(f"{ROOTS}?instanceKey={KEY}&instance%4Bey={OTHER_KEY}"),
        get(f"{ROOTS}?instanceKey={KEY}&instanceKey[]={KEY}"),
        get(f"{ROOTS}?instanceKey={KEY}&x=1;instanceKey={OTHER_KEY}"),
        get(f"{ROOTS}?instanceKey={KEY}", (b"x-rapidapi-key", OTHER_KEY.encode())),
        get(ROOTS, (b"x-rapidapi-key", KEY.encode()), (b"X-RAPIDAPI-KEY", OTHER_KEY.encode())),
        post(f"{ROOTS}?instanceKey={KEY}", f"instanceKey={OTHER_KEY}".encode()),
        post(f"{ROOTS}?instanceKey={KEY}", f"instanceKey={OTHER_KEY}".encode(), method="GET"),
    ],
)
def test_two_keys_are_refused(parts: Parts) -> None:
    """A call that shows different keys to different readers belongs to nobody."""
    assert refusal(parts) is Reason.AMBIGUOUS_KEY


@pytest.mark.parametrize(
    "parts",
    [
        get(ROOTS),
        get(f"{ROOTS}?instanceKey="),
        get(f"{ROOTS}?instanceKey"),
        get(f"{ROOTS}?key={KEY}"),
        get(ROOTS, (b"Authorization", b"Bearer " + KEY.encode())),
        post(ROOTS, f"instanceKey={KEY}".encode(), (b"Content-Type", b"text/plain")),
        post(ROOTS, f"instanceKey={KEY}".encode(), FORM, (b"Content-Encoding", b"gzip")),
    ],
)
def test_a_call_without_a_key_is_told_so(parts: Parts) -> None:
    """No key, an empty one, or one in a place that the route does not name is a missing key."""
    assert refusal(parts) is Reason.MISSING_KEY


def test_keys_are_found_in_authorization() -> None:
    """A bearer token and the key in an AWS signature's Credential are keys where the route says so."""
    bearer = route_of(key_in=("bearer",))
    aws = route_of(key_in=("aws_credential",), method_from=("header:x-amz-target",))
    methods = MethodTable(
        (MethodRule(("SearchItems",), "search"), MethodRule(("GetRootCategoryInfoList",), "x"))
    )
    assert found(get(ROOTS, (b"authorization", f"bearer  {KEY}".encode())), bearer).credential == KEY
    header = f"AWS4-HMAC-SHA256 Credential={KEY}/20261121/us-east-1/ProductAdvertisingAPI/aws4_request, "
    target = b"com.amazon.paapi5.v1.ProductAdvertisingAPIv1.SearchItems"
    parts = post(
        "/paapi5/searchitems",
        b'{"Keywords":"x"}',
        (b"Authorization", header.encode() + b"SignedHeaders=host, Signature=00"),
        (b"x-amz-target", target),
        (b"Content-Type", b"application/json; charset=utf-8"),
        (b"Content-Encoding", b"amz-1.0"),
    )
    identified = found(parts, aws, methods)
    assert identified.credential == KEY
    assert identified.counted == "SearchItems"
    both = route_of(key_in=("aws_credential",), method_from=("path", "header:x-amz-target"))
    assert found(parts, both, methods).counted == "SearchItems"


# -- the method


@pytest.mark.parametrize("folder", ["/service-json", "/service", "/OtapiWebService2.asmx", "/a/b/c"])
def test_the_method_is_the_last_segment(folder: str) -> None:
    """OTAPI's three endpoints name the method in the path, and it is counted as the rules write it."""
    identified = found(get(f"{folder}/getrootcategoryinfolist?instanceKey={KEY}"))
    assert identified.counted == "GetRootCategoryInfoList"
    assert identified.method == "getrootcategoryinfolist"


def test_one_slash_at_the_end_is_no_method() -> None:
    """A path that ends in a slash names the segment before it, and an escaped letter is that letter."""
    assert found(get(f"{ROOTS}/?instanceKey={KEY}")).counted == "GetRootCategoryInfoList"
    assert (
        found(get(f"/service/Get%52ootCategoryInfoList?instanceKey={KEY}")).counted
        == "GetRootCategoryInfoList"
    )


@pytest.mark.parametrize(
    "path",
    [
        "/service-json/../service-json/GetRootCategoryInfoList",
        "/service-json/./GetRootCategoryInfoList",
        "/service-json/%2e%2e/GetRootCategoryInfoList",
        "/service-json/.%2E/GetRootCategoryInfoList",
        "/service-json/..;/GetRootCategoryInfoList",
        "/service-json/GetRootCategoryInfoList/..",
        "/service-json\\GetRootCategoryInfoList",
        "/service-json%5cGetRootCategoryInfoList",
        "/service-json/SearchItemsFrame%2fGetRootCategoryInfoList",
        "/service-json/SearchItemsFrame;GetRootCategoryInfoList",
        "/service-json/GetRootCategoryInfoList;v=1",
        "/service-json/SearchItemsFrame%3F/GetRootCategoryInfoList",
        "/service-json/SearchItemsFrame#/GetRootCategoryInfoList",
        "/service-json/SearchItemsFrame/GetRootCategoryInfoList",
        "/service-json/searchitemsframe//GetRootCategoryInfoList",
        "/service-json/GetRoot%2543ategoryInfoList",
        "/service-json/Get%u0052ootCategoryInfoList",
        "/service-json/GetRootCategoryInfoList%",
        "/service-json/GetRootCategoryInfoList%00",
        "/service-json/GetRootCategoryInfoList%20",
        "/service-json/GetRootCategoryInfoLiſt",
        "/service-json/" + "x" * 300,
    ],
)
def test_paths_that_servers_read_differently_are_refused(path: str) -> None:
    """Dot segments, escaped separators, two methods in one path and the like do not name one method."""
    assert refusal(get(f"{path}?instanceKey={KEY}")) is Reason.UNREADABLE


def test_a_fragment_in_the_target_is_refused() -> None:
    """What stands behind a hash would be cut off by some servers."""
    assert refusal(get(f"{ROOTS}?instanceKey={KEY}#&language=ru")) is Reason.UNREADABLE


def test_unknown_methods_are_refused_or_counted_together() -> None:
    """A method without a rule is refused, or where the route allows it counted under `*`, so names stay
    bounded.
    """
    parts = get(f"/service-json/NoSuchMethod?instanceKey={KEY}")
    assert refusal(parts) is Reason.UNKNOWN_METHOD
    identified = found(parts, route_of(unknown_methods=UnknownMethods.ALLOW))
    assert (identified.counted, identified.method, identified.rule.klass) == ("*", "NoSuchMethod", "other")


@pytest.mark.parametrize(
    "name", ["SearchItemsFrame.", "SearchItemsFrame,", "-SearchItemsFrame", "(SearchItemsFrame)"]
)
def test_a_known_method_does_not_pass_as_an_unknown_one(name: str) -> None:
    """Where unknown methods are allowed, a known name with a trimming is neither."""
    parts = get(f"/service-json/{name}?instanceKey={KEY}")
    assert refusal(parts, route_of(unknown_methods=UnknownMethods.ALLOW)) is Reason.UNREADABLE
    assert refusal(parts) is Reason.UNKNOWN_METHOD


def test_no_method_at_all_is_unknown() -> None:
    """A path without a segment, or a missing parameter, names no method."""
    assert refusal(get(f"/?instanceKey={KEY}")) is Reason.UNKNOWN_METHOD
    top = route_of(key_in=("query:app_key",), method_from=("query:method", "form:method"))
    assert refusal(get(f"/router/rest?app_key={KEY}"), top) is Reason.UNKNOWN_METHOD


TOP = route_of(
    key_in=("query:app_key", "form:app_key"), method_from=("query:method", "form:method"), dialect=Dialect.TOP
)


def test_top_calls_name_their_method_as_a_parameter() -> None:
    """TOP's key and method stand in the query or in the form, and a pattern's calls are counted under the
    pattern.
    """
    by_get = found(get(f"/router/rest?method=taobao.item.get&app_key={KEY}&v=2.0&format=json"), TOP)
    by_post = found(post("/router/rest", f"method=taobao.item.get&app_key={KEY}".encode()), TOP)
    mixed = found(post(f"/router/rest?method=taobao.item.get&app_key={KEY}", b"num_iid=1"), TOP)
    for identified in (by_get, by_post, mixed):
        assert (identified.credential, identified.counted) == (KEY, "taobao.*")
        assert identified.method == "taobao.item.get"


@pytest.mark.parametrize(
    "parts",
    [
        get(f"/router/rest?app_key={KEY}&method=taobao.item.get&method=taobao.items.search"),
        get(f"/router/rest?app_key={KEY}&method=taobao.item.get&METHOD=taobao.items.search"),
        get(f"/router/rest?app_key={KEY}&method=taobao.item.get&method[]=taobao.items.search"),
        get(f"/router/rest?app_key={KEY}&method=taobao.item.get&x;method=taobao.items.search"),
        post(f"/router/rest?app_key={KEY}&method=taobao.item.get", b"method=taobao.items.search"),
        get(f"/router/rest?app_key={KEY}&method=taobao.item.get%00"),
        get(f"/router/rest?app_key={KEY}&method=taobao%2Fitem.get%0a"),
    ],
)
def test_two_methods_are_refused(parts: Parts) -> None:
    """A call that names different methods to different readers is not made."""
    assert refusal(parts, TOP) is Reason.UNREADABLE


def test_ebay_calls_are_read_from_headers_and_query_in_any_case() -> None:
    """The Finding API's key and operation stand in headers or in the query, whatever their letter case."""
    route = route_of(
        key_in=("header:X-EBAY-SOA-SECURITY-APPNAME", "query:SECURITY-APPNAME"),
        method_from=("header:X-EBAY-SOA-OPERATION-NAME", "query:OPERATION-NAME"),
    )
    path = "/services/search/FindingService/v1"
    by_header = get(
        path,
        (b"x-ebay-soa-security-appname", KEY.encode()),
        (b"X-Ebay-Soa-Operation-Name", b"findItemsByKeywords"),
    )
    by_query = get(f"{path}?operation-name=findItemsByKeywords&Security-AppName={KEY}")
    for parts in (by_header, by_query):
        assert (found(parts, route).credential, found(parts, route).counted) == (KEY, "find*")
    both = get(
        f"{path}?OPERATION-NAME=other&SECURITY-APPNAME={KEY}", (b"X-EBAY-SOA-OPERATION-NAME", b"findX")
    )
    assert refusal(both, route) is Reason.UNREADABLE


REST = route_of(key_in=("header:X-Api-Key", "bearer"), method_from=("path:full",), dialect=Dialect.PROBLEM)


def test_rest_calls_are_named_by_method_and_path() -> None:
    """On a REST route the HTTP method and the path together are the method."""
    identified = found(get("/rest/items/52%D0%BA?x=1", (b"x-api-key", KEY.encode())), REST)
    assert identified.method == "GET /rest/items/52к"
    assert identified.counted == "GET /rest/items/*"
    deletion = get("/rest/items/1", (b"x-api-key", KEY.encode()), method="DELETE")
    assert refusal(deletion, REST) is Reason.UNKNOWN_METHOD


@pytest.mark.parametrize(
    "parts",
    [
        get("/rest//items/1", (b"x-api-key", KEY.encode())),
        get("/rest/items/../../admin", (b"x-api-key", KEY.encode())),
        get("/rest/items/%2e%2e/admin", (b"x-api-key", KEY.encode())),
        get("/rest/items/1", (b"x-api-key", KEY.encode()), (b"X-HTTP-Method-Override", b"DELETE")),
    ],
)
def test_rest_paths_with_two_meanings_are_refused(parts: Parts) -> None:
    """Doubled slashes, dot segments and a method override name another call to another server."""
    assert refusal(parts, REST) is Reason.UNREADABLE


SOAP = route_of(method_from=("path", "soap"))
ENVELOPE = (
    '<?xml version="1.0" encoding="utf-8"?>'
    '<soap:Envelope xmlns:soap="http://schemas.xmlsoap.org/soap/envelope/"><soap:Header><a/></soap:Header><soap:Body>'
    '<{method} xmlns="http://otapi.example/"><language>ru</language>'
    "<xmlParameters>{xml}</xmlParameters></{method}></soap:Body></soap:Envelope>"
)
TEXT_XML = (b"Content-Type", b"text/xml; charset=utf-8")
ASMX = f"/OtapiWebService2.asmx?instanceKey={KEY}"


def envelope(method: str = "SearchItemsFrame", xml: str = OFFICIAL) -> bytes:
    """Return a SOAP request with the search's XML as text."""
    return ENVELOPE.format(method=method, xml=xml.replace("<", "&lt;").replace(">", "&gt;")).encode()


def test_soap_calls_are_named_by_their_body() -> None:
    """The first child of a SOAP body is the method, and its parameters are read as a form's are."""
    identified = found(
        post(ASMX, envelope(), TEXT_XML, (b"SOAPAction", b'"http://otapi.example/SearchItemsFrame"')), SOAP
    )
    assert identified.counted == "SearchItemsFrame"
    assert is_official(identified)
    soap_12 = envelope().replace(
        b"http://schemas.xmlsoap.org/soap/envelope/", b"http://www.w3.org/2003/05/soap-envelope"
    )
    content_type = (
        b"Content-Type",
        b'application/soap+xml; charset=utf-8; action="http://otapi.example/SearchItemsFrame"',
    )
    assert is_official(found(post(ASMX, soap_12, content_type), SOAP))
    assert not is_official(found(post(ASMX, envelope(xml=OFFICIAL.replace("Taobao", "Jd")), TEXT_XML), SOAP))


@pytest.mark.parametrize(
    ("target", "body", "headers"),
    [
        (ASMX, envelope(), [(b"SOAPAction", b"http://otapi.example/GetRootCategoryInfoList")]),
        (
            ASMX,
            envelope(),
            [(b"SOAPAction", b"a/SearchItemsFrame"), (b"soapaction", b"b/GetRootCategoryInfoList")],
        ),
        (f"/OtapiWebService2.asmx/GetRootCategoryInfoList?instanceKey={KEY}", envelope(), []),
        (ASMX, envelope().replace(b"</soap:Body>", b"<GetRootCategoryInfoList/></soap:Body>"), []),
        (
            ASMX,
            envelope().replace(
                b"</soap:Envelope>", b"<soap:Body><SearchOrders/></soap:Body></soap:Envelope>"
            ),
            [],
        ),
        (ASMX, envelope().replace(b"<soap:Header>", b"<soap:body><x/></soap:body><soap:Header>"), []),
        (
            ASMX,
            envelope().replace(b"<soap:Body>", b"<x:Body xmlns:x='urn:x'>").replace(b"</soap:B", b"</x:B"),
            [],
        ),
        (ASMX, envelope().replace(b"schemas.xmlsoap.org", b"schemas.example.org"), []),
        (ASMX, envelope().replace(b"<soap:Env", b"<!DOCTYPE x><soap:Env", 1), []),
        (ASMX, envelope().replace(b"<soap:Body>", b"<?php x?><soap:Body>"), []),
        (ASMX, envelope().decode().replace('"utf-8"', '"utf-16"').encode("utf-16"), []),
        (ASMX, envelope().replace(b'"utf-8"', b'"windows-1251"'), []),
        (ASMX, envelope()[:-5], []),
        (ASMX, b"<soap:Envelope/>", []),
        (ASMX, envelope().replace(b"</language>", b"<a>" * 100 + b"</a>" * 100 + b"</language>"), []),
    ],
)
def test_soap_bodies_with_two_meanings_are_refused(
    target: str, body: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    """Where action, path and body disagree, or a body could be read otherwise, the method is not certain."""
    assert refusal(post(target, body, TEXT_XML, *headers), SOAP) is Reason.UNREADABLE


@pytest.mark.parametrize(
    "change",
    [
        (b"<xmlParameters>", b"<xmlParameters x='1'>"),
        (b"</language>", b"</language><xmlParameters/>"),
        (b"</language>", b"</language><XmlParameters>x</XmlParameters>"),
        (b"&lt;Provider&gt;", b"<Provider>"),
    ],
)
def test_soap_parameters_with_two_meanings_are_not_certain(change: tuple[bytes, bytes]) -> None:
    """An attribute, a doubled parameter or markup inside a SOAP parameter leaves the search not official."""
    body = envelope().replace(*change).replace(b"Provider&gt;Jd", b"")
    if change[1] == b"<Provider>":
        body = (
            envelope()
            .replace(b"&lt;Provider&gt;", b"<Provider>")
            .replace(b"&lt;/Provider&gt;", b"</Provider>")
        )
    assert not found(post(ASMX, body, TEXT_XML), SOAP).reading.certain


JSON_RPC = route_of(method_from=("json_rpc",))
JSON = (b"Content-Type", b"application/json")


def test_json_rpc_calls_are_named_by_their_body() -> None:
    """The `method` member of a JSON-RPC request is the method, and `params` are read as a form's are."""
    body = b'{"jsonrpc":"2.0","id":1,"method":"GetRootCategoryInfoList","params":{"language":"ru"}}'
    assert found(post(f"/rpc?instanceKey={KEY}", body, JSON), JSON_RPC).counted == "GetRootCategoryInfoList"
    force = b'"itemParameters":"<P><ForceUpdate>1</ForceUpdate></P>"'
    body = b'{"method":"GetItemFullInfo","params":{"itemId":"pdd-1",%b}}' % force
    assert cost_of(found(post(f"/rpc?instanceKey={KEY}", body, JSON), JSON_RPC)) == 25


@pytest.mark.parametrize(
    "body",
    [
        b'[{"method":"GetRootCategoryInfoList"}]',
        b'{"method":"GetRootCategoryInfoList","method":"SearchItemsFrame"}',
        b'{"method":"GetRootCategoryInfoList","Method":"SearchItemsFrame"}',
        b'{"method":"GetRootCategoryInfoList","params":{},"params":{"a":"b"}}',
        b'{"METHOD":"GetRootCategoryInfoList"}',
        b'{"method":["GetRootCategoryInfoList"]}',
        b'{"method":null}',
        b"{}",
        b'"GetRootCategoryInfoList"',
        b'{"method":"GetRootCategoryInfoList"',
        b'\xef\xbb\xbf{"method":"GetRootCategoryInfoList"}',
        '{"method":"GetRootCategoryInfoList"}'.encode("utf-16"),
        b'{"method":"GetRootCategoryInfoList","params":' + b"[" * 100_000,
    ],
)
def test_json_rpc_bodies_with_two_meanings_are_refused(body: bytes) -> None:
    """Batches, doubled members and other encodings do not name one method."""
    assert refusal(post(f"/rpc?instanceKey={KEY}", body, JSON), JSON_RPC) is Reason.UNREADABLE


# -- what a search is


def raw_get(xml: str) -> Parts:
    """Return a search as old clients send it: only `<` and `>` are escaped."""
    escaped = xml.replace("<", "%3C").replace(">", "%3E")
    return get(f"/service/SearchItemsFrame?instanceKey={KEY}&xmlParameters={escaped}&framePosition=0")


@pytest.mark.parametrize(
    "parts",
    [
        search_by_get(OFFICIAL),
        search_by_post(OFFICIAL),
        raw_get(OFFICIAL.replace("red dress", "красное \"платье\" 'летнее'")),
        get(
            f"/service/SearchItemsFrame?instanceKey={KEY}&xmlParameters={OFFICIAL.replace('red', 'красное')}"
        ),
        search_by_get(OFFICIAL.replace("red dress", "Красное & «летнее» 50% + скидка;")),
        search_by_post(OFFICIAL.replace("red dress", "Красное & «летнее» 50% + скидка;")),
        post(
            "/service-json/BatchSearchItemsFrame",
            urlencode({"instanceKey": KEY, "sessionId": "", "xmlParameters": OFFICIAL}).encode(),
            (b"content-type", b'application/x-www-form-urlencoded; charset="UTF-8"'),
        ),
        search_by_get(OFFICIAL, path="/service-json/searchitemsframe"),
    ],
)
def test_official_searches_are_seen_as_such(parts: Parts) -> None:
    """GET and POST, encoded or nearly raw, with Cyrillic and quotes: provider and method are read."""
    assert is_official(found(parts))


@pytest.mark.parametrize(
    "xml",
    [
        OFFICIAL.replace("Taobao", "Alibaba1688"),
        OFFICIAL.replace("Official", "Extended"),
        OFFICIAL.replace("Official", "official"),
        OFFICIAL.replace("<SearchMethod>Official</SearchMethod>", ""),
        "",
    ],
)
def test_other_searches_are_not_official(xml: str) -> None:
    """Another provider or search method, or none under a key whose default is another, is certain and not
    official.
    """
    for parts in (search_by_get(xml), search_by_post(xml)):
        assert found(parts).reading.certain
        assert not is_official(found(parts))


def test_a_search_without_xml_is_certain() -> None:
    """The older searches take plain parameters, and the key's defaults decide."""
    parts = get(f"/service/FindItemInfoListFrameByTitle?instanceKey={KEY}&itemTitle=x&categoryId=otc-1")
    reading = found(parts).reading
    assert reading.certain
    assert reading.values == {"CategoryId": "otc-1"}


QUOTED = quote(OFFICIAL, safe="")
OTHER = quote(OFFICIAL.replace("Official", "Extended"), safe="")
SEARCH = f"/service-json/SearchItemsFrame?instanceKey={KEY}"
FORM_OF = f"instanceKey={KEY}&xmlParameters={QUOTED}".encode()

DISGUISES = {
    "twice in the query": get(f"{SEARCH}&xmlParameters={QUOTED}&xmlParameters={OTHER}"),
    "twice alike": get(f"{SEARCH}&xmlParameters={QUOTED}&xmlParameters={QUOTED}"),
    "another letter case": get(f"{SEARCH}&xmlParameters={QUOTED}&XMLPARAMETERS={OTHER}"),
    "only in another letter case": get(f"{SEARCH}&xmlparameters={QUOTED}"),
    "an encoded name": get(f"{SEARCH}&xmlParameters={QUOTED}&xml%50arameters={OTHER}"),
    "brackets": get(f"{SEARCH}&xmlParameters={QUOTED}&xmlParameters[]={OTHER}"),
    "a blank before the name": get(f"{SEARCH}&xmlParameters={QUOTED}&+xmlParameters={OTHER}"),
    "a zero byte behind the name": get(f"{SEARCH}&xmlParameters={QUOTED}&xmlParameters%00={OTHER}"),
    "behind a semicolon": get(f"{SEARCH}&xmlParameters={QUOTED}&a=b;xmlParameters={OTHER}"),
    "a plain parameter beside": get(f"{SEARCH}&xmlParameters={QUOTED}&SearchMethod=Extended"),
    "plain parameters alone": get(f"{SEARCH}&Provider=Taobao&SearchMethod=Official"),
    "encoded twice": get(f"{SEARCH}&xmlParameters={quote(QUOTED)}"),
    "a malformed escape": get(f"{SEARCH}&xmlParameters={QUOTED.replace('red', 'r%zz')}"),
    "an escape of another kind": get(f"{SEARCH}&xmlParameters={QUOTED.replace('red', '%u0441')}"),
    "a plus in the value": get(f"{SEARCH}&xmlParameters={QUOTED.replace('Official', 'Official+')}"),
    "overlong UTF-8": get(f"{SEARCH}&xmlParameters={QUOTED.replace('red', '%C0%BCSearchMethod%C0%BE')}"),
    "no UTF-8": get(f"{SEARCH}&xmlParameters={QUOTED.replace('red', '%EA%F0')}"),
    "UTF-16": get(f"{SEARCH}&xmlParameters={quote(OFFICIAL.encode('utf-16'))}"),
    "UTF-16 without a mark": get(f"{SEARCH}&xmlParameters={quote(OFFICIAL.encode('utf-16-le'))}"),
    "UTF-7": get(f"{SEARCH}&xmlParameters={quote(OFFICIAL.encode('utf-7'))}%2BADw-SearchMethod%2BAD4-"),
    "a byte-order mark": get(f"{SEARCH}&xmlParameters=%EF%BB%BF{QUOTED}"),
    "in query and form": post(f"{SEARCH}&xmlParameters={OTHER}", FORM_OF),
    "alike in query and form": post(f"{SEARCH}&xmlParameters={QUOTED}", FORM_OF),
    "in the query of a POST": post(f"{SEARCH}&xmlParameters={QUOTED}", b"language=ru"),
    "in the query of an empty POST": get(f"{SEARCH}&xmlParameters={QUOTED}", method="POST"),
    "in the form of a GET": post(SEARCH, FORM_OF, method="GET"),
    "a GET with a body": post(f"{SEARCH}&xmlParameters={QUOTED}", b"x=1", method="GET"),
    "a form in another character set": post(
        SEARCH, FORM_OF, (b"Content-Type", b"application/x-www-form-urlencoded; charset=utf-7")
    ),
    "two character sets": post(
        SEARCH,
        FORM_OF,
        (b"Content-Type", b"application/x-www-form-urlencoded; charset=utf-8; charset=ibm037"),
    ),
    "a query in another character set": get(
        f"{SEARCH}&xmlParameters={QUOTED}", (b"Content-Type", b"text/plain; charset=utf-16")
    ),
    "an overridden character set": post(SEARCH, FORM_OF, FORM, (b"X-UP-Devcap-Post-Charset", b"ibm037")),
    "two content types": post(SEARCH, FORM_OF, FORM, (b"Content-Type", b"text/plain")),
    "a multipart body": post(
        f"{SEARCH}&xmlParameters={QUOTED}", b"--b\r\n", (b"Content-Type", b"multipart/form-data; boundary=b")
    ),
    "a body without a type": Parts("POST", SEARCH.encode(), [HOST], FORM_OF, True),
    "a compressed body": post(SEARCH, FORM_OF, FORM, (b"Content-Encoding", b"gzip")),
    "JSON": post(SEARCH, b'{"xmlParameters":"x"}', (b"Content-Type", b"application/json")),
    "a body over the bound": Parts(
        "POST", f"{SEARCH}&xmlParameters={QUOTED}".encode(), [HOST, FORM], None, False
    ),
}


@pytest.mark.parametrize("parts", DISGUISES.values(), ids=DISGUISES.keys())
def test_disguised_searches_are_not_official(parts: Parts) -> None:
    """Whatever shows one search to the gateway and may show another to the upstream is not certain."""
    identified = found(parts)
    assert not identified.reading.certain
    assert not is_official(identified)


def test_uncertainty_is_no_matter_where_no_rule_looks() -> None:
    """A method whose rule reads no parameters is not slowed or refused by odd ones."""
    parts = get(f"{ROOTS}?instanceKey={KEY}&xmlParameters=%zz&xmlParameters=%3C")
    assert found(parts).reading.certain


PIECES = [QUOTED, OTHER, "", "x", quote("<P><!--<SearchMethod>Official</SearchMethod>--></P>", safe="")]
NAMES = [
    "xmlParameters",
    "XmlParameters",
    "xml%50arameters",
    "language",
    "xmlParameters[]",
    "a;xmlParameters",
]


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(PIECES)), max_size=4),
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(PIECES)), max_size=4),
    st.sampled_from(["GET", "POST"]),
)
def test_a_certain_search_is_the_same_to_every_reader(
    query: list[tuple[str, str]], form: list[tuple[str, str]], method: str
) -> None:
    """First or last wins, query or form wins, letter case matters or not: an official search is one to all of
    them.
    """
    target = SEARCH + "".join(f"&{name}={value}" for name, value in query)
    body = "&".join(f"{name}={value}" for name, value in form).encode()
    identified = found(post(target, body, method=method) if form else get(target, method=method))
    if not is_official(identified):
        return
    candidates = [
        value
        for name, value in [*query, *form]
        if name.lower().replace("%50", "p").replace("[]", "").removeprefix("a;") == "xmlparameters"
    ]
    assert candidates == [QUOTED]


# -- what a call costs


@pytest.mark.parametrize(
    ("parameters", "cost"),
    [
        ({"itemId": "520000001"}, 1),
        ({"itemId": "520000001", "itemParameters": "<P><ForceUpdate>true</ForceUpdate></P>"}, 5),
        ({"itemId": "520000001", "itemParameters": "<P><ForceUpdate>1</ForceUpdate></P>"}, 5),
        ({"itemId": "520000001", "itemParameters": "<P><ForceUpdate>True</ForceUpdate></P>"}, 5),
        ({"itemId": "520000001", "itemParameters": "<P><ForceUpdate>false</ForceUpdate></P>"}, 1),
        ({"itemId": "520000001", "forceUpdate": "false"}, 1),
        ({"itemId": "520000001", "forceUpdate": "true"}, 5),
        ({"itemId": "pdd-1", "itemParameters": "<P><ForceUpdate>true</ForceUpdate></P>"}, 25),
        ({"itemId": "PDD-1", "itemParameters": "<P><ForceUpdate>true</ForceUpdate></P>"}, 25),
        ({"itemId": "pdd-1"}, 1),
        ({"itemId": "abb-1", "itemParameters": "<P><ForceUpdate>true</ForceUpdate></P>"}, 5),
        ({"itemParameters": "<P><Provider>Pinduoduo</Provider><ForceUpdate>true</ForceUpdate></P>"}, 25),
        (
            {
                "itemId": "pdd-1",
                "itemParameters": "<P><Provider>Taobao</Provider><ForceUpdate>true</ForceUpdate></P>",
            },
            25,
        ),
        (
            {
                "itemId": "pdd-1",
                "Provider": "Taobao",
                "itemParameters": "<P><ForceUpdate>true</ForceUpdate></P>",
            },
            25,
        ),
        ({"itemId": "520000001", "itemParameters": "<P><!----><ForceUpdate>true</ForceUpdate></P>"}, 5),
        ({"itemId": "520000001", "itemParameters": "<P><forceupdate>true</forceupdate></P>"}, 5),
        ({"itemId": "520000001", "itemParameters": "<P><ForceUpdate>&#116;rue</ForceUpdate></P>"}, 5),
        ({"itemId": "pdd-1", "itemParameters": "<P><!----><ForceUpdate>true</ForceUpdate></P>"}, 25),
    ],
)
def test_forced_updates_cost_more(parameters: dict[str, str], cost: int) -> None:
    """ForceUpdate costs 5, for Pinduoduo 25, by GET and POST, and cannot be hidden from the count."""
    by_get = get("/service-json/GetItemFullInfo?" + urlencode({"instanceKey": KEY, **parameters}))
    by_post = post("/service/GetItemFullInfo", urlencode({"instanceKey": KEY, **parameters}).encode())
    assert cost_of(found(by_get)) == cost
    assert cost_of(found(by_post)) == cost


def test_the_dearest_of_several_items_counts() -> None:
    """A doubled item id cannot make an item of a dear provider cheap."""
    force = quote("<P><ForceUpdate>true</ForceUpdate></P>")
    for ids in ("itemId=1&itemId=pdd-1", "itemId=pdd-1&itemId=abb-1", "itemid=pdd-1"):
        parts = get(f"/service/GetItemFullInfo?instanceKey={KEY}&{ids}&itemParameters={force}")
        assert cost_of(found(parts)) == 25
    assert cost_of(found(get(f"/service/GetItemFullInfo?instanceKey={KEY}&itemId=1&itemId=pdd-1"))) == 1


def test_a_body_that_was_not_seen_pays_the_surcharge() -> None:
    """A body over the bound may hold anything, so it is counted as if it did."""
    parts = Parts(
        "POST", f"/service/GetItemFullInfo?instanceKey={KEY}&itemId=1".encode(), [HOST, FORM], None, False
    )
    assert cost_of(found(parts)) >= 5
    head = b"--b\r\nContent-Disposition: form-data; name=itemParameters\r\n\r\n"
    body = head + b"<P><forceupdate>true</forceupdate></P>\r\n--b--"
    multipart = (b"Content-Type", b"multipart/form-data; boundary=b")
    assert cost_of(found(post(f"/service/GetItemFullInfo?instanceKey={KEY}", body, multipart))) == 5
    assert cost_of(found(post(f"/service/GetItemFullInfo?instanceKey={KEY}", b"--b--", multipart))) == 1


# -- bodies


@pytest.mark.parametrize(
    ("content_type", "route", "needed"),
    [
        (b"application/x-www-form-urlencoded", OTAPI, True),
        (b"Application/X-WWW-Form-Urlencoded ; charset=utf-8", OTAPI, True),
        (b"application/octet-stream", OTAPI, False),
        (b"multipart/form-data; boundary=b", OTAPI, False),
        (b"text/xml", OTAPI, False),
        (b"text/xml", SOAP, True),
        (b"application/soap+xml; charset=utf-8", SOAP, True),
        (b"application/json", OTAPI, False),
        (b"application/json", JSON_RPC, True),
        (b"text/plain", JSON_RPC, True),
    ],
)
def test_bodies_are_buffered_only_where_something_is_read_from_them(
    content_type: bytes, route: Route, needed: bool
) -> None:
    """Forms always, envelopes where the route names them; everything else may stream."""
    assert needs_body(route, "POST", [HOST, (b"content-type", content_type)]) is needed
    assert needs_body(route, "POST", [HOST]) is (route is JSON_RPC)


def test_a_key_in_an_unseen_form_cannot_be_taken_out() -> None:
    """Where the key must not reach the upstream, a form too large to be searched is refused."""
    parts = Parts("POST", f"{ROOTS}?instanceKey={KEY}".encode(), [HOST, FORM], None, False)
    assert found(parts, OTAPI).credential == KEY
    assert refusal(parts, route_of(key_out=KeyOut.STRIP)) is Reason.UNREADABLE


@pytest.mark.parametrize(
    ("route", "content_type"),
    [
        (TOP, b"application/x-www-form-urlencoded"),
        (route_of(method_from=("path", "soap")), b"text/xml"),
        (route_of(method_from=("path", "json_rpc")), b"application/json"),
    ],
)
def test_a_method_in_an_unseen_body_is_not_certain(route: Route, content_type: bytes) -> None:
    """A body over the bound may name another method than the one that was found elsewhere."""
    target = f"{ROOTS}?instanceKey={KEY}&app_key={KEY}&method=taobao.item.get"
    parts = Parts("POST", target.encode(), [HOST, (b"Content-Type", content_type)], None, False)
    assert refusal(parts, route) is Reason.UNREADABLE


def test_the_number_of_parameters_is_bounded() -> None:
    """More parameters than any client sends are not looked through."""
    many = "&a=1" * (MAX_PARAMETERS - 1)
    assert found(get(f"{ROOTS}?instanceKey={KEY}{many}")).credential == KEY
    assert refusal(get(f"{ROOTS}?instanceKey={KEY}{many}&a=1")) is Reason.UNREADABLE
    assert refusal(post(ROOTS, f"instanceKey={KEY}{many}&a=1".encode())) is Reason.UNREADABLE


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_no_bytes_break_identification(query: bytes, body: bytes) -> None:
    """Whatever a client sends is identified or refused, never an error."""
    for route in (OTAPI, TOP, SOAP, JSON_RPC, REST):
        for content_type in (b"application/x-www-form-urlencoded", b"text/xml", b"application/json", query):
            identify(
                route,
                METHODS,
                Parts("POST", b"/x/SearchItemsFrame?" + query, [(b"Content-Type", content_type)], body, True),
            )
    identify(OTAPI, METHODS, get(b"/" + query))


# Done in a tenth of a second anywhere; a reader that goes over it again and again takes minutes.
HANG_S = 5.0


@pytest.mark.parametrize(
    "body",
    [
        b"&".join(b"n%d=1" % number for number in range(900)) + b"&x=" + b"y" * 900_000,
        b"xmlParameters=" + b"%26lt;" * 900,
        b"xmlParameters=" + b"%26lt%3B" * 110_000,
        b"xmlParameters=" + b"%3Ca" * 200_000,
        b"&".join([b"xmlParameters=" + b"%26lt%3B" * 100] * 900),
        b";" * 900_000,
        b"%" * 900_000,
    ],
)
def test_large_hostile_forms_cost_no_more_than_reading_them(body: bytes) -> None:
    """A form of nearly a megabyte, however it is made, does not hang the worker."""
    begun = process_time()
    identify(OTAPI, METHODS, post(SEARCH, body))
    assert process_time() - begun < HANG_S


@pytest.mark.parametrize("unit", [b"<a/>", b"&lt;", b"<a>x</a>", b"\n", b"<a"])
def test_large_hostile_envelopes_cost_no_more_than_reading_them(unit: bytes) -> None:
    """An envelope of nearly a megabyte is read or refused, and does not hang the worker."""
    begun = process_time()
    identify(
        SOAP, METHODS, post(ASMX, envelope().replace(b"ru<", unit * (900_000 // len(unit)) + b"<"), TEXT_XML)
    )
    assert process_time() - begun < HANG_S


def test_what_is_remembered_is_bounded() -> None:
    """Names, paths, methods and values that clients make up do not pile up."""
    route = route_of(unknown_methods=UnknownMethods.ALLOW)
    plan = found(get(f"{ROOTS}?instanceKey={KEY}"), route).plan
    for number in range(3000):
        xml = quote(OFFICIAL.replace("red", str(number)))
        target = f"/service/Method{number}?instanceKey={KEY}&name{number}=1"
        found(get(target, (f"X-Header-{number}".encode(), b"1")), route)
        found(get(f"{SEARCH}&xmlParameters={xml}"), route)
    held = [len(plan.parameters), len(plan.headers), len(plan._paths), len(plan._views_by_method)]
    held += [len(view._remembered) for view in plan._views.values()]
    assert max(held) <= REMEMBERED_NAMES
    assert set(plan._views) == {"*", "GetRootCategoryInfoList", "SearchItemsFrame"}


def test_nothing_of_a_call_shows_in_its_text_form() -> None:
    """What ends up in a log or a traceback by accident holds neither key nor parameters."""
    parts = search_by_post(OFFICIAL)
    assert KEY not in repr(parts) + repr(found(parts))
