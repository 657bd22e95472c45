"""Files and secrets that a configuration names; what is wrong with them is taken down."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from gateway import config_model as model
from gateway.data_dir import make
from gateway.settings import Tls
from gateway.tls import TlsError, ending, tls_context

PEPPER_BYTES = 32


class Files:
    """Looks up files from `base`, and secrets in files and the environment."""

    def __init__(self, base: Path, environ: Mapping[str, str], errors: list[str]) -> None:
        self.base = base
        self.environ = environ
        self.errors = errors
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
        try:
            tls_context(tls)
        except TlsError as error:
            self.errors.append(f"{place}: {error}")
        self.guarded(f"{place}.key_file", key)
        if (end := ending(cert)) is not None:
            self.cautions.append(f"{place}.cert_file: {cert} ends on {end}")
        return tls

    def pepper(self, path: Path, *, keep: bool) -> bytes:
        """Return the pepper kept at `path`, made on the first start; not written unless `keep`."""
        fresh = secrets.token_hex(PEPPER_BYTES)
        try:
            if keep and not path.exists():
                make(path.parent)
                # Written aside and linked in place: two processes that start together read one whole pepper.
                draft = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
                draft.touch(mode=0o600, exist_ok=False)
                draft.write_text(fresh, encoding="ascii")
                try:
                    os.link(draft, path)
                except FileExistsError:
                    pass  # the other process was first: its pepper counts
                finally:
                    draft.unlink()
            if not path.exists():
                return fresh.encode()
            self.guarded("stores.data_dir", path)
            pepper = path.read_bytes().strip()
        except OSError as error:
            self.errors.append(f"stores.data_dir: no pepper can be kept in {path}: {error.strerror or error}")
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
        if not absolute.is_file() or not os.access(absolute, os.R_OK):
            self.errors.append(f"{place}: {absolute} is no file that can be read")
            return None
        return absolute
