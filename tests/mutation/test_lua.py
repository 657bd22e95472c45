"""Mutants of Lua: each is the script with one thing changed, and Redis takes it."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from metering import scripts
from metering.scripts import Script
from tests.mutation.lua import mutants

SCRIPTS = [each for each in vars(scripts).values() if isinstance(each, Script)]
SAMPLE = """\
-- not a < b, 'x'
if not a and b <= 3 then return -1 end
if c then redis.call('SET', KEYS[1], 'x') end
local t = -(d - 1)
t = math.min(t, min) or -1
"""


def test_each_change_is_made_once() -> None:
    """Operators, numbers, texts, conditions and statements are changed; comments and commands are not."""
    assert [each.what for each in mutants(SAMPLE)] == [
        "2:4: `not` dropped",
        "2:10: `and` is `or`",
        "2:16: `<=` is `<`",
        "2:19: `3` is `4`",
        "2:33: `-` dropped",
        "2:34: `1` is `2`",
        "3:4: `c` is `not c`",
        "3:11: `redis.call('SET', KEYS[1], 'x')` dropped",
        "3:34: `1` is `2`",
        "3:38: `'x'` is `'XXxXX'`",
        "4:11: `-` dropped",
        "4:15: `-` is `+`",
        "4:17: `1` is `2`",
        "5:1: `t = math.min(t, min) or -1` dropped",
        "5:10: `min` is `max`",
        "5:22: `or` is `and`",
        "5:25: `-` dropped",
        "5:26: `1` is `2`",
    ]
    (first, *_) = mutants(SAMPLE)
    assert first.text == SAMPLE.replace("if not a", "if a")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
async def test_mutants_of_the_scripts_are_scripts(redis: Redis, script: Script) -> None:
    """All mutants differ from their script and from each other in what they say, and Redis can read them."""
    text = script.text.decode()
    made = list(mutants(text))
    assert made
    assert len({each.what for each in made}) == len(made)
    assert text not in {each.text for each in made}
    for each in made:
        await redis.script_load(each.text)
