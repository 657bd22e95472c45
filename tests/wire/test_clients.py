"""Clients in their own forms, through the gateway, to a marketplace that shows what reached it."""

from __future__ import annotations

import gzip
import hashlib
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from redis.asyncio import Redis

from demo.access import Access
from demo.catalogue import make_catalogue
from gateway.settings import KeyOut, UpstreamCredential
from tests.demo.shop import Shop, running
from tests.rig import Answer, Rig, rig

XML = (
    "<SearchItemsParameters><Provider>Taobao</Provider><SearchMethod>Official</SearchMethod>"
    '<ItemTitle>чехол</ItemTitle><Note a="b">"новинка" & скидка</Note></SearchItemsParameters>'
)
CATALOGUE = make_catalogue(items=300)
RESTRICTING = datetime(2020, 1, 1, tzinfo=UTC).date()
CODINGS = ["identity", "gzip,deflate"]


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    """The marketplace behind the gateway."""
    async with running(CATALOGUE, Access(None, None)) as made:
        yield made


@pytest.fixture
async def path(redis: Redis, valkey_url: str, shop: Shop) -> AsyncIterator[Rig]:
    """The example's data path in front of the marketplace, with the key passed on as it came."""
    async with rig(valkey_url, shop.port) as made:
        yield made


def get(target: str, *fields: str) -> bytes:
    """Write a GET; text outside ASCII goes out as raw UTF-8."""
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: api.example.com", *fields, "", ""]).encode()


def post(target: str, form: str, *fields: str) -> bytes:
    """Write a POST of a form."""
    body = form.encode()
    content = ("Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(body)}")
    head = [f"POST {target} HTTP/1.1", "Host: api.example.com", *content, *fields, "", ""]
    return "\r\n".join(head).encode() + body


def official_client(key: str, method: str = "SearchItemsFrame", **more: str) -> bytes:
    """Write a call as the vendor's client for JSON does: one long GET, everything percent-encoded."""
    parameters = {
        "instanceKey": key,
        "language": "ru",
        "sessionId": "",
        "xmlParameters": XML,
        "frameSize": "2",
    }
    query = urlencode({**parameters, **more}, quote_via=quote, safe="")
    return get(f"/service-json/{method}?{query}", "Accept: */*")


def old_shop(key: str) -> bytes:
    """Write a call as old shops do: only angle brackets escaped, blanks, quotes and Cyrillic raw."""
    xml = XML.replace(" & ", " и ").replace("<", "%3C").replace(">", "%3E")
    target = f"/OtapiWebService2.asmx/SearchItemsFrame?instanceKey={key}&language=ru&xmlParameters={xml}"
    return get(f"{target}&framePosition=0&frameSize=2")


def old_post_shop(key: str) -> bytes:
    """Write a call as old PHP shops post it."""
    form = {"instanceKey": key, "language": "ru", "sessionId": "", "xmlParameters": XML, "frameSize": "2"}
    return post("/service/SearchItemsFrame", urlencode(form))


def reseller_client(key: str) -> bytes:
    """Write a call as it comes through another marketplace: the key in a header of that marketplace's."""
    query = urlencode({"language": "ru", "xmlParameters": XML, "frameSize": "2"})
    return get(f"/service-json/BatchSearchItemsFrame?{query}", f"x-rapidapi-key: {key}", "x-rapidapi-host: x")


CLIENTS = [official_client, old_shop, old_post_shop, reseller_client]


def read(answer: Answer) -> tuple[str, Any]:
    """Read an answer as clients in the field do: by its first bytes, whatever its status."""
    assert answer.status == 200
    body = gzip.decompress(answer.body) if answer.header("Content-Encoding") == "gzip" else answer.body
    if body.startswith(b'{"ErrorCode":'):
        found = json.loads(body)
        assert found["ErrorCode"] == "Ok" or found["ErrorDescription"]
        return found["ErrorCode"], found.get("Result")
    assert body.startswith(b"<?xml")
    root = ElementTree.fromstring(body)  # noqa: S314 - of our own making
    assert root.findtext("ErrorCode") == "Ok" or root.findtext("ErrorDescription")
    return root.findtext("ErrorCode", ""), root.find("Result")


async def last_request(shop: Shop) -> dict[str, Any]:
    """Return the last request that reached the marketplace."""
    found: dict[str, Any] = json.loads(await shop.get("/demo/requests?limit=1"))["requests"][-1]
    return found


@pytest.mark.parametrize("client", CLIENTS)
async def test_calls_are_served_counted_and_arrive_byte_for_byte(path: Rig, shop: Shop, client: Any) -> None:
    """Every client's own form is answered and counted; its target (but for raw spaces, which are escaped) and
    body arrive as sent."""
    key = await path.add_key()
    raw = client(key)
    code, result = read(await path.send(raw))
    assert code == "Ok"
    assert result is not None
    head, _, body = raw.partition(b"\r\n\r\n")
    seen = await last_request(shop)
    target = head.split(b"\r\n")[0].split(b" ", 1)[1].rpartition(b" ")[0]
    assert seen["target"].encode("latin-1") == target.replace(b" ", b"%20")
    assert seen["body"].encode("latin-1") == body
    counts = await path.counts(key)
    (counted,) = [name for name in counts if name.startswith("c:")]
    assert counted.endswith("|official_search")
    assert counts[counted] == 1


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("face", ["/service-json/", "/service/", "/OtapiWebService2.asmx/"])
async def test_good_answers_pass_byte_for_byte(path: Rig, shop: Shop, face: str, coding: str) -> None:
    """What the upstream answers is what the client gets, compressed answers included."""
    key = await path.add_key()
    target = f"{face}SearchItemsFrame?instanceKey={key}&language=ru&frameSize=20"
    answer = await path.send(get(target, f"Accept-Encoding: {coding}"))
    assert answer.header("Content-Encoding") == (None if coding == "identity" else "gzip")
    assert answer.body == await shop.get(target, f"Accept-Encoding: {coding}")
    assert (await path.counts(key))["c:SearchItemsFrame|search"] == 1


@pytest.mark.parametrize("client", CLIENTS)
async def test_refusals_are_understood(path: Rig, shop: Shop, client: Any) -> None:
    """An unknown key, a used-up limit and a ban are told in the code that each client's format has for it."""
    assert read(await path.send(client("tg_unknown")))[0] == "AccessDenied"
    limited = await path.add_key(daily_limit=1)
    assert read(await path.send(client(limited)))[0] == "Ok"
    refused = await path.send(client(limited))
    assert read(refused)[0] == "CallLimit"
    assert int(refused.header("Retry-After") or 0) > 0
    banned = await path.add_key(oldest_unpaid_issued_on=RESTRICTING)
    assert read(await path.send(client(banned)))[0] == "InstanceKeyBan"
    assert json.loads(await shop.get("/demo/requests"))["total"] == 1


def signed(parameters: dict[str, str], method: str, secret: str, now: datetime) -> dict[str, str]:
    """Sign a call as the vendor describes it."""
    parameters = {**parameters, "timestamp": now.strftime("%Y%m%d%H%M%S")}
    text = method + "".join(parameters[name] for name in sorted(parameters)) + secret
    return {**parameters, "signature": hashlib.sha256(text.encode()).hexdigest()}


async def test_a_key_with_a_secret_has_to_sign(path: Rig) -> None:
    """Signed calls pass by GET and POST; otherwise the sub-code says what is wrong."""
    key = await path.add_key(signing_secret="sealed:s3cret")
    now = datetime.now(UTC)
    plain = {"instanceKey": key, "language": "ru", "xmlParameters": XML, "frameSize": "1"}
    right = signed(plain, "SearchItemsFrame", "s3cret", now)
    target = "/service-json/SearchItemsFrame"

    async def sub_code(parameters: dict[str, str]) -> str | None:
        answers = [
            await path.send(get(f"{target}?{urlencode(parameters, quote_via=quote)}")),
            await path.send(post(target, urlencode(parameters))),
        ]
        first, second = (answer.json() for answer in answers)
        assert first["SubErrorCode"] == second["SubErrorCode"]
        found: str | None = first["SubErrorCode"]
        assert (found is None) == (first["ErrorCode"] == "Ok")
        return found

    assert await sub_code(right) is None
    assert await sub_code(plain) == "MissingSignature"
    assert await sub_code({**right, "frameSize": "2"}) == "InvalidSignature"
    assert await sub_code({**plain, "signature": "00"}) == "MissingTimestamp"
    late = signed(plain, "SearchItemsFrame", "s3cret", datetime(2020, 1, 1, tzinfo=UTC))
    assert await sub_code(late) == "InvalidTimestamp"


async def test_the_sellers_own_key_takes_the_clients_place(redis: Redis, valkey_url: str) -> None:
    """The upstream gets the seller's key and signature, and never sees the client's key."""
    async with (
        running(CATALOGUE, Access("seller-key", "seller-secret")) as guarded,
        rig(
            valkey_url,
            guarded.port,
            key_out=KeyOut.REPLACE,
            credential=UpstreamCredential("seller-key", "seller-secret"),
        ) as path,
    ):
        key = await path.add_key()
        for client in (official_client, old_shop, old_post_shop):
            assert read(await path.send(client(key)))[0] == "Ok"
        assert key not in (await guarded.get("/demo/requests")).decode()


async def test_a_stripped_key_does_not_reach_the_upstream(redis: Redis, valkey_url: str, shop: Shop) -> None:
    """Where the route strips the key, no call in any form shows it to the upstream."""
    async with rig(valkey_url, shop.port, key_out=KeyOut.STRIP) as path:
        key = await path.add_key()
        for client in CLIENTS:
            assert read(await path.send(client(key)))[0] == "Ok"
        journal = (await shop.get("/demo/requests")).decode()
        assert json.loads(journal)["total"] == len(CLIENTS)
        assert key not in journal


async def test_error_codes_are_waived(path: Rig) -> None:
    """A call that the upstream answers with an error is not charged, one with BatchError is."""
    key = await path.add_key()
    for code in ("ValidationError", "BatchError"):
        raw = official_client(key, **{"x-demo-error": code})
        assert (await path.send(raw)).json()["ErrorCode"] == code
    counts = await path.counts(key)
    assert counts["t:SearchItemsFrame|official_search"] == 2
    assert counts["w:SearchItemsFrame|official_search"] == 1
    assert counts["v:error_code"] == 1


async def test_bulk_results_cost_a_unit_an_item(path: Rig) -> None:
    """A bulk job is started for free, and its result costs one unit for every item in it."""
    key = await path.add_key()
    wanted = ",".join(list(CATALOGUE.items)[:7])
    job = await path.send(get(f"/service-json/RunBulkItems?instanceKey={key}&itemIds={wanted}"))
    activity = job.json()["Result"]["ActivityId"]
    for face in ("service-json", "service"):
        target = f"/{face}/GetBulkItemsResult?instanceKey={key}&activityId={activity}"
        assert read(await path.send(get(target, "Accept-Encoding: gzip")))[0] == "Ok"
    assert (await path.counts(key))["t:GetBulkItemsResult|bulk"] == 14


async def test_restricted_keys_search_officially_only(path: Rig, shop: Shop) -> None:
    """An unpaid invoice leaves the official search and the items, and no disguise gets around it."""
    path.now = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
    key = await path.add_key(oldest_unpaid_issued_on=datetime(2026, 11, 10, tzinfo=UTC).date())
    assert read(await path.send(official_client(key)))[0] == "Ok"
    other = XML.replace("Official", "Extended")
    assert read(await path.send(official_client(key, xmlParameters=other)))[0] == "ContractViolation"
    doubled = official_client(key).replace(
        b" HTTP/1.1", f"&xmlParameters={quote(other)} HTTP/1.1".encode(), 1
    )
    assert read(await path.send(doubled))[0] == "ContractViolation"
    item = get(f"/service/GetItemFullInfo?instanceKey={key}&itemId={next(iter(CATALOGUE.items))}")
    assert read(await path.send(item))[0] == "Ok"
    assert json.loads(await shop.get("/demo/requests"))["total"] == 2


async def test_top_clients_are_served_and_refused_in_their_form(path: Rig) -> None:
    """TOP's client gets its answers with status 200, errors as error_response."""
    key = await path.add_key(daily_limit=2)
    query = urlencode({"method": "taobao.items.search", "app_key": key, "format": "json", "q": "phone"})
    assert "items_search_response" in (await path.send(get(f"/router/rest?{query}"))).json()
    system = urlencode({"method": "taobao.items.search", "app_key": key, "format": "json"})
    assert "items_search_response" in (await path.send(post(f"/router/rest?{system}", "q=phone"))).json()
    refused = await path.send(get(f"/router/rest?{query}"))
    assert refused.status == 200
    assert refused.json()["error_response"]["code"] == 7
    assert (await path.counts(key))["c:taobao.items.search|search"] == 2


async def test_rest_clients_are_served_and_refused_in_their_form(path: Rig) -> None:
    """A REST client shows its key in a header or as a bearer token, and is refused with a problem."""
    key = await path.add_key(daily_limit=2)
    item = f"/rest/items/{next(iter(CATALOGUE.items))}"
    assert (await path.send(get("/rest/search?q=phone", f"X-Api-Key: {key}"))).status == 200
    assert (await path.send(get(item, f"Authorization: Bearer {key}"))).status == 200
    refused = await path.send(get(item, f"Authorization: Bearer {key}"))
    assert refused.status == 429
    assert refused.json()["reason"] == "quota_exceeded"
    assert (await path.send(get(item))).status == 401
