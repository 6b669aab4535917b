"""Chains by profile, in which one certificate may be wrong in one way."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from attestation.x509.certificate import spki_digest
from attestation.x509.profile import Profile, Role
from attestation.x509.walk import Chain, check_chain, check_dates, check_link

NOW = 1_795_000_000
TODAY = datetime.fromtimestamp(NOW, UTC)
YEAR = timedelta(days=365)
BITS = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
    "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip
RESPONDER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])
_CURVES = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}
_HASHES = {256: hashes.SHA256, 384: hashes.SHA384, 512: hashes.SHA512}


@functools.cache
def key(kind: str, number: int = 0) -> Any:
    """A key of this kind; the same at each call, and another for each number."""
    if kind.startswith("RSA"):
        return rsa.generate_private_key(65537, int(kind[4:] or 2048))
    return ec.generate_private_key(_CURVES[kind]())


@dataclass(frozen=True)
class Made:
    """One certificate's content. `usage` None leaves the extension out, as `ca` None does."""

    name: str
    kind: str
    number: int
    usage: tuple[str, ...] | None
    ca: bool | None
    algorithm: str
    path_length: int | None = None
    start: datetime = TODAY - YEAR
    end: datetime = TODAY + YEAR
    issuer: str = ""
    signer: int | None = None
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = field(default=())

    def build(self, above: Made) -> x509.Certificate:
        public = key(self.kind, self.number).public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(self.name))
            .issuer_name(_name(self.issuer or above.name))
            .public_key(public)
            .serial_number(self.number + 1)
            .not_valid_before(self.start)
            .not_valid_after(self.end)
        )
        if self.ca is not None:
            length = self.path_length if self.ca else None
            builder = builder.add_extension(x509.BasicConstraints(self.ca, length), critical=True)
        if self.usage is not None:
            bits = {bit: bit in self.usage for bit in BITS}
            builder = builder.add_extension(x509.KeyUsage(**bits), critical=True)
        for extension, critical in self.extensions:
            builder = builder.add_extension(extension, critical=critical)
        signer = key(above.kind, above.number if self.signer is None else self.signer)
        digest = _HASHES[int(self.algorithm[-3:])]()
        if not isinstance(signer, rsa.RSAPrivateKey):
            return builder.sign(signer, digest)
        pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
        plain = padding.PKCS1v15()
        scheme = pss if self.algorithm.startswith("RSA-PSS") else plain
        return builder.sign(signer, digest, rsa_padding=scheme)


def good(profile: Profile, length: int = 3) -> list[Made]:
    """First to root, all of it as the profile wants it."""
    algorithm = sorted(profile.algorithms)[-1]
    roles = [profile.first] + [profile.above] * (length - 1)
    return [_made(role, number, algorithm) for number, role in enumerate(roles)]


def _made(role: Role, number: int, algorithm: str) -> Made:
    # An authority of vendors may sign both certificates and lists.
    usage = ("key_cert_sign", "crl_sign") if role.authority else (role.signs,)
    first = Made(
        f"certificate {number}",
        sorted(role.keys)[0],
        number,
        usage if role.must_have or role.authority else None,
        role.authority if role.must_have else None,
        algorithm,
    )
    return replace(first, extensions=[(RESPONDER, False)]) if role.responder else first


def build(chain: Sequence[Made]) -> Chain:
    return tuple(
        made.build(above) for made, above in zip(chain, [*chain[1:], chain[-1]], strict=True)
    )


def changed(profile: Profile, at: int, length: int = 3, **changes: Any) -> Chain:
    """The good chain with the certificate at `at` (0 first, -1 root) changed."""
    chain = good(profile, length)
    chain[at] = replace(chain[at], **changes)
    return build(chain)


def walk(profile: Profile, chain: Chain, now: int = NOW) -> None:
    """As the profile's users walk: a responder stands under an authority already checked."""
    if profile.first.responder:
        check_link(chain[0], chain[1], profile)
        check_dates(chain[:1], profile, now=now)
    else:
        check_chain(chain, profile, pinned={spki_digest(build(good(profile))[-1])}, now=now)


def unknown(critical: bool = True) -> tuple[x509.ExtensionType, bool]:
    """An extension that nobody knows."""
    oid = x509.ObjectIdentifier("1.3.6.1.4.1.5703.99")
    return x509.UnrecognizedExtension(oid, b"\5\0"), critical


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
