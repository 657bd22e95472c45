from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg

from gateway import throwaway


async def database_name(url: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        return str(await connection.fetchval("SELECT current_database()"))
    finally:
        await connection.close()


def test_a_server_lives_as_long_as_its_block() -> None:
    """The server takes connections within the block, and afterwards it is gone with its files."""
    with throwaway.postgres() as url:
        assert asyncio.run(database_name(url)) == "tallygate"
        sockets = Path(parse_qs(urlsplit(url).query)["host"][0])
        assert sockets.exists()
    assert not sockets.exists()
