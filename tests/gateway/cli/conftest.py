"""The command line against a running control API."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest
import structlog
from aiohttp.test_utils import TestClient
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.cli.main import run
from gateway.telemetry import configure_logging
from tests.gateway.control.bills import Shop
from tests.gateway.control.conftest import (  # noqa: F401 - fixtures
    Api,
    Clock,
    account,
    admin,
    as_role,
    client,
    clock,
    control,
    key,
    settings,
    uptime,
)


@dataclass
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return the output read as JSON."""
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Keep the log of the API, which runs in this process too, out of what commands print."""
    configure_logging("info", io.StringIO())
    yield
    structlog.reset_defaults()


Cli = Callable[..., Awaitable[Result]]


@pytest.fixture
def cli(
    client: TestClient[Any, Any],  # noqa: F811 - the fixture
    admin: Api,  # noqa: F811 - the fixture
    capsys: pytest.CaptureFixture[str],
) -> Cli:
    """Run a command as an admin."""

    async def command(*arguments: str, token: str | None = None) -> Result:
        capsys.readouterr()
        given = ["--url", str(client.make_url("/")), "--token", token or admin.token or ""]
        code = await asyncio.to_thread(run, [*arguments, *given])
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return command


@pytest.fixture
async def shop(
    admin: Api,  # noqa: F811 - the fixture
    engine: AsyncEngine,
    clock: Clock,  # noqa: F811 - the fixture
) -> Shop:
    """A shop whose October costs 125.00."""
    made = Shop(admin, engine, clock)
    await made.open()
    await made.count(date(2026, 10, 5), 1_500)
    return made
