"""TLS of our servers, and of what they connect to, from files in PEM."""

from __future__ import annotations

import ssl
from pathlib import Path

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.settings.serving import TlsSettings


def server_context(settings: TlsSettings) -> ssl.SSLContext | None:
    """Return what a server speaks TLS with, or None if it has no certificate.

    Raises:
        SettingsError: if a file cannot be read, or is no such file.
    """
    if settings.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # A ticket that comes in place of an answer makes pynetdicom, as a client, wait for the rest of it.
    context.num_tickets = 0
    _load_own(context, settings)
    if settings.authorities is not None:
        _load_authorities(context, settings.authorities)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(settings: TlsSettings) -> ssl.SSLContext:
    """Return what another's server is spoken to with; its certificate must be valid for its name; errors as above."""
    context = ssl.create_default_context()
    if settings.authorities is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _load_authorities(context, settings.authorities)
    if settings.certificate is not None:
        _load_own(context, settings)
    return context


def _load_own(context: ssl.SSLContext, settings: TlsSettings) -> None:
    assert settings.certificate is not None
    assert settings.key is not None
    _require_readable(settings.certificate, "tls.certificate")
    _require_readable(settings.key, "tls.key")
    try:
        # With an empty password nobody is asked for one: a server starts without a person.
        context.load_cert_chain(settings.certificate, settings.key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise SettingsError(
            f"cannot be used ({_reason(error)})",
            where="tls.certificate, tls.key",
            expected="a certificate and its own key in PEM, without a passphrase",
        ) from None


def _load_authorities(context: ssl.SSLContext, file: Path) -> None:
    _require_readable(file, "tls.authorities")
    try:
        context.load_verify_locations(file)
    except (ssl.SSLError, ValueError) as error:
        raise SettingsError(
            f"cannot be used ({_reason(error)})", where="tls.authorities", expected="certificates in PEM"
        ) from None


def _require_readable(file: Path, where: str) -> None:
    try:
        file.open("rb").close()
    except OSError as error:
        raise SettingsError(f"cannot be read ({error.strerror})", where=where) from None


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or type(error).__name__
