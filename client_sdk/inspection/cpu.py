"""Inspection of what CPUs sign: TDX quotes and SNP reports. SGX quotes are only named."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

from cryptography import x509

from attestation.errors import NotChecked, Refused
from attestation.platforms import snp, tdx
from attestation.platforms.snp.chain import tcb_parts
from attestation.platforms.snp.report import REPORT_BYTES, RESPONSE_HEADER
from attestation.platforms.tdx.tcb import PARTS
from client_sdk.inspection.pool import chip_chain
from client_sdk.inspection.result import CheckInputs, ExplainedField, InspectionResult

TDX_WORDS = {
    "tee_tcb_svn": "security versions of the TDX module and microcode",
    "mr_seam": "measurement of the TDX module",
    "mrsigner_seam": "signer of the TDX module; zero means Intel",
    "seam_attributes": "attributes of the TDX module",
    "td_attributes": "how the TD runs: debug, migration, #VE handling",
    "xfam": "CPU features that the TD may use",
    "mr_td": "measurement of the initial memory, which is the firmware",
    "mr_config_id": "set by the host at launch; zero, or named by a release",
    "mr_owner": "set by the host at launch; zero, or named by a release",
    "mr_owner_config": "set by the host at launch; zero, or named by a release",
    "rt_mr0": "measurement of the firmware's configuration",
    "rt_mr1": "measurement of boot loader and kernel",
    "rt_mr2": "measurement of command line, initial RAM disk and image",
    "rt_mr3": "measurement of what the guest itself extended",
    "report_data": "64 bytes that the guest chose: what the quote is about",
    "tee_tcb_svn2": "security versions that run now, after an update",
    "mr_servicetd": "the migration service TD; zero means that there is none",
    "vm_id": "which VM inside the TD; 0 means the TD itself",
    "td_id": "identity of this TD, new at each launch",
    "dev_info": "devices that are bound to the TD",
    "init_servtd_hash": "service TDs at launch; zero means that there was none",
    "curr_servtd_hash": "service TDs now; zero means that there is none",
    "init_tee_tcb_svn": "security versions at launch",
    "init_fmspc": "processor family at launch",
}
_SGX_WORDS = {
    "mr_enclave": (112, "measurement of the enclave"),
    "mr_signer": (176, "signer of the enclave"),
}
"""Offset in a quote of version 3 and meaning of two fields of 32 bytes."""

_SGX_UNSUPPORTED = (
    "expected evidence of a confidential VM (a TDX quote or an SNP report), got an SGX quote, "
    "which is evidence of one enclave inside a process; Umay does not verify those"
)
_UNSIGNED = "needs a signature that holds; see the check cpu-signature of this file"
_ATTRIBUTE_BITS = {
    0: "DEBUG", 27: "LASS", 28: "SEPT_VE_DISABLE", 29: "MIGRATABLE", 30: "PKS", 62: "TPA",
    63: "PERFMON",
}  # fmt: skip
_POLICY_BITS = {
    16: "SMT allowed", 18: "migration agent allowed", 19: "DEBUG", 20: "single socket",
    24: "ciphertext hiding required", 25: "page swap disabled",
}  # fmt: skip


def quote(file: str, data: bytes, inputs: CheckInputs) -> InspectionResult:
    """A TDX quote, version 4 or 5; an SGX quote is named and refused."""
    if int.from_bytes(data[4:8], "little") == 0:
        found = InspectionResult(file, f"SGX quote, version {version(data)}")
        for name, (at, words) in _SGX_WORDS.items():
            found.fields.append(ExplainedField(name, data[at : at + 32].hex(), words))
        found.check("support", _refuse("sgx-quote", _SGX_UNSUPPORTED))
        return found
    end = tdx.quote_length(data)
    data, rest = data[:end], data[end:]
    parsed = tdx.parse_quote(data)
    found = InspectionResult(file, f"TDX quote, version {parsed.version}")
    for name, words in TDX_WORDS.items():
        value = getattr(parsed, name, b"")
        if value:
            found.fields.append(ExplainedField(name, value.hex(), words))
    bits = _bits(int.from_bytes(parsed.td_attributes, "little"), _ATTRIBUTE_BITS)
    found.fields.append(ExplainedField("td_attributes set", bits, "names of the bits that are set"))
    digest = hashlib.sha256(parsed.signed_region).hexdigest()
    found.fields.append(
        ExplainedField("signed region", digest, "SHA-256 of it: the identity of the quote")
    )
    found.after("quote", rest)
    _judge_tdx(found, parsed, data, inputs)
    return found


def version(data: bytes) -> int:
    """The version of a quote, from its first two bytes."""
    return int.from_bytes(data[:2], "little")


def _judge_tdx(
    found: InspectionResult, parsed: tdx.TdQuote, data: bytes, inputs: CheckInputs
) -> None:
    signer: list[tdx.PckIdentity] = []

    def signature() -> str:
        signer.append(tdx.check_signature(parsed, roots=inputs.roots, now=inputs.now))
        return f"every signature up to a pinned root holds; FMSPC {signer[0].fmspc.hex()}"

    def attributes() -> str:
        tdx.check_attributes(parsed)
        return "the attributes are those of a production TD"

    def tcb() -> str:
        if not signer:
            raise NotChecked(_UNSIGNED)
        collateral = inputs.collateral
        if collateral is None or not set(PARTS) <= collateral.parts.keys():
            raise NotChecked(
                "signatures only, because no complete collateral of Intel was given; name it with "
                "--collateral"
            )
        result = tdx.check_tcb(data, collateral, root_der=signer[0].root_der, now=inputs.now)
        if result.status != "UpToDate":
            listed = ", ".join(sorted(result.advisory_ids)) or "none"
            text = f"TCB status: expected UpToDate, got {result.status} (advisories: {listed})"
            raise Refused("cpu-tcb", "tcb-status", text)
        return f"TCB status UpToDate, evaluation number {result.tcb_evaluation_number}"

    found.check("cpu-signature", signature)
    found.check("cpu-attributes", attributes)
    found.check("cpu-tcb", tcb)


def snp_report(file: str, data: bytes, inputs: CheckInputs) -> InspectionResult:
    """A report, with or without the header of the firmware's answer before it."""
    data = data.removeprefix(RESPONSE_HEADER)
    data, rest = data[:REPORT_BYTES], data[REPORT_BYTES:]
    parsed = snp.parse_report(data)
    found = InspectionResult(file, f"SEV-SNP report, version {parsed.version}")
    add = found.fields.append
    add(ExplainedField("measurement", parsed.measurement.hex(), "launch measurement of the guest"))
    add(ExplainedField("report_data", parsed.report_data.hex(), "64 bytes that the guest chose"))
    add(ExplainedField("host_data", parsed.host_data.hex(), "32 bytes that the host set at launch"))
    add(ExplainedField("policy", f"{parsed.policy:#x}", _bits(parsed.policy, _POLICY_BITS)))
    add(
        ExplainedField(
            "vmpl", str(parsed.vmpl), "privilege level that asked for the report; 0 is the highest"
        )
    )
    add(
        ExplainedField(
            "platform_info", f"{parsed.platform_info:#x}", "state of the machine, as bits"
        )
    )
    add(
        ExplainedField(
            "chip_id", parsed.chip_id.hex(), "identity of the processor; zero if it is hidden"
        )
    )
    add(
        ExplainedField(
            "id_key_digest", parsed.id_key_digest.hex(), "key that signed the ID block, or zero"
        )
    )
    cpuid = (
        "unknown" if parsed.cpuid is None else "family {}, model {}, step {}".format(*parsed.cpuid)
    )
    add(ExplainedField("cpuid", cpuid, "generation of the processor"))
    found.after("report", rest)
    _judge_snp(found, parsed, inputs)
    return found


def _judge_snp(found: InspectionResult, parsed: snp.SnpReport, inputs: CheckInputs) -> None:
    key: list[snp.ChipKey] = []

    def signature() -> str:
        chain = chip_chain(parsed, inputs.certificates, inputs.tries)
        key.append(snp.check_signature(parsed, chain, roots=inputs.roots, now=inputs.now))
        return f"signed by a {key[0].signer_name} of {key[0].family}"

    def attributes() -> str:
        snp.check_attributes(parsed)
        return "debugging and migration are off, VMPL is 0, and there is no ID block"

    def tcb() -> str:
        if not key:
            raise NotChecked(_UNSIGNED)
        text = snp.check_tcb(parsed, key[0], floor=None)
        if inputs.collateral is None:
            raise NotChecked(
                f"committed TCB: {text}; signatures only, because no revocation list (CRL) of AMD "
                "was given; name its file in the same call, or name collateral with --collateral"
            )
        snp.check_revocation(key[0], inputs.collateral, now=inputs.now)
        return f"committed TCB: {text}; not revoked"

    found.check("cpu-signature", signature)
    if key:
        parts = tcb_parts(parsed.reported_tcb, key[0].family)
        text = ", ".join(f"{name} {value}" for name, value in parts.items())
        found.fields.append(
            ExplainedField(
                "reported_tcb", text, "firmware versions from which the chip key is derived"
            )
        )
    found.check("cpu-attributes", attributes)
    found.check("cpu-tcb", tcb)


def crl_family(data: bytes) -> str | None:
    """The product family of AMD's revocation list, or None for anything else."""
    try:
        issuer = x509.load_der_x509_crl(data).issuer.rfc4514_string()
    except Exception:  # the library lets several kinds through
        return None
    found = re.search(r"CN=(?:SIMULATED )?ARK-(\w+)", issuer)
    return found[1] if found else None


def _refuse(code: str, text: str) -> Callable[[], str]:
    def run() -> str:
        raise Refused("parse", code, text)

    return run


def _bits(value: int, names: dict[int, str]) -> str:
    return ", ".join(name for bit, name in names.items() if value >> bit & 1) or "none"
