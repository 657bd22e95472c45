"""Nonsense of every kind: whatever is sent, the answer is a refusal or a success, and never a fault."""

from __future__ import annotations

import random
from typing import Any
from urllib.parse import quote

import pytest

from gateway.control.app import OPERATIONS
from gateway.control.operations import Operation
from tests.gateway.control.conftest import Api

VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    2**53,
    2**70,
    1e308,
    "",
    " ",
    "x" * 5_000,
    "\x00",
    "\u202e\U0001f511",
    "'; DROP TABLE keys; --",
    "2026-11-21",
    "2026-11-21T00:00:00Z",
    "9999-12-31T23:59:59+14:00",
    "0001-01-01T00:00:00-14:00",
    "2026-02-30T00:00:00Z",
    "9999-12",
    "9999-12-31",
    "0001-01-01..9999-12-31",
    "acc_0123456789abcdef",
    "key_0123456789abcdef",
    "admin",
    "K1",
    "NaN",
    "Infinity",
    "WyIyMDI2Il0",
    [],
    [[]],
    {},
    {"a": {"b": []}},
]
ROUNDS = 12
NOUNS = ("token", "invoice", "payment", "dispute", "note", "notice", "webhook", "interruption")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
async def test_nonsense_is_no_fault(admin: Api, key: dict[str, Any], operation: Operation) -> None:
    """Each operation takes any value in any of its places without failing."""
    chance = random.Random(operation.name)
    for _ in range(ROUNDS):
        path = operation.path.format(
            account_id=chance.choice([key["account_id"], quote(str(chance.choice(VALUES)), safe="")]),
            key_id=chance.choice([key["id"], quote(str(chance.choice(VALUES)), safe="")]),
            plan=chance.choice(["K1", quote(str(chance.choice(VALUES)), safe="")]),
            **{f"{noun}_id": f"{noun[:3]}_0123456789abcdef" for noun in NOUNS},
        )
        names = [field.alias or name for name, field in operation.query.model_fields.items()]
        pairs = [
            f"{name}={quote(str(chance.choice(VALUES)), safe='')}" for name in names if chance.random() < 0.4
        ]
        body = None
        if operation.body is not None:
            fields = list(operation.body.model_fields)
            body = {name: chance.choice(VALUES) for name in fields if chance.random() < 0.5}
            if "keys" in body and chance.random() < 0.8:
                body["keys"] = [{"credential": chance.choice(VALUES), "plan": "K1"}, chance.choice(VALUES)]
        once = {"Idempotency_Key": str(chance.random())} if operation.once else {}
        answer = await admin.call(operation.verb, f"{path}?{'&'.join(pairs)}", body, **once)
        assert answer.status < 500, f"{operation.verb} {path}?{pairs} {body}: {answer.text}"
