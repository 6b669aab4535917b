"""SEV-SNP reports and chains: every bad case by name, and AMD's own evidence."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import NotAuthentic, ParseError, Refused, UmayError, VerificationError
from attestation.formats.collateral import Collateral
from attestation.platforms import snp
from attestation.platforms.snp.chain import hardware_id
from attestation.platforms.snp.report import RESPONSE_HEADER, VCEK, VLEK
from attestation.trust.roots import PRODUCTION, Roots
from enclave.simulator import pki
from enclave.simulator.amd import SimulatedAmd
from tests.helpers.places import EVIDENCE

NOW = 1_795_000_000
ARC = "1.3.6.1.4.1.3704.1."
NOBODY: frozenset[bytes] = frozenset()


@functools.cache
def machine(family: str = "Milan", signer: int = VCEK) -> SimulatedAmd:
    return SimulatedAmd(family, signer=signer)


def roots(amd: SimulatedAmd) -> Roots:
    return Roots(NOBODY, frozenset({amd.root_spki}), NOBODY, NOBODY, True)


def check(
    amd: SimulatedAmd,
    report: bytes | None = None,
    certificates: tuple[bytes, ...] | None = None,
    now: int = NOW,
) -> snp.ChipKey:
    parsed = snp.parse_report(report or amd.report())
    return snp.check_signature(parsed, certificates or amd.certificates, roots=roots(amd), now=now)


def refuses(code: str, kind: type[VerificationError] = NotAuthentic):
    return pytest.raises(kind, check=lambda error: error.code == code)


@pytest.mark.parametrize("signer", [VCEK, VLEK])
@pytest.mark.parametrize("family", ["Milan", "Genoa", "Turin"])
@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_genuine_reports_hold(family: str, signer: int, version: int) -> None:
    amd = machine(family, signer)
    fields: dict[str, int | bytes] = {"version": version}
    if version == 2:
        fields["cpuid"] = bytes(3)
    if version == 5:
        fields |= {"launch_mit_vector": 3, "current_mit_vector": 7}
    report = snp.parse_report(amd.report(**fields))
    key = snp.check_signature(report, amd.certificates, roots=roots(amd), now=NOW)
    assert (key.family, key.signer) == (family, signer)
    snp.check_attributes(report)
    snp.check_alias_free(report)
    assert "snp 24" in snp.check_tcb(report, key, floor={"snp": 24, "microcode": 200})
    issued, expires = snp.check_revocation(key, Collateral(amd.collateral(NOW)), now=NOW)
    assert issued <= NOW < expires
    assert report.current_mit_vector == (7 if version == 5 else 0)


def changed(at: int, value: int) -> bytes:
    report = bytearray(machine().report())
    report[at] ^= value
    return bytes(report)


MALFORMED: dict[str, Callable[[], bytes]] = {
    "a byte short": lambda: machine().report()[:-1],
    "a byte too many": lambda: machine().report() + b"\0",
    "version 1": lambda: machine().report(version=1),
    "version 6": lambda: machine().report(version=6),
    "another algorithm": lambda: machine().report(signature_algo=2),
    "reserved after key info": lambda: changed(0x4C, 1),
    "reserved before chip id": lambda: changed(0x190, 1),
    "CPUID in version 2": lambda: machine().report(version=2),
    "mitigation vector before version 5": lambda: machine().report(launch_mit_vector=1),
    "reserved at the end": lambda: changed(0x250, 1),
    "r of more than 48 bytes": lambda: changed(0x2A0 + 48, 1),
    "s of more than 48 bytes": lambda: changed(0x2A0 + 72 + 71, 1),
    "bytes after the signature": lambda: changed(1183, 1),
}


@pytest.mark.parametrize("make", MALFORMED.values(), ids=MALFORMED)
def test_malformed_reports(make: Callable[[], bytes]) -> None:
    with pytest.raises(ParseError):
        snp.parse_report(make())


@pytest.mark.parametrize(
    "make",
    [
        lambda report: report,
        lambda report: report + bytes(2816),
        lambda report: RESPONSE_HEADER + report,
        lambda report: (RESPONSE_HEADER + report).ljust(4000, b"\0"),
    ],
    ids=["exact", "padded", "with-header", "ioctl-buffer"],
)
def test_a_report_in_a_host_s_buffer(make: Callable[[bytes], bytes]) -> None:
    report = machine().report()
    assert snp.cut_padding(make(report)) == report


@pytest.mark.parametrize(
    "buffer",
    [
        machine().report() + b"\1",
        machine().report() + bytes(2815) + b"\1",
        b"\x16" + RESPONSE_HEADER[1:] + machine().report(),
        bytes(4000),
        machine().report()[:-1],
    ],
    ids=["byte-behind", "last-byte", "failed-answer", "zeros", "short"],
)
def test_a_buffer_that_holds_no_report_alone(buffer: bytes) -> None:
    with pytest.raises(ParseError, match="SNP report"):
        snp.cut_padding(buffer)


@given(st.binary(max_size=1300) | st.binary(min_size=1184, max_size=1184))
def test_arbitrary_bytes_raise_only_our_errors(data: bytes) -> None:
    with pytest.raises(ParseError):
        snp.parse_report(data)


@given(st.integers(0, 1183), st.integers(1, 255))
def test_no_changed_byte_is_accepted(at: int, value: int) -> None:
    """But the sign of s: r ‖ s and r ‖ n − s are one signature, never one flip apart."""
    with pytest.raises(UmayError):
        check(machine(), changed(at, value))


def certificates(**changes: object) -> tuple[bytes, ...]:
    amd = machine()
    named = {"leaf": amd.leaf, "ask": amd.ask, "ark": amd.ark} | changes
    return tuple(pki.der(named[name]) for name in ("leaf", "ask", "ark"))


def leaf(**options: object) -> tuple[bytes, ...]:
    return certificates(leaf=machine().chip_certificate(**options))


def under_asvk() -> tuple[bytes, ...]:
    amd = machine()
    asvk = amd.certify("SEV-VLEK-Milan", amd.ask_key.public_key(), amd.ark, amd.root_key)
    chip = amd.certify("SEV-VCEK", amd.chip_key.public_key(), asvk, amd.ask_key)
    return certificates(ask=asvk, leaf=chip)


EARLY = datetime.fromtimestamp(NOW - 86_400, UTC)
CHAINS: dict[str, tuple[str, Callable[[], tuple[bytes, ...]]]] = {
    "two certificates": ("bad-chain", lambda: certificates()[:2]),
    "four certificates": ("bad-chain", lambda: (*certificates(), certificates()[2])),
    "not DER": ("bad-certificate", lambda: (b"0", *certificates()[1:])),
    "trailing byte": ("bad-certificate", lambda: (certificates()[0] + b"\0", *certificates()[1:])),
    "wrong order": ("simulated-root", lambda: certificates()[::-1]),
    "ASK of another family": ("chain-order", lambda: certificates(ask=machine("Genoa").ask)),
    "chip key of another ASK": ("chain-order", lambda: certificates(leaf=machine("Genoa").leaf)),
    "ARK of another family": ("simulated-root", lambda: certificates(ark=machine("Genoa").ark)),
    "ASVK in place of ASK": ("wrong-signer", under_asvk),
    "a stranger's root": ("wrong-root", lambda: SimulatedAmd(label="").certificates),
    "expired chip key": (
        "certificate-expired",
        lambda: certificates(
            leaf=machine().certify(
                "SEV-VCEK",
                machine().chip_key.public_key(),
                machine().ask,
                machine().ask_key,
                not_after=EARLY,
            )
        ),
    ),
    "no SVN extensions": (
        "bad-certificate",
        lambda: certificates(
            leaf=machine().certify(
                "SEV-VCEK", machine().chip_key.public_key(), machine().ask, machine().ask_key
            )
        ),
    ),
    "P-256 chip key": (
        "wrong-curve",
        lambda: certificates(
            leaf=machine().certify(
                "SEV-VCEK",
                ec.generate_private_key(ec.SECP256R1()).public_key(),
                machine().ask,
                machine().ask_key,
            )
        ),
    ),
    "another chip": ("chip-mismatch", lambda: leaf(chip_id=b"\7" * 64)),
    "another microcode SVN": ("tcb-mismatch", lambda: leaf(microcode=218)),
    "another bootloader SVN": ("tcb-mismatch", lambda: leaf(bootloader=5)),
}


@pytest.mark.parametrize(("code", "make"), CHAINS.values(), ids=CHAINS)
def test_bad_chains(code: str, make: Callable[[], tuple[bytes, ...]]) -> None:
    with refuses(code):
        check(machine(), certificates=make())


def test_a_root_of_a_family_that_is_not_known() -> None:
    stranger = SimulatedAmd("Naples")
    with refuses("unknown-family"):
        check(stranger, machine().report())


def test_wrapped_hwid_is_read() -> None:
    wrapped = b"\x04\x40" + machine().chip_id
    assert check(machine(), certificates=leaf(chip_id=wrapped)).family == "Milan"


def respelt(amd: SimulatedAmd, oid: str, value: bytes) -> tuple[bytes, ...]:
    """The machine's chain with other bytes in one extension of its chip key."""
    extensions = [
        x509.UnrecognizedExtension(
            item.oid, value if item.oid.dotted_string == ARC + oid else item.value.value
        )
        for item in amd.leaf.extensions
    ]
    key = amd.chip_key.public_key()
    chip = amd.certify("SEV-VCEK", key, amd.ask, amd.ask_key, extensions=extensions)
    return (pki.der(chip), *amd.certificates[1:])


@pytest.mark.parametrize(("family", "size"), [("Turin", 10), ("Milan", 8)])
def test_a_chip_of_an_odd_size(family: str, size: int) -> None:
    """Only Turin's chips have 8 bytes, and zeros behind them in the report."""
    amd, chip = machine(family), bytes(range(1, size + 1))
    with refuses("chip-mismatch"):
        check(amd, amd.report(chip_id=chip.ljust(64, b"\0")), respelt(amd, "4", chip))


@pytest.mark.parametrize("start", [b"\x04\x01", b"\x01\x3e"])
def test_a_chip_that_begins_as_an_octet_string_does(start: bytes) -> None:
    amd, chip = machine(), start + machine().chip_id[2:]
    assert check(amd, amd.report(chip_id=chip), leaf(chip_id=chip))


SVNS = ("020180", "02020018", "020218", "02011800", "030118", "0202008000", "ffffff80", "")


@pytest.mark.parametrize("value", SVNS)
def test_a_svn_that_is_no_integer_in_its_shortest_form(value: str) -> None:
    amd, number = machine(), 0x80 if "80" in value else 0x18
    with refuses("bad-certificate"):
        check(
            amd,
            amd.report(reported_tcb=amd.tcb(snp=number)),
            respelt(amd, "3.3", bytes.fromhex(value)),
        )


@pytest.mark.parametrize("number", [0x7F, 0x80, 0xFF])
def test_every_svn_of_a_byte_is_read(number: int) -> None:
    amd = machine()
    tcb = amd.tcb(snp=number)
    assert check(amd, amd.report(reported_tcb=tcb, current_tcb=tcb), leaf(snp=number))


def test_a_certificate_that_names_no_chip() -> None:
    assert hardware_id(machine().ask) == b""
    assert hardware_id(machine().chip_certificate(chip_id=b"")) == b""
    assert hardware_id(machine().leaf) == machine().chip_id


def test_a_certificate_is_found_among_broken_ones() -> None:
    amd = machine()
    pool = (b"0", *amd.certificates)
    assert snp.find_certificate(pool, amd.ask.subject) == pki.der(amd.ask)
    assert snp.find_certificate(pool, SimulatedAmd("Genoa").ask.subject) is None


def test_a_simulated_machine_is_named_under_vendor_roots() -> None:
    report = snp.parse_report(machine().report())
    with refuses("simulated-root"):
        snp.check_signature(report, machine().certificates, roots=PRODUCTION, now=NOW)


REPORTS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "signed by another key": (
        "bad-signature",
        lambda: machine().sign(machine().report(), ec.generate_private_key(ec.SECP384R1())),
    ),
    "r and s zero": ("bad-signature", lambda: machine().report()[:0x2A0].ljust(1184, b"\0")),
    "reserved key kind": ("unknown-signer", lambda: machine().report(key_info=2 << 2)),
    "VLEK named, VCEK given": ("wrong-signer", lambda: machine().report(key_info=VLEK << 2)),
    "chip hidden": ("masked-chip", lambda: machine().report(key_info=2, chip_id=bytes(64))),
    "chip of another machine": ("chip-mismatch", lambda: machine().report(chip_id=b"\1" * 64)),
    "CPUID of another family": (
        "family-mismatch",
        lambda: machine().report(cpuid=bytes([0x19, 0x11, 1])),
    ),
    "CPU family of another maker": (
        "family-mismatch",
        lambda: machine().report(cpuid=bytes([0x17, 0x01, 1])),
    ),
    "another reported TCB": (
        "tcb-mismatch",
        lambda: machine().report(reported_tcb=machine().tcb(snp=23)),
    ),
    "reserved TCB byte": (
        "tcb-mismatch",
        lambda: machine().report(reported_tcb=machine().tcb()[:3] + b"\1" + machine().tcb()[4:]),
    ),
}


@pytest.mark.parametrize(("code", "make"), REPORTS.values(), ids=REPORTS)
def test_bad_reports(code: str, make: Callable[[], bytes]) -> None:
    with refuses(code):
        check(machine(), make())


ATTRIBUTES: dict[str, tuple[str, dict[str, int | bytes]]] = {
    "debug": ("debug", {"policy": 0x30000 | 1 << 19}),
    "migration agent allowed": ("migratable", {"policy": 0x30000 | 1 << 18}),
    "migration agent present": ("migratable", {"report_id_ma": b"\1" * 32}),
    "bit 17 clear": ("reserved-bits", {"policy": 0x10000}),
    "unknown policy bit": ("reserved-bits", {"policy": 0x30000 | 1 << 40}),
    "unknown platform bit": ("reserved-bits", {"platform_info": 1 << 30}),
    "VMPL 1": ("vmpl", {"vmpl": 1}),
    "ID block": ("id-block", {"id_key_digest": b"\1" * 48}),
    "author key": ("id-block", {"author_key_digest": b"\1" * 48}),
}


@pytest.mark.parametrize(("code", "fields"), ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_attributes(code: str, fields: dict[str, int | bytes]) -> None:
    with refuses(code, Refused):
        snp.check_attributes(snp.parse_report(machine().report(**fields)))


def test_no_migration_agent_is_written_in_two_ways() -> None:
    for none in (bytes(32), b"\xff" * 32):
        snp.check_attributes(snp.parse_report(machine().report(report_id_ma=none)))


def test_other_platform_bits_do_not_stand_for_the_alias_check() -> None:
    with refuses("alias-check", Refused):
        snp.check_alias_free(snp.parse_report(machine().report(platform_info=0xFF - 0x20)))


def test_tcb_floor_and_its_consistency() -> None:
    amd = machine()
    behind = snp.parse_report(amd.report(committed_tcb=amd.tcb(snp=20)))
    with refuses("out-of-date", Refused):
        snp.check_tcb(behind, check(amd), floor={"snp": 24})
    impossible = snp.parse_report(amd.report(current_tcb=amd.tcb(snp=10)))
    with refuses("tcb-inconsistent", Refused):
        snp.check_tcb(impossible, check(amd), floor=None)
    with refuses("alias-check", Refused):
        snp.check_alias_free(replace(behind, platform_info=0))


def test_revocation() -> None:
    amd, key = machine(), check(machine())
    revoked = Collateral(amd.collateral(NOW, revoked=[amd.ask]))
    with refuses("revoked"):
        snp.check_revocation(key, revoked, now=NOW)
    with refuses("revocation-unknown", Refused):
        snp.check_revocation(key, Collateral({}), now=NOW)
    with refuses("crl-expired", Refused):
        snp.check_revocation(key, Collateral(amd.collateral(NOW)), now=NOW + 366 * 86_400)
    stranger = SimulatedAmd("Milan").collateral(NOW)
    with refuses("crl-signature"):
        snp.check_revocation(key, Collateral(stranger), now=NOW)
    with refuses("crl-malformed"):
        snp.check_revocation(key, Collateral({"amd/crl/Milan": b"0"}), now=NOW)


def index(kind: str) -> list[dict]:
    if not (EVIDENCE / "index.json").exists():
        return []
    entries = json.loads((EVIDENCE / "index.json").read_text())
    return [entry for entry in entries if entry["kind"] == kind]


def real_chain(note: str) -> tuple[bytes, ...] | None:
    named = re.search(r"\*-(\w+)\.der", note)
    if named is None:
        return None
    files = {path.name: path.read_bytes() for path in (EVIDENCE / "snp_cert").iterdir()}
    chip = next(name for name in files if named[1] in name)
    issuer = re.fullmatch(r".*--SEV-(.*)-\w+\.der", chip)[1]
    family = issuer.removeprefix("VLEK-")
    pick = (f"SEV-{issuer}--", f"ARK-{family}--")
    return (files[chip], *(next(files[name] for name in files if name.startswith(p)) for p in pick))


@pytest.mark.evidence
@pytest.mark.parametrize("entry", index("snp_report"), ids=lambda entry: entry["file"][11:])
def test_real_reports(entry: dict) -> None:
    """Signatures hold up to AMD; what the guest policy says is judged apart."""
    report = snp.parse_report((EVIDENCE / entry["file"]).read_bytes())
    chain = real_chain(entry["notes"])
    if chain is None:
        pytest.skip("no chip certificate for this report")
    start, end = (
        int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())
        for day in entry["verification_time"]
    )
    key = snp.check_signature(report, chain, roots=PRODUCTION, now=(start + end) // 2)
    assert key.family in entry["notes"]
    with refuses("certificate-expired"):
        snp.check_signature(report, chain, roots=PRODUCTION, now=end + 86_400)
    code = "debug" if "DEBUG" in entry["notes"] else "id-block"  # Azure launches with an ID block
    with refuses(code, Refused):
        snp.check_attributes(report)
