"""What counters send to Redis, overheard on its way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metering.commands import Command
from metering.counters import Counters
from metering.link import Answered


def overhear(counters: Counters) -> list[Command]:
    """Return a list that every command of a count is added to when it is sent, whichever way it goes."""
    heard: list[Command] = []
    wire: Any = counters._wire
    ask, exchange = wire.ask, wire.exchange

    def heard_ask(commands: Sequence[Command], answered: Answered) -> bool:
        sent: bool = ask(commands, answered)
        if sent:
            heard.extend(commands)
        return sent

    async def heard_exchange(commands: Sequence[Command]) -> list[Any]:
        heard.extend(commands)
        replies: list[Any] = await exchange(commands)
        return replies

    wire.ask, wire.exchange = heard_ask, heard_exchange
    return heard
