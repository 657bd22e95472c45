"""TLS of the listeners: contexts out of files, which are read again with the configuration."""

from __future__ import annotations

import contextlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from gateway.settings import Tls

WARN_BEFORE_END = timedelta(days=14)


class TlsError(ValueError):
    """A listener's files make no certificate; the message says which and why."""


def tls_context(tls: Tls | None) -> ssl.SSLContext | None:
    """Return the context of a listener, with client certificates required where their authority is named.

    Raises TlsError for files that are damaged, encrypted or do not belong together.
    """
    if tls is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Without a password nobody is asked for one on the terminal.
        context.load_cert_chain(tls.cert_file, tls.key_file, password=lambda: "")
    except (OSError, ValueError) as error:
        raise TlsError(
            f"{tls.cert_file} and {tls.key_file} are no certificate in PEM with its own key, unencrypted"
            f" ({_reason(error)})"
        ) from error
    context.set_alpn_protocols(["http/1.1"])
    if tls.client_ca_file is not None:
        _trust(context, tls.client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def check_authority(ca_file: Path) -> None:
    """Raise TlsError for a file that holds no certificates to trust others by."""
    _trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ca_file)


def ending(cert_file: Path, now: datetime | None = None) -> str | None:
    """Return when a certificate ends, if it has ended or soon will; None otherwise and for none."""
    with contextlib.suppress(OSError, ValueError):
        end = x509.load_pem_x509_certificate(cert_file.read_bytes()).not_valid_after_utc
        if end < (now or datetime.now(UTC)) + WARN_BEFORE_END:
            return f"{end:%Y-%m-%d %H:%M} UTC"
    return None


def _trust(context: ssl.SSLContext, ca_file: Path) -> None:
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ValueError) as error:
        raise TlsError(f"{ca_file} holds no certificates in PEM ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
