"""How it is known that the machine has died with the embedded counters."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import machine_life
from gateway.data_dir import run_directory
from gateway.machine_life import FILE, PLACE, begin, end, life_of
from gateway.stores import EmbeddedValkey
from tests import servers

NOW = 1_790_000_000.0


@pytest.fixture
def boot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The machine's boots; the last one is the present."""
    boots = ["first"]
    monkeypatch.setattr(machine_life, "boot_id", lambda: boots[-1])
    (tmp_path / PLACE).mkdir()
    return boots


def test_a_life_goes_on_over_deaths_of_processes(boot: list[str], tmp_path: Path) -> None:
    """Whoever is started again under the same boot finds everything in the file."""
    assert life_of(tmp_path) == 0
    begin(tmp_path, NOW)
    assert life_of(tmp_path) == NOW * 1000
    begin(tmp_path, NOW + 60)
    assert life_of(tmp_path) == NOW * 1000


def test_a_life_ends_with_the_machine(boot: list[str], tmp_path: Path) -> None:
    """Another boot without an end in order is another life, with a higher number whatever the clock says."""
    begin(tmp_path, NOW)
    for number in range(1, 4):
        boot.append(f"boot {number}")
        begin(tmp_path, NOW - 86_400)
        assert life_of(tmp_path) == NOW * 1000 + number


def test_a_life_goes_on_over_an_end_in_order(boot: list[str], tmp_path: Path) -> None:
    """What was brought to the disk before the machine was shut down is there after the next boot."""
    begin(tmp_path, NOW)
    end(tmp_path)
    boot.append("second")
    begin(tmp_path, NOW + 3600)
    assert life_of(tmp_path) == NOW * 1000
    boot.append("third")
    begin(tmp_path, NOW + 7200)
    assert life_of(tmp_path) == (NOW + 7200) * 1000


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"life": "x", "boot": ""}'])
def test_a_file_that_says_nothing_begins_a_life(boot: list[str], tmp_path: Path, text: str) -> None:
    """A damaged file keeps nobody from starting, and is taken for a death."""
    (tmp_path / PLACE / FILE).write_text(text)
    end(tmp_path)
    assert life_of(tmp_path) == 0
    begin(tmp_path, NOW)
    assert life_of(tmp_path) == NOW * 1000


def test_where_the_system_does_not_tell_nothing_is_noticed(boot: list[str], tmp_path: Path) -> None:
    """Without an id of the boot no death of the machine is made up."""
    boot.append("")
    begin(tmp_path, NOW)
    begin(tmp_path, NOW + 60)
    assert life_of(tmp_path) == NOW * 1000


def test_the_embedded_valkey_tells_how_it_runs(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its start is noted before it answers, and its end by whoever has stopped it."""
    boots = ["first"]
    monkeypatch.setattr(machine_life, "boot_id", lambda: boots[-1])
    store = EmbeddedValkey(data_dir, run_directory(data_dir))
    lives = []
    for ends in (True, False, True):
        with servers.running(store):
            lives.append(life_of(data_dir))
        if ends:
            store.end()
        boots.append(f"after {len(boots)}")
    assert lives[0] == lives[1] < lives[2]
