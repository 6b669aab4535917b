"""A simulated NVIDIA for the GPU tests: one PKI for all of them, made once per run."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.errors import VerificationError
from attestation.formats.collateral import Collateral
from attestation.formats.evidence import GPU, SWITCH, Device
from attestation.nvidia import CheckedDevice, check_device
from attestation.nvidia.topology import GPUS
from attestation.trust.roots import Roots
from enclave.simulator import pki
from enclave.simulator.hopper import MEASUREMENTS, OPAQUE
from enclave.simulator.hopper import unsigned_report as report_of
from enclave.simulator.nvidia import SimulatedNvidia, _fwid

NOW = 1_795_000_000
TODAY = datetime.fromtimestamp(NOW, UTC)
DAY = timedelta(days=1)
NONCE = bytes(range(32))
FWID_OID = x509.ObjectIdentifier("2.23.133.5.4.1")
Chain = tuple[x509.Certificate, ...]


@functools.cache
def vendor(label: str = "SIMULATED") -> SimulatedNvidia:
    return SimulatedNvidia(Path(tempfile.mkdtemp()), NOW, label=label)


def fresh_key(
    curve: type[ec.EllipticCurve] = ec.SECP384R1, number: int = 0
) -> ec.EllipticCurvePrivateKey:
    """A key of nobody's; the same at each call, and another for each number."""
    return _fresh_key(curve, number)


@functools.cache
def _fresh_key(curve: type[ec.EllipticCurve], number: int) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve())


def roots() -> Roots:
    nvidia = vendor()
    return Roots(
        intel=frozenset(),
        amd=frozenset(),
        nvidia_device=frozenset({nvidia.root_spki}),
        nvidia_rim=frozenset({nvidia.rim_root_spki}),
        simulated=True,
    )


def collateral(**changes: bytes | None) -> Collateral:
    """The vendor's own; a part named in `changes` (by the end of its name) is replaced."""
    parts = vendor().collateral(NOW)
    for end, data in changes.items():
        name = next(name for name in parts if end in name)
        parts = {**parts, name: data} if data is not None else {**parts, name: b""}
        if data is None:
            del parts[name]
    return Collateral(parts)


def device(
    index: int = 0,
    *,
    nvidia: SimulatedNvidia | None = None,
    nonce: bytes = NONCE,
    measurements: Sequence[bytes] = MEASUREMENTS,
    opaque: Mapping[int, bytes] = OPAQUE,
    kind: int = GPU,
) -> Device:
    made = (nvidia or vendor()).report(index, nonce, measurements=measurements, opaque=opaque)
    return Device(kind, *made)


def opaque(**changes: bytes | None) -> dict[int, bytes]:
    """The usual fields; a field named in `changes` ("f20") is replaced or left out."""
    fields = {**OPAQUE, **{int(name[1:]): data for name, data in changes.items()}}
    return {kind: data for kind, data in fields.items() if data is not None}


def switch(index: int, gpus: int = GPUS) -> Device:
    return Device(SWITCH, *vendor().switch_report(index, NONCE, gpus=gpus))


def checked(given: Device | None = None, **options: object) -> CheckedDevice:
    settings = {"nonce": NONCE, "roots": roots(), "now": NOW} | options
    return check_device(given or device(), **settings)


def chain(index: int = 0) -> Chain:
    return vendor().gpu(index)[1]


def with_chain(certificates: Sequence[x509.Certificate], index: int = 0) -> Device:
    """GPU `index`'s own report under another chain."""
    return Device(GPU, device(index).report, tuple(pki.der(item) for item in certificates))


def issue(
    subject: str | x509.Name,
    public: ec.EllipticCurvePublicKey,
    *,
    issuer: x509.Certificate | None,
    signer: ec.EllipticCurvePrivateKey,
    path_length: int | None = None,
    authority: bool | None = None,
    usage: bool | None = None,
    constraints: bool = True,
    start: datetime = pki.NOT_BEFORE,
    end: datetime = pki.NOT_AFTER,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    algorithm: hashes.HashAlgorithm | None = None,
) -> x509.Certificate:
    """A certificate of the simulated PKI in which anything may be wrong."""
    is_ca = path_length is not None if authority is None else authority
    named = pki.name(subject) if isinstance(subject, str) else subject
    builder = (
        x509.CertificateBuilder()
        .issuer_name(named if issuer is None else issuer.subject)
        .subject_name(named)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(pki.key_usage(is_ca if usage is None else usage), critical=True)
    )
    if constraints:
        builder = builder.add_extension(x509.BasicConstraints(is_ca, path_length), critical=True)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signer, algorithm or pki.hash_of(signer))


def rebuilt(position: int, index: int = 0, **changes: object) -> Device:
    """GPU `index` with the certificate at `position` (0 leaf … 4 root) made anew.

    Everything below it is genuine and still fits: names and keys stay as they were.
    """
    nvidia, old = vendor(), chain(index)
    keys = nvidia.keys
    signers = (
        nvidia._derive(f"{index}/device"),
        keys["provisioner"],
        keys["identity"],
        keys["root"],
        keys["root"],
    )
    options: dict[str, object] = {
        "subject": old[position].subject,
        "public": old[position].public_key(),
        "issuer": old[position + 1] if position < 4 else None,
        "signer": signers[position],
        "path_length": (None, 0, 1, 2, 3)[position],
        "extensions": [(fwid(old[0]), False)] if position == 0 else [],
    }
    new = issue(**{**options, **changes})
    return with_chain((*old[:position], new, *old[position + 1 :]), index)


def public(curve: type[ec.EllipticCurve] = ec.SECP384R1) -> ec.EllipticCurvePublicKey:
    """The public half of `fresh_key`."""
    return fresh_key(curve).public_key()


def fwid(leaf: x509.Certificate) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(FWID_OID, _fwid(leaf.public_key()))


def common_name(certificate: x509.Certificate) -> str:
    (attribute,) = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(attribute.value)


def unsigned_report(**options: object) -> bytes:
    settings = {"nonce": NONCE, "measurements": MEASUREMENTS, "opaque": OPAQUE} | options
    return report_of(**settings)


def refuses(code: str, kind: type = VerificationError, step: str = "gpu"):
    """pytest.raises for a verification error with exactly this step and code."""
    return pytest.raises(kind, check=lambda error: (error.step, error.code) == (step, code))
