"""Attempts to break inspection, archive and collateral, each of which once came through."""

from __future__ import annotations

import base64
import dataclasses
import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from attestation.errors import NotAuthentic, ParseError, UsageError
from attestation.formats.collateral import Collateral
from attestation.formats.measurement import launch_id
from attestation.platforms.tdx.tcb import crl_dates
from attestation.trust.roots import PRODUCTION
from attestation.vendors.archive import Archive
from attestation.vendors.validity import window
from attestation.verify.verifier import Verifier
from client_sdk.cli import umay
from client_sdk.inspection.files import inspect, inspect_files
from client_sdk.inspection.result import Check, CheckInputs, InspectionResult, exit_code, readings
from tests.helpers.tdx_machine import machine
from tests.helpers.waiting import at_most_cpu_seconds
from tests.helpers.world import NOW, World
from tests.vectors import generate

MAYBE = CheckInputs(NOW, PRODUCTION)
Key = ec.EllipticCurvePrivateKey


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.start(tmp_path_factory.mktemp("simulator"))


def certificate(subject: str, issuer: str, public: ec.EllipticCurvePublicKey, key: Key) -> bytes:
    names = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in (subject, issuer))
    day = datetime.datetime(2020, 1, 1), datetime.datetime(2040, 1, 1)
    builder = x509.CertificateBuilder(next(names), next(names), public, 1, *day)
    builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def pem(*ders: bytes) -> bytes:
    begin, end = b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n"
    return b"".join(begin + base64.encodebytes(der) + end for der in ders)


def keys() -> tuple[Key, Key]:
    return ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())


def other_version(der: bytes) -> bytes:
    """The library raises InvalidVersion, which is no ValueError."""
    marks = (b"\xa0\x03\x02\x01\x02", b"\x02\x01\x01")
    at, mark = next((der.find(m), m) for m in marks if der.find(m, 0, 24) >= 0)
    end = at + len(mark)
    return der[: end - 1] + b"\x07" + der[end:]


def test_two_certificates_that_sign_each_other_are_not_good() -> None:
    one, two = keys()
    text = pem(
        certificate("A", "B", one.public_key(), two), certificate("B", "A", two.public_key(), one)
    )
    assert exit_code(inspect("f", text, MAYBE)) == 6


def test_a_root_s_key_in_another_s_certificate_is_not_good(world: World) -> None:
    root = x509.load_der_x509_certificate(machine().root_der)
    public = root.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    forged = certificate("Root", "Root", public, keys()[0])
    roots = dataclasses.replace(world.policy.roots, intel=frozenset({spki(root)}))
    given = CheckInputs(NOW, roots)
    assert exit_code(inspect("f", forged, given)) == 3
    assert exit_code(inspect("f", machine().root_der, given)) == 0


def spki(found: x509.Certificate) -> bytes:
    from attestation.x509.certificate import spki_digest

    return spki_digest(found)


def test_evidence_whose_keys_nothing_signed_is_not_good(world: World) -> None:
    mine = CheckInputs(NOW, world.policy.roots, world.collateral)
    bundle = bytes.fromhex(generate.vectors()["key_bundle"])
    forged = dataclasses.replace(world.evidence, bundle=bundle)
    assert exit_code(inspect("e", world.evidence.to_bytes(), mine)) == 0
    assert exit_code(inspect("e", forged.to_bytes(), mine)) == 3
    longer = dataclasses.replace(world.evidence, rtmr3_events=world.evidence.rtmr3_events[:1])
    assert exit_code(inspect("e", longer.to_bytes(), mine)) == 3


@pytest.mark.parametrize("name", ["key_bundle", "leaf", "signed_receipt", "tlog_proof"])
def test_what_was_only_read_is_not_good(name: str) -> None:
    assert exit_code(inspect(name, bytes.fromhex(generate.vectors()[name]), MAYBE)) == 6


@pytest.mark.parametrize("parts", [{}, {"intel/what": b"x"}, {"nvidia/ocsp/x": b"x"}])
def test_collateral_of_which_nothing_is_checked_is_not_good(parts: dict[str, bytes]) -> None:
    assert exit_code(inspect("c", Collateral(parts).to_bytes(), MAYBE)) == 6


@pytest.mark.parametrize("data", [b"[]", b"{}"])
def test_nothing_is_not_good(data: bytes) -> None:
    with pytest.raises(ParseError):
        inspect("f", data, MAYBE)


def test_no_check_and_unknown_failures_are_not_good() -> None:
    assert exit_code([]) == 6
    unknown = InspectionResult(
        "f", "x", checks=[Check("a", "failed", exit_code=5), Check("b", "passed")]
    )
    assert exit_code([unknown]) == 5


def test_spaces_take_no_time() -> None:
    with at_most_cpu_seconds(6):
        assert len(list(readings(b" " * 200_000 + b"!"))) == 1
        text = b" 0x" + b"ab \n" * 50_000
        assert [name for name, _ in readings(text)] == ["raw", "hex", "base64"]


def test_thousands_of_certificates_are_refused() -> None:
    one, two = keys()
    text = pem(certificate("A", "B", one.public_key(), two)) * 2000
    found = inspect("f", text, MAYBE)
    assert exit_code(found) == 3 and "at most 64" in found[0].checks[0].text


def test_a_file_cannot_steer_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "claims"
    file.write_bytes(b'[{"hwmodel":"\\ud800\\u001b[2K\\u202e"}]')
    run = CliRunner().invoke(umay, ["audit", "inspect", str(file)])
    assert run.exit_code == 4 and "\x1b" not in run.output and "\\x1b[2K" in run.output


def test_versions_that_the_library_refuses(world: World, tmp_path: Path) -> None:
    bad = other_version(machine().root_der)
    sdk = b'[{"certificate":"%s","evidence":""}]' % base64.b64encode(pem(bad))
    for text in (pem(bad), sdk):
        file = tmp_path / "f"
        file.write_bytes(text)
        assert exit_code(inspect_files([file], MAYBE)) == 3
    crl = other_version(world.collateral.parts["intel/pck_crl"])
    with pytest.raises(NotAuthentic):
        crl_dates(crl, "crl")
    for name in ("intel/pck_crl", "amd/crl/Milan"):
        with pytest.raises(ParseError):
            window(name, crl)
        assert exit_code(inspect("c", Collateral({name: crl}).to_bytes(), MAYBE)) == 3
    parts = {**world.collateral.parts, "intel/pck_crl": crl}
    presented, anchor = world.logged(world.presented(collateral=Collateral(parts)))
    report = Verifier(world.policy).examine(presented, anchor=anchor, beacon=world.beacon, now=NOW)
    assert report.steps[3].code == "collateral-malformed"


def test_dates_that_no_calendar_has() -> None:
    early = b'{"tcbInfo":{"issueDate":"0001-01-01T00:00:00+14:00","nextUpdate":"2030-01-01"}}'
    for data in (b"[" * 200_000, early):
        with pytest.raises(ParseError):
            window("intel/tcb_info", data)


def test_archive_with_other_programs_files(tmp_path: Path, world: World) -> None:
    archive = Archive(tmp_path)
    archive.add(world.collateral)
    (tmp_path / "names" / "tmp1").write_bytes(b"")
    (next((tmp_path / "names").glob("intel*")) / ".DS_Store").write_bytes(b"")
    assert archive.current(NOW) == world.collateral


def test_archive_heals_when_the_part_is_added_again(tmp_path: Path, world: World) -> None:
    archive = Archive(tmp_path)
    archive.add(world.collateral)
    next((tmp_path / "parts").iterdir()).write_bytes(b"damaged")
    with pytest.raises(ParseError):
        archive.current(NOW)
    archive.add(world.collateral)
    assert archive.current(NOW) == world.collateral


def test_archive_names_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        Archive(tmp_path).add(Collateral({"a/" + "b" * 160 + "/" + "c" * 160: b"x"}))


def test_two_releases_of_one_measurement_and_different_launches(world: World) -> None:
    """No launch id is accepted that the release does not name, whichever stands first."""
    named = launch_id("tdx", (b"\1" * 48, bytes(48), bytes(48)))
    assert named is not None
    plain = world.policy.releases[0]
    with_id = dataclasses.replace(plain, name="named", launch_ids=frozenset({named}))
    for releases in ((plain, with_id), (with_id, plain)):
        policy = dataclasses.replace(world.policy, releases=releases)
        for set_by_host, name in ((b"\1" * 48, "named"), (bytes(48), plain.name)):
            evidence = world.forge(mr_config_id=set_by_host)
            presented, anchor = world.logged(world.presented(evidence))
            report = Verifier(policy).examine(
                presented, anchor=anchor, beacon=world.beacon, now=NOW
            )
            step = report.steps[4]
            assert step.status == "passed" and f"release {name}," in step.detail
        presented, anchor = world.logged(world.presented(world.forge(mr_config_id=b"\2" * 48)))
        report = Verifier(policy).examine(presented, anchor=anchor, beacon=world.beacon, now=NOW)
        assert report.steps[2].code == "mr-config-id"
