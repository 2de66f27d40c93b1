"""Encrypted connections: each end shows a certificate that the cluster's authority has signed."""

from __future__ import annotations

import ssl

from raydask.config import Config
from raydask.errors import StartError, UsageError


def server_tls(config: Config) -> ssl.SSLContext | None:
    """Return what a listener encrypts with, None where the settings name no certificate.

    Raises
    ------
    UsageError, StartError
        The settings are not complete, or their files cannot be used.
    """
    return _context(config, ssl.PROTOCOL_TLS_SERVER)


def client_tls(config: Config) -> ssl.SSLContext | None:
    """Return what whoever connects encrypts with; see `server_tls`."""
    return _context(config, ssl.PROTOCOL_TLS_CLIENT)


def _context(config: Config, protocol: int) -> ssl.SSLContext | None:
    files = {
        "RAYDASK_TLS_CERTIFICATE": config.tls_certificate,
        "RAYDASK_TLS_KEY": config.tls_key,
        "RAYDASK_TLS_AUTHORITY": config.tls_authority,
    }
    if not any(files.values()):
        return None
    missing = [name for name, path in files.items() if not path]
    if missing:
        raise UsageError(
            f"TLS needs a certificate, its key and the authority that signed it: set "
            f"{' and '.join(missing)} too"
        )
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Machines are known by the authority's signature, not by names: they have addresses only.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(config.tls_certificate, config.tls_key)
        context.load_verify_locations(config.tls_authority)
    except OSError as error:  # ssl.SSLError is one
        named = ", ".join(f"{name}={path}" for name, path in files.items())
        raise StartError(f"TLS cannot be used with {named}: {error}") from error
    return context
