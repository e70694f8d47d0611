"""TLS of the API's listener."""

from __future__ import annotations

import ssl

from metald.config import Api, ConfigError


def context(settings: Api) -> ssl.SSLContext | None:
    """The server's TLS context, or None when no certificate is set.

    Raises:
        ConfigError: the certificate or the key cannot be used.
    """
    if not settings.tls_certificate:
        if settings.tls_key:
            raise ConfigError("api.tls_certificate: a key is set but no certificate. Set both or neither.")
        return None
    if not settings.tls_key:
        raise ConfigError("api.tls_key: a certificate is set but no key. Set both or neither.")
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        made.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"api.tls_certificate: {settings.tls_certificate} and {settings.tls_key} cannot be used: {error}. "
            "Give PEM files that belong together."
        ) from None
    return made
