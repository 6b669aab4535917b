"""Reports and certificates in one file: what is tried for whom, and how much together."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.errors import NotChecked
from attestation.platforms import snp
from attestation.platforms.snp.report import VCEK, VLEK
from attestation.platforms.tdx.quote import write_pem
from attestation.trust.roots import PRODUCTION
from client_sdk.inspection import eventlog, own, pool
from client_sdk.inspection.certificates import pem_certificates
from client_sdk.inspection.files import inspect, inspect_files
from client_sdk.inspection.pool import SignatureTries, chip_chain
from client_sdk.inspection.result import CheckInputs, InspectionResult
from enclave.simulator import pki
from enclave.simulator.amd import SimulatedAmd
from tests.helpers.world import NOW, World


@functools.cache
def chip(number: int, family: str = "Milan", signer: int = VCEK) -> SimulatedAmd:
    """One processor of a vendor of its own."""
    return SimulatedAmd(family, signer=signer, label=f"SIMULATED {number} ")


def counted(monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> list[object]:
    """What a function was called with, at each call."""
    calls: list[object] = []
    real = getattr(module, name)

    def call(*given: object, **more: object) -> object:
        calls.append(given)
        return real(*given, **more)

    monkeypatch.setattr(module, name, call)
    return calls


def found_in(value: object, given: CheckInputs) -> list[InspectionResult]:
    pool.certificate_pool.cache_clear()
    return inspect("f", json.dumps(value).encode(), given)


def pem(ders: tuple[bytes, ...]) -> str:
    return "".join(write_pem(der).decode() for der in ders)


def signatures(found: list[InspectionResult]) -> list[tuple[str, str]]:
    """Status and text of each report's signature."""
    checks = [check for item in found for check in item.checks if check.name == "cpu-signature"]
    return [(check.code or check.status, check.text) for check in checks]


def test_forged_reports_of_a_named_chip_cost_one_try_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three hundred reports beside two hundred chips were sixty thousand signatures."""
    forged = bytearray(chip(0).report())
    forged[0x90] ^= 1
    others = [
        pki.der(chip(0).chip_certificate(chip_id=bytes([n]) + bytes(63))) for n in range(1, 200)
    ]
    value = {
        "certificates": [pem(tuple(others[at : at + 50])) for at in range(0, 199, 50)],
        "own": pem(chip(0).certificates),
        "reports": [bytes(forged).hex()] * 300,
    }
    loaded = counted(monkeypatch, pool, "load_any")
    tried = counted(monkeypatch, pool, "has_signed")
    signed = signatures(found_in(value, CheckInputs(NOW, PRODUCTION)))
    assert len(signed) == 300 and len(tried) == 300
    assert len(loaded) < 10 * 202  # a few pools of the file, not one for each report


HIDDEN: dict[str, Callable[[], bytes]] = {
    "a VLEK's report": lambda: chip(1, "Milan", VLEK).report(),
    "a report with a hidden chip": lambda: chip(0).report(chip_id=bytes(64)),
}


@pytest.mark.parametrize("make", HIDDEN.values(), ids=HIDDEN)
def test_reports_that_name_no_key_are_tried_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], bytes]
) -> None:
    monkeypatch.setattr(pool, "MAX_TRIES", 25)
    forged = bytearray(make())
    forged[0x90] ^= 1
    keys = [chip(n, "Milan", VLEK) for n in range(2, 6)]
    value = {"chains": [pem(key.certificates) for key in keys], "r": [bytes(forged).hex()] * 40}
    tried = counted(monkeypatch, pool, "has_signed")
    signed = signatures(found_in(value, CheckInputs(NOW, PRODUCTION)))
    assert len(tried) == 25
    assert {status for status, _ in signed} == {"not checked"} and len(signed) == 40
    assert "none of the 4 chip certificates that were tried has signed this report" in signed[0][1]
    assert signed[-1][1].startswith("too many to try: expected at most 25 pairs")


def test_the_bound_is_of_one_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pool, "MAX_TRIES", 3)
    key = SimulatedAmd(signer=VLEK)
    value = {"chain": pem(key.certificates), "r": [key.report().hex()] * 3}
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_text(json.dumps(value))
    given = CheckInputs(NOW, replace(PRODUCTION, amd=frozenset([key.root_spki])))
    signed = signatures(inspect_files(paths, given))
    assert [status for status, _ in signed] == ["passed"] * 6


def test_devices_and_certificates_beside_them_are_bounded_too(
    monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    monkeypatch.setattr(pool, "MAX_TRIES", 20)
    device = world.evidence.devices[0]
    forged = bytearray(device.report)
    forged[-1] ^= 1
    value = {"chain": pem(device.chain), "reports": [bytes(forged).hex()] * 40}
    tried = counted(monkeypatch, pool, "has_signed")
    found = inspect("f", json.dumps(value).encode(), CheckInputs(NOW, PRODUCTION))
    texts = [check.text for item in found for check in item.checks if check.name == "gpu"]
    assert len(tried) == 20 and len(texts) == 40
    assert texts[-1].startswith("too many to try")


def test_certificates_of_one_name_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of many leaves has as many issuers by name as there are roots of that name."""
    monkeypatch.setattr(pool, "MAX_TRIES", 6)
    same = [SimulatedAmd("Milan") for _ in range(4)]
    value = {"chains": [pem(item.certificates) for item in same]}
    tried = counted(monkeypatch, own, "_signed_by")
    found = inspect("f", json.dumps(value).encode(), CheckInputs(NOW, PRODUCTION))
    texts = [check.text for item in found for check in item.checks if check.name == "issuer"]
    assert any(text.startswith("too many to try") for text in texts)
    assert len(tried) < 4 * 12


def test_quotes_beside_many_logs_are_read_once(
    monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    eventlog._quoted.cache_clear()
    event = {"imr": 0, "event_type": 1, "digest": "00" * 48}
    value = {
        "quotes": [world.evidence.quote.hex()] * 5,
        "logs": [[event]] * 30,
    }
    read = counted(monkeypatch, eventlog.tdx, "parse_quote")
    inspect("f", json.dumps(value).encode(), CheckInputs(NOW, PRODUCTION))
    assert len(read) < 40


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.start(tmp_path_factory.mktemp("simulator"))


@pytest.mark.parametrize("family", ["Milan", "Genoa", "Turin"])
def test_a_report_finds_its_chip_among_others(family: str) -> None:
    amd = SimulatedAmd(family)
    families = {"Milan", "Genoa", "Turin"} - {family}
    others = tuple(der for name in families for der in chip(6, name).certificates)
    # Other chips of the same vendor stand before it.
    stranger = pki.der(amd.chip_certificate(chip_id=b"\1" * (8 if family == "Turin" else 64)))
    given = (*others, stranger, *reversed(amd.certificates))
    tries = SignatureTries()
    parsed = snp.parse_report(amd.report())
    assert chip_chain(parsed, given, tries) == amd.certificates
    assert tries._count == 1
    other = snp.parse_report(SimulatedAmd(family).report(chip_id=b"\7" * 64))
    with pytest.raises(NotChecked, match="is this chip's"):
        chip_chain(other, given, tries)
    assert tries._count == 1  # nothing was tried for a chip that is not there


def test_a_vlek_is_found_among_several() -> None:
    keys = [chip(n, "Milan", VLEK) for n in range(2, 5)]
    given = tuple(der for key in keys for der in key.certificates)
    for key in keys:
        parsed = snp.parse_report(key.report())
        assert chip_chain(parsed, given, SignatureTries()) == key.certificates


def test_amd_s_serial_number_in_pem_is_read_without_a_warning() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    name = pki.name("SEV-VCEK")
    start, end = (datetime.fromtimestamp(NOW + day, UTC) for day in (-86_400, 86_400))
    made = pki.der(
        x509.CertificateBuilder(name, name, key.public_key(), 1, start, end).sign(
            key, hashes.SHA384()
        )
    )
    zero = made.replace(bytes.fromhex("a003020102020101"), bytes.fromhex("a003020102020100"), 1)
    assert zero != made
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pem_certificates(write_pem(zero)) == (zero,)
        assert inspect("pem", write_pem(zero), CheckInputs(NOW, PRODUCTION))
