"""What reading a certificate leaves out because it is known: names of plain text can be read, and
each of the vendors' roots signs itself."""

from __future__ import annotations

import base64
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from attestation import remembered
from attestation.errors import ParseError
from attestation.formats.digests import sha256
from attestation.platforms.tdx import pck
from attestation.x509 import profile as profiles
from attestation.x509 import walk
from attestation.x509.certificate import fields, is_plain, list_issuer, load_certificate
from attestation.x509.crl import load_crl
from enclave.simulator import intel, pki
from tests.attestation.test_x509_users import elements
from tests.helpers import certificates as make
from tests.helpers.certificates import TODAY, build, good
from tests.helpers.tdx_machine import collateral, flip

PUBLISHED = {
    "Intel SGX Root CA": (
        "MIICjzCCAjSgAwIBAgIUImUM1lqdNInzg7SVUr9QGzknBqwwCgYIKoZIzj0EAwIwaDEaMBgGA1UEAwwRSW50ZWwg"
        "U0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkG"
        "A1UECAwCQ0ExCzAJBgNVBAYTAlVTMB4XDTE4MDUyMTEwNDUxMFoXDTQ5MTIzMTIzNTk1OVowaDEaMBgGA1UEAwwR"
        "SW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFy"
        "YTELMAkGA1UECAwCQ0ExCzAJBgNVBAYTAlVTMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEC6nEwMDIYZOj/iPW"
        "sCzaEKi71OiOSLRFhWGjbnBVJfVnkY4u3IjkDYYL0MxO4mqsyYjlBalTVYxFP2sJBK5zlKOBuzCBuDAfBgNVHSME"
        "GDAWgBQiZQzWWp00ifODtJVSv1AbOScGrDBSBgNVHR8ESzBJMEegRaBDhkFodHRwczovL2NlcnRpZmljYXRlcy50"
        "cnVzdGVkc2VydmljZXMuaW50ZWwuY29tL0ludGVsU0dYUm9vdENBLmRlcjAdBgNVHQ4EFgQUImUM1lqdNInzg7SV"
        "Ur9QGzknBqwwDgYDVR0PAQH/BAQDAgEGMBIGA1UdEwEB/wQIMAYBAf8CAQEwCgYIKoZIzj0EAwIDSQAwRgIhAOW/"
        "5QkR+S9CiSDcNoowLuPRLsWGf/Yi7GSX94BgwTwgAiEA4J0lrHoMs+Xo5o/sX6O9QWxHRAvZUGOdRQ7cvqRXaqI="
    ),
    "NVIDIA Device Identity CA": (
        "MIICCzCCAZCgAwIBAgIQLTZwscoQBBHB/sDoKgZbVDAKBggqhkjOPQQDAzA1MSIwIAYDVQQDDBlOVklESUEgRGV2"
        "aWNlIElkZW50aXR5IENBMQ8wDQYDVQQKDAZOVklESUEwIBcNMjExMTA1MDAwMDAwWhgPOTk5OTEyMzEyMzU5NTla"
        "MDUxIjAgBgNVBAMMGU5WSURJQSBEZXZpY2UgSWRlbnRpdHkgQ0ExDzANBgNVBAoMBk5WSURJQTB2MBAGByqGSM49"
        "AgEGBSuBBAAiA2IABA5MFKM7+KViZljbQSlgfky/RRnEQScW9NDZF8SXgAW96r6u/Ve8ZggtcYpPi2BS4VFu6KfE"
        "IrhN6FcHG7WP05W+oM+hxj7nyA1r1jkB2Ry70YfThX3Ba1zOryOP+MJ9vaNjMGEwDwYDVR0TAQH/BAUwAwEB/zAO"
        "BgNVHQ8BAf8EBAMCAQYwHQYDVR0OBBYEFFeF/4PyY8xlfWi3Olv0jUrL+0lfMB8GA1UdIwQYMBaAFFeF/4PyY8xl"
        "fWi3Olv0jUrL+0lfMAoGCCqGSM49BAMDA2kAMGYCMQCPeFM3TASsKQVaT+8S0sO9u97PVGCpE9d/I42IT7k3UUOL"
        "SR/qvJynVOD1vQKVXf0CMQC+EY55WYoDBvs2wPAH1Gw4LbcwUN8QCff8bFmV4ZxjCRr4WXTLFHBKjbfneGSBWwA="
    ),
    "NVIDIA CoRIM signing Root CA": (
        "MIICKTCCAbCgAwIBAgIQRdrjoA5QN73fh1N17LXicDAKBggqhkjOPQQDAzBFMQswCQYDVQQGEwJVUzEPMA0GA1UE"
        "CgwGTlZJRElBMSUwIwYDVQQDDBxOVklESUEgQ29SSU0gc2lnbmluZyBSb290IENBMCAXDTIzMDMxNjE1MzczNFoY"
        "DzIwNTMwMzA4MTUzNzM0WjBFMQswCQYDVQQGEwJVUzEPMA0GA1UECgwGTlZJRElBMSUwIwYDVQQDDBxOVklESUEg"
        "Q29SSU0gc2lnbmluZyBSb290IENBMHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEuECyi9vNM+Iw2lfUzyBldHAwaC1H"
        "F7TCgp12QcEyUTm3Tagxwr48d55+K2VIlWYIDk7NlAIQdcV/Ff7euGLI+Qauj93HsSI4WX298PpW54RTgz9tC+Q6"
        "84caR/BXWEeZo2MwYTAdBgNVHQ4EFgQUpaXrOPK4ZDAk08DBskn594zeZjAwHwYDVR0jBBgwFoAUpaXrOPK4ZDAk"
        "08DBskn594zeZjAwDwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8BAf8EBAMCAQYwCgYIKoZIzj0EAwMDZwAwZAIwHGDy"
        "scDP6ihHqRvZlI3eqZ4YkvjE1duaN84tAHRVgxVMvNrp5Tnom3idHYGW/dskAjATvjIx6VzHm/4e2GiZAyZEIUBD"
        "OKPzp5ei/A0iUZpdvngenDwV8Qa/wGdiTmJ7Bp4="
    ),
}
"""As the vendors publish them (DER in base64)."""


def published(name: str) -> bytes:
    return base64.b64decode(PUBLISHED[name])


def test_each_root_that_is_known_to_sign_itself_does() -> None:
    ders = [published(name) for name in PUBLISHED]
    assert {sha256(der) for der in ders} == profiles.SELF_SIGNED
    for der in ders:
        root = x509.load_der_x509_certificate(der)
        root.verify_directly_issued_by(root)


@pytest.mark.parametrize("name", PUBLISHED)
def test_such_a_root_is_known_by_every_byte_and_as_its_own_issuer_alone(name: str) -> None:
    remembered.forget()
    root = load_certificate(published(name))
    walk.check_signed(root, root)
    changed = load_certificate(flip(published(name), len(published(name)) - 1))
    with pytest.raises(InvalidSignature):
        walk.check_signed(changed, changed)
    for other in PUBLISHED.keys() - {name}:
        with pytest.raises(ValueError, match="does not match"):
            walk.check_signed(root, load_certificate(published(other)))


@pytest.mark.parametrize("profile", [profiles.INTEL, profiles.AMD, profiles.NVIDIA])
def test_names_and_key_are_found_where_they_stand(profile: profiles.Profile) -> None:
    for der in [*map(published, PUBLISHED), *map(pki.der, build(good(profile)))]:
        read = x509.load_der_x509_certificate(der)
        key = read.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert fields(der) == (read.issuer.public_bytes(), read.subject.public_bytes(), key)


def test_the_issuer_of_a_list_is_found_where_it_stands() -> None:
    for part in ("intel/pck_crl", "intel/root_crl"):
        der = collateral().parts[part]
        assert list_issuer(der) == load_crl(der).issuer.public_bytes()


def of_version_1(der: bytes) -> bytes:
    """A certificate or a revocation list without its version and its extensions."""
    signed, *rest = elements(pck.read_tlv(der)[1])
    inside = elements(pck.read_tlv(signed)[1])
    kept = [item for item in inside[1:] if item[0] not in (0xA0, 0xA3)]
    return intel._tlv(0x30, intel._tlv(0x30, *kept), *rest)


def test_a_version_that_is_not_written_moves_nothing() -> None:
    der = of_version_1(named("subject", "issuer"))
    read = x509.load_der_x509_certificate(der)
    assert read.version is x509.Version.v1
    assert fields(der)[:2] == (read.issuer.public_bytes(), read.subject.public_bytes())
    der = of_version_1(collateral().parts["intel/pck_crl"])
    assert list_issuer(der) == x509.load_der_x509_crl(der).issuer.public_bytes()


def named(subject: str, issuer: str) -> bytes:
    """A certificate (DER) with these common names."""
    key = make.key("P-384")
    builder = (
        x509.CertificateBuilder()
        .subject_name(pki.name(subject))
        .issuer_name(pki.name(issuer))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(TODAY)
        .not_valid_after(TODAY + timedelta(days=1))
    )
    return pki.der(builder.sign(key, SHA384()))


@pytest.mark.parametrize("which", ["subject", "issuer"])
def test_a_name_that_cannot_be_read_fails_at_once(which: str) -> None:
    load_certificate(named("subject", "issuer"))
    broken = named("subject", "issuer").replace(which.encode(), b"\xff" * len(which), 1)
    for _ in range(2):
        with pytest.raises(ParseError):
            load_certificate(broken)


def test_a_list_of_an_issuer_that_cannot_be_read() -> None:
    der = collateral().parts["intel/pck_crl"]
    load_crl(der)
    broken = der.replace(b"SIMULATED", b"SIMUL\xffTED", 1)
    assert broken != der
    with pytest.raises(ParseError):
        load_crl(broken)


TEXT_TAGS = [0x0C, 0x13, 0x16, 0x14, 0x1E, 0x1C, 0x04, 0x03]
"""UTF8String, PrintableString, IA5String, T61String, BMPString, UniversalString and no texts."""
ATTRIBUTES = st.tuples(
    st.sampled_from(
        [b"\x55\x04\x03", b"\x55\x04\x06", b"\x55\x04\x2d", b"\x2a\x03", b"\x55\x05\x03"]
    ),
    st.sampled_from(TEXT_TAGS),
    st.one_of(st.text("SIMULATED /", max_size=9).map(str.encode), st.binary(max_size=150)),
)
NAMES = st.lists(st.lists(ATTRIBUTES, max_size=2), max_size=3)


def der_name(sets: list[list[tuple[bytes, int, bytes]]]) -> bytes:
    parts = [
        b"".join(
            intel._tlv(0x30, intel._tlv(0x06, oid), intel._tlv(tag, value))
            for oid, tag, value in sorted(attributes)
        )
        for attributes in sets
    ]
    return intel._tlv(0x30, *(intel._tlv(0x31, part) for part in parts))


def with_subject(der: bytes, name: bytes) -> bytes:
    """A certificate (DER) with another subject. Its signature does not hold."""
    _, old, _ = fields(der)
    signed, *rest = elements(pck.read_tlv(der)[1])
    inside = [name if item == old else item for item in elements(pck.read_tlv(signed)[1])]
    return intel._tlv(0x30, intel._tlv(0x30, *inside), *rest)


@pytest.mark.parametrize(
    ("oid", "tag", "value"),
    [
        *((b"\x55\x04\x03", tag, b"odd") for tag in TEXT_TAGS),
        (b"\x2a\x03", 0x04, b"twelve bytes"),
    ],
)
def test_a_plain_name_has_text_in_an_attribute_of_x520(oid: bytes, tag: int, value: bytes) -> None:
    assert is_plain(der_name([[(oid, tag, value)]])) == (tag in (0x0C, 0x13))
    text = (b"\x55\x04\x03", 0x0C, b"SIMULATED")
    assert not is_plain(der_name([[text, (b"\x55\x04\x06", 0x04, value)]]))


@pytest.mark.filterwarnings("ignore:Attribute's length")
@given(NAMES)
def test_a_name_is_read_just_where_the_library_reads_it(
    sets: list[list[tuple[bytes, int, bytes]]],
) -> None:
    der = with_subject(named("subject", "issuer"), der_name(sets))
    try:
        x509.load_der_x509_certificate(der).subject.public_bytes()
        good = True
    except Exception:
        good = False
    try:
        load_certificate(der)
    except ParseError:
        assert not good
    else:
        assert good


def test_the_vendors_names_are_plain_ones() -> None:
    for name in PUBLISHED:
        assert all(map(is_plain, fields(published(name))[:2]))
    assert not is_plain(der_name([[(b"\x55\x04\x03", 0x0C, "\u00e9".encode())]]))
