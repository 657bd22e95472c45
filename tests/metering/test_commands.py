"""Commands as they are sent, and which key they are sent for."""

from __future__ import annotations

import hiredis
import pytest

from metering.commands import Command, evalsha, is_unknown_script, key_of, load
from metering.scripts import COLLECT


def test_a_script_is_run_by_its_name_and_loaded_by_its_text() -> None:
    """Keys are counted, and stand before the arguments."""
    assert evalsha(COLLECT, ["a", b"b"], [1, "x"]) == ("EVALSHA", COLLECT.sha, 2, "a", b"b", 1, "x")
    assert load(COLLECT) == ("SCRIPT", "LOAD", COLLECT.text)


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("EVALSHA", "sha", 2, "a", "b", "c"), "a"),
        (("EVALSHA", "sha", 0, "argument"), None),
        (("GET", "a"), "a"),
        (("HMGET", "h", "field"), "h"),
        (("SCRIPT", "LOAD", b"text"), None),
        (("SCAN", 0), None),
        (("CLUSTER", "SHARDS"), None),
        (("ASKING",), None),
        (("PING",), None),
        (("INFO", "replication"), None),
    ],
)
def test_the_first_key_says_who_is_asked(command: Command, key: str | None) -> None:
    """What concerns a whole server has none."""
    assert key_of(command) == key


@pytest.mark.parametrize(
    ("reply", "is_unknown"),
    [
        (hiredis.ReplyError("NOSCRIPT No matching script."), True),
        (hiredis.ReplyError("ERR no NOSCRIPT"), False),
        (b"NOSCRIPT", False),
        ([1], False),
    ],
)
def test_a_script_that_is_not_known_is_told_by_an_error(reply: object, is_unknown: bool) -> None:
    """And by no other reply."""
    assert is_unknown_script(reply) is is_unknown
