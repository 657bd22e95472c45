"""A running control API on real stores, and clients with a token of each role."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.config import example_path, load
from gateway.control.app import make_app
from gateway.control.auth import Role, issue_token, token_digest
from gateway.control.periodic import JOBS, Jobs
from gateway.control.resources import CONTROL, Control
from gateway.settings import Settings
from metering.ledger import tokens
from metering.ledger.audit import Author

# Noon in Moscow, the billing timezone of the example.
NOON = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)


class Clock:
    """The time as tests set it."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the present instant in epoch seconds."""
        return self.now.timestamp()


@dataclass
class Answer:
    """An answer, read whole."""

    status: int
    body: Any
    headers: Any
    text: str

    @property
    def fields(self) -> set[str]:
        """Return the fields that a problem names."""
        return {error["field"] for error in self.body["errors"]}


@dataclass
class Api:
    """The control API as one token sees it."""

    client: TestClient[Any, Any]
    token: str | None

    async def call(self, verb: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Make a request; names of headers are given with underscores."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token is not None:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        response: ClientResponse = await self.client.request(verb, path, json=body, headers=sent)
        text = await response.text()
        is_json = response.content_type in ("application/json", "application/problem+json")
        return Answer(
            response.status,
            await response.json(content_type=None) if is_json else None,
            response.headers,
            text,
        )

    async def get(self, path: str, **headers: str) -> Answer:
        """GET a path."""
        return await self.call("GET", path, **headers)

    async def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        """POST to a path."""
        return await self.call("POST", path, body, **headers)

    async def patch(self, path: str, body: Any) -> Answer:
        """PATCH a path."""
        return await self.call("PATCH", path, body)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The example configuration with a data directory of its own."""
    return load(example_path(), {"TALLYGATE_DATA_DIR": str(tmp_path / "data")})


@pytest.fixture
def clock() -> Clock:
    """A clock that stands at noon of 21 November 2026 in Moscow."""
    return Clock(NOON)


class Uptime:
    """The seconds of a clock that only goes forward, as tests set them."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.seconds


@pytest.fixture
def uptime() -> Uptime:
    """A clock that only goes forward, and stands."""
    return Uptime()


@pytest.fixture
async def client(
    settings: Settings, engine: AsyncEngine, redis: Redis, clock: Clock, uptime: Uptime
) -> AsyncIterator[TestClient[Any, Any]]:
    """A client of the running control API."""
    app = make_app(settings, engine, redis, clock=clock, uptime=uptime)
    async with TestClient(TestServer(app)) as connected:
        yield connected


@pytest.fixture
def control(client: TestClient[Any, Any]) -> Control:
    """What the operations of the running API work with."""
    return client.server.app[CONTROL]  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def jobs(client: TestClient[Any, Any]) -> Jobs:
    """The jobs of the running API, which run when they are told to."""
    return client.server.app[JOBS]  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def as_role(
    client: TestClient[Any, Any], engine: AsyncEngine, settings: Settings
) -> Callable[[Role], Awaitable[Api]]:
    """Make a token of a role and return the API as it sees it."""

    async def make(role: Role) -> Api:
        text = issue_token()
        async with engine.begin() as connection:
            await tokens.create(
                connection,
                name=f"{role} for tests",
                role=role,
                digest=token_digest(text, settings.security),
                now=NOON,
                by=Author("tests"),
            )
        return Api(client, text)

    return make


@pytest.fixture
async def admin(as_role: Callable[[Role], Awaitable[Api]]) -> Api:
    """The API as an admin sees it."""
    return await as_role(Role.ADMIN)


@pytest.fixture
async def account(admin: Api) -> str:
    """The id of an account."""
    made = await admin.post("/v1/accounts", {"name": "Shop"})
    assert made.status == 201, made.text
    return str(made.body["id"])


@pytest.fixture
async def key(admin: Api, account: str) -> dict[str, Any]:
    """A key on plan K1, as it was answered when made."""
    made = await admin.post("/v1/keys", {"account_id": account, "plan": "K1", "site": "shop.example"})
    assert made.status == 201, made.text
    answer: dict[str, Any] = made.body
    return answer
