"""AMD's certificates: chip key (VCEK or VLEK) ← ASK or ASVK ← ARK, RSA-4096 PSS SHA-384.

The ARK is pinned by its key and signs itself, which makes its name, and with it the
product family, authentic. What a chip key's extensions say must equal the report.
"""

from __future__ import annotations

import hmac
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

from attestation.errors import NotAuthentic
from attestation.formats.digests import sha256
from attestation.platforms.snp.report import SCALAR_BYTES, VCEK, VLEK, SnpReport
from attestation.trust.roots import Roots

STEP = "cpu-signature"
FAMILIES = ("Milan", "Genoa", "Turin")
_ARC = "1.3.6.1.4.1.3704.1"
_HWID = x509.ObjectIdentifier(_ARC + ".4")
_TCB_PARTS = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}
_TCB_BYTES = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
_TCB_BYTES_TURIN = {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}
_CPUID = {"Milan": (0x19, {0x0}), "Genoa": (0x19, {0x1, 0xA}), "Turin": (0x1A, {0x0, 0x1})}
"""CPUID family, and the upper half of the model: Genoa's chain serves Bergamo and Siena too."""


@dataclass(frozen=True)
class ChipKey:
    """The key that signed a report. `signer` is VCEK or VLEK; `ask` and `ark` its issuers."""

    family: str
    signer: int
    certificate: x509.Certificate
    ask: x509.Certificate
    ark: x509.Certificate

    @property
    def expires(self) -> int:
        """When the first certificate of the chain does, Unix seconds."""
        chain = (self.certificate, self.ask, self.ark)
        return min(int(item.not_valid_after_utc.timestamp()) for item in chain)

    @property
    def signer_name(self) -> str:
        return "VLEK" if self.signer == VLEK else "VCEK"


def check_signature(
    report: SnpReport, certificates: tuple[bytes, ...], *, roots: Roots, now: int
) -> ChipKey:
    """Chain to a pinned ARK at `now` (Unix seconds), the report's signature, chip and TCB.

    `certificates` are DER: chip key, ASK or ASVK, ARK. Raises NotAuthentic("cpu-signature").
    """
    leaf, ask, ark = _load(certificates)
    family = _check_chain(leaf, ask, ark, roots, now)
    key = ChipKey(family, _check_signer(report, leaf, ask, family), leaf, ask, ark)
    _verify(report, leaf)
    check_tcb_extensions(report, key)
    _check_chip(report, key)
    return key


def find_chain(report: SnpReport, certificates: tuple[bytes, ...]) -> tuple[bytes, ...] | None:
    """Of DER certificates in any order, those that `check_signature` wants for this report.

    None where they are not all there. Nothing is verified by being found.
    """
    loaded = {der: found for der in certificates if (found := load_any(der)) is not None}
    for der, leaf in loaded.items():
        if not _signed(report, leaf):
            continue
        ask = _by_subject(loaded, leaf.issuer)
        ark = _by_subject(loaded, loaded[ask].issuer) if ask else None
        if ask and ark:
            return der, ask, ark
    return None


def find_certificate(certificates: tuple[bytes, ...], subject: x509.Name) -> bytes | None:
    """The first of these DER certificates that has this subject."""
    loaded = {der: found for der in certificates if (found := load_any(der)) is not None}
    return _by_subject(loaded, subject)


def load_any(der: bytes) -> x509.Certificate | None:
    """A certificate of whoever, None where it cannot be read."""
    try:
        return load_certificate(der)
    except Exception:  # the library lets several kinds through
        return None


def _by_subject(loaded: Mapping[bytes, x509.Certificate], name: x509.Name) -> bytes | None:
    return next((der for der, found in loaded.items() if found.subject == name), None)


def tcb_parts(tcb: bytes, family: str) -> dict[str, int]:
    """A TCB version's parts by name; 8 bytes, laid out as the family lays them out."""
    places = _TCB_BYTES_TURIN if family == "Turin" else _TCB_BYTES
    return {name: tcb[place] for name, place in places.items()}


def check_tcb_extensions(report: SnpReport, key: ChipKey) -> None:
    """The chip key is derived from the TCB that its certificate names: it must be the report's."""
    parts = tcb_parts(report.reported_tcb, key.family)
    for name, value in parts.items():
        named = _integer(_extension(key.certificate, f"{_ARC}.{_TCB_PARTS[name]}"), name)
        if named != value:
            text = f"{name} SVN: the certificate names {named}, the report {value}"
            raise NotAuthentic(STEP, "tcb-mismatch", text)
    if any(
        report.reported_tcb[place]
        for place in range(8)
        if place not in (_TCB_BYTES_TURIN if key.family == "Turin" else _TCB_BYTES).values()
    ):
        raise NotAuthentic(STEP, "tcb-mismatch", "reserved bytes of the reported TCB are not zero")


def name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def _load(certificates: tuple[bytes, ...]) -> tuple[x509.Certificate, ...]:
    if len(certificates) != 3:
        raise _broken("bad-chain", f"expected chip key, ASK and ARK, got {len(certificates)}")
    try:
        return tuple(load_certificate(der) for der in certificates)
    except Exception as error:  # the library lets several kinds through
        raise _broken("bad-certificate", f"malformed ({type(error).__name__})") from None


def load_certificate(der: bytes) -> x509.Certificate:
    """One of AMD's, whatever its serial number. Raises what the library raises."""
    with warnings.catch_warnings():
        # AMD gives every chip key the serial number 0, which the library warns of.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        certificate = x509.load_der_x509_certificate(der)
        # The library reads these only when asked; what is malformed must fail here.
        _ = certificate.extensions, certificate.subject, certificate.issuer
        certificate.public_key()
    return certificate


def _check_chain(
    leaf: x509.Certificate, ask: x509.Certificate, ark: x509.Certificate, roots: Roots, now: int
) -> str:
    check_root(ark, roots)
    for certificate, issuer in ((ark, ark), (ask, ark), (leaf, ask)):
        _check_dates(certificate, now)
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            text = f"{name(certificate)!r} is not issued by {name(issuer)!r}"
            raise _broken("bad-chain", text) from None
    if not (_is_authority(ark) and _is_authority(ask)) or _is_authority(leaf):
        raise _broken("bad-chain", "authority and chip key are mixed up")
    family = name(ark).rpartition("ARK-")[2]
    if family not in FAMILIES:
        raise _broken("unknown-family", f"expected {', '.join(FAMILIES)}, got {name(ark)!r}")
    return family


def check_root(ark: x509.Certificate, roots: Roots) -> None:
    """Raises NotAuthentic unless the ARK's key is pinned."""
    spki = ark.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if sha256(spki) in roots.amd:
        return
    if "SIMULATED" in name(ark):
        text = "this is a simulated machine; this policy accepts vendor roots only"
        raise _broken("simulated-root", text)
    raise _broken("wrong-root", f"expected a pinned ARK, got {sha256(spki).hex()}")


def _check_dates(certificate: x509.Certificate, now: int) -> None:
    start = certificate.not_valid_before_utc.timestamp()
    end = certificate.not_valid_after_utc.timestamp()
    if not start <= now <= end:
        window = f"{int(start)}..{int(end)}"
        raise _broken("certificate-expired", f"{name(certificate)!r}: {window} is not now, {now}")


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _check_signer(
    report: SnpReport, leaf: x509.Certificate, ask: x509.Certificate, family: str
) -> int:
    """The kind of key that the report names must be the kind that the chain is for."""
    kinds = {VCEK: ("SEV-VCEK", f"SEV-{family}"), VLEK: ("SEV-VLEK", f"SEV-VLEK-{family}")}
    expected = kinds.get(report.signer)
    if expected is None:
        raise _broken("unknown-signer", f"expected VCEK or VLEK, got key kind {report.signer}")
    got = tuple(name(item).removeprefix("SIMULATED ") for item in (leaf, ask))
    if got != expected:
        raise _broken("wrong-signer", f"expected {' under '.join(expected)}, got {got[0]!r}")
    return report.signer


def _verify(report: SnpReport, leaf: x509.Certificate) -> None:
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _broken("wrong-curve", "expected a P-384 chip key")
    if not _signed(report, leaf):
        raise _broken("bad-signature", "the signature of the SNP report does not hold")


def _signed(report: SnpReport, leaf: x509.Certificate) -> bool:
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    r, s = report.signature[:SCALAR_BYTES], report.signature[SCALAR_BYTES:]
    encoded = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    try:
        key.verify(encoded, report.signed_region, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True


def _check_chip(report: SnpReport, key: ChipKey) -> None:
    """A VCEK's certificate names its chip; a VLEK's names none, and its reports need not."""
    if report.cpuid is not None:
        cpu, (family, models) = report.cpuid, _CPUID[key.family]
        if cpu[0] != family or cpu[1] >> 4 not in models:
            raise _broken("family-mismatch", f"the report's CPUID {cpu} is not of {key.family}")
    if key.signer == VLEK:
        return
    if report.chip_key_masked:
        raise _broken("masked-chip", "the report hides its chip, so its key cannot be compared")
    named = _unwrap(_extension(key.certificate, _HWID.dotted_string))
    if key.family == "Turin":
        named = named.ljust(len(report.chip_id), b"\0") if len(named) == 8 else named
    if not hmac.compare_digest(named, report.chip_id):
        raise _broken("chip-mismatch", "the certificate is for another chip")


def _extension(certificate: x509.Certificate, oid: str) -> bytes:
    try:
        found = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(oid)).value
    except x509.ExtensionNotFound:
        raise _broken("bad-certificate", f"the chip key lacks extension {oid}") from None
    return found.value if isinstance(found, x509.UnrecognizedExtension) else b""


def _unwrap(value: bytes) -> bytes:
    """64 raw bytes (Turin: 8), in some certificates inside a DER octet string."""
    return value[2:] if value[:1] == b"\x04" and value[1:2] == bytes([len(value) - 2]) else value


def _integer(value: bytes, what: str) -> int:
    """A DER INTEGER from 0 to 255, in its shortest form."""
    if len(value) == 3 and value[:2] == b"\x02\x01" and value[2] < 0x80:
        return value[2]
    if len(value) == 4 and value[:3] == b"\x02\x02\x00" and value[3] >= 0x80:
        return value[3]
    raise _broken("bad-certificate", f"expected {what} as a number from 0 to 255")


def _broken(code: str, message: str) -> NotAuthentic:
    return NotAuthentic(STEP, code, message)
