"""PostgreSQL's own programs: `pg_dump`, `pg_restore` and `psql`, out of the wheel or from the path."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import sqlalchemy as sa

from gateway.stores import postgres_programs

_TABLE_LINE = "dumping contents of table "
_ERROR_BYTES = 2_000

Progress = Callable[[str], None]


class BackupError(Exception):
    """A backup cannot be made, read or restored; the message says why and what to do."""


def dump(url: str, snapshot: str, to: Path, told: Progress) -> None:
    """Write the database as another session's snapshot sees it; tells each table's name when it begins."""
    address, environ = _access(url)
    line = [_program("pg_dump"), "--format=custom", "--no-owner", "--no-privileges", "--verbose"]
    line += [f"--snapshot={snapshot}", f"--file={to}", f"--dbname={address}"]
    said: list[str] = []
    with subprocess.Popen(  # noqa: S603 - PostgreSQL's own program
        line, env=environ, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        assert process.stderr is not None, "it was asked for"
        for text in process.stderr:
            said.append(text)
            if _TABLE_LINE in text:
                told(text.split(_TABLE_LINE, 1)[1].strip().strip('"').removeprefix("public."))
    if process.returncode != 0:
        raise BackupError(f"pg_dump failed:\n{''.join(said)[-_ERROR_BYTES:].strip()}")


def restore(url: str, dump_file: Path, before: Sequence[str]) -> None:
    """Run statements and then a dump in one transaction: all of it is there, or nothing has changed.

    It is committed only after `pg_restore` has said that it wrote the whole script: to `psql` the end of a
    script that was cut off looks like any other.
    """
    address, environ = _access(url)
    line = [_program("psql"), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]
    line += ["--output", os.devnull, "--dbname", address, "--file", "-"]
    script = [_program("pg_restore"), "--no-owner", "--no-privileges", "--file=-", str(dump_file)]
    with tempfile.TemporaryFile() as said:
        with (
            subprocess.Popen(  # noqa: S603 - PostgreSQL's own program
                line, env=environ, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said
            ) as writer,
            subprocess.Popen(  # noqa: S603 - PostgreSQL's own program
                script, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said
            ) as reader,
        ):
            assert writer.stdin is not None, "it was asked for"
            assert reader.stdout is not None, "it was asked for"
            with contextlib.suppress(BrokenPipeError):  # it has given up, and says why
                writer.stdin.write(";\n".join(["BEGIN", *before, ""]).encode())
                shutil.copyfileobj(reader.stdout, writer.stdin)
                if reader.wait() == 0:
                    writer.stdin.write(b"COMMIT;\n")
                writer.stdin.flush()
            reader.stdout.close()
            with contextlib.suppress(BrokenPipeError):
                writer.stdin.close()
        if writer.returncode != 0 or reader.returncode != 0:
            said.seek(0)
            text = said.read().decode(errors="replace")[-_ERROR_BYTES:].strip()
            raise BackupError(f"The dump could not be restored; the ledger is as it was:\n{text}")


def _program(name: str) -> str:
    directory = postgres_programs()
    if directory is not None and (directory / name).exists():
        return str(directory / name)
    found = shutil.which(name)
    if found is None:
        raise BackupError(
            f"{name} is not here: install PostgreSQL's client programs, or tallygate[embedded]."
        )
    return found


def _access(url: str) -> tuple[str, dict[str, str]]:
    """Return the URL as libpq reads it, without its password, and an environment that has that.

    All users of the machine can see command lines.
    """
    parsed = sa.make_url(url)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TALLYGATE_")}
    # As the driver has it, one among the parameters goes before one in front of the host.
    password = parsed.query.get("password", parsed.password)
    if password is not None:
        environ["PGPASSWORD"] = str(password)
    # What is asyncpg's word and what SQLAlchemy's own; libpq refuses a parameter that it does not know.
    if isinstance(mode := parsed.query.get("ssl"), str):
        parsed = parsed.update_query_dict({"sslmode": mode.replace("_", "-")})
    parsed = parsed.difference_update_query(["ssl", "prepared_statement_cache_size"])
    # `set` takes None for "as it is".
    parsed = parsed.set(drivername="postgresql")._replace(password=None).difference_update_query(["password"])
    return parsed.render_as_string(hide_password=False), environ
