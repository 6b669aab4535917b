"""Whether the platform's TCB is up to date, by Intel's signed lists. Step "cpu-tcb" of the plan.

dcap-qvl matches TCB levels, module and QE identity, and certificate revocation; it
judges with the root that our own chain check reached, and at our `now`. Whether a
status is good enough is decided here, because dcap-qvl returns OutOfDate as success.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import dcap_qvl

from attestation.errors import NotAuthentic, ParseError, Refused, VerificationError
from attestation.formats.collateral import Collateral
from attestation.formats.dates import Window, lapse, seconds
from attestation.formats.digests import sha256
from attestation.remembered import remembered
from attestation.trust.policy import TCB_STATUSES
from attestation.x509 import crl as crls

STEP = "cpu-tcb"
TCB_INFO, QE_IDENTITY = "intel/tcb_info", "intel/qe_identity"
PCK_CRL, ROOT_CRL = "intel/pck_crl", "intel/root_crl"
TCB_INFO_CHAIN, QE_IDENTITY_CHAIN = "intel/tcb_info_chain", "intel/qe_identity_chain"
PCK_CRL_CHAIN = "intel/pck_crl_chain"
PARTS = (
    TCB_INFO,
    TCB_INFO_CHAIN,
    QE_IDENTITY,
    QE_IDENTITY_CHAIN,
    PCK_CRL,
    PCK_CRL_CHAIN,
    ROOT_CRL,
)

REMEMBERED_LISTS = 64
"""Intel has one TCB info for each family of processors, and three other lists."""

_BODY = re.compile(rb'\{"(tcbInfo|enclaveIdentity)":(\{.*\}),"signature":"([0-9a-fA-F]{128})"\}\s*')
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")

_REFUSALS = {
    **dict.fromkeys(
        (
            "unsupported qe identity",
            "qe mrsigner mismatch",
            "qe isvprodid mismatch",
            "qe attributes mismatch",
            "minimum required",
            "levels found in qe identity",
        ),
        ("qe-identity", "quoting enclave: expected the one of Intel's QE identity, got another"),
    ),
    "certrevoked": ("revoked", "PCK chain: expected no revoked certificate, got one"),
    "status is invalid: revoked": (
        "revoked",
        "TCB level: expected one that is not revoked, got Revoked",
    ),
    "no matching": (
        "no-matching-tcb",
        "TCB level: expected one of Intel's TCB info, the platform is below all of them",
    ),
    "fmspc mismatch": (
        "other-platform",
        "TCB info: expected the FMSPC of the quote, got another processor family",
    ),
    "expired": (
        "collateral-expired",
        "collateral: expected parts that are current, got one that has expired",
    ),
    "future": (
        "collateral-not-yet-valid",
        "collateral: expected parts that are current, got one that is dated in the future",
    ),
    "debug": (
        "debug",
        "attributes: expected debug mode off, it is on in the TD or its quoting enclave",
    ),
    "sept_ve": ("attributes", "td_attributes: expected those of a production TD, got others"),
    "attributes": ("attributes", "td_attributes: expected those of a production TD, got others"),
}
"""Words of dcap-qvl's messages, first match wins; anything else is not authentic."""


@dataclass(frozen=True)
class TcbResult:
    """dcap-qvl's judgement, and the dates of what it judged by (Unix seconds).

    `issued` is the oldest of TCB info, QE identity and PCK CRL (Intel renews the root's
    CRL only once a year); `expires` the earliest next update of all four.
    """

    status: str
    advisory_ids: frozenset[str]
    tcb_evaluation_number: int
    issued: int
    expires: int


@dataclass(frozen=True)
class SignedDocument:
    """An answer of Intel's service: the JSON text as it was signed, its signature, its fields."""

    text: str
    signature: bytes
    fields: dict[str, Any]


def check_tcb(
    quote_bytes: bytes, collateral: Collateral, *, root_der: bytes, now: int
) -> TcbResult:
    """The TCB status of a quote that `check_signature` has accepted, by Intel's TCB info, QE
    identity and CRLs (the algorithm of Intel's DCAP Quote Verification Library, in dcap-qvl).

    `root_der` is the root it returned, `now` Unix seconds. Raises Refused or
    NotAuthentic("cpu-tcb", ...); never judges whether the status is acceptable.
    """
    parts = {name: _part(collateral, name) for name in PARTS}
    published = {name: _published(name, parts[name]) for name in (TCB_INFO, QE_IDENTITY)}
    windows = {name: window for name, (window, _) in published.items()}
    windows |= {name: crl_dates(parts[name], name) for name in (PCK_CRL, ROOT_CRL)}
    for name, window in windows.items():
        check_current(name, window, now)
    report = _verify(quote_bytes, parts, root_der, now)
    return TcbResult(
        status=str(report.status),
        advisory_ids=frozenset(str(item) for item in report.advisory_ids),
        tcb_evaluation_number=min(number for _, number in published.values()),
        issued=min(start for name, (start, _) in windows.items() if name != ROOT_CRL),
        expires=min(end for _, end in windows.values()),
    )


def check_status(
    result: TcbResult,
    *,
    accepted: frozenset[str],
    refused_advisories: frozenset[str],
    min_evaluation_number: int,
) -> None:
    """Status, advisories and evaluation number are those that the policy accepts (Intel's TCB info:
    tcbStatus, advisoryIDs, tcbEvaluationDataNumber). Raises Refused("cpu-tcb", ...)."""
    if result.status not in accepted or result.status not in TCB_STATUSES:
        expected = ", ".join(sorted(accepted))
        text = f"TCB status: expected {expected}, got {result.status}"
        raise Refused(STEP, "tcb-status", text + _listed(result.advisory_ids))
    if bad := result.advisory_ids & refused_advisories:
        raise Refused(
            STEP,
            "advisory",
            f"advisories: expected none of the policy's refuse_advisories, got{_listed(bad)}",
        )
    if result.tcb_evaluation_number < min_evaluation_number:
        got = result.tcb_evaluation_number
        text = f"TCB evaluation number: expected at least {min_evaluation_number}, got {got}"
        raise Refused(STEP, "evaluation-number", text)


def _listed(advisories: frozenset[str]) -> str:
    return f" ({', '.join(sorted(advisories))})" if advisories else ""


def _part(collateral: Collateral, name: str) -> bytes:
    try:
        return collateral.parts[name]
    except KeyError:
        raise Refused(
            STEP,
            "collateral-missing",
            f"collateral: expected the part {name}, got none; fetch it from Intel's service",
        ) from None


@remembered(most=REMEMBERED_LISTS, key=lambda name, data: (name, sha256(data)))
def _published(name: str, data: bytes) -> tuple[Window, int]:
    """The dates and the evaluation number of a TCB info or QE identity, which dcap-qvl has not
    checked yet. Raises NotAuthentic("collateral-malformed")."""
    signed = signed_answer(name, data)
    return dates(signed, name), _number(signed)


def signed_answer(name: str, data: bytes) -> SignedDocument:
    """The document under this part name. Raises NotAuthentic("collateral-malformed")."""
    text, signature = _split(name, data)
    try:
        return SignedDocument(text, signature, json.loads(text))
    except (ValueError, RecursionError):
        raise _malformed(name) from None


def _split(name: str, data: bytes) -> tuple[str, bytes]:
    """The JSON text as it was signed, and its signature (64 bytes)."""
    wanted = {TCB_INFO: b"tcbInfo", QE_IDENTITY: b"enclaveIdentity"}[name]
    match = _BODY.fullmatch(data)
    if match is None or match[1] != wanted:
        raise _malformed(name)
    try:
        return match[2].decode(), bytes.fromhex(match[3].decode())
    except ValueError:
        raise _malformed(name) from None


def _number(signed: SignedDocument) -> int:
    number = signed.fields.get("tcbEvaluationDataNumber")
    if type(number) is not int:
        raise NotAuthentic(
            STEP,
            "collateral-malformed",
            "collateral: expected tcbEvaluationDataNumber as a whole number, got something else",
        )
    return number


def check_current(name: str, window: Window, now: int) -> None:
    """Raises Refused("collateral-expired" or "collateral-not-yet-valid") outside of a window."""
    if found := lapse(window, now):
        word, text = found
        raise Refused(STEP, f"collateral-{word}", f"{name}: {text}")


def dates(signed: SignedDocument, name: str) -> Window:
    """(issue, next update) in Unix seconds. Raises NotAuthentic."""
    try:
        issue, update = signed.fields["issueDate"], signed.fields["nextUpdate"]
        return _second(issue), _second(update)
    except (KeyError, TypeError, ValueError):
        raise _malformed(name) from None


def _second(text: str) -> int:
    if not _DATE.fullmatch(text):
        raise ValueError(text)
    return seconds(datetime.fromisoformat(text))


@remembered(most=REMEMBERED_LISTS, key=lambda data, name: sha256(data))
def crl_dates(data: bytes, name: str) -> Window:
    """(last update, next update) in Unix seconds. Raises NotAuthentic."""
    try:
        return crls.window(crls.load_crl(data))
    except ParseError as error:
        raise NotAuthentic(STEP, "collateral-malformed", f"{name}: {error}") from None


def _malformed(name: str) -> NotAuthentic:
    return NotAuthentic(
        STEP,
        "collateral-malformed",
        f"{name}: expected the form that Intel's service answers, got another",
    )


def _material(parts: dict[str, bytes]) -> dcap_qvl.QuoteCollateralV3:
    (tcb_info, tcb_signature), (qe_identity, qe_signature) = (
        _split(name, parts[name]) for name in (TCB_INFO, QE_IDENTITY)
    )
    return dcap_qvl.QuoteCollateralV3(
        pck_crl_issuer_chain=parts[PCK_CRL_CHAIN].decode("ascii"),
        root_ca_crl=parts[ROOT_CRL],
        pck_crl=parts[PCK_CRL],
        tcb_info_issuer_chain=parts[TCB_INFO_CHAIN].decode("ascii"),
        tcb_info=tcb_info,
        tcb_info_signature=tcb_signature,
        qe_identity_issuer_chain=parts[QE_IDENTITY_CHAIN].decode("ascii"),
        qe_identity=qe_identity,
        qe_identity_signature=qe_signature,
    )


def _verify(
    quote_bytes: bytes, parts: dict[str, bytes], root_der: bytes, now: int
) -> dcap_qvl.VerifiedReport:
    try:
        return dcap_qvl.verify_with_root_ca(quote_bytes, _material(parts), root_der, now)
    except ValueError as error:  # dcap-qvl's only kind of failure; UnicodeDecodeError is one too
        raise _translate(str(error)) from None


def _translate(raw: str) -> VerificationError:
    text = " ".join(raw.removeprefix("Verification failed: ").split())
    if text.startswith("Failed to decode"):  # its message would list every status word
        return NotAuthentic(STEP, "collateral-malformed", text)
    for words, (code, message) in _REFUSALS.items():
        if words in text.lower():
            return Refused(STEP, code, f"{message} ({text})")
    return NotAuthentic(STEP, "tcb-invalid", text)
