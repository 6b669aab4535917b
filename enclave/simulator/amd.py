"""A simulated AMD: ARK, ASK, one processor's VCEK or VLEK, SNP reports, and a CRL.

Formats are AMD's; names start with SIMULATED. RSA keys have 2048 bits where AMD's have
4096, and serial numbers are 1 where AMD's chip keys have 0, which the library will not
write. No guest uses this yet: it serves the verifier's tests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.formats.digests import sha256
from attestation.platforms.snp.report import (
    REPORT_BYTES,
    SCALAR_FIELD_BYTES,
    SIGNED_BYTES,
    VCEK,
    VLEK,
)
from enclave.simulator import pki

TCB = {"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219}
POLICY = 0x30000
PLATFORM_INFO = 1 << 5
CPUID = {"Milan": (0x19, 0x01, 1), "Genoa": (0x19, 0x11, 1), "Turin": (0x1A, 0x02, 1)}
CRL_LIFE = timedelta(days=365)
_ARC = "1.3.6.1.4.1.3704.1"
_PSS = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
_PLACES = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
_PLACES_TURIN = {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}
SPARE_SVNS = (4, 5, 6, 7)
"""Numbers of SVNs that a chip key's certificate has and no report names (spl4 to spl7)."""

_OIDS = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}
_FIELDS = {
    "version": (0x00, 4), "guest_svn": (0x04, 4), "policy": (0x08, 8), "family_id": (0x10, 16),
    "image_id": (0x20, 16), "vmpl": (0x30, 4), "signature_algo": (0x34, 4),
    "current_tcb": (0x38, 8), "platform_info": (0x40, 8), "key_info": (0x48, 4),
    "report_data": (0x50, 64), "measurement": (0x90, 48), "host_data": (0xC0, 32),
    "id_key_digest": (0xE0, 48), "author_key_digest": (0x110, 48), "report_id": (0x140, 32),
    "report_id_ma": (0x160, 32), "reported_tcb": (0x180, 8), "cpuid": (0x188, 3),
    "chip_id": (0x1A0, 64), "committed_tcb": (0x1E0, 8), "launch_tcb": (0x1F0, 8),
    "current_build": (0x1E8, 3), "committed_build": (0x1EC, 3),
    "launch_mit_vector": (0x1F8, 8), "current_mit_vector": (0x200, 8),
}  # fmt: skip


class SimulatedAmd:
    """The vendor and one processor of `family`. Keys are made anew in each object.

    `signer` is VCEK or VLEK; `label` begins every name.
    """

    def __init__(
        self, family: str = "Milan", *, signer: int = VCEK, label: str = "SIMULATED "
    ) -> None:
        self.family, self.signer, self.label = family, signer, label
        self.root_key, self.ask_key = (rsa.generate_private_key(65537, 2048) for _ in range(2))
        self.chip_key = ec.generate_private_key(ec.SECP384R1())
        self.chip_id = hashlib.sha512(b"SIMULATED chip" + family.encode()).digest()
        if family == "Turin":
            self.chip_id = self.chip_id[:8] + bytes(56)
        kind = "SEV-VLEK-" if signer == VLEK else "SEV-"
        self.ark = self.certify(f"ARK-{family}", self.root_key.public_key(), None, self.root_key)
        self.ask = self.certify(
            f"{kind}{family}", self.ask_key.public_key(), self.ark, self.root_key
        )
        self.leaf = self.chip_certificate()

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """DER: chip key, ASK or ASVK, ARK."""
        return tuple(pki.der(item) for item in (self.leaf, self.ask, self.ark))

    @property
    def root_spki(self) -> bytes:
        """SHA-256 of the ARK's SubjectPublicKeyInfo."""
        key = self.root_key.public_key()
        return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))

    def tcb(self, **parts: int) -> bytes:
        """A TCB version of 8 bytes, other SVNs than TCB's by name."""
        places = _PLACES_TURIN if self.family == "Turin" else _PLACES
        version = bytearray(8)
        for name, value in {**TCB, **parts}.items():
            version[places[name]] = value
        return bytes(version)

    def report(self, **fields: int | bytes) -> bytes:
        """A signed report of version 3; fields by their names in the ABI."""
        usual: dict[str, int | bytes] = {
            "version": 3,
            "policy": POLICY,
            "signature_algo": 1,
            "platform_info": PLATFORM_INFO,
            "key_info": self.signer << 2,
            "report_id": hashlib.sha256(b"SIMULATED guest").digest(),
            "report_id_ma": b"\xff" * 32,
            "current_build": bytes((20, 55, 1)),
            "committed_build": bytes((20, 55, 1)),
            "cpuid": bytes(CPUID[self.family]),
            "chip_id": bytes(64) if self.signer == VLEK else self.chip_id,
        }
        usual |= dict.fromkeys(
            ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"), self.tcb()
        )
        return self.sign(unsigned({**usual, **fields}))

    def sign(self, report: bytes, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
        """`report` with a signature over its first 0x2A0 bytes."""
        signature = (key or self.chip_key).sign(report[:SIGNED_BYTES], ec.ECDSA(hashes.SHA384()))
        fields = [
            part.to_bytes(SCALAR_FIELD_BYTES, "little") for part in decode_dss_signature(signature)
        ]
        return (report[:SIGNED_BYTES] + b"".join(fields)).ljust(REPORT_BYTES, b"\0")

    def collateral(self, now: int, *, revoked: Iterable[x509.Certificate] = ()) -> dict[str, bytes]:
        issued = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        builder = x509.CertificateRevocationListBuilder(self.ark.subject, issued, issued + CRL_LIFE)
        builder = builder.add_extension(x509.CRLNumber(1), critical=False)
        for item in revoked:
            entry = x509.RevokedCertificateBuilder(item.serial_number, issued).build()
            builder = builder.add_revoked_certificate(entry)
        crl = builder.sign(self.root_key, hashes.SHA384(), rsa_padding=_PSS)
        return {f"amd/crl/{self.family}": crl.public_bytes(Encoding.DER)}

    def chip_certificate(self, *, chip_id: bytes | None = None, **parts: int) -> x509.Certificate:
        """The chip key's, naming another chip or other SVNs where told to."""
        svns = {**TCB, **({"fmc": 0} if self.family == "Turin" else {}), **parts}
        product = f"{self.family}-B0".encode()
        extensions = [
            _extension("1", _integer(int(self.signer == VLEK))),
            _extension("2", b"\x16" + bytes([len(product)]) + product),
            *(_extension(_OIDS[name], _integer(value)) for name, value in svns.items()),
            *(_extension(f"3.{number}", _integer(0)) for number in SPARE_SVNS),
        ]
        hwid = self.chip_id if chip_id is None else chip_id
        if self.signer == VCEK:
            extensions.append(_extension("4", hwid[:8] if self.family == "Turin" else hwid))
        else:
            extensions.append(_extension("5", b"\x16\x09SIMULATED"))
        kind = "SEV-VLEK" if self.signer == VLEK else "SEV-VCEK"
        public = self.chip_key.public_key()
        return self.certify(kind, public, self.ask, self.ask_key, extensions=extensions)

    def certify(
        self,
        name: str,
        key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
        issuer: x509.Certificate | None,
        signer: rsa.RSAPrivateKey,
        *,
        extensions: Iterable[x509.ExtensionType] = (),
        not_after: datetime = pki.NOT_AFTER,
    ) -> x509.Certificate:
        subject = pki.name(self.label + name)
        issued_by = subject if issuer is None else issuer.subject
        serial = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") | 1
        builder = (
            x509.CertificateBuilder(issued_by, subject, key, serial)
            .not_valid_before(pki.NOT_BEFORE)
            .not_valid_after(not_after)
        )
        if isinstance(key, rsa.RSAPublicKey):
            length = None if issuer is None else 0
            usage = pki.key_usage(True, crl_sign=issuer is None)
            builder = builder.add_extension(x509.BasicConstraints(True, length), critical=True)
            builder = builder.add_extension(usage, critical=True)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(signer, hashes.SHA384(), rsa_padding=_PSS)


def unsigned(fields: dict[str, int | bytes]) -> bytes:
    """A report's bytes before its signature: the fields named, all else zero."""
    report = bytearray(SIGNED_BYTES)
    for name, value in fields.items():
        at, size = _FIELDS[name]
        report[at : at + size] = (
            value.to_bytes(size, "little") if isinstance(value, int) else value.ljust(size, b"\0")
        )
    return bytes(report)


def _extension(arc: str, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(f"{_ARC}.{arc}"), value)


def _integer(value: int) -> bytes:
    return b"\x02\x01" + bytes([value]) if value < 0x80 else b"\x02\x02\0" + bytes([value])
