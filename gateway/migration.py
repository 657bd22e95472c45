"""Bring the ledger to the schema of the installed version: `python -m gateway.migration`.

A rolling restart runs it in a process of its own, so that it is the new version that knows the schema, while
the processes of the old one go on. Exit status 1 means that the schema is as it was.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from gateway import config
from gateway.first_start import LedgerError, open_ledger
from gateway.leashing import leashed
from gateway.telemetry import configure_logging
from metering.ledger import make_engine


def main() -> int:
    """Migrate the ledger that the configuration names; return the exit status."""
    path = os.environ.get("TALLYGATE_CONFIG")
    settings = config.load(Path(path) if path else None, os.environ)
    configure_logging(settings.logging.level)
    assert settings.stores.database_url is not None, "the supervisor starts the store and names its URL"
    try:
        asyncio.run(_migrate(settings.stores.database_url))
    except LedgerError as error:
        print(error)
        return 1
    return 0


async def in_new_process(environ: Mapping[str, str]) -> None:
    """Migrate by what is installed now; raises LedgerError with why it did not come about."""
    command = leashed([sys.executable, "-m", "gateway.migration"], on_parent_death=signal.SIGTERM)
    process = await asyncio.create_subprocess_exec(
        *command, env=dict(environ), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    try:
        said, _ = await process.communicate()
    except BaseException:
        if process.returncode is None:
            process.terminate()
        raise
    if process.returncode != 0:
        raise LedgerError(said.decode(errors="replace").strip() or "The migration failed: see the log.")


async def _migrate(url: str) -> None:
    engine = make_engine(url)
    try:
        await open_ledger(engine)
    finally:
        await engine.dispose()


if __name__ == "__main__":
    sys.exit(main())
