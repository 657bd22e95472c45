"""The wheel: what an installed program has without a checkout."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from gateway import config
from gateway.cli.main import run

ROOT = Path(__file__).parent.parent


def test_an_installed_program_has_its_examples_and_templates(tmp_path: Path) -> None:
    """The examples stand beside the module that looks for them, and no data file is missing."""
    [built] = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as wheel:
        names = set(wheel.namelist())
        for name in ("config.example.toml", "catalogue.example.toml"):
            assert wheel.read(f"gateway/{name}") == (ROOT / name).read_bytes()
    kinds = {".html", ".txt", ".lua"}
    data = [
        path
        for folder in ("gateway", "metering")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in kinds
    ]
    assert data
    assert {str(path.relative_to(ROOT)) for path in data} <= names


@pytest.mark.parametrize(
    ("line", "path"),
    [(["check", "--example"], config.example_path()), (["plan", "example"], config.catalogue_example_path())],
    ids=["configuration", "prices"],
)
def test_examples_are_printed_as_they_are(
    line: list[str], path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever has only the program gets the file to start from, byte for byte."""
    assert run(line) == 0
    assert capsys.readouterr().out == path.read_text(encoding="utf-8")
