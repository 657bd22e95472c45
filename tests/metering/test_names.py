from __future__ import annotations

from metering.batches import by_shard
from metering.names import (
    SHARDS,
    collected_name,
    day_name,
    digest_name,
    names_of,
    record_name,
    roll_name,
    shard_of,
    touched_name,
)

KEY = "key_00112233445566fa"


def test_everything_of_a_key_carries_the_tag_of_its_shard() -> None:
    """The last two hex digits of a key's id are the hash tag of all its names: one script serves them."""
    assert shard_of(KEY) == "fa"
    assert record_name(KEY) == f"tg:{{fa}}:key:{KEY}"
    assert day_name(KEY, "20261121") == f"tg:{{fa}}:day:{KEY}:20261121"
    assert roll_name(KEY) == f"tg:{{fa}}:roll:{KEY}"
    assert touched_name("fa") == "tg:{fa}:touched"
    assert collected_name("fa") == "tg:{fa}:collected"
    counted = (record_name(KEY), day_name(KEY, "20261121"), touched_name("fa"))
    assert names_of(KEY, f"{KEY}:20261121") == counted
    assert digest_name("ab") == "tg:digest:ab"


def test_there_are_256_shards() -> None:
    """Every id ends in one of them."""
    assert len(set(SHARDS)) == 256
    assert (SHARDS[0], SHARDS[-1]) == ("00", "ff")


def test_what_is_counted_is_parted_by_shard() -> None:
    """Places of one shard stay together, whichever days they are of, and nothing is lost."""
    items = {("key_aa", "1"): 1, ("key_bb", "1"): 2, ("key_aa", "2"): 3, ("key_xaa", "1"): 4}
    assert list(by_shard(items)) == [
        {("key_aa", "1"): 1, ("key_aa", "2"): 3, ("key_xaa", "1"): 4},
        {("key_bb", "1"): 2},
    ]
