"""The TOP face: `/router/rest` with the method as a parameter, XML unless `format=json` is asked for."""

from __future__ import annotations

from demo.answers import JSON_TYPE, XML_TYPE, Answer, Value, to_json, to_xml
from demo.catalogue import Item
from demo.marketplace import Marketplace
from demo.request import Request

PAGE_MAX = 100


def answer(marketplace: Marketplace, request: Request) -> Answer:
    """Answer `taobao.item.get` and `taobao.items.search`."""
    parameters = request.parameters
    method = parameters.get("method", "")
    if not method:
        return error(request, 21, "Missing method", "isv.missing-method")
    if method == "taobao.item.get":
        item = marketplace.catalogue.items.get(parameters.get("num_iid", ""))
        if item is None:
            return error(request, 50, "Remote service error", "isv.item-not-exist:invalid-numIid")
        return _good(request, "item_get_response", {"item": _shape(item)})
    if method == "taobao.items.search":
        size = parameters.get("page_size", "40")
        if not size.isdigit() or not 0 < int(size) <= PAGE_MAX:
            return error(request, 41, "Invalid arguments", "isv.invalid-parameter:page_size")
        found = marketplace.catalogue.search(provider="Taobao", title=parameters.get("q", ""))
        items: list[Value] = [_shape(item) for item in found[: int(size)]]
        return _good(
            request, "items_search_response", {"items": {"item": items}, "total_results": len(found)}
        )
    return error(request, 22, "Invalid method", "isv.invalid-method")


def error(request: Request, code: int, message: str, sub_code: str) -> Answer:
    """Return an error_response."""
    return _good(
        request, "error_response", {"code": code, "msg": message, "sub_code": sub_code, "sub_msg": message}
    )


def _good(request: Request, name: str, value: Value) -> Answer:
    if request.parameters.get("format", "").lower() == "json":
        return Answer(200, JSON_TYPE, to_json({name: value}))
    return Answer(200, XML_TYPE, to_xml(name, value))


def _shape(item: Item) -> dict[str, Value]:
    return {
        "num_iid": item.id,
        "title": item.title[2],
        "price": f"{item.price_fen / 100:.2f}",
        "num": item.quantity,
        "nick": item.vendor,
    }
