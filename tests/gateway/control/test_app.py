"""The control API as a whole: health, its description, and requests that fit nothing."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp.test_utils import TestClient
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.control.app import OPERATIONS
from gateway.control.resources import Control
from gateway.telemetry import configure_logging
from metering.ledger import make_engine
from tests.gateway.control.conftest import Api

NOWHERE = (
    "postgresql://nobody:nothing@127.0.0.1:1/none?sslmode=disable"  # asyncpg looks for certificates otherwise
)


async def test_health_needs_no_token(client: TestClient[Any, Any]) -> None:
    """Whoever watches the process can ask how it is."""
    anonymous = Api(client, None)
    assert (await anonymous.get("/healthz")).body == {"status": "ok"}
    assert (await anonymous.get("/readyz")).body == {
        "status": "ready",
        "redis": "ok",
        "ledger": "ok",
        "reasons": [],
    }


async def test_readiness_says_which_store_is_away(client: TestClient[Any, Any], control: Control) -> None:
    """Without Redis or the ledger the process is not ready, and says which one it is."""
    redis, engine = control.redis, control.engine
    control.redis = Redis.from_url("redis://127.0.0.1:1", socket_connect_timeout=0.2)
    control.engine = make_engine(NOWHERE)
    answer = await Api(client, None).get("/readyz")
    assert [each["what"] for each in answer.body.pop("reasons")] == ["redis_away", "ledger_away"]
    assert (answer.status, answer.body) == (503, {"status": "not ready", "redis": "away", "ledger": "away"})
    await control.redis.aclose()
    await control.engine.dispose()
    control.redis, control.engine = redis, engine


async def test_without_the_ledger_nothing_is_done(admin: Api, control: Control, engine: AsyncEngine) -> None:
    """A ledger that is away answers 503 with a time to try again, not a fault."""
    control.engine = make_engine(NOWHERE)
    answer = await admin.post("/v1/accounts", {"name": "A"})
    assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
    await control.engine.dispose()
    control.engine = engine


async def test_metrics_are_for_operators(admin: Api) -> None:
    """The figures come in the form that Prometheus reads."""
    figures = await admin.get("/metrics")
    assert figures.status == 200
    assert figures.headers["Content-Type"].startswith("text/plain")
    assert "# TYPE tallygate_counters_raised_total counter" in figures.text


async def test_the_description_has_every_operation(client: TestClient[Any, Any]) -> None:
    """The OpenAPI document describes what is served, and refers to nothing that is not there."""
    document = (await Api(client, None).get("/openapi.json")).body
    served = {(each.path, each.verb.lower()) for each in OPERATIONS}
    described = {(path, verb) for path, verbs in document["paths"].items() for verb in verbs}
    assert described == served
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert names <= document["components"]["schemas"].keys()
    assert "NewKey" in names
    assert "#/$defs" not in json.dumps(document)


async def test_the_description_tells_bounds(client: TestClient[Any, Any]) -> None:
    """What requests are checked against is what the document says."""
    document = (await Api(client, None).get("/openapi.json")).body
    parameters = {each["name"]: each for each in document["paths"]["/v1/accounts"]["get"]["parameters"]}
    assert parameters["limit"]["schema"]["maximum"] == 1_000
    rotation = document["components"]["schemas"]["Rotation"]
    assert rotation["additionalProperties"] is False
    assert rotation["properties"]["overlap_s"]["maximum"] == 90 * 86_400


async def test_the_description_names_every_status(client: TestClient[Any, Any]) -> None:
    """An operation tells each status that it can answer with, and leaves none to a default."""
    document = (await Api(client, None).get("/openapi.json")).body
    told = {
        each["operationId"]: set(each["responses"])
        for verbs in document["paths"].values()
        for each in verbs.values()
    }
    unread, broken = {"400", "422"}, {"500", "503"}
    assert told["health"] == {"200"} | unread | broken
    assert told["listOwnInvoices"] == {"200", "304", "401", "429"} | unread | broken
    assert told["showKey"] == {"200", "401", "403", "404", "429"} | unread | broken
    assert told["createAccount"] == (
        {"201", "401", "403", "408", "409", "413", "415", "429"} | unread | broken
    )
    assert "409" in told["showPrice"]
    ready = document["paths"]["/readyz"]["get"]["responses"]
    assert ready["503"]["content"] == ready["200"]["content"]


@pytest.mark.parametrize(
    ("verb", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/", 404),
        ("DELETE", "/v1/accounts", 405),
        ("PUT", "/v1/keys/x", 405),
        ("GET", "/v1/invoices/close", 405),  # no invoice has this identifier, and none ever will
        ("PATCH", "/v1/keys/import", 405),
    ],
)
async def test_a_wrong_path_is_a_problem(admin: Api, verb: str, path: str, status: int) -> None:
    """Paths and methods that are not served answer with a problem that carries the request's id."""
    answer = await admin.call(verb, path)
    assert (answer.status, answer.body["status"]) == (status, status)
    assert answer.body["request_id"] == answer.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("data", "content_type", "status"),
    [
        (b'{"name": "A"}', "text/plain", 415),
        (b'{"name": "A"}', "application/json; charset=utf-16", 415),
        (b'{"name": ', "application/json", 422),
        (b"\xff\xfe", "application/json", 422),
        (b'{"name": "\\ud800"}', "application/json", 422),
        (b'{"name": ' + b"[" * 100_000, "application/json", 422),
        (b'{"name": "A"}' + b" " * (17 << 20), "application/json", 413),
    ],
)
async def test_a_body_that_is_no_json_is_refused(
    client: TestClient[Any, Any], admin: Api, data: bytes, content_type: str, status: int
) -> None:
    """Whatever is sent as a body, the answer is a problem that says what was expected."""
    headers = {"Authorization": f"Bearer {admin.token}", "Content-Type": content_type}
    response = await client.post("/v1/accounts", data=io.BytesIO(data), headers=headers)
    assert response.status == status
    assert response.content_type == "application/problem+json"
    assert (await response.json(content_type=None))["status"] == status


@pytest.mark.parametrize("host", ["hooks..example", ".example", f"{'a' * 64}.example"])
async def test_a_webhook_has_a_host_that_can_be_looked_up(admin: Api, host: str) -> None:
    """A name that no resolver takes is refused where it is written."""
    refused = await admin.post("/v1/webhooks", {"url": f"https://{host}/hook"})
    assert (refused.status, refused.body["errors"][0]["field"]) == (422, "body.url")


async def test_a_body_where_none_belongs_is_refused(admin: Api) -> None:
    """A body that would be ignored is refused."""
    assert (await admin.call("GET", "/v1/accounts", {"limit": 1})).fields == {"body"}


async def test_a_fault_hides_its_cause(admin: Api, control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the program answers 500 without its text; the log has its place and the request's id."""

    async def fail(**_: object) -> None:
        raise ValueError("canary in an exception")

    stream = io.StringIO()
    configure_logging("info", stream)
    monkeypatch.setattr(control.rollups, "rebuild", fail)
    answer = await admin.post("/v1/rebuild")
    structlog.reset_defaults()
    assert answer.status == 500
    assert "canary" not in answer.text + stream.getvalue()
    assert answer.body["request_id"] in stream.getvalue()
    assert f"{Path(__file__).name}:" in stream.getvalue()
