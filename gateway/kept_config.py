"""The configuration as it was when it was last found right, for processes that are started later.

A worker that dies is started again with what the others run with, whatever stands in the file by then: a
wrong one that was refused, half an edit, or another store than the one in which everybody counts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from gateway import config
from gateway.config import ConfigError
from gateway.settings import Settings, Stores

FILE = "config.toml"


class KeptConfig:
    """A copy of the configuration's file in the directory of sockets, readable for this user only."""

    def __init__(self, path: Path | None, run_dir: Path) -> None:
        """Keep where it stands; without a file the example is served, which nobody edits."""
        self._path = path
        self._kept = run_dir / FILE
        self._draft = run_dir / f".{FILE}"

    def read(self, environ: Mapping[str, str]) -> Settings:
        """Read the configuration as it is now; raises ConfigError. `take` lets others have it."""
        if self._path is None:
            return config.load(None, environ)
        try:
            text = self._path.read_bytes()
        except OSError:
            return config.load(self._path, environ)  # which says why it cannot
        try:
            self._draft.unlink(missing_ok=True)
            with os.fdopen(os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(text)
        except OSError as error:
            why = f"no copy can be kept in {self._draft.parent}: {error.strerror}"
            raise ConfigError(str(self._path), [why]) from error
        return config.load(self._path, {**environ, config.KEPT: str(self._draft)})

    def take(self) -> None:
        """Let processes that are started from now on have what was read last."""
        if self._path is not None:
            self._draft.replace(self._kept)

    def environ(self, environ: Mapping[str, str], stores: Stores) -> dict[str, str]:
        """Return the environment of processes that have what is kept, and the stores that are in use.

        Stores that were written into the file since are for the next start of everything.
        """
        given = dict(environ)
        if self._path is not None:
            given[config.KEPT] = str(self._kept)
        for name, url in ((config.REDIS_URL, stores.redis_url), (config.DATABASE_URL, stores.database_url)):
            if url is not None:
                given[name] = url
        return given
