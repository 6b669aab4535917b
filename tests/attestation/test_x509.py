"""One walker, a profile per vendor: every check by name, for every profile."""

from __future__ import annotations

import re
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import NotAuthentic, ParseError, Refused, VerificationError
from attestation.x509 import profile as profiles
from attestation.x509.certificate import (
    common_name,
    has_signed,
    key_kind,
    load_any,
    load_certificate,
)
from attestation.x509.profile import Profile
from attestation.x509.walk import check_chain, load_chain
from enclave.simulator import pki
from tests.helpers import certificates as make
from tests.helpers.certificates import NOW, RESPONDER, TODAY, build, changed, good, unknown, walk

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
PROFILES: dict[str, Profile] = {
    "Intel PCK or TCB signing": profiles.INTEL,
    "Intel CRL issuer": profiles.INTEL_CRL,
    "AMD VCEK or VLEK": profiles.AMD,
    "AMD CRL issuer": profiles.AMD_CRL,
    "NVIDIA device": profiles.NVIDIA,
    "NVIDIA RIM signer": profiles.NVIDIA_RIM,
    "NVIDIA OCSP responder": profiles.NVIDIA_OCSP,
}
FIRST, MIDDLE, ROOT = 0, 1, -1
ROOT_DIR = Path(profiles.__file__).parent
NAMES = x509.NameConstraints(None, [x509.DirectoryName(pki.name("any"))])
SERVER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
NOT_CERTIFY = ("digital_signature", "crl_sign")

EVERYWHERE: dict[str, tuple[str, dict[str, Any]]] = {
    "unknown critical extension": ("unknown-extension", {"extensions": [unknown()]}),
    "name constraints": ("unknown-extension", {"extensions": [(NAMES, True)]}),
    "expired": ("expired", {"end": TODAY - SECOND}),
    "not yet valid": ("not-yet-valid", {"start": TODAY + SECOND}),
    "not yet valid for years": ("not-yet-valid", {"start": TODAY + 300 * DAY}),
    "another issuer's name": ("chain-order", {"issuer": "somebody else"}),
    "signed by another key": ("chain-signature", {"signer": 77}),
}
"""Wrong wherever it stands in a chain. The codes of dates get the profile's own beginning."""
ABOVE: dict[str, tuple[str, dict[str, Any]]] = {
    "CA flag missing": ("not-a-ca", {"ca": False}),
    "basic constraints missing": ("not-a-ca", {"ca": None}),
    "may not certify": ("key-usage", {"usage": NOT_CERTIFY}),
    "key usage missing": ("key-usage", {"usage": None}),
    "an authority that is a responder": ("key-usage", {"extensions": [(RESPONDER, False)]}),
    "critical extended key usage": ("unknown-extension", {"extensions": [(SERVER, True)]}),
}


def code_of(profile: Profile, word: str) -> str:
    if word in ("expired", "not-yet-valid"):
        return f"{profile.dated}-{word}"
    return profile.prefix + word


def refuses(profile: Profile, word: str) -> Any:
    """pytest.raises for this profile's step, and code, and kind of error."""
    dates = word in ("expired", "not-yet-valid")
    kind = profile.outdated if dates else NotAuthentic
    expected = (profile.step, code_of(profile, word), kind)
    return pytest.raises(
        VerificationError, check=lambda error: (error.step, error.code, type(error)) == expected
    )


def places(profile: Profile) -> tuple[int, ...]:
    """Where a chain of this profile is checked: of a responder's, the first alone."""
    return (FIRST,) if profile.first.responder else (FIRST, MIDDLE, ROOT)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
@pytest.mark.parametrize("length", [2, 3, 4])
def test_a_good_chain_passes(profile: Profile, length: int) -> None:
    chain = build(good(profile, length))
    pinned = {make.spki_digest(chain[-1])}
    if profile.first.responder:
        walk(profile, chain)
    else:
        check_chain(chain, profile, pinned=pinned, now=NOW)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
@pytest.mark.parametrize("name", EVERYWHERE)
def test_what_no_certificate_may_be(profile: Profile, name: str) -> None:
    word, changes = EVERYWHERE[name]
    for place in places(profile):
        extensions = [*good(profile)[place].extensions, *changes.get("extensions", ())]
        with refuses(profile, word):
            walk(profile, changed(profile, place, **{**changes, "extensions": extensions}))


@pytest.mark.parametrize(
    "profile", [item for item in PROFILES.values() if not item.first.responder],
    ids=[name for name, item in PROFILES.items() if not item.first.responder],
)  # fmt: skip
@pytest.mark.parametrize("name", ABOVE)
def test_what_no_authority_may_be(profile: Profile, name: str) -> None:
    word, changes = ABOVE[name]
    for place in (MIDDLE, ROOT):
        with refuses(profile, word):
            walk(profile, changed(profile, place, **changes))


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_a_first_certificate_of_the_wrong_role(profile: Profile) -> None:
    role = profile.first
    kept = list(good(profile)[0].extensions)
    with refuses(profile, "not-a-ca"):
        walk(profile, changed(profile, FIRST, ca=not role.authority))
    with refuses(profile, "key-usage"):  # a right that it has no use for, without the one it needs
        other = "key_cert_sign" if role.signs == "crl_sign" else "key_agreement"
        walk(profile, changed(profile, FIRST, usage=(other,)))
    with refuses(profile, "key-usage"):
        extensions = [] if role.responder else [(RESPONDER, False)]
        walk(profile, changed(profile, FIRST, extensions=extensions))
    for extension, value in ((profiles.CONSTRAINTS, "ca"), (profiles.USAGE, "usage")):
        chain = changed(profile, FIRST, extensions=kept, **{value: None})
        if extension in role.must_have:
            with refuses(profile, "not-a-ca" if value == "ca" else "key-usage"):
                walk(profile, chain)
        else:
            walk(profile, chain)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_a_wrong_signature_algorithm(profile: Profile) -> None:
    wrong = {
        profiles.INTEL: "ECDSA with SHA-384",
        profiles.INTEL_CRL: "ECDSA with SHA-512",
        profiles.AMD: "RSA with SHA-384",
        profiles.AMD_CRL: "RSA-PSS with SHA-256",
        profiles.NVIDIA: "ECDSA with SHA-256",
        profiles.NVIDIA_RIM: "ECDSA with SHA-512",
    }.get(profile)
    for place in places(profile):
        if wrong is not None:
            with refuses(profile, "wrong-algorithm"):
                walk(profile, changed(profile, place, algorithm=wrong))
    if wrong is None:  # responders may use any SHA-2 with ECDSA; an RSA authority's does not pass
        chain = good(profile)
        chain[1] = make.replace(chain[1], kind="RSA 2048")
        chain[0] = make.replace(chain[0], algorithm="RSA-PSS with SHA-384")
        with refuses(profile, "wrong-algorithm"):
            walk(profile, build(chain))


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "RSA 2048", "RSA 1024"])
def test_the_kinds_of_key(profile: Profile, kind: str) -> None:
    for place, role in ((FIRST, profile.first), (MIDDLE, profile.above)):
        chain = good(profile)
        chain[place] = make.replace(chain[place], kind=kind)
        signs_as = {"P-256": "256", "P-384": "384", "P-521": "512"}.get(kind, "384")
        if place == MIDDLE and kind.startswith("RSA") != chain[FIRST].algorithm.startswith("RSA"):
            name = "RSA-PSS" if kind.startswith("RSA") else "ECDSA"
            chain[FIRST] = make.replace(chain[FIRST], algorithm=f"{name} with SHA-{signs_as}")
        if kind == "RSA 1024" or kind.split(" ")[0] not in role.keys:
            if place in places(profile):
                with refuses(profile, "wrong-curve"):
                    walk(profile, build(chain))
        else:
            walk(profile, build(chain))


@pytest.mark.parametrize(
    "profile", [item for item in PROFILES.values() if not item.first.responder],
    ids=[name for name, item in PROFILES.items() if not item.first.responder],
)  # fmt: skip
def test_path_length_exceeded(profile: Profile) -> None:
    for place, length, passes in ((1, 0, True), (2, 1, True), (2, 0, False), (3, 1, False)):
        chain = good(profile, 4)
        chain[place] = make.replace(chain[place], path_length=length)
        found = build(chain)
        pinned = {make.spki_digest(found[-1])}
        if passes:
            check_chain(found, profile, pinned=pinned, now=NOW)
            continue
        with refuses(profile, "path-length"):
            check_chain(found, profile, pinned=pinned, now=NOW)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_both_ends_of_a_window_belong_to_it(profile: Profile) -> None:
    walk(profile, changed(profile, FIRST, start=TODAY, end=TODAY))


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_dates_are_told_with_their_zone(profile: Profile) -> None:
    chain = changed(profile, FIRST, end=TODAY - SECOND)
    text = (
        "'certificate 0': valid until 2026-11-18T11:06:39Z (1794999999), "
        "now is 2026-11-18T11:06:40Z (1795000000)"
    )
    with refuses(profile, "expired") as caught:
        walk(profile, chain)
    assert caught.value.message == text


@pytest.mark.parametrize(
    "profile", [item for item in PROFILES.values() if not item.first.responder],
    ids=[name for name, item in PROFILES.items() if not item.first.responder],
)  # fmt: skip
def test_a_root_is_known_by_its_key_alone(profile: Profile) -> None:
    with refuses(profile, "wrong-root"):
        walk(profile, changed(profile, ROOT, number=88))
    with refuses(profile, "simulated-root"):
        walk(profile, changed(profile, ROOT, number=88, name="SIMULATED root"))
    walk(profile, changed(profile, ROOT, name="another name of the same key"))


def test_a_wrong_root_is_told_beside_the_pinned_ones() -> None:
    chain = changed(profiles.INTEL, ROOT, number=88)
    for pinned, text in (({b"\1" * 32}, "SHA-256 " + "01" * 32), (set(), "SHA-256 none")):
        with pytest.raises(NotAuthentic, match=f"{text}, got {make.spki_digest(chain[-1]).hex()}"):
            check_chain(chain, profiles.INTEL, pinned=pinned, now=NOW)


def test_a_responder_s_purpose_is_told() -> None:
    with pytest.raises(NotAuthentic, match="'certificate 0': expected no OCSP responder by its"):
        walk(profiles.INTEL, changed(profiles.INTEL, FIRST, extensions=[(RESPONDER, False)]))
    with pytest.raises(NotAuthentic, match="expected an OCSP responder by its"):
        walk(profiles.NVIDIA_OCSP, changed(profiles.NVIDIA_OCSP, FIRST, extensions=[]))


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_extensions_that_are_not_critical_are_let_pass(profile: Profile) -> None:
    for place in places(profile):
        kept = good(profile)[place].extensions
        walk(profile, changed(profile, place, extensions=[*kept, unknown(critical=False)]))


def test_a_responder_may_mark_its_purpose_critical() -> None:
    extensions = [(RESPONDER, True), (x509.OCSPNoCheck(), True)]
    walk(profiles.NVIDIA_OCSP, changed(profiles.NVIDIA_OCSP, FIRST, extensions=extensions))


def test_only_the_age_of_a_rim_is_the_policys_affair() -> None:
    late = [profile for profile in PROFILES.values() if profile.outdated is Refused]
    assert late == [profiles.NVIDIA_RIM]


def test_every_code_of_the_walk_is_in_its_specification() -> None:
    used = set(re.findall(r'broken\(\s*"([a-z-]+)"', (ROOT_DIR / "walk.py").read_text()))
    used |= {f"{profile.dated}-…" for profile in PROFILES.values()}
    page = (ROOT_DIR.parent.parent / "docs" / "spec" / "x509.md").read_text()
    assert len(used) == 15
    assert {code for code in used if f"`{code}`" not in page} == set()


# Reading


DER = pki.der(build(good(profiles.NVIDIA))[0])


@pytest.mark.parametrize(
    "der",
    [b"", DER[:-1], DER + b"\0", DER + DER, DER[1:], b"-----BEGIN CERTIFICATE-----"],
    ids=["empty", "cut", "trailing-byte", "twice", "beheaded", "pem"],
)
def test_malformed_certificates(der: bytes) -> None:
    with pytest.raises(ParseError):
        load_certificate(der)
    assert load_any(der) is None
    for profile in PROFILES.values():
        with refuses(profile, "bad-certificate"):
            load_chain((der,), profile)


def test_an_extension_that_cannot_be_read() -> None:
    first, above = good(profiles.NVIDIA)[:2]
    names = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\xff")
    made = make.replace(first, extensions=[(names, False)])
    with pytest.raises(ParseError):
        load_certificate(pki.der(made.build(above)))


def test_a_key_that_is_not_on_its_curve() -> None:
    numbers = x509.load_der_x509_certificate(DER).public_key().public_numbers()
    point = numbers.x.to_bytes(48) + numbers.y.to_bytes(48)
    assert point in DER
    with pytest.raises(ParseError):
        load_certificate(DER.replace(point, b"\1" * 96))


def sized(size: int) -> bytes:
    """A certificate (DER) of this many bytes, by an extension that nobody judges."""
    first, above = good(profiles.NVIDIA)[:2]
    fill = size - 600
    for _ in range(40):  # a signature has one length or another
        value = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), bytes(fill))
        der = pki.der(make.replace(first, extensions=[(value, False)]).build(above))
        if len(der) == size:
            return der
        fill += size - len(der)
    raise AssertionError(size)


def test_only_certificates_up_to_4096_bytes_are_remembered() -> None:
    for size, kept in ((4096, True), (4097, False)):
        der = sized(size)
        assert (load_certificate(der) is load_certificate(der)) == kept


def test_a_signature_with_unused_bits() -> None:
    """A BIT STRING that says of its last byte that some bits do not count: a second spelling."""
    signed = (build(good(profiles.NVIDIA))[0] for _ in range(200))
    even = next(item for item in signed if not item.signature[-1] & 1)
    der = pki.der(even)
    at = len(der) - len(even.signature) - 1
    respelled = der[:at] + b"\1" + der[at + 1 :]
    assert x509.load_der_x509_certificate(respelled).signature == even.signature
    with pytest.raises(ParseError):
        load_certificate(respelled)


def test_amds_serial_number_is_read_without_a_warning() -> None:
    """Every chip key has 0; the library writes none, so change the 1 of a good one."""
    first = bytes.fromhex("a003020102020101")
    assert first in DER
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zero = load_certificate(DER.replace(first, first[:-1] + b"\0"))
    assert first[:-1] + b"\0" in zero.tbs_certificate_bytes


def test_a_chain_of_another_length() -> None:
    with refuses(profiles.AMD, "bad-chain"):
        load_chain((DER,), profiles.AMD, length=3)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_certificate(data: bytes) -> None:
    for der in (data, DER[:40] + data, DER + data[:1] if data else b""):
        assert load_any(der) is None


def test_a_name_that_is_not_one_is_none() -> None:
    two = x509.Name(
        [x509.NameAttribute(x509.NameOID.COMMON_NAME, text) for text in ("SEV-VCEK", "other")]
    )
    builder = x509.CertificateBuilder(two, two, make.key("P-384").public_key(), 1)
    builder = builder.not_valid_before(TODAY).not_valid_after(TODAY + DAY)
    assert common_name(builder.sign(make.key("P-384"), pki.hashes.SHA384())) == ""


@pytest.mark.parametrize("kind", ["P-256", "P-384"])
def test_raw_signatures(kind: str) -> None:
    key = make.key(kind)
    raw = pki.sign_raw(key, b"data")
    assert has_signed(key.public_key(), raw, b"data")
    assert not has_signed(key.public_key(), raw, b"Data")
    assert not has_signed(key.public_key(), raw + b"\0\0", b"data")
    assert not has_signed(key.public_key(), raw[2:], b"data")
    half = len(raw) // 2  # s as a longer number of the same value: a second spelling
    assert not has_signed(key.public_key(), raw[:half] + b"\0\0" + raw[half:], b"data")
    assert not has_signed(key.public_key(), bytes(len(raw)), b"data")
    assert not has_signed(make.key(kind, 1).public_key(), raw, b"data")
    for other in ("P-521", "RSA 2048"):
        assert not has_signed(make.key(other).public_key(), raw, b"data")
    assert not has_signed(make.key("P-521").public_key(), bytes(132), b"data")


def test_an_rsa_key_of_a_bit_less_than_2048() -> None:
    authority = good(profiles.AMD)[MIDDLE]
    for bits, kind in ((2047, "RSA of 2047 bits"), (2048, "RSA")):
        made = make.replace(authority, kind=f"RSA {bits}")
        assert key_kind(made.build(good(profiles.AMD)[ROOT])) == kind
