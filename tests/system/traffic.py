"""Load for a running program: many connections that call in turn, and what each of them saw."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.rig import Client
from tests.serving import Serving

METHOD = "GetItemInfoList"


@dataclass(slots=True)
class Seen:
    """What clients saw: answers by ErrorCode, and calls of which they saw no whole answer."""

    codes: Counter[str] = field(default_factory=Counter)
    attempted: int = 0

    @property
    def answered(self) -> int:
        """Return the calls that were answered with Ok."""
        return self.codes["Ok"]


def new_key(program: Serving, **fields: object) -> tuple[str, str]:
    """Make a key of an account of its own; returns its id and its text."""
    account = program.control("POST", "/v1/accounts", {"name": "Test"})
    made = program.control(
        "POST", "/v1/keys", {"account_id": account["id"], "plan": "K1", "purchased_at": None, **fields}
    )
    return made["id"], made["key"]


def call(key: str, method: str = METHOD) -> bytes:
    """Return a call of a method of the demo marketplace."""
    return f"GET /service-json/{method}?instanceKey={key}&itemId=1 HTTP/1.1\r\nHost: a\r\n\r\n".encode()


async def calls(port: int, key: str, seen: Seen, *, count: int = 1 << 30, until: asyncio.Event) -> None:
    """Call in turn, on a new connection whenever one breaks, until there were enough or the event is set."""
    while count > 0 and not until.is_set():
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.01)
            continue
        client = Client(reader, writer)
        try:
            while count > 0 and not until.is_set():
                count -= 1
                seen.attempted += 1
                answer = await client.send(call(key))
                seen.codes[answer.json()["ErrorCode"]] += 1
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass  # attempted, and not answered
        finally:
            writer.close()


def counted(program: Serving, key_id: str, *, live: bool) -> dict[str, int]:
    """Return taken and waived units of a key, from the ledger or with what it does not have yet."""
    page = program.control("GET", f"/v1/usage?group_by=key&key={key_id}&live={str(live).lower()}")
    assert len(page["items"]) <= 1
    row = page["items"][0] if page["items"] else {"taken": 0, "waived": 0}
    return {"taken": row["taken"], "waived": row["waived"]}


def reached(program: Serving) -> dict[str, Any]:
    """Return the demo marketplace's own journal."""
    found = re.search(r"demo marketplace on (http://\S+)", program.output)
    assert found is not None
    with urllib.request.urlopen(f"{found[1]}/demo/requests?limit=2000") as answer:  # noqa: S310 - our own
        journal: dict[str, Any] = json.load(answer)
    return journal
