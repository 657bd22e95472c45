"""Compiles the data path when a wheel is built with TALLYGATE_COMPILE=1; without it the wheel is plain
Python.

The same sources are compiled by mypyc, so there is one program and not two; the plain modules stay in the
wheel beside the compiled ones. A C compiler is needed, and mypy in the environment that builds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SWITCH = "TALLYGATE_COMPILE"
PACKAGES = ("gateway", "metering", "policies")
# What every call runs through. Packages' own __init__ and what is not on the path stay plain.
COMPILED = (
    *(
        f"gateway/proxy/{name}.py"
        for name in (
            "admission",
            "answers",
            "content",
            "entry",
            "exchange",
            "front",
            "headers",
            "heads",
            "identify",
            "incoming",
            "key_out",
            "known_answers",
            "parameters",
            "readings",
            "records",
            "request_path",
            "request_plan",
            "request_reader",
            "requests",
            "scan",
            "service",
            "signature",
            "tally",
            "today",
            "upstream",
            "upstream_pool",
            "xml_values",
        )
    ),
    *(f"gateway/dialects/{name}.py" for name in ("__init__", "coding", "otapi", "outcome")),
    *(f"metering/{name}.py" for name in ("batches", "breaker", "commands", "counters", "link", "names")),
    *(f"policies/{name}.py" for name in ("decision", "keys", "methods", "quota")),
)


class CompiledModules(BuildHookInterface):  # type: ignore[type-arg] # its parameter is hatchling's own matter
    """Adds the compiled modules to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and tell hatchling what came of it."""
        if os.environ.get(SWITCH) != "1" or version != "standard":
            return
        place = Path(tempfile.mkdtemp(prefix="tallygate-compile-"))
        for package in PACKAGES:
            shutil.copytree(Path(self.root) / package, place / package)
        command = [sys.executable, "-m", "mypyc", "--ignore-missing-imports", *COMPILED]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode != 0:
            raise RuntimeError(f"The modules cannot be compiled:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
        found = [path for path in place.rglob("*.so") if "build" not in path.relative_to(place).parts]
        build_data["force_include"].update({str(path): str(path.relative_to(place)) for path in found})
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
