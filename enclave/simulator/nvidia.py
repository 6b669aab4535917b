"""A simulated NVIDIA: device authority, a fleet of Hopper GPUs, their RIMs and OCSP answers.

Formats are NVIDIA's own; only the roots differ, and every name in the PKI starts with
SIMULATED. All GPUs run one firmware; each has a key of its own, derived from one secret.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from attestation.nvidia import ocsp as answers
from attestation.nvidia.firmware import LS10_BOARD
from attestation.nvidia.report import (
    DEVICE_PDI,
    SWITCH_GPU_PDIS,
    VBIOS,
)
from attestation.nvidia.topology import GPUS, SWITCHES
from attestation.x509.certificate import spki_digest
from enclave.simulator import pki, rim
from enclave.simulator.hopper import (
    BOARD,
    CHIP,
    DRIVER_INDICES,
    DRIVER_VERSION,
    FIRMWARE,
    MEASUREMENTS,
    OPAQUE,
    SWITCH_BIOS,
    SWITCH_MEASUREMENTS,
    VBIOS_INDICES,
    VBIOS_VERSION,
    gpu_pdi,
    published,
    switch_pdi,
    unsigned_report,
)

FLEET = 16
"""GPUs for which there is collateral before any VM has them."""

KEY_NAMES = (
    "root", "identity", "provisioner", "switches", "fleet", "rim-root", "rim-ca", "rim",
)  # fmt: skip
Signer = tuple[ec.EllipticCurvePrivateKey, tuple[x509.Certificate, ...]]


@dataclass(frozen=True)
class AnswerForm:
    """Of an OCSP answer: signed by the issuer or by a delegate, named by key or by name."""

    delegate: bool = False
    by_name: bool = False
    nonce: bool = False


ANSWER_FORMS = (AnswerForm(), AnswerForm(by_name=True, nonce=True), AnswerForm(delegate=True))
OCSP_LIFE = timedelta(days=60)
"""Longer than Intel's collateral lives, so that a drill can let one expire alone."""
_FWID_OID = x509.ObjectIdentifier("2.23.133.5.4.1")
_P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)


class SimulatedNvidia:
    """The vendor and its GPUs; keys live in `state_dir`.

    `now` is Unix seconds and must lie in the PKI's life. `label` begins every name.
    """

    def __init__(self, state_dir: Path, now: int, *, label: str = "SIMULATED") -> None:
        pki.check_reach(now)
        names = (
            "root",
            "identity",
            "provisioner",
            "fleet",
            "switches",
            "rim-root",
            "rim-ca",
            "rim",
        )
        self.keys = {
            name: pki.load_or_make_key(state_dir, f"nvidia-{name}", ec.SECP384R1())
            for name in names
        }
        self._label = f"{label} NVIDIA"
        certify, top, leaf = self._certify, pki.NVIDIA_ROOT, pki.NVIDIA_SIGNER
        root = certify("Device Identity CA", "root", "root", None, top)
        identity = certify(f"{CHIP} Identity", "identity", "root", root)
        provisioner = certify(f"{CHIP} Provisioner ICA 1", "provisioner", "identity", identity)
        self._issuers = (provisioner, identity, root)
        switches = certify("LS_10 Provisioner ICA 1", "switches", "identity", identity)
        self._switch_issuers = (switches, identity, root)
        rim_root = certify("Reference Value Root", "rim-root", "rim-root", None, top)
        rim_ca = certify("Reference Value CA", "rim-ca", "rim-root", rim_root)
        signer = certify("Reference Value Signing", "rim", "rim-ca", rim_ca, leaf)
        self.rim_chain = (signer, rim_ca, rim_root)
        self.gpu = lru_cache(self._gpu)
        self.switch = lru_cache(self._switch)
        self._collateral = lru_cache(maxsize=2)(self._make_collateral)

    @property
    def root_spki(self) -> bytes:
        """SHA-256 of the device root's SubjectPublicKeyInfo."""
        return spki_digest(self._issuers[-1])

    @property
    def rim_root_spki(self) -> bytes:
        """SHA-256 of the RIM root's SubjectPublicKeyInfo."""
        return spki_digest(self.rim_chain[-1])

    def report(
        self,
        index: int,
        nonce: bytes,
        *,
        measurements: Sequence[bytes] = MEASUREMENTS,
        opaque: Mapping[int, bytes] = OPAQUE,
    ) -> tuple[bytes, tuple[bytes, ...]]:
        """What GPU `index` answers to a nonce of 32 bytes, and its chain as DER, leaf first.

        Another content than a GPU would measure is signed all the same, for drills.
        """
        key, chain = self.gpu(index)
        unsigned = unsigned_report(nonce, measurements, opaque)
        return unsigned + pki.sign_raw(key, unsigned), tuple(pki.der(item) for item in chain)

    def switch_report(
        self, index: int, nonce: bytes, *, gpus: int = GPUS
    ) -> tuple[bytes, tuple[bytes, ...]]:
        """What NVSwitch `index` answers in a protected-PCIe set with the first `gpus` GPUs."""
        key, chain = self.switch(index)
        seen = b"".join(gpu_pdi(number) for number in range(gpus)).ljust(128, b"\xff")
        opaque = {
            VBIOS: SWITCH_BIOS.encode(),
            DEVICE_PDI: switch_pdi(index),
            SWITCH_GPU_PDIS: seen,
        }
        unsigned = unsigned_report(nonce, SWITCH_MEASUREMENTS, opaque)
        return unsigned + pki.sign_raw(key, unsigned), tuple(pki.der(item) for item in chain)

    def collateral(self, now: int, gpus: int = 0) -> dict[str, bytes]:
        """RIMs, and OCSP answers for the first max(`gpus`, FLEET) GPUs, by part name."""
        day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return dict(self._collateral(day, max(gpus, FLEET)))

    def rim(self, version: str, golden: Mapping[int, Sequence[bytes]]) -> bytes:
        return rim.make(CHIP, version, golden, key=self.keys["rim"], chain=self.rim_chain)

    def ocsp_answer(
        self,
        certificate: x509.Certificate,
        issuer: x509.Certificate,
        *,
        at: datetime,
        status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
        reason: x509.ReasonFlags | None = None,
        form: AnswerForm = AnswerForm(),
    ) -> bytes:
        """A DER answer, valid from `at` for OCSP_LIFE."""
        revoked = at if status is ocsp.OCSPCertStatus.REVOKED else None
        builder = ocsp.OCSPResponseBuilder().add_response(
            certificate, issuer, hashes.SHA384(), status, at, at + OCSP_LIFE, revoked, reason
        )
        key, signer = self._key_of(issuer), issuer
        if form.delegate:
            key, signer = self._responder(issuer)
            builder = builder.certificates([signer])
        if form.nonce:
            builder = builder.add_extension(x509.OCSPNonce(at.isoformat().encode()), False)
        named = ocsp.OCSPResponderEncoding
        builder = builder.responder_id(named.NAME if form.by_name else named.HASH, signer)
        return builder.sign(key, hashes.SHA384()).public_bytes(Encoding.DER)

    def _make_collateral(self, day: datetime, gpus: int) -> dict[str, bytes]:
        bios = SWITCH_BIOS.replace(".", "")
        parts = {
            f"nvidia/rim/NV_SWITCH_BIOS_{LS10_BOARD}_{bios}": rim.make(
                "LS10",
                SWITCH_BIOS,
                {index: (digest,) for index, digest in enumerate(SWITCH_MEASUREMENTS)},
                key=self.keys["rim"],
                chain=self.rim_chain,
            ),
            f"nvidia/rim/NV_GPU_DRIVER_{CHIP}_{DRIVER_VERSION}": self.rim(
                DRIVER_VERSION, published(DRIVER_INDICES)
            ),
            f"nvidia/rim/NV_GPU_VBIOS_{'_'.join(BOARD)}_{VBIOS_VERSION.replace('.', '')}": self.rim(
                VBIOS_VERSION, published(VBIOS_INDICES)
            ),
        }
        provisioner, identity, root = self._issuers
        pairs = [(identity, root), (provisioner, identity)]
        signer, rim_ca, rim_root = self.rim_chain
        pairs += [(rim_ca, rim_root), (signer, rim_ca)]
        pairs += [(self.gpu(index)[1][1], provisioner) for index in range(gpus)]
        switches = self._switch_issuers[0]
        pairs += [(switches, identity)]
        pairs += [(self.switch(index)[1][1], switches) for index in range(SWITCHES)]
        for number, (certificate, issuer) in enumerate(pairs):
            form = ANSWER_FORMS[number % len(ANSWER_FORMS)]
            answer = self.ocsp_answer(certificate, issuer, at=day, form=form)
            parts[answers.part_name(certificate)] = answer
        return parts

    def _responder(
        self, issuer: x509.Certificate
    ) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        """A key that this issuer named to answer for it, and the certificate that says so."""
        key = self._derive(f"responder/{spki_digest(issuer).hex()}")
        certificate = pki.certify(
            f"{self._label} OCSP Responder",
            key.public_key(),
            issuer=issuer,
            signer=self._key_of(issuer),
            extensions=[
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]),
                x509.OCSPNoCheck(),
            ],
            form=pki.NVIDIA_SIGNER,
        )
        return key, certificate

    def _gpu(self, index: int) -> Signer:
        names = (f"{CHIP} A01 GSP BROM {index}", f"{CHIP} A01 GSP FMC LF {index}")
        return self._device(f"{index}", gpu_pdi(index), names, "provisioner", self._issuers)

    def _switch(self, index: int) -> Signer:
        names = (f"LS_10 A01 FSP BROM {index}", f"LS_10 A01 FSP FMC LF {index}")
        pdi = switch_pdi(index)
        return self._device(f"switch {index}", pdi, names, "switches", self._switch_issuers)

    def _device(
        self,
        label: str,
        pdi: bytes,
        names: tuple[str, str],
        provisioner: str,
        issuers: tuple[x509.Certificate, ...],
    ) -> Signer:
        """The key that signs a device's reports, and its chain, leaf first."""
        device, leaf = (self._derive(f"{label}/{role}") for role in ("device", "leaf"))
        identity = pki.certify(
            f"{self._label} {names[0]}",
            device.public_key(),
            issuer=issuers[0],
            signer=self.keys[provisioner],
            path_length=0,
            device="41" + pdi.hex().upper(),
            not_after=pki.FOREVER,
            form=pki.NVIDIA_DEVICE,
        )
        certificate = pki.certify(
            f"{self._label} {names[1]}",
            leaf.public_key(),
            issuer=identity,
            signer=device,
            extensions=[
                x509.SubjectAlternativeName([x509.DNSName(f"{pdi.hex()}.simulated.invalid")]),
                x509.UnrecognizedExtension(_FWID_OID, _fwid(leaf.public_key())),
            ],
            not_after=pki.FOREVER,
            form=pki.NVIDIA_LEAF,
        )
        return leaf, (certificate, identity, *issuers)

    def _derive(self, label: str) -> ec.EllipticCurvePrivateKey:
        fleet = self.keys["fleet"].private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        wide = hashlib.shake_256(fleet + label.encode()).digest(64)
        scalar = int.from_bytes(wide, "big") % (_P384_ORDER - 1) + 1
        return ec.derive_private_key(scalar, ec.SECP384R1())

    def _certify(
        self,
        name: str,
        key: str,
        signer: str,
        issuer: x509.Certificate | None,
        form: pki.Form = pki.NVIDIA_CA,
    ) -> x509.Certificate:
        return pki.certify(
            f"{self._label} {name}",
            self.keys[key].public_key(),
            issuer=issuer,
            signer=self.keys[signer],
            path_length=None if form is pki.NVIDIA_SIGNER else 0,
            form=form,
        )

    def _key_of(self, certificate: x509.Certificate) -> ec.EllipticCurvePrivateKey:
        wanted = spki_digest(certificate)
        return next(key for key in self.keys.values() if _spki(key) == wanted)


def _fwid(key: ec.EllipticCurvePublicKey) -> bytes:
    """TCG DICE: SEQUENCE {1, SubjectPublicKeyInfo, SEQUENCE {sha384, digest}}."""
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    algorithm = bytes.fromhex("0609608648016503040202")
    firmware = b"\x30" + bytes([len(algorithm) + 50]) + algorithm + b"\x04\x30" + FIRMWARE
    content = b"\x02\x01\x01" + spki + firmware
    return b"\x30\x81" + bytes([len(content)]) + content


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(public).digest()
