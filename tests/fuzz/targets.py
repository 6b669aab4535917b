"""What is fuzzed, and good inputs to start from.

A target may raise UmayError and nothing else. Where one byte string means one value, what
was parsed must encode to the very bytes it came from.
"""

from __future__ import annotations

import base64
import contextlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.channel import bhttp
from attestation.channel.key_config import encode_key_list, parse_key_list
from attestation.channel.server import KeyRing
from attestation.errors import UmayError
from attestation.formats import cbor, receipt_cose
from attestation.formats.collateral import Collateral
from attestation.formats.digests import domain_digest
from attestation.formats.evidence import Evidence
from attestation.formats.keys import KeyBundle
from attestation.formats.network_file import NetworkFile
from attestation.formats.receipt import Receipt, SignedReceipt
from attestation.formats.retirement import Retirement
from attestation.formats.session import SessionAnswer, SessionRequest
from attestation.log import checkpoint as checkpoints
from attestation.log.checkpoint import Checkpoint
from attestation.log.checkpoint import parse as parse_checkpoint
from attestation.log.documents import RetireRequest, collateral_leaf
from attestation.log.leaf import Leaf
from attestation.log.note import Note
from attestation.log.proof import Proof
from attestation.log.submission import Submission, SubmissionAnswer
from attestation.log.tiles import decode_bundle, encode_bundle
from attestation.nvidia import ocsp, parse_report, read_rim
from attestation.platforms import azure, snp, tdx
from attestation.trust.anchor import Anchor, BlockRef
from attestation.trust.policy import Policy
from attestation.trust.roots import PRODUCTION
from client_sdk import sse
from client_sdk.auditing.proof_file import EnclaveProof
from client_sdk.disclosure import DisclosedReceipt, Opened
from client_sdk.inspection import azure as inspect_azure
from client_sdk.inspection import broken, gpu, tcglog, tdreport, tokens, wrapped
from client_sdk.inspection.files import inspect
from client_sdk.inspection.result import CheckInputs
from contracts.codec import LogState
from contracts.light.accounts import read_account
from contracts.light.adnl import read_answer
from contracts.light.back import check_back
from contracts.light.blocks import read_block_header
from contracts.light.boc import read_bag
from contracts.light.links import walk
from contracts.light.recording import MAGIC as RECORDING
from contracts.light.recording import read_recording
from contracts.light.tl import tl_bytes
from contracts.logservice.witness import AddCheckpoint
from contracts.registry import RegistryState
from contracts.registry import genesis as registry_genesis
from enclave.guest.config import HostConfig
from enclave.simulator.amd import SimulatedAmd
from enclave.simulator.service import Simulator
from tests.attestation.test_policy import GOOD
from tests.attestation.test_receipt_cose import RECEIPT
from tests.helpers import azure_machine, tcg_logs
from tests.helpers.network_files import network_file
from tests.helpers.ton_chain import (
    LOG_ADDRESS,
    UTIME,
    TonChain,
    answer_bytes,
    back_bytes,
    header_bytes,
    proof_bytes,
)
from tests.helpers.world import device_of, quoted_of
from tests.vectors import generate

NOW = 1_795_000_000
Target = Callable[[bytes], object]


def exact(parse: Callable[[bytes], Any], encode: Callable[[Any], bytes] | None = None) -> Target:
    """Parse, encode, compare."""

    def run(data: bytes) -> None:
        value = parse(data)
        again = encode(value) if encode else value.to_bytes()
        if again != data:
            raise AssertionError("parsed, and encodes to other bytes")

    return run


def twice(parse: Callable[[bytes], Any]) -> Target:
    """For readers that ignore unknown keys: what it encodes must read back the same."""

    def run(data: bytes) -> None:
        value = parse(data)
        if parse(value.to_bytes()) != value:
            raise AssertionError("encodes to something that reads differently")

    return run


def _enclave_fields(data: bytes) -> None:
    """The file's fields under a digest that fits them, which no mutation finds."""
    fields = {**cbor.decode_map(data, required=frozenset()), 9: b""}
    del fields[9]
    digest = domain_digest("umay/enclave-proof/v1", cbor.encode(fields))
    exact(EnclaveProof.from_bytes)(cbor.encode({**fields, 9: digest}))


def _ohttp(data: bytes) -> None:
    _RING.request(chunked=True).open(data)


def _ohttp_to_session(data: bytes) -> None:
    _RING.request(chunked=True, to_session=True).open(data)


def _given(data: bytes) -> object:
    return inspect("fuzz", data, _GIVEN)


def _simulator() -> Simulator:
    with tempfile.TemporaryDirectory() as directory:
        return Simulator(Path(directory), clock=lambda: NOW)


_SIMULATOR = _simulator()
_RING = KeyRing()
_TON = TonChain()
_CONFIGS = _RING.open_epoch().configs
_GIVEN = CheckInputs(NOW, PRODUCTION)
_RIM_ROOT = frozenset({_SIMULATOR.nvidia.rim_root_spki})

TARGETS: dict[str, Target] = {
    "cbor": exact(lambda data: cbor.decode(data, limit=1 << 20), cbor.encode),
    "key-bundle": twice(KeyBundle.from_bytes),
    "evidence": twice(Evidence.from_bytes),
    "collateral": twice(Collateral.from_bytes),
    "receipt": exact(Receipt.from_bytes),
    "session-request": exact(SessionRequest.from_bytes),
    "session-answer": twice(SessionAnswer.from_bytes),
    "signed-receipt": exact(SignedReceipt.from_bytes),
    "cose-receipt": exact(receipt_cose.decode, lambda value: receipt_cose.encode(*value)),
    "disclosed-receipt": exact(DisclosedReceipt.from_bytes),
    "leaf": twice(Leaf.from_bytes),
    "submission": twice(Submission.from_bytes),
    "logged": twice(SubmissionAnswer.from_bytes),
    "note": exact(Note.from_bytes),
    "checkpoint": parse_checkpoint,
    "checkpoint-body": exact(
        lambda data: Checkpoint.from_body(data.decode("latin-1")),
        lambda value: value.body().encode("latin-1"),
    ),
    "add-checkpoint": exact(AddCheckpoint.from_bytes),
    "retirement": twice(Retirement.from_bytes),
    "retire-request": twice(RetireRequest.from_bytes),
    "collateral-manifest": collateral_leaf,
    "registry-state": RegistryState.from_boc,
    "log-proof": exact(Proof.from_bytes),
    "enclave-proof": exact(EnclaveProof.from_bytes),
    "enclave-proof-fields": _enclave_fields,
    "entry-bundle": exact(decode_bundle, encode_bundle),
    "policy": Policy.from_toml,
    "network-file": exact(NetworkFile.from_bytes),
    "host-config": HostConfig.from_toml,
    "tdx-quote": tdx.parse_quote,
    "tdx-buffer": tdx.cut_padding,
    "event-log": exact(tdx.parse_ccel),
    "event-log-area": tdx.cut_fill,
    "snp-report": snp.parse_report,
    "azure-hcl": azure.parse_hcl,
    "azure-vtpm": lambda data: azure.parse_vtpm_quote(data, b"", azure_machine.PCRS),
    "gpu-report": parse_report,
    "rim": lambda data: read_rim(data, pinned=_RIM_ROOT, now=NOW),
    "ocsp": ocsp._load,
    "bhttp-request": bhttp.decode_request,
    "bhttp-response": bhttp.decode_response,
    "key-list": parse_key_list,
    "ohttp-request": _ohttp,
    "ohttp-request-to-session": _ohttp_to_session,
    "contract-state": LogState.from_boc,
    "bag-of-cells": read_bag,
    "lite-links": lambda data: walk(_TON.first.block, data),
    "lite-back": lambda data: check_back(_TON.second.block, _TON.first.block, data),
    "lite-account": lambda data: read_account(
        _TON.head.block, data, LOG_ADDRESS, now=UTIME, max_age_s=600
    ),
    "lite-header": read_block_header,
    "lite-packet": lambda data: read_answer(data, bytes(32)),
    "lite-recording": read_recording,
    "sse": lambda data: list(sse.deltas([data])),
    "inspect": _given,
    "tcg-log": tcglog.read,
    "provider-json": lambda data: wrapped.provider("fuzz", data, _GIVEN),
    "nvidia-json": lambda data: gpu.sdk_evidence("fuzz", data, _GIVEN),
    "token": lambda data: tokens.token("fuzz", data, _GIVEN),
    "broken-quote": lambda data: broken.quote("fuzz", data, _GIVEN),
    "broken-gpu-report": lambda data: broken.gpu_report("fuzz", data, _GIVEN),
    "broken-snp-report": lambda data: broken.snp_report("fuzz", data, _GIVEN),
    "hcl-file": lambda data: inspect_azure.hcl("fuzz", data, _GIVEN),
    "vtpm-file": inspect_azure.read_bincode,
    "tdreport": lambda data: tdreport.tdreport("fuzz", data, _GIVEN),
    "broken-rim": lambda data: broken.rim("fuzz", data, _GIVEN),
}


def run(name: str, data: bytes) -> None:
    """One input to one target; whatever escapes is a finding."""
    with contextlib.suppress(UmayError):
        TARGETS[name](data)


def seeds() -> list[bytes]:
    """Good inputs of every format; each target finds its own among them."""
    values = generate.vectors()
    found = [bytes.fromhex(value) for value in values.values() if _is_hex(value)]
    found += [GOOD.encode(), generate.HOST + b"[price]\nprompt = 1\ncompletion = 2\n"]
    found.append(encode_key_list(_CONFIGS))
    _SIMULATOR.handle({0: "launch", 1: "vm", 2: 1})
    quoted = quoted_of(_SIMULATOR.handle({0: "tdx.quote", 1: "vm", 2: bytes(64)}))
    device = device_of(_SIMULATOR.handle({0: "gpu.report", 1: "vm", 2: 0, 3: bytes(32)}))
    parts = _SIMULATOR.handle({0: "collateral"})[1]
    found += [quoted.quote, quoted.ccel, device.report, device.chain[0]]
    found += [quoted.quote + bytes(307), quoted.ccel + b"\xff" * 64]
    found += [data for name, data in parts.items() if len(data) < 64 * 1024]
    found += [SimulatedAmd().report(), azure_machine.hcl(), azure_machine.message()]
    genesis = LogState.genesis(origin="log.example", log_key=bytes(32), size=1, root=bytes(32))
    found.append(genesis.to_cell().to_boc())
    found.append(_enclave_proof().to_bytes())
    found.append(network_file(1).to_bytes())
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    word = Retirement.sign(key, bytes(16), bytes(32)).to_bytes()
    found += [word, RetireRequest(1, word).to_bytes(), cbor.encode({"intel/crl": bytes(32)})]
    signed = RECEIPT.sign(key)
    cose, part = receipt_cose.sign(signed.body, key), Opened(bytes(32), b"text")
    found.append(receipt_cose.encode(signed.body, cose))
    found.append(DisclosedReceipt(signed, bytes(32), part, part, cose).to_bytes())
    note = checkpoints.sign(Checkpoint("log.example", 2, bytes(32)), key=key)
    found.append(AddCheckpoint(1, (bytes(32),), note).to_bytes())
    found.append(registry_genesis(owner="0:" + "11" * 32, notice=1).to_boc())
    found += [proof_bytes(_TON.link(_TON.first, _TON.second)), back_bytes(_TON.back(_TON.first))]
    found += [answer_bytes(_TON.answer()), header_bytes(_TON.head), _TON.first.header_proof()]
    found.append(RECORDING + bytes(8) + tl_bytes(b"question") + tl_bytes(b"answer"))
    found += [tcg_logs.agile(), tcg_logs.sha1(), *_wrapped(quoted.quote, device.report)]
    request = bhttp.Request("POST", "/v1/models", ((b"a", b"b"),), b"{}")
    response = bhttp.Response(200, ((b"a", b"b"),), b"{}", ((b"c", b"d"),))
    return [*found, bhttp.encode_request(request), bhttp.encode_response(response)]


def _wrapped(quote: bytes, report: bytes) -> list[bytes]:
    """Evidence in JSON, as NVIDIA and providers hand it out, and a token."""
    listed = [{"certificate": _text(b"-----BEGIN CERTIFICATE-----"), "evidence": _text(report)}]
    beside = {"intel_quote": quote.hex(), "info": {"tcb_info": "{}"}, "signing_address": "0x00"}
    payload = json.dumps({"nonce": "00" * 32, "evidence_list": listed})
    parts = (b'{"alg":"none"}', b'{"iss":"x"}', b"sig")
    token = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    return [
        json.dumps({**beside, "nvidia_payload": payload}).encode(),
        json.dumps(listed).encode(),
        token,
    ]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _enclave_proof() -> EnclaveProof:
    """Well-formed; nothing in it belongs together."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    note = checkpoints.sign(Checkpoint("log.example", 1, bytes(32)), key=key)
    log_key = key.public_key().public_bytes_raw()
    anchor = Anchor(
        "net",
        "0:" + "00" * 32,
        bytes(32),
        "log.example",
        log_key,
        1,
        1,
        bytes(32),
        1,
        False,
        2,
        "reported",
    )
    proof = Proof(0, (), note, b"leaf").to_bytes()
    beacon = BlockRef(1, bytes(32), 1, "reported")
    return EnclaveProof(proof, anchor, beacon, b"evidence", b"{}", b"{}", b"", b"collateral")


def _is_hex(value: object) -> bool:
    return isinstance(value, str) and all(digit in "0123456789abcdef" for digit in value)
