"""Inspection of what vendors publish: TCB info, identities, revocation lists, sets of them."""

from __future__ import annotations

import json
from collections.abc import Callable

from cryptography import x509

from attestation import nvidia
from attestation.errors import NotAuthentic, NotChecked, ParseError
from attestation.formats.collateral import Collateral
from attestation.formats.dates import stamp
from attestation.platforms import snp, tdx
from attestation.platforms.tdx.tcb import QE_IDENTITY, TCB_INFO
from attestation.x509.crl import load_crl
from attestation.x509.crl import window as crl_window
from client_sdk.inspection.certificates import pem_certificates
from client_sdk.inspection.cpu import crl_family
from client_sdk.inspection.result import CheckInputs, ExplainedField, InspectionResult

INTEL = {"tcbInfo": TCB_INFO, "enclaveIdentity": QE_IDENTITY}


def intel_answer(file: str, data: bytes, inputs: CheckInputs) -> InspectionResult:
    """A TCB info or an enclave identity, as Intel's service answers."""
    try:
        raw = json.loads(data)
        kind = next(name for name in INTEL if name in raw)
        body, _signature = raw[kind], raw["signature"]
        fields = [
            ExplainedField(key, str(value)) for key, value in body.items() if _is_short(value)
        ]
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError):
        raise ParseError(
            "collateral: expected an answer of Intel's service, got other JSON"
        ) from None
    found = InspectionResult(file, f"Intel {kind}", fields=fields)
    found.check("signature", lambda: _intel_answer(INTEL[kind], data, inputs))
    return found


def revocation_list(file: str, data: bytes, inputs: CheckInputs) -> InspectionResult:
    """A DER CRL of Intel or AMD."""
    try:
        parsed = load_crl(data)
        issuer, (start, end) = parsed.issuer.rfc4514_string(), crl_window(parsed)
    except (ParseError, ValueError):
        raise ParseError("expected a revocation list (CRL) in DER, got other bytes") from None
    found = InspectionResult(file, f"revocation list, {len(parsed)} entries")
    found.fields.append(ExplainedField("issuer", issuer))
    found.fields.append(ExplainedField("valid", f"{stamp(start)} to {stamp(end)}"))
    amd = crl_family(data) is not None
    found.check("signature", lambda: _amd_crl(data, inputs) if amd else _intel_crl(data, inputs))
    return found


def collateral(file: str, data: bytes, inputs: CheckInputs) -> InspectionResult:
    """A set: each part's digest, signature and dates; the set brings its own chains."""
    parsed = Collateral.from_bytes(data)
    found = InspectionResult(file, f"Collateral, {len(parsed.parts)} parts")
    for name, digest in sorted(parsed.manifest().items()):
        found.fields.append(ExplainedField(name, digest.hex(), f"{len(parsed.parts[name])} bytes"))
    own = CheckInputs(inputs.now, inputs.roots, None, inputs.certificates + chains(parsed))
    for name, part in sorted(parsed.parts.items()):
        if (check := _checker(name)) is not None:
            found.check(name, lambda check=check, part=part: check(part, own))  # type: ignore[misc]
        elif not name.endswith("_chain"):  # a chain counts where it signed something
            found.check(name, _by_itself)
    return found


def intel_bundle(file: str, data: bytes, inputs: CheckInputs) -> InspectionResult:
    return collateral(file, read_intel_bundle(data).to_bytes(), inputs)


def read_intel_bundle(data: bytes) -> Collateral:
    """dcap-qvl's QuoteCollateralV3 JSON as the parts that Intel's service answers with."""
    try:
        raw: dict[str, str] = json.loads(data)
        parts = {
            TCB_INFO: _answer("tcbInfo", raw["tcb_info"], raw["tcb_info_signature"]),
            "intel/tcb_info_chain": raw["tcb_info_issuer_chain"].encode(),
            QE_IDENTITY: _answer(
                "enclaveIdentity", raw["qe_identity"], raw["qe_identity_signature"]
            ),
            "intel/qe_identity_chain": raw["qe_identity_issuer_chain"].encode(),
            "intel/pck_crl": bytes.fromhex(raw["pck_crl"]),
            "intel/pck_crl_chain": raw["pck_crl_issuer_chain"].encode(),
            "intel/root_crl": bytes.fromhex(raw["root_ca_crl"]),
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ParseError(
            "expected Intel's collateral as dcap-qvl keeps it, got other JSON"
        ) from None
    return Collateral(parts)


def _answer(kind: str, body: str, signature: str) -> bytes:
    return f'{{"{kind}":{body},"signature":"{signature}"}}'.encode()


def _checker(name: str) -> Callable[[bytes, CheckInputs], str] | None:
    if name in (TCB_INFO, QE_IDENTITY):
        return lambda part, inputs: _intel_answer(name, part, inputs)
    if name.startswith("nvidia/rim/"):
        return _rim
    if name.startswith("amd/crl/"):
        return _amd_crl
    return _intel_crl if name.endswith("_crl") else None


def _by_itself() -> str:
    raise NotChecked("nothing is checked by this part alone: give the evidence that it is for")


def chains(parsed: Collateral) -> tuple[bytes, ...]:
    """DER of every certificate in the set's issuer chains."""
    texts = (part for name, part in parsed.parts.items() if name.endswith("_chain"))
    return tuple(der for text in texts for der in pem_certificates(text))


def _intel_answer(name: str, data: bytes, inputs: CheckInputs) -> str:
    check = tdx.check_answer
    return _held(lambda: check(name, data, inputs.certificates, roots=inputs.roots, now=inputs.now))


def _intel_crl(data: bytes, inputs: CheckInputs) -> str:
    return _held(
        lambda: tdx.check_crl(data, inputs.certificates, roots=inputs.roots, now=inputs.now)
    )


def _amd_crl(data: bytes, inputs: CheckInputs) -> str:
    try:
        issuer = x509.load_der_x509_crl(data).issuer
    except Exception:  # the library lets several kinds through
        raise ParseError("expected a revocation list (CRL) in DER, got other bytes") from None
    ark = snp.find_certificate(inputs.certificates, issuer)
    if ark is None:
        raise NotChecked(
            f"needs the certificate of {issuer.rfc4514_string()}, and none was given; name its "
            "file in the same call"
        )
    return _until(snp.check_crl(data, ark, roots=inputs.roots, now=inputs.now))


def _rim(data: bytes, inputs: CheckInputs) -> str:
    return _until(nvidia.read_rim(data, pinned=inputs.roots.nvidia_rim, now=inputs.now).expires)


def _held(check: Callable[[], int]) -> str:
    try:
        return _until(check())
    except NotAuthentic as error:
        if error.code == "signer-missing":
            raise NotChecked(error.message) from None
        raise


def _until(second: int) -> str:
    return f"signed under a pinned root; holds until {stamp(second)}"


def _is_short(value: object) -> bool:
    return isinstance(value, str | int) and len(str(value)) < 200
