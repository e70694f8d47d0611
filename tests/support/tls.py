"""A certificate authority of the tests' own, and one certificate that it signed."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def authority(folder: Path, host: str) -> tuple[Path, Path, Path]:
    """PEM files (CA certificate, certificate for `host` and 127.0.0.1, its key) below `folder`."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name, name = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("metald tests", host))
    start = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
    end = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)

    def certificate(subject: x509.Name, public: ec.EllipticCurvePublicKey, *more: tuple[x509.ExtensionType, bool]) -> x509.Certificate:
        builder = x509.CertificateBuilder(ca_name, subject, public, x509.random_serial_number(), start, end)
        for extension, critical in more:
            builder = builder.add_extension(extension, critical)
        return builder.sign(ca_key, hashes.SHA256())

    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    signer = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    root = certificate(ca_name, ca_key.public_key(), (x509.BasicConstraints(True, None), True), (usage, True), (signer, False))
    names = x509.SubjectAlternativeName([x509.DNSName(host), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signer)
    leaf = certificate(name, key.public_key(), (x509.BasicConstraints(False, None), True), (names, False), (issuer, False))
    files = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
    pem = serialization.Encoding.PEM
    files[0].write_bytes(root.public_bytes(pem))
    files[1].write_bytes(leaf.public_bytes(pem))
    files[2].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return files
