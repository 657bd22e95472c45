"""The configuration as it was when it was last found right, for processes that are started later.

A worker that dies is started again with what the others run with, whatever stands in the files by then: a
configuration that was refused, half an edit, a certificate without its key, or another store than the one in
which everybody counts.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from gateway import config
from gateway.config import ConfigError
from gateway.copies import CopyError, Copying
from gateway.settings import Settings, Stores

DIRECTORY = "kept"


class KeptConfig:
    """Copies of the configuration and of the files that it names, beside the sockets, for this user only."""

    def __init__(self, path: Path | None, run_dir: Path) -> None:
        """Keep where it stands; without a file the example is served."""
        self._path = path
        self._place = run_dir / DIRECTORY
        self._read: Copying | None = None

    def read(self, environ: Mapping[str, str]) -> Settings:
        """Read the configuration as it is now; raises ConfigError. `take` lets others have it."""
        if self._read is None:
            shutil.rmtree(self._place, ignore_errors=True)  # of a supervisor that was killed
        try:
            read = Copying(self._place)
            settings = config.load(self._path, environ, files=read)
            read.finish()
        except CopyError as error:
            raise ConfigError(str(self._path), [str(error)]) from error
        self._read = read
        return settings

    def take(self) -> None:
        """Let processes that are started from now on have what was read last."""
        assert self._read is not None, "it was read"
        self._read.take()

    def environ(self, environ: Mapping[str, str], stores: Stores) -> dict[str, str]:
        """Return the environment of processes that have what is kept, and the stores that are in use.

        Stores that were written into the file since are for the next start of everything.
        """
        given = {**environ, config.KEPT: str(self._place)}
        for name, url in ((config.REDIS_URL, stores.redis_url), (config.DATABASE_URL, stores.database_url)):
            if url is not None:
                given[name] = url
        return given
