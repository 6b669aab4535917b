"""A simulated Intel: root CA, platform CA, one processor, TDX quotes and their collateral.

Formats are Intel's own, so that nothing in the verifier knows of a simulator; only the
root key differs, and every name in the PKI starts with SIMULATED. All on one simulated
processor: one PPID, one FMSPC. What it forges it signs again, so that an attack drill
reaches exactly the step that must refuse it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509

from attestation.errors import UsageError
from attestation.platforms.tdx import pck, tcb
from attestation.platforms.tdx.chain import QE_VENDOR_INTEL
from attestation.platforms.tdx.quote import (
    BODIES,
    BODY_FIELDS,
    QE_REPORT_BYTES,
    TdQuote,
    write_pem,
)
from attestation.x509.certificate import spki_digest
from enclave.simulator import pki
from enclave.simulator.rough import SMOOTH, Roughness

FMSPC = bytes.fromhex("51a0ed000000")
PCE_ID = bytes(2)
PLATFORM_INSTANCE = hashlib.sha256(b"SIMULATED platform").digest()[:16]
CPU_SVN = bytes.fromhex("0303191b04ff00060000000000000000")
"""The processor's sixteen components; one is above 127, as real ones are."""

PCE_SVN = 13
TEE_TCB_SVN = bytes([7, 1, 3]) + bytes(13)
"""TDX module 1.x with SVN 7, late microcode SVN 3: the level the TCB info calls UpToDate."""

OUT_OF_DATE_SVN = bytes([7, 1, 2]) + bytes(13)
"""The next lower level of the same TCB info: OutOfDate."""

SEPT_VE_DISABLE = (1 << 28).to_bytes(8, "little")
XFAM = bytes.fromhex("e702060000000000")
MR_SEAM = hashlib.sha384(b"SIMULATED TDX module").digest()
QE_SIGNER = hashlib.sha256(b"SIMULATED quoting enclave signer").digest()
QE_PROD_ID, QE_SVN = 2, 4
QE_ATTRIBUTES = bytes.fromhex("1500000000000000e700000000000000")
EVALUATION_NUMBER = 20
COLLATERAL_LIFE = timedelta(days=30)
PRODUCTION_BODY = {
    "tee_tcb_svn": TEE_TCB_SVN,
    "mr_seam": MR_SEAM,
    "td_attributes": SEPT_VE_DISABLE,
    "xfam": XFAM,
}

_LEVEL_DATE = "2025-01-01T00:00:00Z"
_TAG_SEQUENCE, _TAG_OCTETS, _TAG_INTEGER, _TAG_ENUMERATED, _TAG_OID = 0x30, 0x04, 0x02, 0x0A, 0x06
_TAG_BOOLEAN = 0x01
_MICROCODE_COMPONENTS = (
    {"svn": 3, "category": "BIOS", "type": "Early Microcode Update"},
    {"svn": 3, "category": "OS/VMM", "type": "SGX Late Microcode Update"},
    {"svn": 2, "category": "OS/VMM", "type": "TXT SINIT"},
    *({"svn": svn, "category": "BIOS"} for svn in (2, 4, 1)),
    {"svn": 0},
    {"svn": 5, "category": "OS/VMM", "type": "SEAMLDR ACM"},
    *({"svn": 0} for _ in range(8)),
)
_SGX_ARC = bytes.fromhex("2a864886f84d010d01")


class SimulatedIntel:
    """The vendor and one of its processors; keys live in `state_dir`.

    `now` is Unix seconds and must lie in the PKI's life. `label` begins every name.
    """

    def __init__(self, state_dir: Path, now: int, *, label: str = "SIMULATED") -> None:
        pki.check_reach(now)
        keys = {
            name: pki.load_or_make_key(state_dir, f"intel-{name}")
            for name in ("root", "platform", "pck", "tcb", "attestation")
        }
        self._keys = keys
        self._label = label
        root = self._root = self._certify("SGX Root CA", "root", path_length=1)
        self._platform = self._certify("SGX PCK Platform CA", "platform", issuer=root)
        self._pck = self._certify_pck()
        self._tcb = self._certify("SGX TCB Signing", "tcb", issuer=root, path_length=None)

    @property
    def root_spki(self) -> bytes:
        """SHA-256 of the root's SubjectPublicKeyInfo: what a policy's `Roots` would pin."""
        return spki_digest(self._root)

    @property
    def root_der(self) -> bytes:
        return pki.der(self._root)

    @property
    def ppid(self) -> bytes:
        """16 bytes, made from the processor's key."""
        return hashlib.sha256(b"ppid" + pki.raw_point(self._keys["pck"])).digest()[:16]

    def quote(self, rough: Roughness = SMOOTH, **body: bytes) -> bytes:
        """A signed TDX quote: a production TD, with these body fields on top.

        `rough` says in which form, and what stands behind it in the host's buffer.
        """
        layout = BODIES[rough.body]
        fields: dict[str, Any] = {name: bytes(size) for name, size in layout.items()}
        later = {
            "tee_tcb_svn2": TEE_TCB_SVN,
            "td_id": rough.td_id,
            "init_cpu_svn": CPU_SVN,
            "init_tee_tcb_svn": TEE_TCB_SVN,
            "init_fmspc": FMSPC.ljust(12, b"\0"),
        }
        fields |= {name: value for name, value in later.items() if name in layout}
        quote = TdQuote(
            version=rough.quote_version,
            header_reserved=bytes(4),
            qe_vendor_id=QE_VENDOR_INTEL,
            user_data=rough.platform_id.ljust(20, b"\0"),
            **(fields | PRODUCTION_BODY),
            signature=b"",
            attestation_key=b"",
            qe_report=b"",
            qe_report_signature=b"",
            qe_auth_data=rough.auth_data,
            pck_pem=b"\0" * rough.chain_ends_in_nul,
        )
        return self.forge(quote, **body) + bytes(rough.padding)

    def forge(self, quote: TdQuote, **body: bytes) -> bytes:
        """`quote` with other body fields, signed anew by this processor."""
        for name, value in body.items():
            if BODY_FIELDS.get(name) != len(value):
                raise UsageError(f"{name}: expected {BODY_FIELDS.get(name)} bytes, got another")
        changes: dict[str, Any] = {**body}
        altered = replace(quote, **changes)
        key = pki.raw_point(self._keys["attestation"])
        qe_report = self.qe_report(key, altered.qe_auth_data)
        chain = self._pem(self._pck, self._platform, self._root)
        return replace(
            altered,
            signature=pki.sign_raw(self._keys["attestation"], altered.signed_region),
            attestation_key=key,
            qe_report=qe_report,
            qe_report_signature=pki.sign_raw(self._keys["pck"], qe_report),
            pck_pem=chain + b"\0" * quote.pck_pem.endswith(b"\0"),
        ).to_bytes()

    def qe_report(self, attestation_key: bytes, auth_data: bytes) -> bytes:
        """The quoting enclave's report (384 bytes), naming the attestation key."""
        report = bytearray(QE_REPORT_BYTES)
        report[0:16] = CPU_SVN
        report[48:64] = QE_ATTRIBUTES
        report[128:160] = QE_SIGNER
        report[256:260] = QE_PROD_ID.to_bytes(2, "little") + QE_SVN.to_bytes(2, "little")
        report[320:352] = hashlib.sha256(attestation_key + auth_data).digest()
        return bytes(report)

    def collateral(
        self,
        now: int,
        *,
        tcb_status: str = "UpToDate",
        revoke_pck: bool = False,
        qe_identity: Mapping[str, Any] | None = None,
    ) -> dict[str, bytes]:
        """Everything Intel's PCS would serve for this processor, by collateral part name.

        Issued at the last midnight (UTC) and valid for 30 days, so that one day's parts
        are equal byte for byte. The options are for drills: `qe_identity` has fields that
        replace those of the genuine one.
        """
        issued = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        until = issued + COLLATERAL_LIFE
        signing_chain = self._pem(self._tcb, self._root)
        revoked = (self._pck,) if revoke_pck else ()
        identity = _qe_identity(issued, until) | dict(qe_identity or {})

        def crl(issuer: x509.Certificate, key: str, *revoked: x509.Certificate) -> bytes:
            signer = self._keys[key]
            return pki.revocation_list(
                issuer,
                signer,
                issued=issued,
                next_update=until,
                revoked=revoked,
                others=3 if key == "platform" else 0,
            )

        return {
            tcb.TCB_INFO: self._signed("tcbInfo", _tcb_info(issued, until, tcb_status)),
            tcb.TCB_INFO_CHAIN: signing_chain,
            tcb.QE_IDENTITY: self._signed("enclaveIdentity", identity),
            tcb.QE_IDENTITY_CHAIN: signing_chain,
            tcb.PCK_CRL: crl(self._platform, "platform", *revoked),
            tcb.PCK_CRL_CHAIN: self._pem(self._platform, self._root),
            tcb.ROOT_CRL: crl(self._root, "root"),
        }

    def _signed(self, kind: str, body: dict[str, Any]) -> bytes:
        text = json.dumps(body, separators=(",", ":"))
        signature = pki.sign_raw(self._keys["tcb"], text.encode()).hex()
        return f'{{"{kind}":{text},"signature":"{signature}"}}'.encode()

    def _certify(
        self,
        subject: str,
        key: str,
        *,
        issuer: x509.Certificate | None = None,
        path_length: int | None = 0,
    ) -> x509.Certificate:
        return pki.certify(
            f"{self._label} {subject}",
            self._keys[key].public_key(),
            issuer=issuer,
            signer=self._keys["root"],
            path_length=path_length,
        )

    def _certify_pck(self) -> x509.Certificate:
        oid = x509.ObjectIdentifier(pck.OID)
        return pki.certify(
            f"{self._label} SGX PCK Certificate",
            self._keys["pck"].public_key(),
            issuer=self._platform,
            signer=self._keys["platform"],
            extensions=(x509.UnrecognizedExtension(oid, sgx_extension(self.ppid)),),
        )

    @staticmethod
    def _pem(*certificates: x509.Certificate) -> bytes:
        return b"".join(write_pem(pki.der(item)) for item in certificates)


def sgx_extension(ppid: bytes) -> bytes:
    """The PCK certificate's SGX extension (DER) of the simulated processor."""
    components = [_field(bytes([2, n]), _integer(svn)) for n, svn in enumerate(CPU_SVN, 1)]
    components.append(_field(bytes([2, 17]), _integer(PCE_SVN)))
    components.append(_field(bytes([2, 18]), _tlv(_TAG_OCTETS, CPU_SVN)))
    configuration = [_field(bytes([7, n]), _tlv(_TAG_BOOLEAN, b"\xff")) for n in range(1, 4)]
    return _tlv(
        _TAG_SEQUENCE,
        _field(b"\1", _tlv(_TAG_OCTETS, ppid)),
        _field(b"\2", _tlv(_TAG_SEQUENCE, *components)),
        _field(b"\3", _tlv(_TAG_OCTETS, PCE_ID)),
        _field(b"\4", _tlv(_TAG_OCTETS, FMSPC)),
        _field(b"\5", _tlv(_TAG_ENUMERATED, b"\0")),
        _field(b"\6", _tlv(_TAG_OCTETS, PLATFORM_INSTANCE)),
        _field(b"\7", _tlv(_TAG_SEQUENCE, *configuration)),
    )


def _field(arc: bytes, value: bytes) -> bytes:
    return _tlv(_TAG_SEQUENCE, _tlv(_TAG_OID, _SGX_ARC + arc), value)


def _integer(value: int) -> bytes:
    return _tlv(_TAG_INTEGER, value.to_bytes(1 + value.bit_length() // 8, "big"))


def _tlv(tag: int, *content: bytes) -> bytes:
    body = b"".join(content)
    size = len(body)
    if size < 0x80:
        return bytes([tag, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def _dates(issued: datetime, until: datetime) -> dict[str, str]:
    form = "%Y-%m-%dT%H:%M:%SZ"
    return {"issueDate": issued.strftime(form), "nextUpdate": until.strftime(form)}


def _tcb_info(issued: datetime, until: datetime, status: str) -> dict[str, Any]:
    zero = {"mrsigner": bytes(48).hex(), "attributes": bytes(8).hex()}
    module = zero | {"attributesMask": "FF" * 8}
    return {
        "id": "TDX",
        "version": 3,
        **_dates(issued, until),
        "fmspc": FMSPC.hex().upper(),
        "pceId": PCE_ID.hex(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": EVALUATION_NUMBER,
        "tdxModule": module,
        "tdxModuleIdentities": [
            {"id": "TDX_03", **module, "tcbLevels": [_svn_level(3)]},
            {
                "id": "TDX_01",
                **module,
                "tcbLevels": [_svn_level(5), _svn_level(2, "OutOfDate")],
            },
        ],
        "tcbLevels": [_tcb_level(3, status), _tcb_level(2, "OutOfDate")],
    }


def _svn_level(svn: int, status: str = "UpToDate") -> dict[str, Any]:
    return _advised({"tcb": {"isvsvn": svn}, "tcbDate": _LEVEL_DATE, "tcbStatus": status})


def _advised(level: dict[str, Any]) -> dict[str, Any]:
    """With an advisory where it is not the latest level."""
    latest = level["tcbStatus"] == "UpToDate"
    return level if latest else level | {"advisoryIDs": ["SIMULATED-SA-00001"]}


def _tcb_level(microcode: int, status: str) -> dict[str, Any]:
    level: dict[str, Any] = {
        "tcb": {
            "sgxtcbcomponents": list(_MICROCODE_COMPONENTS),
            "pcesvn": PCE_SVN,
            "tdxtcbcomponents": [
                {"svn": 5, "category": "OS/VMM", "type": "TDX Module"},
                {"svn": 0, "category": "OS/VMM", "type": "TDX Module"},
                {"svn": microcode, "category": "OS/VMM", "type": "TDX Late Microcode Update"},
                *({"svn": 0} for _ in range(13)),
            ],
        },
        "tcbDate": _LEVEL_DATE,
        "tcbStatus": status,
    }
    return _advised(level)


def _qe_identity(issued: datetime, until: datetime) -> dict[str, Any]:
    return {
        "id": "TD_QE",
        "version": 2,
        **_dates(issued, until),
        "tcbEvaluationDataNumber": EVALUATION_NUMBER,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": QE_SIGNER.hex().upper(),
        "isvprodid": QE_PROD_ID,
        "tcbLevels": [_svn_level(QE_SVN)],
    }
