"""The control process: it starts, takes a new configuration, refuses a wrong one, and stops in order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.config import example_path, load
from gateway.control.auth import Role, issue_token, token_digest
from gateway.ports import free_port
from metering.ledger import tokens
from metering.ledger.audit import Author
from tests.gateway.control.conftest import NOON

PATIENCE_S = 20.0
EXAMPLE = example_path().read_text(encoding="utf-8")


@asynccontextmanager
async def running(environ: dict[str, str], log: Path) -> AsyncIterator[Process]:
    """Run the control process until the block ends."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.control", env=os.environ | environ, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def until_logged(log: Path, text: str) -> None:
    """Wait until the process has logged a text."""
    async with asyncio.timeout(PATIENCE_S):
        while text not in await asyncio.to_thread(log.read_text):
            await asyncio.sleep(0.02)


async def test_it_serves_reloads_and_stops(
    tmp_path: Path, redis: Redis, valkey_url: str, engine: AsyncEngine, database_url: str
) -> None:
    """SIGHUP takes a right configuration and refuses a wrong one; SIGTERM ends with 0."""
    port, log, file = free_port(), tmp_path / "log", tmp_path / "config.toml"
    text = EXAMPLE.replace("127.0.0.1:8081", f"127.0.0.1:{port}")
    file.write_text(text, encoding="utf-8")
    environ = {
        "TALLYGATE_CONFIG": str(file),
        "TALLYGATE_REDIS_URL": valkey_url,
        "TALLYGATE_DATABASE_URL": database_url,
    }
    settings = await asyncio.to_thread(load, file, environ)
    token = issue_token()
    async with engine.begin() as connection:
        await tokens.create(
            connection,
            name="t",
            role=Role.ADMIN,
            digest=token_digest(token, settings.security),
            now=NOON,
            by=Author("tests"),
        )
    headers = {"Authorization": f"Bearer {token}"}
    async with running(environ, log) as process, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

        async def makes_key_on(plan: str) -> bool:
            account = await (await session.post("/v1/accounts", json={"name": "A"}, headers=headers)).json()
            body = {"account_id": account["id"], "plan": plan}
            return (await session.post("/v1/keys", json=body, headers=headers)).status == 201

        await until_logged(log, "control ready")
        assert (await session.get("/readyz")).status == 200
        await until_logged(log, "Redis was filled from the ledger")
        assert not await makes_key_on("K4")
        file.write_text(text + "\n[plans.K4]\ndaily_limit = 1\n", encoding="utf-8")
        process.send_signal(signal.SIGHUP)
        await until_logged(log, "configuration reloaded")
        assert await makes_key_on("K4")
        file.write_text(text + "\n[plans.K4]\ndaily_limit = -1\n", encoding="utf-8")
        process.send_signal(signal.SIGHUP)
        await until_logged(log, "configuration refused, the old one stays")
        assert "plans.K4.daily_limit" in log.read_text()
        assert await makes_key_on("K4")
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            assert await process.wait() == 0
    assert token not in log.read_text()
