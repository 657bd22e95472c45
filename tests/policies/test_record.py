from __future__ import annotations

import json
from datetime import date
from types import MappingProxyType

import pytest
from hypothesis import given

from policies.quota import Window
from policies.record import KeyRecord
from tests.policies.samples import record, records


@given(records())
def test_a_record_is_read_back_as_it_was_written(written: KeyRecord) -> None:
    """Every record survives its JSON form unchanged, from text and from bytes."""
    text = written.to_json()
    assert KeyRecord.from_json(text) == written
    assert KeyRecord.from_json(text.encode()) == written


@given(records())
def test_equal_records_have_equal_texts(written: KeyRecord) -> None:
    """The text is stable, so that a projection that did not change is not written anew."""
    assert KeyRecord.from_json(written.to_json()).to_json() == written.to_json()


def test_the_text_is_compact_and_in_one_order() -> None:
    """Names are sorted, those of credentials too, and nothing stands between them."""
    text = record(credentials={"bb": None, "aa": 5.0}).to_json()
    assert text == (
        '{"account_id":"acc_0011223344556677","created_at":1767258000.0,"credentials":{"aa":5.0,"bb":null},'
        '"key_id":"key_00112233445566aa","plan":"K1","revision":1}'
    )
    assert text == record(credentials={"aa": 5.0, "bb": None}).to_json()


def test_unset_facts_are_left_out_and_zero_is_not() -> None:
    """Only what is known stands in the text; a limit of zero is a limit, and no limit is none."""
    facts = json.loads(record().to_json())
    assert set(facts) == {"key_id", "account_id", "plan", "revision", "created_at", "credentials"}
    assert json.loads(record(daily_limit=0).to_json())["daily_limit"] == 0
    assert json.loads(record(suspended=True, unlimited=True).to_json()).items() >= {
        ("suspended", True),
        ("unlimited", True),
    }


def test_dates_and_windows_are_written_as_words() -> None:
    """A day stands as ISO 8601, a window under its name, and both come back as what they were."""
    written = record(oldest_unpaid_issued_on=date(2026, 10, 5), window=Window.ROLLING_24H)
    facts = json.loads(written.to_json())
    assert facts["oldest_unpaid_issued_on"] == "2026-10-05"
    assert facts["window"] == "rolling_24h"
    assert KeyRecord.from_json(written.to_json()).window is Window.ROLLING_24H


def test_a_record_from_before_lists_has_none() -> None:
    """What an older version wrote, without the lists, is read as a key that may be used from anywhere."""
    old = json.loads(record().to_json())
    assert not {"allow_networks", "allow_domains"} & old.keys()
    read = KeyRecord.from_json(json.dumps(old))
    assert (read.allow_networks, read.allow_domains) == ((), ())
    listed = record(allow_networks=("10.0.0.0/8",), allow_domains=("shop.example",))
    assert json.loads(listed.to_json())["allow_networks"] == ["10.0.0.0/8"]


def test_any_mapping_of_credentials_can_be_written() -> None:
    """A read-only view of the credentials is written like a dictionary."""
    assert KeyRecord.from_json(record(credentials=MappingProxyType({"aa": 5.0})).to_json()).credentials == {
        "aa": 5.0
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"text"',
        "{}",
        '{"key_id":"k"}',
        record().to_json()[:-1] + ',"unheard_of":1}',
        record().to_json()[:-1] + ',"window":"hour"}',
        record().to_json()[:-1] + ',"allow_networks":["somewhere"]}',
        record().to_json()[:-1] + ',"allow_networks":5}',
        record().to_json()[:-1] + ',"oldest_unpaid_issued_on":"soon"}',
        record().to_json()[:-1] + ',"oldest_unpaid_issued_on":5}',
    ],
)
def test_anything_else_is_no_record(text: str) -> None:
    """What to_json did not write is refused instead of being taken for a key with fewer facts."""
    with pytest.raises((ValueError, TypeError)):
        KeyRecord.from_json(text)


@pytest.mark.parametrize("data", [5, None, b"\xff", b"{}"])
def test_what_is_no_text_is_no_record(data: object) -> None:
    """Whatever stands in the place of a record is refused in one of the two ways that readers know."""
    with pytest.raises((ValueError, TypeError)):
        KeyRecord.from_json(data)  # type: ignore[arg-type] # a reply of another shape
