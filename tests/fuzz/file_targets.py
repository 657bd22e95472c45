"""What is read from files and people, fuzzed: keys, configurations, price lists, journals."""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

from gateway.config import ConfigError, load
from metering import catalogue, journal
from metering.batches import Owed
from metering.catalogue import CatalogueError
from metering.catalogue_entry import Shop
from policies import keys
from policies.plan_versions import Proration
from policies.pricing import total

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
SHOP = Shop(
    plans={"K1", "K2", "K3"},
    currency="USD",
    zone=ZoneInfo("Europe/Moscow"),
    minimum_proration=Proration.DAILY,
    notice_days=30,
)
PEPPER = b"0123456789abcdef0123456789abcdef"


def check_key(data: bytes) -> None:
    """Any text is a key or none, and no slip of one character turns a key into another."""
    text = data.decode("utf-8", "replace")
    if not keys.is_well_formed(text):
        return
    assert text.isascii() and text.isprintable() and " " not in text
    assert len(keys.digest(text, PEPPER)) == 64
    assert text.endswith(keys.hint(text)) and len(keys.hint(text)) <= 4
    if text.startswith(keys.PREFIX):
        for at in range(len(keys.PREFIX), len(text)):
            slip = "0" if text[at] != "0" else "1"
            assert not keys.is_well_formed(text[:at] + slip + text[at + 1 :]), f"a slip at {at} passes"


def check_config(data: bytes) -> None:
    """A configuration is read, or every error in it is told in a sentence."""
    with tempfile.TemporaryDirectory(prefix="tallygate-") as place:
        file = Path(place, "config.toml")
        file.write_bytes(data)
        try:
            load(file, {"TALLYGATE_DATA_DIR": place}, keep_pepper=False)
        except ConfigError as error:
            assert error.errors and all(each.strip() for each in error.errors)


def check_catalogue(data: bytes) -> None:
    """A price list is read and every quantity has a price in it, or its errors are told."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return
    try:
        entries = catalogue.parse(text, SHOP, now=NOW)
    except CatalogueError as error:
        assert error.errors and all(each.strip() for each in error.errors)
        return
    for entry in entries:
        version = entry.version
        assert catalogue.describe(version)
        assert version.effective_from >= date(1, 1, 1) and version.minimum >= 0
        for quantity in (0, 1, 999_999, 2**53 - 1):
            assert total(version.price, Decimal(quantity)) >= 0


def check_journal(data: bytes) -> None:
    """A journal that is cut or damaged anywhere holds what stands before the damage, and nothing else.

    The first four bytes say where it is damaged and how; each further pair is a record.
    """
    if len(data) < 6:
        return
    at, how, rest = int.from_bytes(data[:2]), data[2:4], data[4:]
    records = [journal.encode_header("j" * 16)]
    expected: list[tuple[tuple[str, str], int]] = []
    for first, second in zip(rest[::2], rest[1::2], strict=False):
        place = (f"key_{first % 4:016x}", f"202611{1 + second % 28:02}")
        records.append(journal.encode_owed(place, Owed({"c:M|other": second}, {first: second})))
        expected.append((place, second))
    whole = b"".join(records)
    at %= len(whole)
    if how[0] % 3 == 0:
        damaged = whole[:at]
    elif how[0] % 3 == 1:
        damaged = whole[:at] + bytes([whole[at] ^ (how[1] or 1)]) + whole[at + 1 :]
    else:
        damaged = whole[:at] + bytes(how[1])
    kept, end = -1, 0
    for record in records:
        end += len(record)
        if damaged[:end] != whole[:end]:
            break
        kept += 1
    content = read_journal(damaged)
    calls: dict[tuple[str, str], int] = {}
    for place, number in expected[: max(kept, 0)]:
        calls[place] = calls.get(place, 0) + number
    assert {place: owed.fields["c:M|other"] for place, owed in content.owed.items()} == calls
    assert content.calls == sum(calls.values())
    assert content.whole_bytes + content.torn_bytes == len(damaged)
    read_journal(rest)


def read_journal(data: bytes) -> journal.Content:
    """Read a journal of these bytes."""
    with os.fdopen(os.memfd_create("journal"), "w+b") as file:
        file.write(data)
        file.seek(0)
        return journal.read(file)
