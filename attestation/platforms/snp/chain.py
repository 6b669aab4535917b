"""AMD's certificates: chip key (VCEK or VLEK) ← ASK or ASVK ← ARK, RSA-4096 PSS SHA-384.

The ARK is pinned by its key and signs itself, which makes its name, and with it the
product family, authentic. What a chip key's extensions say must equal the report.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from cryptography import x509

from attestation.errors import NotAuthentic
from attestation.platforms.snp.report import CHIP_ID_BYTES, VCEK, VLEK, SnpReport
from attestation.trust.roots import Roots
from attestation.x509.certificate import common_name, expires, has_signed, load_any
from attestation.x509.profile import AMD
from attestation.x509.walk import check_chain, load_chain

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
        """The Unix second at which the first certificate of the chain ends."""
        return expires((self.certificate, self.ask, self.ark))

    @property
    def signer_name(self) -> str:
        return "VLEK" if self.signer == VLEK else "VCEK"


def check_signature(
    report: SnpReport, certificates: tuple[bytes, ...], *, roots: Roots, now: int
) -> ChipKey:
    """The chip key that signed a report: its chain to a pinned ARK at `now` (Unix seconds), the
    report's signature, chip and reported TCB. Source: AMD 57230 (VCEK) and 56860.

    `certificates` are DER: chip key, ASK or ASVK, ARK. Raises NotAuthentic("cpu-signature").
    """
    chain = load_chain(certificates, AMD, length=3)
    check_chain(chain, AMD, pinned=roots.amd, now=now)
    leaf, ask, ark = chain
    family = _family(ark)
    key = ChipKey(family, _check_signer(report, leaf, ask, family), leaf, ask, ark)
    if not _signed(report, leaf):
        raise AMD.broken(
            "bad-signature",
            "SNP report: expected a signature by the chip key of the chain, got one that "
            "does not hold",
        )
    check_tcb_extensions(report, key)
    _check_chip(report, key)
    return key


def find_certificate(certificates: tuple[bytes, ...], subject: x509.Name) -> bytes | None:
    """The first of these DER certificates that has this subject."""
    named = ((der, load_any(der)) for der in certificates)
    return next((der for der, found in named if found and found.subject == subject), None)


def tcb_parts(tcb: bytes, family: str) -> dict[str, int]:
    """A TCB version's parts by name; 8 bytes, laid out as the family lays them out."""
    places = _TCB_BYTES_TURIN if family == "Turin" else _TCB_BYTES
    return {name: tcb[place] for name, place in places.items()}


def check_tcb_extensions(report: SnpReport, key: ChipKey) -> None:
    """The TCB that the chip key's certificate names is the report's reported TCB, from which the
    key is derived (AMD 57230). Raises NotAuthentic("cpu-signature", "tcb-mismatch")."""
    parts = tcb_parts(report.reported_tcb, key.family)
    for name, value in parts.items():
        named = _integer(_extension(key.certificate, f"{_ARC}.{_TCB_PARTS[name]}"), name)
        if named != value:
            text = (
                f"reported TCB, {name}: expected SVN {named} as the chip key names it, got {value}"
            )
            raise NotAuthentic(STEP, "tcb-mismatch", text)
    if any(
        report.reported_tcb[place]
        for place in range(8)
        if place not in (_TCB_BYTES_TURIN if key.family == "Turin" else _TCB_BYTES).values()
    ):
        raise NotAuthentic(
            STEP,
            "tcb-mismatch",
            "reported TCB: expected zero in its reserved bytes, got other values",
        )


def _family(ark: x509.Certificate) -> str:
    """The ARK signs its own name, from which the product family follows."""
    family = common_name(ark).rpartition("ARK-")[2]
    if family not in FAMILIES:
        expected = ", ".join(FAMILIES)
        raise AMD.broken(
            "unknown-family",
            f"root certificate: expected the ARK of {expected}, got {common_name(ark)!r}",
        )
    return family


def _check_signer(
    report: SnpReport, leaf: x509.Certificate, ask: x509.Certificate, family: str
) -> int:
    """The kind of key that the report names must be the kind that the chain is for."""
    kinds = {VCEK: ("SEV-VCEK", f"SEV-{family}"), VLEK: ("SEV-VLEK", f"SEV-VLEK-{family}")}
    expected = kinds.get(report.signer)
    if expected is None:
        raise AMD.broken(
            "unknown-signer",
            f"SNP report, key info: expected 0 (VCEK) or 1 (VLEK), got {report.signer}",
        )
    got = tuple(common_name(item).removeprefix("SIMULATED ") for item in (leaf, ask))
    if got != expected:
        raise AMD.broken(
            "wrong-signer",
            f"chip key: expected {' under '.join(expected)}, got {' under '.join(got)}",
        )
    return report.signer


def _signed(report: SnpReport, leaf: x509.Certificate) -> bool:
    return has_signed(leaf.public_key(), report.signature, report.signed_region)


def _check_chip(report: SnpReport, key: ChipKey) -> None:
    """A VCEK's certificate names its chip; a VLEK's names none, and its reports need not."""
    if report.cpuid is not None:
        cpu, (family, models) = report.cpuid, _CPUID[key.family]
        if cpu[0] != family or cpu[1] >> 4 not in models:
            raise AMD.broken(
                "family-mismatch",
                f"SNP report: expected a CPUID of {key.family} (family {family:#x}), got {cpu}",
            )
    if key.signer == VLEK:
        return
    if report.chip_key_masked:
        raise AMD.broken(
            "masked-chip",
            "SNP report, key info: expected a chip that is not masked, got MASK_CHIP_KEY set",
        )
    named = _unwrap(_extension(key.certificate, _HWID.dotted_string))
    if key.family == "Turin":
        named = named.ljust(len(report.chip_id), b"\0") if len(named) == 8 else named
    if not hmac.compare_digest(named, report.chip_id):
        raise AMD.broken(
            "chip-mismatch",
            f"SNP report: expected CHIP_ID {named.hex()} as the VCEK names it, got "
            f"{report.chip_id.hex()}",
        )


def hardware_id(certificate: x509.Certificate) -> bytes:
    """The chip that a VCEK's certificate names, as CHIP_ID has it: 64 bytes, of Turin 8 and zeros
    (AMD 57230). Empty where it names none."""
    try:
        found = certificate.extensions.get_extension_for_oid(_HWID).value
    except x509.ExtensionNotFound:
        return b""
    value = _unwrap(found.value) if isinstance(found, x509.UnrecognizedExtension) else b""
    return value.ljust(CHIP_ID_BYTES, b"\0") if value else b""


def _extension(certificate: x509.Certificate, oid: str) -> bytes:
    try:
        found = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(oid)).value
    except x509.ExtensionNotFound:
        raise AMD.broken(
            "bad-certificate", f"chip key: expected the extension {oid}, got none"
        ) from None
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
    raise AMD.broken(
        "bad-certificate",
        f"chip key, extension {what}: expected a DER INTEGER from 0 to 255, got other bytes",
    )
