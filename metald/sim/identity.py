"""The certificate that an agent makes for itself at each boot, and tells with its heartbeats (the agent's automatic TLS)."""

from __future__ import annotations

import ipaddress
import os
import ssl
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_VALID = timedelta(days=90)
_SKEW = timedelta(hours=1)


class Identity:
    """A key and a certificate of its own for one address.

    Args:
        name: of the machine.
        address: where it is reached.
    """

    def __init__(self, name: str, address: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(own)
            .issuer_name(own)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + _VALID)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
            .sign(key, hashes.SHA256())
        )
        self.certificate = made.public_bytes(serialization.Encoding.PEM).decode()
        """In PEM."""
        self._key = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """What serves TLS with it; made when first asked for, as each takes a millisecond and twenty kilobytes."""
        if self._context is None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            # the library reads keys from files alone
            descriptor = os.memfd_create("agent")
            try:
                os.write(descriptor, self.certificate.encode() + self._key)
                self._context.load_cert_chain(f"/proc/self/fd/{descriptor}")
            finally:
                os.close(descriptor)
        return self._context
