"""The REST face: items and a search as plain JSON with HTTP statuses."""

from __future__ import annotations

from demo.answers import JSON_TYPE, Answer, Value, to_json
from demo.marketplace import Marketplace
from demo.request import Request
from demo.shapes import item_in_full, item_in_list, language_index

PAGE_MAX = 100


def answer(marketplace: Marketplace, request: Request) -> Answer:
    """Answer `GET /rest/items`, `GET /rest/items/{id}`, `GET /rest/search?q=` and any upload."""
    if request.path == "/rest/uploads" and request.method in (b"POST", b"PUT"):
        return _json(201, {"bytes": request.body.length, "sha256": request.body.sha256()})
    if request.method not in (b"GET", b"HEAD"):
        return problem(405, "Method Not Allowed")
    parameters = request.parameters
    language = language_index(parameters.get("language", ""))
    match request.path.strip("/").split("/"):
        case ["rest", "items", item_id]:
            item = marketplace.catalogue.items.get(item_id)
            if item is None:
                return problem(404, "Not Found")
            return _json(200, item_in_full(item, language, marketplace.catalogue))
        case ["rest", "items" | "search"]:
            limit = parameters.get("limit", "20")
            if not limit.isdigit() or not 0 < int(limit) <= PAGE_MAX:
                return problem(400, "Bad Request")
            found = marketplace.catalogue.search(
                title=parameters.get("q", ""), category=parameters.get("category") or None
            )
            items: list[Value] = [item_in_list(item, language) for item in found[: int(limit)]]
            return _json(200, {"items": items, "total": len(found)})
        case _:
            return problem(404, "Not Found")


def problem(status: int, title: str) -> Answer:
    """Return an error as a problem."""
    body = to_json({"type": "about:blank", "title": title, "status": status})
    return Answer(status, b"application/problem+json", body)


def _json(status: int, value: Value) -> Answer:
    return Answer(status, JSON_TYPE, to_json(value))
