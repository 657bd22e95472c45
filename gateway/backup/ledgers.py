"""Which ledger a command is about, and whether somebody serves on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.backup.postgres import BackupError
from gateway.data_dir import DataDirError, held, holder, leave, run_directory
from gateway.settings import Stores
from gateway.stores import EmbeddedPostgres, StoreError
from gateway.throwaway import running


@contextmanager
def reachable(stores: Stores, *, alone: bool = False) -> Iterator[str]:
    """Give the ledger's URL; an embedded one that nobody runs is run until the block ends.

    With `alone` nobody else may serve from the data directory. Raises BackupError.
    """
    place = stores.data_dir
    try:
        if holder(place) is not None:
            if alone:
                raise BackupError(f"A gateway serves from {place}. Stop it first.")
            yield stores.database_url or EmbeddedPostgres(place, (place / "run").resolve()).url
        elif stores.database_url is not None:
            yield stores.database_url
        else:
            if not alone and not (place / "postgres").exists():
                raise BackupError(
                    f"There is no ledger in {place}. Is it another configuration that you mean?"
                )
            with _started(place) as url:
                yield url
    except (DataDirError, StoreError) as error:
        raise BackupError(str(error)) from error
    except OSError as error:
        raise BackupError(f"{place} cannot be used ({error.strerror}); be the user that serves.") from error


@contextmanager
def _started(place: Path) -> Iterator[str]:
    with held(place):
        try:
            with running(EmbeddedPostgres(place, run_directory(place))) as url:
                yield url
        finally:
            leave(place)
