"""What a process says of itself: its version, and whether its data path is compiled."""

from __future__ import annotations

import platform
import tomllib
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from gateway import build
from gateway.cli.main import run
from gateway.proxy import front

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` tells the package's, how the data path runs here, and Python's."""
    version = tomllib.loads(PROJECT.read_text())["project"]["version"]
    path = "compiled" if front.__file__.endswith(tuple(EXTENSION_SUFFIXES)) else "plain"
    assert run(["--version"]) == 0
    expected = f"tallygate {version}, data path {path}, Python {platform.python_version()}\n"
    assert capsys.readouterr().out == expected


def test_a_compiled_data_path_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled module is found before the plain one that lies beside it."""
    package = tmp_path / "sample"
    package.mkdir()
    for suffix in (".py", EXTENSION_SUFFIXES[0]):
        package.joinpath(f"front{suffix}").touch()
    package.joinpath("__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(build, "ON_THE_DATA_PATH", "sample.front")
    assert build.find_build().data_path == "compiled"
    package.joinpath(f"front{EXTENSION_SUFFIXES[0]}").unlink()
    monkeypatch.syspath_prepend(tmp_path)  # what was found before is forgotten
    assert build.find_build().data_path == "plain"


def test_a_checkout_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is told all the same."""

    def missing(_: str) -> str:
        raise build.PackageNotFoundError

    monkeypatch.setattr(build, "version", missing)
    assert str(build.find_build()).startswith("tallygate unknown, data path ")
