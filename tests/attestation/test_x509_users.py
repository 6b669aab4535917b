"""Each vendor's evidence is judged by the walker: one bad certificate at every entry."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.errors import NotAuthentic, ParseError, Refused
from attestation.formats.collateral import Collateral
from attestation.platforms import snp, tdx
from attestation.platforms.tdx import pck
from attestation.platforms.tdx.tcb import (
    PCK_CRL,
    ROOT_CRL,
    TCB_INFO,
    check_tcb,
    crl_dates,
    signed_answer,
)
from attestation.trust.roots import Roots
from attestation.vendors.validity import window
from attestation.x509 import crl as crls
from attestation.x509.profile import INTEL_CRL
from client_sdk.inspection import own
from client_sdk.inspection.result import CheckInputs
from contracts.quote_verifier import pinned_root_key
from enclave.simulator import pki
from enclave.simulator.amd import SimulatedAmd
from enclave.simulator.intel import _tlv
from tests.helpers import nvidia_machine as nvidia
from tests.helpers.certificates import unknown
from tests.helpers.nvidia_machine import issue, rebuilt
from tests.helpers.tdx_machine import DAY, NOW, collateral, good, good_bytes, machine, pem, refuses
from tests.helpers.tdx_machine import roots as intel_roots

TODAY = datetime.fromtimestamp(NOW, UTC)
NOBODY: frozenset[bytes] = frozenset()


# Intel


def intel(key: str, old: x509.Certificate, by: x509.Certificate, signer: str, **changes: Any):
    """One of the simulated Intel's certificates made anew."""
    keys = machine()._keys
    kept = [(item.value, False) for item in old.extensions if not item.critical]
    options = {"extensions": kept, **changes}
    public = keys[key].public_key()
    return issue(old.subject, public, issuer=by, signer=keys[signer], **options)


def pck_chain() -> tuple[x509.Certificate, ...]:
    return tuple(x509.load_der_x509_certificate(der) for der in good().pck_chain)


def quote_with(**changes: Any) -> tdx.TdQuote:
    leaf, platform, root = pck_chain()
    kept = [(item.value, False) for item in leaf.extensions if not item.critical]
    changes["extensions"] = kept + changes.get("extensions", [])
    return replace(
        good(), pck_pem=pem(intel("pck", leaf, platform, "platform", **changes), platform, root)
    )


def test_a_quote_under_a_pck_that_is_only_made_anew() -> None:
    """So that the cases below fail for their one change."""
    tdx.check_signature(quote_with(), roots=intel_roots(), now=NOW)


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("unknown-extension", {"extensions": [unknown()]}),
        ("key-usage", {"usage": True}),
        ("not-a-ca", {"constraints": False}),
        ("wrong-algorithm", {"algorithm": hashes.SHA384()}),
        ("certificate-not-yet-valid", {"start": TODAY + timedelta(seconds=1)}),
        ("certificate-expired", {"end": TODAY - timedelta(seconds=1)}),
    ],
)
def test_intel_quote(code: str, changes: dict[str, Any]) -> None:
    with refuses(code, NotAuthentic):
        tdx.check_signature(quote_with(**changes), roots=intel_roots(), now=NOW)


def tcb_signer(**changes: Any) -> tuple[bytes, ...]:
    signer, root = x509.load_pem_x509_certificates(collateral().parts[TCB_INFO + "_chain"])
    return pki.der(intel("tcb", signer, root, "root", **changes)), pki.der(root)


def answer(given: tuple[bytes, ...], now: int = NOW) -> int:
    data = collateral().parts[TCB_INFO]
    return tdx.check_answer(TCB_INFO, data, given, roots=intel_roots(), now=now)


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("unknown-extension", {"extensions": [unknown()]}),
        ("key-usage", {"usage": True}),
        ("not-a-ca", {"path_length": 0}),
        ("wrong-algorithm", {"algorithm": hashes.SHA512()}),
        ("certificate-not-yet-valid", {"start": TODAY + timedelta(seconds=1)}),
        ("certificate-expired", {"end": TODAY - timedelta(seconds=1)}),
    ],
)
def test_intel_tcb_info(code: str, changes: dict[str, Any]) -> None:
    assert answer(tcb_signer()) > NOW
    with refuses(code, NotAuthentic):
        answer(tcb_signer(**changes))


def resigned(key: str) -> bytes:
    """The TCB info over the same text, signed by another of the simulated Intel's keys."""
    text = signed_answer(TCB_INFO, collateral().parts[TCB_INFO]).text
    signature = pki.sign_raw(machine()._keys[key], text.encode()).hex()
    return f'{{"tcbInfo":{text},"signature":"{signature}"}}'.encode()


@pytest.mark.parametrize("key", ["pck", "root"])
def test_a_tcb_info_that_its_signer_did_not_sign(key: str) -> None:
    """Nor does the root count, which signs certificates and lists."""
    check = functools.partial(tdx.check_answer, TCB_INFO, roots=intel_roots(), now=NOW)
    assert check(resigned("tcb"), tcb_signer()) > NOW
    with refuses("collateral-signature", NotAuthentic):
        check(resigned(key), tcb_signer())
    with refuses("signer-missing", NotAuthentic):
        check(resigned(key), tcb_signer()[1:])


def test_a_broken_certificate_beside_the_good_ones_is_passed_over() -> None:
    assert answer((b"0", *tcb_signer())) > NOW


def test_a_renewed_tcb_signer_counts_beside_the_old_one() -> None:
    old = tcb_signer(end=TODAY - timedelta(days=1))
    assert answer((*old, *tcb_signer())) > NOW


def crl_issuer(**changes: Any) -> tuple[bytes, ...]:
    _, platform, root = pck_chain()
    options = {"path_length": 0, **changes}
    return pki.der(intel("platform", platform, root, "root", **options)), pki.der(root)


def test_intel_crl() -> None:
    data, root_crl = (collateral().parts[f"intel/{kind}_crl"] for kind in ("pck", "root"))
    check = tdx.check_crl
    assert check(data, crl_issuer(), roots=intel_roots(), now=NOW) > NOW
    assert check(root_crl, crl_issuer(), roots=intel_roots(), now=NOW) > NOW
    with refuses("unknown-extension", NotAuthentic):
        check(data, crl_issuer(extensions=[unknown()]), roots=intel_roots(), now=NOW)
    with refuses("not-a-ca", NotAuthentic):
        check(data, crl_issuer(path_length=None), roots=intel_roots(), now=NOW)
    with refuses("simulated-root", NotAuthentic):
        check(data, crl_issuer(), roots=intel_roots(machine("SIMULATED other")), now=NOW)
    with refuses("certificate-expired", NotAuthentic):
        end = TODAY - timedelta(seconds=1)
        check(data, crl_issuer(end=end), roots=intel_roots(), now=NOW)
    with refuses("key-usage", NotAuthentic):  # signs messages, neither certificates nor lists
        check(data, crl_issuer(usage=False), roots=intel_roots(), now=NOW)


@pytest.mark.parametrize("given", [0, 1], ids=["no certificate", "no root"])
def test_a_document_whose_signer_is_not_there(given: int) -> None:
    data = collateral().parts["intel/pck_crl"]
    with refuses("signer-missing", NotAuthentic):
        answer(tcb_signer()[:given])
    with refuses("signer-missing", NotAuthentic):
        tdx.check_crl(data, crl_issuer()[:given], roots=intel_roots(), now=NOW)


def intel_crl(named: x509.Certificate, key: str) -> bytes:
    """A list in the name of one authority, signed by the key of that or another."""
    keys, times = machine()._keys, (TODAY - timedelta(days=1), TODAY + timedelta(days=1))
    return pki.revocation_list(named, keys[key], issued=times[0], next_update=times[1])


def test_an_intel_crl_by_the_right_key_in_another_s_name() -> None:
    """An authority speaks of its own certificates alone (RFC 5280 §5)."""
    leaf, platform, root = pck_chain()
    for issuer, key, others in ((platform, "platform", (root, leaf)), (root, "root", (platform,))):
        own = crls.load_crl(intel_crl(issuer, key))
        assert crls.is_signed(own, issuer, INTEL_CRL)
        for other in others:
            forged = crls.load_crl(intel_crl(other, key))
            assert not crls.is_signed(forged, issuer, INTEL_CRL)
    with refuses("collateral-signature", NotAuthentic):
        tdx.check_crl(intel_crl(root, "platform"), crl_issuer(), roots=intel_roots(), now=NOW)
    with refuses("signer-missing", NotAuthentic):
        tdx.check_crl(intel_crl(leaf, "platform"), crl_issuer(), roots=intel_roots(), now=NOW)


@pytest.mark.parametrize(("part", "key"), [(PCK_CRL, "platform"), (ROOT_CRL, "root")])
def test_a_quote_s_tcb_with_a_crl_in_another_s_name(part: str, key: str) -> None:
    leaf, platform, root = pck_chain()
    right = platform if key == "platform" else root

    def check(named: x509.Certificate) -> str:
        parts = {**collateral().parts, part: intel_crl(named, key)}
        return check_tcb(good_bytes(), Collateral(parts), root_der=pki.der(root), now=NOW).status

    assert check(right) == "UpToDate"
    with refuses("tcb-invalid", NotAuthentic):
        check(leaf)


def published(part: str, data: bytes, now: int) -> int:
    """An Intel document by itself, under certificates that hold at any of these times."""
    if part.endswith("_crl"):
        return tdx.check_crl(data, crl_issuer(), roots=intel_roots(), now=now)
    return tdx.check_answer(part, data, tcb_signer(), roots=intel_roots(), now=now)


@pytest.mark.parametrize("part", ["tcb_info", "qe_identity", "pck_crl", "root_crl"])
def test_a_published_document_out_of_its_window(part: str) -> None:
    name, data = f"intel/{part}", collateral().parts[f"intel/{part}"]
    start, end = window(name, data)
    assert published(name, data, start) == published(name, data, end) == end
    for now, code in ((start - 1, "collateral-not-yet-valid"), (end + 1, "collateral-expired")):
        with refuses(code, Refused):
            published(name, data, now)


@pytest.mark.parametrize("signer", ["pck", "tcb", "root"])
def test_a_published_list_that_its_issuer_did_not_sign(signer: str) -> None:
    platform, keys = pck_chain()[1], machine()._keys
    dates = {"issued": TODAY - timedelta(days=1), "next_update": TODAY + timedelta(days=1)}
    data = pki.revocation_list(platform, keys["platform"], **dates)
    assert published("intel/pck_crl", data, NOW) == NOW + DAY
    forged = pki.revocation_list(platform, keys[signer], **dates)
    with refuses("collateral-signature", NotAuthentic):
        published("intel/pck_crl", forged, NOW)


@pytest.mark.parametrize("part", ["tcb_info", "qe_identity", "pck_crl", "root_crl"])
def test_the_part_out_of_its_window_is_named(part: str) -> None:
    for days, word, code in ((-1, "from", "not-yet-valid"), (400, "until", "expired")):
        parts = dict(collateral().parts)
        start, end = window(f"intel/{part}", parts[f"intel/{part}"])
        at = (start - 1) if days < 0 else end + 1
        others = {name: _at(name, at, parts) for name in parts}
        others[f"intel/{part}"] = parts[f"intel/{part}"]
        with refuses(f"collateral-{code}", Refused) as caught:
            check_tcb(good_bytes(), Collateral(others), root_der=machine().root_der, now=at)
        assert caught.value.message.startswith(f"intel/{part}: valid {word} ")


def _at(name: str, now: int, parts: dict[str, bytes]) -> bytes:
    return machine().collateral(now).get(name, parts[name])


def test_a_root_for_the_contract_is_pinned() -> None:
    assert len(pinned_root_key(machine().root_der, intel_roots())) == 64
    with refuses("wrong-root", NotAuthentic):
        pinned_root_key(machine("Stranger").root_der, intel_roots())
    with refuses("bad-certificate", NotAuthentic):
        pinned_root_key(b"0", intel_roots())


# AMD


AMD = SimulatedAmd()
AMD_ROOTS = Roots(NOBODY, frozenset({AMD.root_spki}), NOBODY, NOBODY, True)


def amd(
    old: x509.Certificate, by: x509.Certificate, signer: Any, **changes: Any
) -> x509.Certificate:
    """One of the simulated AMD's certificates made anew; an extension named is left out."""
    out = changes.pop("out", ())
    builder = (
        x509.CertificateBuilder(
            changes.pop("issuer", by.subject), old.subject, old.public_key(), old.serial_number
        )
        .not_valid_before(changes.pop("start", pki.NOT_BEFORE))
        .not_valid_after(changes.pop("end", pki.NOT_AFTER))
    )
    for item in old.extensions:
        if not isinstance(item.value, out):
            builder = builder.add_extension(item.value, critical=item.critical)
    for value, critical in changes.pop("extensions", ()):
        builder = builder.add_extension(value, critical=critical)
    digest = changes.pop("digest", hashes.SHA384())
    pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
    scheme = changes.pop("scheme", pss)
    assert not changes
    return builder.sign(signer, digest, rsa_padding=scheme)


def chip(**changes: Any) -> tuple[x509.Certificate, ...]:
    return amd(AMD.leaf, AMD.ask, AMD.ask_key, **changes), AMD.ask, AMD.ark


def ask(**changes: Any) -> tuple[x509.Certificate, ...]:
    return AMD.leaf, amd(AMD.ask, AMD.ark, AMD.root_key, **changes), AMD.ark


def ark(**changes: Any) -> tuple[x509.Certificate, ...]:
    return AMD.leaf, AMD.ask, amd(AMD.ark, AMD.ark, AMD.root_key, **changes)


def amd_check(chain: tuple[x509.Certificate, ...]) -> snp.ChipKey:
    report = snp.parse_report(AMD.report())
    ders = tuple(pki.der(item) for item in chain)
    return snp.check_signature(report, ders, roots=AMD_ROOTS, now=NOW)


CRITICAL = [unknown()]
NOT_SIGN = [(pki.key_usage(True), True)]
NOT_CERTIFY = [(pki.key_usage(False), True)]
AN_AUTHORITY = [(x509.BasicConstraints(True, None), True)]
NO_PATH = [(x509.BasicConstraints(True, 0), True)]
NO_AUTHORITY = [(x509.BasicConstraints(False, None), True)]
LATER, EARLIER = TODAY + timedelta(seconds=1), TODAY - timedelta(seconds=1)
AMD_CHAINS: dict[str, tuple[str, Callable[[], tuple[x509.Certificate, ...]]]] = {
    "chip key: unknown critical": ("unknown-extension", lambda: chip(extensions=CRITICAL)),
    "ASK: unknown critical": ("unknown-extension", lambda: ask(extensions=CRITICAL)),
    "ARK: unknown critical": ("unknown-extension", lambda: ark(extensions=CRITICAL)),
    "chip key: may not sign": ("key-usage", lambda: chip(extensions=NOT_SIGN)),
    "ASK: may not certify": (
        "key-usage", lambda: ask(out=(x509.KeyUsage,), extensions=NOT_CERTIFY),
    ),
    "ASK: no key usage": ("key-usage", lambda: ask(out=(x509.KeyUsage,))),
    "ARK: may not certify": (
        "key-usage", lambda: ark(out=(x509.KeyUsage,), extensions=NOT_CERTIFY),
    ),
    "chip key: an authority": ("not-a-ca", lambda: chip(extensions=AN_AUTHORITY)),
    "ASK: no CA flag": (
        "not-a-ca", lambda: ask(out=(x509.BasicConstraints,), extensions=NO_AUTHORITY),
    ),
    "ASK: no basic constraints": ("not-a-ca", lambda: ask(out=(x509.BasicConstraints,))),
    "ARK: path too short": (
        "path-length", lambda: ark(out=(x509.BasicConstraints,), extensions=NO_PATH),
    ),
    "chip key: PKCS 1": ("wrong-algorithm", lambda: chip(scheme=padding.PKCS1v15())),
    "ASK: PSS with SHA-256": ("wrong-algorithm", lambda: ask(digest=hashes.SHA256())),
    "chip key: another issuer": ("chain-order", lambda: chip(issuer=AMD.ark.subject)),
    "chip key: not yet valid": ("certificate-not-yet-valid", lambda: chip(start=LATER)),
    "ARK: not yet valid": ("certificate-not-yet-valid", lambda: ark(start=LATER)),
    "ASK: expired": ("certificate-expired", lambda: ask(end=EARLIER)),
}  # fmt: skip


@pytest.mark.parametrize("make", [chip, ask, ark])
def test_an_amd_certificate_made_anew_with_nothing_wrong(make: Callable) -> None:
    assert amd_check(make()).family == "Milan"


@pytest.mark.parametrize(("code", "make"), AMD_CHAINS.values(), ids=AMD_CHAINS)
def test_amd_report(code: str, make: Callable[[], tuple[x509.Certificate, ...]]) -> None:
    with refuses(code, NotAuthentic):
        amd_check(make())


def amd_crl(
    *,
    start: datetime = TODAY - timedelta(days=1),
    end: datetime = TODAY + timedelta(days=1),
    critical: bool = False,
    scheme: Any = None,
    signer: Any = None,
    issuer: x509.Name = AMD.ark.subject,
) -> bytes:
    builder = x509.CertificateRevocationListBuilder(issuer, start, end)
    builder = builder.add_extension(x509.CRLNumber(1), critical=critical)
    pss = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
    crl = builder.sign(signer or AMD.root_key, hashes.SHA384(), rsa_padding=scheme or pss)
    return crl.public_bytes(Encoding.DER)


CRLS: dict[str, tuple[str, type, Callable[[], bytes]]] = {
    "not yet valid": ("crl-not-yet-valid", Refused, lambda: amd_crl(start=LATER)),
    "expired": ("crl-expired", Refused, lambda: amd_crl(end=EARLIER)),
    "signed with PKCS 1": (
        "crl-signature", NotAuthentic, lambda: amd_crl(scheme=padding.PKCS1v15()),
    ),
    "signed by another key": ("crl-signature", NotAuthentic, lambda: amd_crl(signer=AMD.ask_key)),
    "in the name of the ASK, by the ARK's key": (
        "crl-signature", NotAuthentic, lambda: amd_crl(issuer=AMD.ask.subject),
    ),
    "in nobody's name, by the ARK's key": (
        "crl-signature", NotAuthentic, lambda: amd_crl(issuer=x509.Name([])),
    ),
    "unknown critical extension": (
        "crl-malformed", NotAuthentic, lambda: amd_crl(critical=True),
    ),
    "a byte too many": ("crl-malformed", NotAuthentic, lambda: amd_crl() + b"\0"),
}  # fmt: skip


@pytest.mark.parametrize(("code", "kind", "make"), CRLS.values(), ids=CRLS)
def test_amd_crl(code: str, kind: type, make: Callable[[], bytes]) -> None:
    key = amd_check(chip())
    good_one = Collateral({"amd/crl/Milan": amd_crl()})
    assert snp.check_revocation(key, good_one, now=NOW) == (NOW - DAY, NOW + DAY)
    with refuses(code, kind):
        snp.check_revocation(key, Collateral({"amd/crl/Milan": make()}), now=NOW)
    with refuses(code, kind):
        snp.check_crl(make(), pki.der(AMD.ark), roots=AMD_ROOTS, now=NOW)


def test_a_crl_by_an_ark_that_may_not_sign_any() -> None:
    usage = [(pki.key_usage(True, crl_sign=False), True)]
    chain = ark(out=(x509.KeyUsage,), extensions=usage)
    key = amd_check(chain)  # it may certify
    with refuses("key-usage", NotAuthentic):
        snp.check_revocation(key, Collateral({"amd/crl/Milan": amd_crl()}), now=NOW)
    with refuses("key-usage", NotAuthentic):
        snp.check_crl(amd_crl(), pki.der(chain[2]), roots=AMD_ROOTS, now=NOW)


def test_a_crl_by_an_ark_that_is_out_of_date() -> None:
    old = ark(end=EARLIER)[2]
    with refuses("certificate-expired", NotAuthentic):
        snp.check_crl(amd_crl(), pki.der(old), roots=AMD_ROOTS, now=NOW)


def test_a_list_without_an_end_has_no_window() -> None:
    """The library builds none, so take the field out: next update, 15 bytes after this one."""
    data = amd_crl()
    at = data.index(b"\x17\x0d") + 15
    assert data[at : at + 2] == b"\x17\x0d"
    cut = bytearray(data[:at] + data[at + 15 :])
    assert (data[1], data[5]) == (0x82, 0x81)  # the two lengths around it: two bytes, one byte
    cut[2:4] = (int.from_bytes(cut[2:4], "big") - 15).to_bytes(2, "big")
    cut[6] -= 15
    cut = bytes(cut)
    assert x509.load_der_x509_crl(cut).next_update_utc is None
    with refuses("crl-malformed", NotAuthentic):
        snp.check_crl(cut, pki.der(AMD.ark), roots=AMD_ROOTS, now=NOW)
    with refuses("collateral-malformed", NotAuthentic):
        crl_dates(cut, "intel/pck_crl")


# A certificate by itself, as an inspector shows it


INSPECTED: dict[str, tuple[str, Callable[[], tuple[x509.Certificate, ...]]]] = {
    "chip key": ("passed", chip),
    "chip key: unknown critical": ("unknown-extension", lambda: chip(extensions=CRITICAL)),
    "chip key: PKCS 1": ("wrong-algorithm", lambda: chip(scheme=padding.PKCS1v15())),
    "chip key: expired": ("passed", lambda: chip(end=EARLIER)),
    "chip key under an ASK that may not certify": (
        "key-usage", lambda: ask(out=(x509.KeyUsage,), extensions=NOT_CERTIFY),
    ),
    "chip key under an ASK that is none": ("not-a-ca", lambda: ask(out=(x509.BasicConstraints,))),
    "ASK": ("passed", lambda: chip()[1:]),
    "ASK: no key usage": ("key-usage", lambda: ask(out=(x509.KeyUsage,))[1:]),
    "ARK": ("passed", lambda: chip()[2:]),
}  # fmt: skip


@pytest.mark.parametrize(("code", "make"), INSPECTED.values(), ids=INSPECTED)
def test_inspected_certificate(code: str, make: Callable[[], tuple[x509.Certificate, ...]]) -> None:
    ders = tuple(pki.der(item) for item in make())
    found = own.certificate("file", ders[0], CheckInputs(NOW, AMD_ROOTS, None, ders[1:]))
    checks = {check.name: check.code or check.status for check in found.checks}
    assert checks["issuer"] == code


@pytest.mark.parametrize(("start", "end", "code"), [
    (LATER, TODAY + timedelta(days=9), "certificate-not-yet-valid"),
    (pki.NOT_BEFORE, EARLIER, "certificate-expired"),
])  # fmt: skip
def test_inspected_dates(start: datetime, end: datetime, code: str) -> None:
    der = pki.der(chip(start=start, end=end)[0])
    found = own.certificate("file", der, CheckInputs(NOW, AMD_ROOTS))
    check = next(item for item in found.checks if item.name == "dates")
    assert check.code == code
    assert "2026-11-18T" in check.text


# NVIDIA: tests/attestation/test_nvidia_*.py have the rest


def test_nvidia_device_with_a_critical_purpose() -> None:
    purpose = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CODE_SIGNING])
    leaf = nvidia.fwid(nvidia.chain()[0])
    nvidia.checked(rebuilt(0, extensions=[(leaf, False), (purpose, False)]))
    with nvidia.refuses("unknown-extension", NotAuthentic):
        nvidia.checked(rebuilt(0, extensions=[(leaf, False), (purpose, True)]))


def test_a_responder_signs_no_report() -> None:
    purpose = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.OCSP_SIGNING])
    leaf = nvidia.fwid(nvidia.chain()[0])
    with nvidia.refuses("key-usage", NotAuthentic):
        nvidia.checked(rebuilt(0, extensions=[(leaf, False), (purpose, False)]))


def elements(data: bytes) -> list[bytes]:
    """The DER elements that stand one after another in `data`, tags and lengths included."""
    found = []
    while data:
        rest = pck.read_tlv(data)[2]
        found.append(data[: len(data) - len(rest)])
        data = rest
    return found


def test_a_list_that_says_no_next_update() -> None:
    listed, *signed = elements(pck.read_tlv(amd_crl())[1])
    fields = elements(pck.read_tlv(listed)[1])
    del fields[4]  # after version, algorithm, issuer and thisUpdate (RFC 5280 §5.1)
    der = _tlv(0x30, _tlv(0x30, *fields), *signed)
    assert x509.load_der_x509_crl(der).next_update_utc is None
    with pytest.raises(ParseError, match="the time of the next update, got none"):
        crls.load_crl(der)
    with pytest.raises(ParseError, match="the time of the next update, got none"):
        crls.window(x509.load_der_x509_crl(der))
