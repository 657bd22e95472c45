"""Files and secrets that a configuration names; what is wrong with them is taken down."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from gateway import config_model as model
from gateway import generated_peppers
from gateway.copies import Originals
from gateway.data_dir import make
from gateway.settings import Tls
from gateway.tls import TlsError, check_authority, ending, tls_context

PEPPER_BYTES = 32


class Files:
    """Looks up files from `base`, and secrets in files and the environment.

    `copies` says from where a file is read.
    """

    def __init__(self, base: Path, environ: Mapping[str, str], errors: list[str], copies: Originals) -> None:
        self.base = base
        self.environ = environ
        self.errors = errors
        self.copies = copies
        self.cautions: list[str] = []

    def guarded(self, place: str, path: Path) -> None:
        """Take down when a file that holds a secret is open to others than its owner and group."""
        try:
            mode = path.stat().st_mode
        except OSError:
            return
        if mode & (stat.S_IRWXO | stat.S_IWGRP):
            self.cautions.append(
                f"{place}: {path} holds a secret and is open to others (mode {mode & 0o777:o}); use chmod 600"
            )

    def tls(self, place: str, table: model.TlsTable | None) -> Tls | None:
        """Check that a certificate's files can be read and belong together."""
        if table is None:
            return None
        cert = self.file(f"{place}.cert_file", table.cert_file)
        key = self.file(f"{place}.key_file", table.key_file)
        client_ca = self.file(f"{place}.client_ca_file", table.client_ca_file)
        if cert is None or key is None or (client_ca is None and table.client_ca_file is not None):
            return None
        tls = Tls(cert, key, client_ca)
        self.checked(place, lambda: tls_context(tls), table.cert_file, table.key_file, table.client_ca_file)
        self.guarded(f"{place}.key_file", self.base / table.key_file)
        if (end := ending(cert)) is not None:
            self.cautions.append(f"{place}.cert_file: {self.base / table.cert_file} ends on {end}")
        return tls

    def authority(self, place: str, path: Path | None) -> Path | None:
        """Check that a file holds certificates by which others are trusted."""
        found = self.file(place, path)
        if found is not None:
            self.checked(place, lambda: check_authority(found), path)
        return found

    def checked(self, place: str, check: Callable[[], object], *paths: Path | None) -> None:
        """Take down what a check finds wrong, with the files' own names instead of those of copies."""
        try:
            check()
        except TlsError as error:
            text = str(error)
            for path in paths:
                if path is not None:
                    absolute = (self.base / path).absolute()
                    text = text.replace(str(self.copies.of(absolute)), str(absolute))
            self.errors.append(f"{place}: {text}")

    def generated_peppers(self, data_dir: Path, *, keep: bool) -> tuple[tuple[str, bytes], ...]:
        """Return the peppers of the data directory, the newest first.

        One is made on the first start, but not written unless `keep`.
        """
        fresh = secrets.token_hex(PEPPER_BYTES)
        first = generated_peppers.place(data_dir, generated_peppers.FIRST)
        try:
            names = generated_peppers.among(self.copies.within(data_dir))
            if not names and not keep:
                return ((generated_peppers.FIRST, fresh.encode()),)
            if not names:
                _write_once(first, fresh)
        except OSError as error:
            self.errors.append(
                f"stores.data_dir: no pepper can be kept in {first}: {error.strerror or error}"
            )
            return ()
        return tuple(
            (name, self.pepper(generated_peppers.place(data_dir, name)))
            for name in names or [generated_peppers.FIRST]
        )

    def pepper(self, path: Path) -> bytes:
        """Read a pepper of the data directory."""
        self.guarded("stores.data_dir", path)
        try:
            pepper = self.copies.of(path).read_bytes().strip()
        except OSError as error:
            self.errors.append(
                f"stores.data_dir: the pepper in {path} cannot be read: {error.strerror or error}"
            )
            return b""
        if len(pepper) < PEPPER_BYTES:
            self.errors.append(
                f"stores.data_dir: the pepper in {path} is damaged: only {len(pepper)} bytes long"
            )
        return pepper

    def secret(self, place: str, name: str, variable: str | None, path: Path | None) -> str:
        """Read a secret from exactly one of an environment variable and a file."""
        if (variable is None) == (path is None):
            self.errors.append(f"{place}: must have exactly one of {name}_env and {name}_file")
            return ""
        if variable is not None:
            value = self.environ.get(variable, "").strip()
            if not value:
                self.errors.append(f"{place}.{name}_env: the environment variable {variable} is not set")
            return value
        found = self.file(f"{place}.{name}_file", path)
        value = found.read_text(encoding="utf-8", errors="replace").strip() if found is not None else ""
        if found is not None:
            self.guarded(f"{place}.{name}_file", found)
        if found is not None and not value:
            self.errors.append(f"{place}.{name}_file: {found} is empty")
        return value

    def file(self, place: str, path: Path | None) -> Path | None:
        """Return a file's absolute path after checking that it can be read."""
        if path is None:
            return None
        absolute = (self.base / path).absolute()
        try:
            return self.copies.of(absolute)
        except OSError:
            self.errors.append(f"{place}: {absolute} is no file that can be read")
            return None


def _write_once(path: Path, text: str) -> None:
    """Write a secret for this user only, unless it is there; raises OSError.

    Written aside and linked in place: of two processes that start together both read what one of them wrote.
    """
    make(path.parent)
    draft = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    draft.touch(mode=0o600, exist_ok=False)
    draft.write_text(text, encoding="ascii")
    try:
        os.link(draft, path)
    except FileExistsError:
        pass  # the other process was first: its pepper counts
    finally:
        draft.unlink()
