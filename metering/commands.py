"""Commands to Redis as they are sent: a tuple of words. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import hiredis

from metering.scripts import Script

Argument = str | bytes | int
Command = tuple[Argument, ...]


def evalsha(script: Script, keys: Sequence[Argument], arguments: Sequence[Argument]) -> Command:
    """Return the command that runs a script."""
    return ("EVALSHA", script.sha, len(keys), *keys, *arguments)


def load(script: Script) -> Command:
    """Return the command that makes a script known to Redis."""
    return ("SCRIPT", "LOAD", script.text)


def key_of(command: Command) -> str | None:
    """Return the first key that a command names; None for one that concerns a whole server."""
    match command[0]:
        case "EVALSHA":
            return str(command[3]) if command[2] else None
        case "SCRIPT" | "SCAN" | "CLUSTER" | "ASKING" | "PING" | "INFO":
            return None
        case _:
            return str(command[1])


def is_unknown_script(reply: object) -> bool:
    """Say whether a script has to be loaded first: Redis was restarted or its scripts were flushed."""
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")
