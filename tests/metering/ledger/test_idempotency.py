"""What a repeated request is told."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.ledger.idempotency import Answer, DifferentRequestError, Scope, claim, forget, keep
from tests.metering.samples import WHEN

SCOPE = Scope("key-1", "tok_1", "POST /v1/keys")


async def test_repeated_request_gets_the_first_answer(engine: AsyncEngine) -> None:
    """Only the first one does the work; another actor's or route's key is another one."""
    async with engine.begin() as connection:
        assert await claim(connection, SCOPE, "hash", now=WHEN) is None
        await keep(connection, SCOPE, Answer(201, "made"))
    async with engine.begin() as connection:
        assert await claim(connection, SCOPE, "hash", now=WHEN) == Answer(201, "made")
        assert await claim(connection, Scope("key-1", "tok_2", SCOPE.route), "hash", now=WHEN) is None
        assert await claim(connection, Scope("key-1", "tok_1", "POST /v1/accounts"), "hash", now=WHEN) is None


async def test_key_used_for_another_request_is_refused(engine: AsyncEngine) -> None:
    """The same key with another body is a mistake of the client."""
    async with engine.begin() as connection:
        await claim(connection, SCOPE, "hash", now=WHEN)
        await keep(connection, SCOPE, Answer(201, "made"))
        with pytest.raises(DifferentRequestError):
            await claim(connection, SCOPE, "another hash", now=WHEN)


async def test_request_at_the_same_moment_waits(engine: AsyncEngine) -> None:
    """Of requests at once one does the work, and the others are told its answer."""
    worked = 0

    async def request() -> Answer:
        nonlocal worked
        async with engine.begin() as connection:
            before = await claim(connection, SCOPE, "hash", now=WHEN)
            if before is not None:
                return before
            worked += 1
            await asyncio.sleep(0.02)
            answer = Answer(201, f"made {worked}")
            await keep(connection, SCOPE, answer)
            return answer

    answers = await asyncio.gather(*[request() for _ in range(4)])
    assert worked == 1
    assert set(answers) == {Answer(201, "made 1")}


async def test_work_that_failed_is_done_again(engine: AsyncEngine) -> None:
    """A claim that was rolled back leaves the work to the next request."""
    with pytest.raises(RuntimeError):
        async with engine.begin() as connection:
            assert await claim(connection, SCOPE, "hash", now=WHEN) is None
            raise RuntimeError
    async with engine.begin() as connection:
        assert await claim(connection, SCOPE, "hash", now=WHEN) is None


async def test_old_answers_are_forgotten(engine: AsyncEngine) -> None:
    """Answers older than asked for are dropped, younger ones stay."""
    async with engine.begin() as connection:
        await claim(connection, SCOPE, "hash", now=WHEN)
        await claim(connection, Scope("key-2", "tok_1", "r"), "hash", now=WHEN + timedelta(days=2))
        assert await forget(connection, WHEN + timedelta(days=1)) == 1
        assert await claim(connection, SCOPE, "another hash", now=WHEN) is None
