from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from demo.catalogue import Catalogue
from demo.marketplace import METHODS
from tests.demo.shop import Shop

FIELDS = ["ErrorCode", "SubErrorCode", "ErrorDescription", "RequestId", "RequestTime", "Result"]


async def call(shop: Shop, method: str, **parameters: str) -> Any:
    """Call a method in JSON and return its result."""
    answer = json.loads(await shop.get(f"/service-json/{method}?{urlencode(parameters)}"))
    assert answer["ErrorCode"] == "Ok", answer
    return answer["Result"]


def search(**elements: str) -> str:
    """Return a search's XML."""
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in elements.items())
    return f"<SearchItemsParameters>{inner}</SearchItemsParameters>"


@pytest.mark.parametrize("path", ["/service/", "/OtapiWebService2.asmx/", "/service-json/"])
@pytest.mark.parametrize("by_post", [False, True])
async def test_answers_have_otapis_fields_in_order(shop: Shop, path: str, by_post: bool) -> None:
    """JSON and XML, by GET and by POST, hold the six fields in the vendor's order, the code first."""
    target, parameters = f"{path}GetRootCategoryInfoList", "instanceKey=k&language=ru"
    body = (
        await shop.post(target, parameters.encode()) if by_post else await shop.get(f"{target}?{parameters}")
    )
    if path == "/service-json/":
        assert body.startswith(b'{"ErrorCode":"Ok",')
        assert list(json.loads(body)) == FIELDS
    else:
        assert body.startswith(b"<?xml")
        root = ElementTree.fromstring(body)  # noqa: S314 - of our own making
        assert [child.tag for child in root] == FIELDS
        assert "Электроника" in [element.text for element in root.iter("Name")]


async def test_searches_obey_their_xml(shop: Shop) -> None:
    """Provider, search method, title, category, price and frame are taken from where OTAPI has them."""
    result = await call(
        shop,
        "SearchItemsFrame",
        language="en",
        framePosition="1",
        frameSize="2",
        xmlParameters=search(
            Provider="Alibaba1688", SearchMethod="Extended", ItemTitle="black", MaxPrice="900"
        ),
    )
    content = result["Items"]["Content"]
    assert (result["Provider"], result["SearchMethod"]) == ("Alibaba1688", "Extended")
    assert len(content) == 2
    assert result["Items"]["TotalCount"] > 2
    for item in content:
        assert item["ProviderType"] == "Alibaba1688"
        assert item["Id"].startswith("abb-")
        assert "black" in item["Title"].lower()
        assert item["Price"]["OriginalPrice"] <= 900
    everything = await call(
        shop, "SearchItemsFrame", frameSize="200", xmlParameters=search(Provider="Alibaba1688")
    )
    assert everything["Items"]["TotalCount"] > result["Items"]["TotalCount"]


async def test_titles_come_in_the_language_asked_for(shop: Shop) -> None:
    """The same items have Russian, English or Chinese titles."""
    titles = [
        (await call(shop, "SearchItemsFrame", language=language, frameSize="1"))["Items"]["Content"][0][
            "Title"
        ]
        for language in ("en", "ru", "zh")
    ]
    assert len(set(titles)) == 3


async def test_batches_answer_the_blocks_asked_for(shop: Shop, catalogue: Catalogue) -> None:
    """A batch method adds the blocks of its blockList and no others."""
    bare = await call(shop, "BatchSearchItemsFrame", frameSize="1")
    full = await call(
        shop, "BatchSearchItemsFrame", frameSize="1", blockList="SubCategories,AvailableSearchMethods"
    )
    assert set(bare) == {"Items"}
    assert set(full) == {"Items", "SubCategories", "AvailableSearchMethods"}
    item_id = next(iter(catalogue.items))
    item = await call(shop, "BatchGetItemFullInfo", itemId=item_id, blockList="Vendor,RootPath,VendorItems")
    assert item["Item"]["Id"] == item_id
    assert item["Vendor"]["Id"] == item["Item"]["VendorId"]
    assert [each["IsParent"] for each in item["RootPath"]["Content"]] == [False, True]
    assert item["VendorItems"]["Content"]


async def test_items_and_categories_and_vendors_lead_to_each_other(shop: Shop, catalogue: Catalogue) -> None:
    """From an item one comes to its vendor and its category, and from the roots down to it."""
    item_id = next(iter(catalogue.items))
    item = await call(shop, "GetItemFullInfo", itemId=item_id)
    vendor = await call(shop, "GetVendorInfo", vendorId=item["VendorId"])
    category = await call(shop, "GetCategoryInfo", categoryId=item["CategoryId"])
    roots = await call(shop, "GetRootCategoryInfoList")
    below = await call(shop, "GetCategorySubcategoryInfoList", parentCategoryId=category["ParentId"])
    several = await call(shop, "GetItemInfoList", idsList=f"{item_id};no-such-item")
    assert vendor["Name"] == item["VendorName"]
    assert category["ParentId"] in [each["Id"] for each in roots["Content"]]
    assert category in below["Content"]
    assert [each["Id"] for each in several["Content"]] == [item_id]


async def test_bulk_jobs_give_every_item_once(shop: Shop, catalogue: Catalogue) -> None:
    """A bulk job is started with ids, and its result is a plain list at Result.Items in JSON and XML."""
    wanted = list(catalogue.items)[:30]
    job = await call(shop, "RunBulkItems", itemIds=",".join(wanted))
    result = await call(shop, "GetBulkItemsResult", activityId=job["ActivityId"])
    assert [item["Id"] for item in result["Items"]] == wanted
    body = await shop.get(f"/service/GetBulkItemsResult?activityId={job['ActivityId']}")
    root = ElementTree.fromstring(body)  # noqa: S314 - of our own making
    assert len(root.findall("Result/Items/Item")) == 30
    searched = await call(shop, "RunBulkSearchItems", xmlParameters=search(ItemTitle="phone"))
    found = await call(shop, "GetBulkSearchItemsResult", activityId=searched["ActivityId"])
    assert len(found["Items"]) == searched["TotalCount"]


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("NoSuchMethod", "NotFound"),
        ("GetItemFullInfo?itemId=none", "NotFound"),
        ("GetVendorInfo", "NotFound"),
        ("GetCategoryInfo", "NotFound"),
        ("GetBulkItemsResult?activityId=none", "NotFound"),
        ("RunBulkItems", "ValidationError"),
        ("SearchItemsFrame?frameSize=0", "ValidationError"),
        ("SearchItemsFrame?frameSize=x", "ValidationError"),
        (f"SearchItemsFrame?xmlParameters={quote(search(MinPrice='x'))}", "ValidationError"),
        (f"SearchItemsFrame?xmlParameters={quote(search(SearchMethod='x'))}", "ValidationError"),
        (f"SearchItemsFrame?xmlParameters={quote(search(Provider='x'))}", "NotAvailable"),
    ],
)
async def test_wrong_calls_get_error_codes(shop: Shop, target: str, code: str) -> None:
    """A method that cannot do what it is asked answers with OTAPI's code for it, and a description."""
    answer = json.loads(await shop.get(f"/service-json/{target}"))
    assert answer["ErrorCode"] == code
    assert answer["ErrorDescription"]
    assert answer["Result"] is None


async def test_every_method_answers(shop: Shop, catalogue: Catalogue) -> None:
    """No method fails on a plain call."""
    item_id = next(iter(catalogue.items))
    for method in METHODS:
        answer = json.loads(await shop.get(f"/service-json/{method}?itemId={item_id}"))
        assert answer["ErrorCode"] in ("Ok", "NotFound")


async def test_the_rest_face(shop: Shop, catalogue: Catalogue) -> None:
    """Items and searches are plain JSON, and what is wrong has an HTTP status."""
    item_id = next(iter(catalogue.items))
    assert json.loads(await shop.get(f"/rest/items/{item_id}"))["Id"] == item_id
    found = json.loads(await shop.get("/rest/search?q=phone&limit=3"))
    assert len(found["items"]) == 3
    assert json.loads(await shop.get("/rest/items/none"))["status"] == 404
    assert json.loads(await shop.get("/rest/search?limit=0"))["status"] == 400
    assert json.loads(await shop.post("/rest/items", b"x=1"))["status"] == 405
    assert json.loads(await shop.post("/rest/uploads", b"x" * 100_000))["bytes"] == 100_000


async def test_the_top_face(shop: Shop, catalogue: Catalogue) -> None:
    """TOP answers in XML unless JSON is asked for, and an error is an error_response."""
    item_id = next(item.id for item in catalogue.items.values() if item.provider == "Taobao")
    item = f"/router/rest?app_key=k&method=taobao.item.get&num_iid={item_id}"
    assert (
        json.loads(await shop.get(f"{item}&format=json"))["item_get_response"]["item"]["num_iid"] == item_id
    )
    assert (await shop.get(item)).startswith(b'<?xml version="1.0" encoding="utf-8"?><item_get_response>')
    for target in ("method=taobao.item.get&num_iid=none", "method=none", "x=1"):
        assert "error_response" in json.loads(await shop.get(f"/router/rest?{target}&format=json"))
    found = json.loads(await shop.post("/router/rest", b"method=taobao.items.search&q=phone&format=json"))
    assert found["items_search_response"]["total_results"] > 0
