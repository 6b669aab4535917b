"""Revocation of GPU certificates: OCSP answers, good, bad and forged, by name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import NotAuthentic, Refused, UmayError
from attestation.formats.collateral import Collateral
from attestation.nvidia import Firmware, check_measurements, check_revocation
from attestation.nvidia import ocsp as answers
from attestation.platforms.tdx.pck import read_tlv
from enclave.simulator.intel import _tlv
from tests.helpers.nvidia_machine import (
    DAY,
    NOW,
    TODAY,
    chain,
    checked,
    collateral,
    fresh_key,
    issue,
    public,
    refuses,
    roots,
    vendor,
)

DEVICE, PROVISIONER, IDENTITY = 1, 2, 3
GOOD_STATUS = ocsp.OCSPCertStatus.GOOD


def certificates(position: int = DEVICE) -> tuple[x509.Certificate, x509.Certificate]:
    return chain()[position], chain()[position + 1]


def answer(
    *,
    about: x509.Certificate | None = None,
    issuer: x509.Certificate | None = None,
    status: ocsp.OCSPCertStatus = GOOD_STATUS,
    reason: x509.ReasonFlags | None = None,
    start: datetime = TODAY - DAY,
    end: datetime | None = TODAY + DAY,
    signer: ec.EllipticCurvePrivateKey | None = None,
    algorithm: hashes.HashAlgorithm | None = None,
    named: hashes.HashAlgorithm | None = None,
    enclosed: tuple[x509.Certificate, ...] = (),
    critical: bool = False,
) -> bytes:
    certificate, usual = certificates()
    issuer = issuer or usual
    revoked = start if status is ocsp.OCSPCertStatus.REVOKED else None
    builder = ocsp.OCSPResponseBuilder().add_response(
        about or certificate, issuer, named or hashes.SHA384(), status, start, end, revoked, reason
    )
    key = signer or vendor().keys["provisioner"]
    named_after_key = issue("responder", key.public_key(), issuer=None, signer=key)
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, named_after_key)
    if enclosed:
        builder = builder.certificates(enclosed)
    if critical:
        builder = builder.add_extension(x509.OCSPNonce(b"nonce" * 4), critical=True)
    return builder.sign(key, algorithm or hashes.SHA384()).public_bytes(Encoding.DER)


def revocation(data: bytes | None, position: int = DEVICE, now: int = NOW) -> int:
    certificate, _ = certificates(position)
    part = answers.part_name(certificate)
    return check_revocation(checked(), firmware(), collateral(**{part: data}), now=now)


def firmware() -> Firmware:
    return check_measurements(checked(), collateral(), roots=roots(), now=NOW)


@pytest.mark.parametrize("position", [0, 1], ids=["signer", "authority"])
def test_signers_of_rims_are_asked_about_too(position: int) -> None:
    certificate, issuer = vendor().rim_chain[position : position + 2]
    revoked = vendor().ocsp_answer(
        certificate, issuer, at=TODAY - DAY, status=ocsp.OCSPCertStatus.REVOKED
    )
    for data, code, kind in ((None, "revocation-unknown", Refused), (revoked, "revoked", None)):
        part = {answers.part_name(certificate): data}
        with refuses(code, kind or NotAuthentic):
            check_revocation(checked(), firmware(), collateral(**part), now=NOW)


def responder(**changes: object) -> x509.Certificate:
    """A delegated responder of the provisioner."""
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])
    options = {
        "issuer": chain()[2],
        "signer": vendor().keys["provisioner"],
        "extensions": [(usage, True)],
    }
    return issue("SIMULATED NVIDIA OCSP", public(), **(options | changes))


def delegated(certificate: x509.Certificate, **options: object) -> bytes:
    return answer(enclosed=(certificate,), **({"signer": fresh_key()} | options))


def _in_ed25519() -> bytes:
    certificate, issuer = certificates()
    builder = ocsp.OCSPResponseBuilder().add_response(
        certificate, issuer, hashes.SHA384(), GOOD_STATUS, TODAY, TODAY + DAY, None, None
    )
    key = ed25519.Ed25519PrivateKey.generate()
    named = issue("responder", key.public_key(), issuer=None, signer=fresh_key())
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, named)
    signed = builder.sign(key, None)
    return signed.public_bytes(Encoding.DER)


def _unsuccessful() -> bytes:
    status = ocsp.OCSPResponseStatus.TRY_LATER
    return ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)


HOLD = x509.ReasonFlags.certificate_hold
SERVER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
REVOKED, UNKNOWN = ocsp.OCSPCertStatus.REVOKED, ocsp.OCSPCertStatus.UNKNOWN
COMPROMISE = x509.ReasonFlags.key_compromise

ANSWERS: dict[str, tuple[str, Callable[[], bytes | None]]] = {
    "none-in-the-collateral": ("revocation-unknown", lambda: None),
    "revoked": ("revoked", lambda: answer(status=REVOKED, reason=COMPROMISE)),
    "revoked-without-reason": ("revoked", lambda: answer(status=REVOKED)),
    "revoked-and-expired": (
        "revoked",
        lambda: answer(status=REVOKED, start=TODAY - 9 * DAY, end=TODAY - DAY),
    ),
    "on-hold": ("certificate-hold", lambda: answer(status=REVOKED, reason=HOLD)),
    "unknown": ("revocation-unknown", lambda: answer(status=UNKNOWN)),
    "expired": ("ocsp-expired", lambda: answer(start=TODAY - 9 * DAY, end=TODAY - DAY)),
    "expired-a-second-ago": ("ocsp-expired", lambda: answer(end=TODAY - timedelta(seconds=1))),
    "of-no-end": ("ocsp-expired", lambda: answer(end=None)),
    "from-the-future": ("ocsp-not-yet-valid", lambda: answer(start=TODAY + timedelta(seconds=301))),
    "about-another-device": ("ocsp-other", lambda: answer(about=chain(1)[1])),
    "about-the-same-serial-elsewhere": (
        "ocsp-other",
        lambda: answer(issuer=chain()[3], signer=vendor().keys["provisioner"]),
    ),
    "signed-by-a-stranger": ("ocsp-signature", lambda: answer(signer=fresh_key())),
    "signed-by-the-device-itself": (
        "ocsp-signature",
        lambda: answer(signer=vendor()._derive("0/device")),
    ),
    "signed-by-the-issuers-issuer": (
        "ocsp-signature",
        lambda: answer(signer=vendor().keys["identity"]),
    ),
    "signed-in-ed25519": (
        "ocsp-signature",
        _in_ed25519,
    ),
    "delegate-without-ocsp-signing": (
        "ocsp-key-usage",
        lambda: delegated(responder(extensions=[(SERVER, False)])),
    ),
    "delegate-without-any-usage": ("ocsp-key-usage", lambda: delegated(responder(extensions=[]))),
    "delegate-expired": ("ocsp-responder-expired", lambda: delegated(responder(end=TODAY - DAY))),
    "delegate-not-yet-valid": (
        "ocsp-responder-not-yet-valid",
        lambda: delegated(responder(start=TODAY + DAY)),
    ),
    "delegate-of-another-issuer": (
        "ocsp-chain-order",
        lambda: delegated(responder(issuer=chain()[3], signer=vendor().keys["identity"])),
    ),
    "delegate-who-named-itself": ("ocsp-chain-signature", lambda: delegated(responder(
        signer=fresh_key()))),
    "delegate-signed-with-unknown-critical": (
        "ocsp-unknown-extension",
        lambda: delegated(
            responder(
                extensions=[
                    (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), True),
                    (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True),
                ]
            )
        ),
    ),
    "delegate-named-but-another-signed": (
        "ocsp-signature",
        lambda: delegated(responder(), signer=fresh_key(number=1)),
    ),
    "leaf-as-delegate": (
        "ocsp-key-usage",
        lambda: answer(enclosed=(chain()[0],), signer=vendor()._derive("0/leaf")),
    ),
    "critical-extension": ("ocsp-malformed", lambda: answer(critical=True)),
    "unsuccessful": ("revocation-unknown", _unsuccessful),
    "empty": ("ocsp-malformed", lambda: b""),
    "garbage": ("ocsp-malformed", lambda: b"\x30\x03\x0a\x01\x00garbage"),
    "status-alone": ("ocsp-malformed", lambda: b"\x30\x03\x0a\x01\x00"),
    "trailing-byte": ("ocsp-malformed", lambda: answer() + b"\0"),
    "truncated": ("ocsp-malformed", lambda: answer()[:-1]),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_bad_ocsp_answer_is_refused(name: str) -> None:
    code, make = ANSWERS[name]
    with refuses(code):
        revocation(make())


@pytest.mark.parametrize("position", [DEVICE, PROVISIONER, IDENTITY])
def test_every_certificate_below_the_root_needs_an_answer(position: int) -> None:
    with refuses("revocation-unknown", Refused):
        revocation(None, position)


@pytest.mark.parametrize("position", [DEVICE, PROVISIONER, IDENTITY])
def test_any_revoked_certificate_refuses(position: int) -> None:
    about, issuer = certificates(position)
    key = vendor().keys[("provisioner", "identity", "root")[position - 1]]
    with refuses("revoked", NotAuthentic):
        revocation(answer(about=about, issuer=issuer, status=REVOKED, signer=key), position)


@pytest.mark.parametrize(
    "make",
    [
        answer,
        lambda: answer(named=hashes.SHA1()),
        lambda: answer(named=hashes.SHA256()),
        lambda: answer(algorithm=hashes.SHA256()),
        lambda: answer(start=TODAY + timedelta(seconds=300)),
        lambda: delegated(responder()),
        lambda: delegated(responder(extensions=[
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), True),
            (x509.OCSPNoCheck(), False),
        ])),
        lambda: answer(enclosed=(chain()[2],)),
    ],
    ids=[
        "plain", "named-by-sha-1", "named-by-sha-256", "signed-with-sha-256", "a-little-early",
        "delegate", "delegate-with-no-check", "issuer-enclosed",
    ],
)  # fmt: skip
def test_good_answer_is_accepted(make: Callable[[], bytes]) -> None:
    assert revocation(make()) == int((TODAY + DAY).timestamp())


def test_first_answer_to_expire_counts() -> None:
    soon = answer(end=TODAY + timedelta(hours=1))
    assert revocation(soon) == NOW + 3600


def test_answer_that_speaks_twice_of_a_certificate() -> None:
    """Good and revoked in one signed answer: the library builds no such, so take two."""

    class Twice:
        def __init__(self, response: ocsp.OCSPResponse) -> None:
            self.responses = [*response.responses, *response.responses]

    response = ocsp.load_der_ocsp_response(answer())
    with refuses("ocsp-other", NotAuthentic):
        answers._single(Twice(response), *certificates())


def signed_again(change: Callable[[bytes], bytes]) -> bytes:
    """The usual answer with its list of single answers changed: the library builds only lists of
    one, without extensions (RFC 6960 §4.2.1)."""
    who, when, listed, *rest = _elements(ocsp.load_der_ocsp_response(answer()).tbs_response_bytes)
    (single,) = _elements(listed)
    tbs = _tlv(0x30, who, when, _tlv(0x30, change(single)), *rest)
    signature = vendor().keys["provisioner"].sign(tbs, ec.ECDSA(hashes.SHA384()))
    algorithm = bytes.fromhex("300a06082a8648ce3d040303")
    basic = _tlv(0x30, tbs, algorithm, _tlv(0x03, b"\0", signature))
    typed = _tlv(0x30, bytes.fromhex("06092b0601050507300101"), _tlv(0x04, basic))
    return _tlv(0x30, b"\x0a\x01\x00", _tlv(0xA0, typed))


def _elements(der: bytes) -> list[bytes]:
    _, inside, _ = read_tlv(der)
    found = []
    while inside:
        _, _, rest = read_tlv(inside)
        found.append(inside[: len(inside) - len(rest)])
        inside = rest
    return found


def _about_another() -> bytes:
    other = ocsp.load_der_ocsp_response(answer(about=chain(1)[1]))
    (single,) = _elements(_elements(other.tbs_response_bytes)[2])
    return single


def _extended(single: bytes, critical: bytes) -> bytes:
    extension = _tlv(0x30, bytes.fromhex("06032a0304"), critical, _tlv(0x04, b"\5\0"))
    return _tlv(0x30, *_elements(single), _tlv(0xA1, _tlv(0x30, extension)))


def test_answer_that_speaks_of_another_certificate_too() -> None:
    ends = int((TODAY + DAY).timestamp())
    assert revocation(signed_again(lambda single: single)) == ends
    assert revocation(signed_again(lambda single: single + _about_another())) == ends
    with refuses("ocsp-other", NotAuthentic):
        revocation(signed_again(lambda single: single * 2))
    with refuses("ocsp-other", NotAuthentic):
        revocation(signed_again(lambda _: _about_another()))


def test_critical_extension_of_a_single_answer() -> None:
    revocation(signed_again(lambda single: _extended(single, b"")))
    with refuses("ocsp-malformed", NotAuthentic):
        revocation(signed_again(lambda single: _extended(single, b"\1\1\xff")))


def test_answer_that_encloses_a_certificate_which_cannot_be_read() -> None:
    """One that nobody needs, and that no signature covers."""
    spare = issue("SIMULATED SPARE", public(), issuer=chain()[2], signer=fresh_key())
    data = answer(signer=fresh_key(), enclosed=(responder(), spare))
    assert revocation(data) == int((TODAY + DAY).timestamp())
    with refuses("ocsp-malformed", NotAuthentic):
        revocation(data.replace(b"SPARE", b"SP\xffRE"))


def test_answer_filed_under_another_certificate() -> None:
    parts = dict(collateral().parts)
    mine, other = (answers.part_name(chain(index)[1]) for index in (0, 1))
    parts[mine] = parts[other]
    with refuses("ocsp-other", NotAuthentic):
        check_revocation(checked(), firmware(), Collateral(parts), now=NOW)


@given(st.binary(max_size=200))
def test_arbitrary_answer_raises_only_our_errors(data: bytes) -> None:
    for given_bytes in (data, b"\x30\x82\x01\x00\x0a\x01\x00" + data):
        with pytest.raises(UmayError):
            revocation(given_bytes)


GOOD_ANSWER = delegated(responder())


@given(st.integers(0, len(GOOD_ANSWER) - 1), st.integers(1, 255))
def test_changed_byte_of_an_answer_never_says_more(at: int, change: int) -> None:
    data = GOOD_ANSWER[:at] + bytes([GOOD_ANSWER[at] ^ change]) + GOOD_ANSWER[at + 1 :]
    try:
        expires = revocation(data)
    except UmayError:
        return
    assert expires == int((TODAY + DAY).timestamp())
