"""A program that has been used with secrets of every kind, and what somebody gets who steals a part of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from redis.asyncio import Redis

from tests.serving import Serving, change, serving, wait_until, write_config
from tests.system.traffic import call, new_key

IMPORTED = "canary-imported-key-7c1d90e2"
SIGNING = "canary-signing-secret-55aa01"
PARAMETER = "canary-parameter-of-a-customer-31337"
# What could be sent as a key or a token: runs of characters that texts are made of.
CANDIDATES = re.compile(r"[A-Za-z0-9_:.=-]{16,256}")


@dataclass(frozen=True, slots=True)
class Loot:
    """The secrets, and the content of each place as text; the log without what a demo prints to be pasted."""

    program: Serving
    keys: tuple[str, ...]
    tokens: tuple[str, ...]
    other: tuple[str, ...]
    pepper: str
    database: str
    redis: str
    log: str
    backup: str
    configuration: str

    @property
    def secrets(self) -> tuple[str, ...]:
        """All texts that open or prove something."""
        return (*self.keys, *self.tokens, *self.other, self.pepper)


@contextlib.contextmanager
def stolen(place: Path, valkey_url: str, postgres_url: str) -> Iterator[Loot]:
    """Run a program, use it, and take copies of all it keeps; it runs on until the block ends."""
    asyncio.run(_clear(valkey_url, postgres_url))
    config_file = write_config(place)
    change(config_file, access='"all"', redis=f'"{valkey_url}"', database=f'"{postgres_url}"')
    change(config_file, failures_allowed="1000000")
    with serving(config_file) as program:
        key_id, issued = new_key(program)
        account = program.control("POST", "/v1/accounts", {"name": "Loot"})["id"]
        entry = {"account_id": account, "plan": "K1", "credential": IMPORTED, "signing_secret": SIGNING}
        program.control("POST", "/v1/keys/import", {"keys": [entry]})
        rotated = program.control("POST", f"/v1/keys/{key_id}/rotate", {"overlap_s": 3600})["key"]
        token = program.control("POST", "/v1/tokens", {"name": "bot", "role": "support"})["token"]
        hook = program.control("POST", "/v1/webhooks", {"url": "https://hooks.example/x"})["secret"]
        for key in (issued, rotated, IMPORTED):
            raw = call(key).replace(b"itemId=1", b"itemId=1&title=" + PARAMETER.encode())
            program.request("GET", raw.split(b" ")[1].decode())
        program.control("POST", "/v1/rollup")
        wait_until(lambda: program.output.count('"event":"call"') >= 3)
        database = asyncio.run(dump(postgres_url))
        yield Loot(
            program=program,
            keys=(issued, rotated, IMPORTED),
            tokens=(token, program.token),
            other=(SIGNING, hook, PARAMETER),
            pepper=(program.data_dir / "pepper").read_text().strip(),
            database=database,
            redis=asyncio.run(_everything_in(valkey_url)),
            log="".join(line for line in program.output.splitlines(True) if line.startswith("{")),
            backup=database + config_file.read_text(),
            configuration=config_file.read_text(),
        )


def candidates(content: str, count: int) -> list[str]:
    """Return texts of a place that might open something, hashes and sealed secrets first."""
    found = sorted(set(CANDIDATES.findall(content)), key=lambda text: (-len(text), text))
    return found[:count]


async def dump(postgres_url: str) -> str:
    """Return every row of every table, as a copy of the database has them."""
    connection = await asyncpg.connect(postgres_url)
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        rows = {
            table["tablename"]: [
                row[0]
                for row in await connection.fetch(f'SELECT to_json(t)::text FROM "{table["tablename"]}" t')  # noqa: S608
            ]
            for table in tables
        }
        return json.dumps(rows)
    finally:
        await connection.close()


async def _clear(valkey_url: str, postgres_url: str) -> None:
    """Forget what earlier tests left: beside a token of theirs the program would make none."""
    redis = Redis.from_url(valkey_url)
    await redis.flushall()
    await redis.aclose()
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await connection.close()


async def _everything_in(valkey_url: str) -> str:
    redis = Redis.from_url(valkey_url, decode_responses=True)
    found: dict[str, object] = {}
    async for name in redis.scan_iter(count=1000):
        match await redis.type(name):
            case "hash":
                found[name] = await redis.hgetall(name)
            case "set":
                found[name] = sorted(await redis.smembers(name))
            case _:
                found[name] = await redis.get(name)
    await redis.aclose()
    return json.dumps(found)
