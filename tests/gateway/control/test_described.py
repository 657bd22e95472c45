"""No answer lies outside the OpenAPI document, whatever is sent: schemathesis against the running API.

It makes requests out of the document, right ones and wrong ones, and looks at each answer's status, content
type, headers and body. What it is not asked is whether everything that fits the document is accepted: a
cursor, a price list or the name of a plan is more than its form.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.control.auth import Role
from gateway.control.resources import Control
from tests.gateway.control.bills import Shop
from tests.gateway.control.conftest import Api, Clock

SEED = os.environ.get("TALLYGATE_SEED", "20261121")
SCHEMATHESIS = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
ASKED = [
    "--exclude-checks=positive_data_acceptance",
    "--suppress-health-check=all",
    "--warnings=off",
    "--no-color",
    "--generation-database=none",
    f"--seed={SEED}",
]
# A run takes up the identifiers that answers tell, and would end its own token with them.
OWN_END = "revokeToken"
ROLES = [*Role, None]


@pytest.fixture
async def shop(
    as_role: Callable[[Role], Awaitable[Api]],
    engine: AsyncEngine,
    clock: Clock,
    control: Control,
) -> Shop:
    """A shop with an invoice, in a world where wrong tokens do not slow anybody down."""
    control.guesses.limit.allowed = 10**9
    made = Shop(await as_role(Role.ADMIN), engine, clock)
    await made.open()
    await made.count(date(2026, 10, 5), 1_200)
    await made.bill()
    return made


async def run(
    client: TestClient[Any, Any], shop: Shop, caller: Api | None, place: Path, *options: str
) -> tuple[int, str]:
    """Let schemathesis call the API with a site's key and as a caller; return its status and what it told."""
    site = (await shop.api.post(f"/v1/keys/{shop.key}/rotate", {})).body["key"]
    headers = {"X-Api-Key": site}
    if caller is not None:
        headers["Authorization"] = f"Bearer {caller.token}"
    process = await asyncio.create_subprocess_exec(
        *SCHEMATHESIS,
        "run",
        str(client.make_url("/openapi.json")),
        *(f"--header={name}:{value}" for name, value in headers.items()),
        *ASKED,
        *options,
        cwd=place,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, told.decode()


@pytest.mark.parametrize("role", [Role.ADMIN, None])
async def test_a_few_requests_are_answered_as_described(
    client: TestClient[Any, Any],
    as_role: Callable[[Role], Awaitable[Api]],
    shop: Shop,
    role: Role | None,
    tmp_path: Path,
) -> None:
    """An admin, and a site with nothing but its key, hear nothing that the document does not say."""
    caller = await as_role(role) if role is not None else None
    options = ["--phases=fuzzing", "--max-examples=2", "--no-shrink", f"--exclude-operation-id={OWN_END}"]
    status, told = await run(client, shop, caller, tmp_path, *options)
    assert status == 0, told


@pytest.mark.deep
@pytest.mark.parametrize("role", ROLES)
async def test_many_requests_are_answered_as_described(
    client: TestClient[Any, Any],
    as_role: Callable[[Role], Awaitable[Api]],
    shop: Shop,
    role: Role | None,
    tmp_path: Path,
) -> None:
    """Every role is answered as described, at every bound of every field and in sequences of requests."""
    caller = await as_role(role) if role is not None else None
    options = ["--max-examples=50", f"--exclude-operation-id={OWN_END}"]
    status, told = await run(client, shop, caller, tmp_path, *options)
    assert status == 0, told
    print(told[told.index("SUMMARY") :])


@pytest.mark.deep
async def test_ending_a_token_is_answered_as_described(
    client: TestClient[Any, Any], as_role: Callable[[Role], Awaitable[Api]], shop: Shop, tmp_path: Path
) -> None:
    """What other runs leave out lest they end themselves is described as well."""
    admin = await as_role(Role.ADMIN)
    options = ["--max-examples=50", f"--include-operation-id={OWN_END}"]
    status, told = await run(client, shop, admin, tmp_path, *options)
    assert status == 0, told
