"""Who signed a quote, and how the TD was started: every bad case by its code."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import NotAuthentic, NotChecked, ParseError, Refused, UmayError
from attestation.formats.evidence import Evidence
from attestation.platforms.tdx import TdQuote, check_attributes, check_signature, parse_quote, pck
from attestation.platforms.tdx.cpu import TdxCpu
from attestation.platforms.tdx.quote import TD15EX_FIELDS, parse_pem_chain
from attestation.trust.roots import PRODUCTION
from enclave.simulator import intel, pki
from enclave.simulator.intel import SimulatedIntel
from tests.helpers.tdx_machine import DAY, NOW, flip, good, good_bytes, machine, pem, refuses, roots


def check(quote: TdQuote, **options: object):
    return check_signature(quote, **({"roots": roots(), "now": NOW} | options))


def chain() -> tuple[x509.Certificate, ...]:
    return tuple(x509.load_der_x509_certificate(der) for der in good().pck_chain)


def with_chain(*certificates: x509.Certificate) -> TdQuote:
    return replace(good(), pck_pem=pem(*certificates))


def issue(subject: str, key: str, *, by: x509.Certificate, signer: str, **options: object):
    """A certificate of the simulated PKI with one thing changed."""
    keys = machine()._keys
    public = options.pop("public", keys[key].public_key())
    return pki.certify(subject, public, issuer=by, signer=keys[signer], **options)


def leaf(**options: object) -> x509.Certificate:
    oid = x509.ObjectIdentifier(pck.OID)
    value = options.pop("sgx", intel.sgx_extension(machine().ppid))
    extensions = (x509.UnrecognizedExtension(oid, value),) if value else ()
    return issue(
        "SIMULATED SGX PCK Certificate",
        "pck",
        by=chain()[1],
        signer="platform",
        extensions=extensions,
        **options,
    )


def test_good_quote_names_its_processor_and_root() -> None:
    who = check(good())
    assert (who.fmspc, who.ppid, who.pce_id) == (intel.FMSPC, machine().ppid, bytes(2))
    assert who.root_der == machine().root_der
    assert who.not_after == int(pki.NOT_AFTER.timestamp())


def quotes() -> dict[str, tuple[str, TdQuote]]:
    """Bad quotes by name, each with the code it must raise."""
    quote, (pck_leaf, platform, root) = good(), chain()
    keys = machine()._keys
    other = ec.generate_private_key(ec.SECP256R1())
    p384 = ec.generate_private_key(ec.SECP384R1()).public_key()
    debug_qe = bytearray(quote.qe_report)
    debug_qe[48] |= 2
    plain_qe = bytes(debug_qe[:48]) + b"\x04" + bytes(debug_qe[49:])
    early = datetime.fromtimestamp(NOW - DAY, UTC)
    stranger = parse_quote(machine("Stranger").quote())
    intermediate = {"by": root, "signer": "root"}
    ca = "SIMULATED SGX PCK Platform CA"
    return {
        "changed-body-byte": ("quote-signature", replace(quote, mr_td=flip(quote.mr_td, 5))),
        "changed-header-byte": ("quote-signature", replace(quote, user_data=b"\1" * 20)),
        "changed-signature": ("quote-signature", replace(quote, signature=bytes(64))),
        "signature-of-another-key": (
            "quote-signature",
            replace(quote, signature=pki.sign_raw(other, quote.signed_region)),
        ),
        "changed-auth-data": ("qe-binding", replace(quote, qe_auth_data=b"\1" * 32)),
        "another-attestation-key": (
            "qe-binding",
            replace(quote, attestation_key=pki.raw_point(other)),
        ),
        "changed-qe-report": ("qe-signature", replace(quote, qe_report=flip(quote.qe_report, 9))),
        "changed-qe-signature": (
            "qe-signature",
            replace(quote, qe_report_signature=flip(quote.qe_report_signature, 63)),
        ),
        "qe-in-debug-mode": (
            "qe-debug",
            replace(
                quote,
                qe_report=bytes(debug_qe),
                qe_report_signature=pki.sign_raw(keys["pck"], bytes(debug_qe)),
            ),
        ),
        "qe-that-was-not-initialised": (
            "qe-debug",
            replace(
                quote,
                qe_report=plain_qe,
                qe_report_signature=pki.sign_raw(keys["pck"], plain_qe),
            ),
        ),
        "another-vendors-qe": ("qe-vendor", replace(quote, qe_vendor_id=bytes(16))),
        "key-not-on-the-curve": (
            "attestation-key",
            parse_quote(_bound_to_key(b"\1" * 64)),
        ),
        "another-root": ("wrong-root", stranger),
        "chain-of-another-machine": (
            "qe-signature",
            with_chain(leaf(public=other.public_key()), platform, root),
        ),
        "leaf-and-intermediate-swapped": ("not-a-ca", with_chain(platform, pck_leaf, root)),
        "intermediate-of-the-same-name": (
            "chain-signature",
            with_chain(
                pck_leaf,
                issue(ca, "platform", public=other.public_key(), **intermediate, path_length=0),
                root,
            ),
        ),
        "intermediate-of-another-name": (
            "chain-order",
            with_chain(
                pck_leaf,
                issue("SIMULATED SGX PCK Processor CA", "platform", **intermediate, path_length=0),
                root,
            ),
        ),
        "intermediate-not-signed-by-the-root": (
            "chain-signature",
            with_chain(pck_leaf, issue(ca, "platform", by=root, signer="pck", path_length=0), root),
        ),
        "intermediate-is-no-ca": (
            "not-a-ca",
            with_chain(pck_leaf, issue(ca, "platform", **intermediate), root),
        ),
        "intermediate-on-p384": (
            "wrong-curve",
            with_chain(
                pck_leaf, issue(ca, "platform", public=p384, **intermediate, path_length=0), root
            ),
        ),
        "leaf-on-p384": ("wrong-curve", with_chain(leaf(public=p384), platform, root)),
        "leaf-is-a-ca": ("not-a-ca", with_chain(leaf(path_length=0), platform, root)),
        "expired-pck": ("certificate-expired", with_chain(leaf(not_after=early), platform, root)),
        "no-sgx-extension": ("not-a-pck", with_chain(leaf(sgx=b""), platform, root)),
        "broken-sgx-extension": ("not-a-pck", with_chain(leaf(sgx=b"\x30\1\0"), platform, root)),
        "certificate-is-no-certificate": (
            "bad-certificate",
            replace(quote, pck_pem=pem(pck_leaf, platform) + pki_pem(b"\x30\0")),
        ),
    }


def pki_pem(der: bytes) -> bytes:
    from attestation.platforms.tdx.quote import write_pem

    return write_pem(der)


def _bound_to_key(key: bytes) -> bytes:
    report = machine().qe_report(key, good().qe_auth_data)
    signature = pki.sign_raw(machine()._keys["pck"], report)
    forged = replace(good(), attestation_key=key, qe_report=report, qe_report_signature=signature)
    return forged.to_bytes()


@pytest.mark.parametrize("name", quotes())
def test_unsigned_quote_is_not_authentic(name: str) -> None:
    code, quote = quotes()[name]
    with refuses(code, NotAuthentic):
        check(quote)


def test_simulated_machine_is_named_where_vendor_roots_are_asked_for() -> None:
    with refuses("simulated-root", NotAuthentic) as caught:
        check(good(), roots=PRODUCTION)
    assert "got a simulated machine's" in str(caught.value)


@pytest.mark.parametrize(
    ("now", "code", "text"),
    [
        (
            int(pki.NOT_BEFORE.timestamp()) - 1,
            "certificate-not-yet-valid",
            "valid from 2024-01-01T00:00:00Z (1704067200), now is 2023-12-31T23:59:59Z",
        ),
        (
            2_400_000_000,
            "certificate-expired",
            "valid until 2044-01-01T00:00:00Z (2335219200), now is 2046-01-19T18:40:00Z",
        ),
        (1 << 62, "certificate-expired", "now is Unix second 4611686018427387904"),
    ],
    ids=["early", "late", "in-no-year"],
)
def test_outside_the_chains_life(now: int, code: str, text: str) -> None:
    with refuses(code, NotAuthentic) as caught:
        check(good(), now=now)
    assert text in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(good_bytes()) - 1), st.integers(1, 255))
def test_no_changed_byte_passes_unless_the_chain_is_only_respelled(at: int, mask: int) -> None:
    data = good_bytes()
    data = data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]
    try:
        check(parse_quote(data))
    except UmayError:
        return
    raise AssertionError(f"byte {at} changed by {mask:#x} and still accepted")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=600), min_size=3, max_size=3))
def test_any_certificates_raise_only_our_errors(ders: list[bytes]) -> None:
    text = b"".join(map(pki_pem, ders))
    assert parse_pem_chain(text) == tuple(ders)
    with pytest.raises(UmayError):
        check(replace(good(), pck_pem=text))


def attributes(*bits: int) -> bytes:
    return sum(1 << bit for bit in bits).to_bytes(8, "little")


BAD_TDS = {
    "debug": ("debug", {"td_attributes": attributes(0, 28)}),
    "profiling": ("profiling", {"td_attributes": attributes(5, 28)}),
    "migratable": ("migratable", {"td_attributes": attributes(28, 29)}),
    "tpa": ("tpa", {"td_attributes": attributes(28, 62)}),
    "perfmon": ("perfmon", {"td_attributes": attributes(28, 63)}),
    "reserved-low": ("reserved-bit", {"td_attributes": attributes(1, 28)}),
    "reserved-high": ("reserved-bit", {"td_attributes": attributes(28, 40)}),
    "sept-ve-off": ("sept-ve-disable", {"td_attributes": attributes()}),
    "seam-attributes": ("seam-attributes", {"seam_attributes": b"\1" + bytes(7)}),
    "seam-signer": ("seam-signer", {"mrsigner_seam": b"\1" * 48}),
    "mr-config-id": ("mr-config-id", {"mr_config_id": b"\1" * 48}),
    "mr-owner": ("mr-owner", {"mr_owner": b"\1" * 48}),
    "mr-owner-config": ("mr-owner-config", {"mr_owner_config": b"\1" * 48}),
}


@pytest.mark.parametrize("name", BAD_TDS)
def test_unsafe_td_is_refused_though_it_is_authentic(name: str) -> None:
    code, body = BAD_TDS[name]
    quote = parse_quote(machine().quote(**body))
    check(quote)
    with refuses(code, Refused):
        check_attributes(quote)


def td15(**body: bytes) -> TdQuote:
    fields = {"tee_tcb_svn2": intel.TEE_TCB_SVN, "mr_servicetd": bytes(48)} | body
    return parse_quote(machine().forge(replace(good(), version=5, **fields)))


def test_version_5_quote_of_a_tdx_15_module() -> None:
    assert check(td15()) == check(good())
    check_attributes(td15())


def test_version_5_body_type_is_signed() -> None:
    with refuses("quote-signature", NotAuthentic):
        check(replace(td15(), tee_tcb_svn2=b"", mr_servicetd=b""))


def extended(**body: bytes) -> TdQuote:
    """A version 5 quote with the body of 885 bytes."""
    zeros = {name: bytes(size) for name, size in TD15EX_FIELDS.items()}
    return td15(**{**zeros, "td_id": b"\5" * 32, **body})


def test_version_5_quote_with_the_extended_body() -> None:
    quote = extended(init_fmspc=b"\1" * 12)
    assert len(quote.signed_region) == 48 + 6 + 885
    assert check(quote) == check(good())
    check_attributes(quote)
    assert extended(td_id=b"\6" * 32).identity != quote.identity


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ("vm_id", "partitioned"),
        ("init_servtd_hash", "service-td"),
        ("curr_servtd_hash", "service-td"),
    ],
)
def test_extended_body_that_is_no_plain_td(field: str, code: str) -> None:
    with refuses(code, Refused):
        check_attributes(extended(**{field: b"\1" * TD15EX_FIELDS[field]}))


def test_service_td_is_refused() -> None:
    quote = td15(mr_servicetd=b"\1" * 48)
    check(quote)
    with refuses("service-td", Refused):
        check_attributes(quote)


def test_protections_the_guest_turns_on_are_accepted() -> None:
    check_attributes(parse_quote(machine().quote(td_attributes=attributes(27, 28, 30, 31))))


def test_owner_registers_may_be_named_by_the_caller() -> None:
    quote = parse_quote(machine().quote(mr_owner=b"\1" * 48))
    check_attributes(quote, launch_named=True)
    with refuses("mr-owner", Refused):
        check_attributes(quote)


def signed_cpu(quote: bytes, intel: SimulatedIntel | None = None) -> TdxCpu:
    cpu = TdxCpu(quote)
    cpu.check_signature(roots=roots(intel), now=NOW)
    return cpu


def test_a_quote_by_another_processor_is_of_another_machine() -> None:
    """Each of the two chains holds, and the bodies are equal but for what is named."""
    body = {"report_data": b"\x07" * 64, "mr_td": b"\x01" * 48}
    first = signed_cpu(good_bytes())
    assert first.same_machine(signed_cpu(machine().quote(**{**body, "report_data": bytes(64)})))
    assert not first.same_machine(signed_cpu(machine().quote(**{**body, "mr_td": bytes(48)})))
    assert not first.same_machine(signed_cpu(machine("Other").quote(**body), machine("Other")))


def test_nothing_is_said_of_a_processor_before_its_signature_is_checked() -> None:
    with pytest.raises(NotChecked, match="signature to have passed"):
        _ = TdxCpu(good_bytes()).pck


def test_certificates_beside_a_quote_that_brings_its_own() -> None:
    evidence = Evidence(
        platform="tdx", bundle=b"", quote=good_bytes(), cpu_certificates=(b"0",), devices=()
    )
    with pytest.raises(ParseError, match="no CPU certificates for TDX"):
        TdxCpu.parse(evidence)
    assert TdxCpu.parse(replace(evidence, cpu_certificates=())).quote == good()
