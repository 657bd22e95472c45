"""Which build of the gateway runs: what a bug report, a dashboard and a rolling update have to know."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

ON_THE_DATA_PATH = "gateway.proxy.front"  # compiled with all others of the path, or not at all


@dataclass(frozen=True, slots=True)
class Build:
    """The version of the package, that of Python, and whether the data path is `compiled` or `plain`."""

    version: str
    python: str
    data_path: str

    def __str__(self) -> str:
        return f"tallygate {self.version}, data path {self.data_path}, Python {self.python}"


def find_build() -> Build:
    """Return what a process that starts now runs from."""
    try:
        package = version("tallygate")
    except PackageNotFoundError:  # run from a checkout that is not installed
        package = "unknown"
    spec = find_spec(ON_THE_DATA_PATH)
    assert spec is not None and spec.origin is not None, ON_THE_DATA_PATH
    is_compiled = spec.origin.endswith(tuple(EXTENSION_SUFFIXES))
    return Build(package, platform.python_version(), "compiled" if is_compiled else "plain")


BUILD = find_build()  # of this process: what is on the disk may be another one later
