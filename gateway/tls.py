"""TLS of the listeners."""

from __future__ import annotations

import ssl

from gateway.settings import Tls


def tls_context(tls: Tls | None) -> ssl.SSLContext | None:
    """Return the context of a listener, with client certificates required where their authority is named."""
    if tls is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.cert_file, tls.key_file)
    context.set_alpn_protocols(["http/1.1"])
    if tls.client_ca_file is not None:
        context.load_verify_locations(tls.client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
