"""Every byte format against vectors made from the specification alone."""

from __future__ import annotations

from typing import Any

import pytest

from attestation.formats import digests
from attestation.formats.collateral import Collateral
from attestation.formats.evidence import (
    Evidence,
    evidence_digest,
    fresh_published,
    fresh_session,
    gpu_evidence_digest,
    gpu_nonce,
    report_data_binding,
    statement,
)
from attestation.formats.keys import KeyBundle, bundle_digest
from attestation.formats.measurement import measurement_digest
from attestation.formats.model import ModelFile, model_digest
from attestation.formats.receipt import Receipt, SignedReceipt, matches
from attestation.formats.session import (
    SessionAnswer,
    SessionRequest,
    check_gone,
    session_leaf,
)
from attestation.log.leaf import Leaf
from attestation.log.merkle import leaf_hash, root_from_inclusion
from attestation.log.proof import Proof, verify_proof
from tests.helpers.channel_vectors import load
from tests.vectors import generate

VECTORS = load("formats")


def raw(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name])


def test_the_generator_makes_the_committed_file() -> None:
    assert generate.vectors() == VECTORS


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("key_bundle", KeyBundle),
        ("evidence", Evidence),
        ("collateral", Collateral),
        ("leaf", Leaf),
        ("receipt", Receipt),
        ("signed_receipt", SignedReceipt),
        ("tlog_proof", Proof),
    ],
)
def test_decodes_and_encodes_back(name: str, kind: Any) -> None:
    assert kind.from_bytes(raw(name)).to_bytes() == raw(name)


def test_key_bundle_binds_all_configs() -> None:
    bundle = KeyBundle.from_bytes(raw("key_bundle"))
    files = [ModelFile(name, size, bytes.fromhex(found)) for name, size, found in VECTORS["model"]]
    assert bundle.model_digest == model_digest(files)
    assert bundle.engine_digest == digests.engine_digest(raw("engine_config"))
    assert bundle.price_digest == digests.price_digest(raw("price_table"))
    assert bundle.host_config_digest == digests.host_config_digest(raw("host_config"))


def test_quote_binding() -> None:
    evidence = Evidence.from_bytes(raw("evidence"))
    b = bundle_digest(evidence.bundle)
    assert gpu_nonce(b) == raw("gpu_nonce")
    assert gpu_evidence_digest(evidence.devices) == raw("gpu_evidence_digest")
    bound = report_data_binding(b, gpu_evidence_digest(evidence.devices))
    assert bound == raw("report_data_binding")
    beacon = KeyBundle.from_bytes(evidence.bundle).beacon
    assert fresh_published(beacon[1]) == raw("fresh_published")
    assert fresh_session(raw("root")) == raw("fresh_session")


def test_a_session_stands_in_the_quoted_tree() -> None:
    asked = SessionRequest.from_bytes(raw("session_request"))
    assert (asked.nonce, asked.kem_id) == (raw("nonce"), 0x647A)
    assert asked.to_bytes() == raw("session_request")
    answer = SessionAnswer.from_bytes(raw("session_answer"))
    assert answer.to_bytes() == raw("session_answer")
    leaf = session_leaf(asked.nonce, answer.config)
    assert leaf == raw("session_leaf")
    root = root_from_inclusion(
        leaf_hash(leaf), index=answer.index, size=answer.size, proof=answer.path
    )
    assert root == raw("session_root")


def test_the_end_of_a_session_is_signed() -> None:
    check_gone(
        raw("log_key"),
        raw("session_gone"),
        evidence=raw("session_gone_evidence"),
        clear=raw("session_clear"),
    )


def test_leaf_names_its_evidence() -> None:
    leaf = Leaf.from_bytes(raw("leaf"))
    assert leaf_hash(raw("leaf")) == raw("leaf_hash")
    assert leaf.evidence_digest == evidence_digest(raw("evidence"))
    assert leaf.bundle_digest == bundle_digest(raw("key_bundle"))
    registers = tuple(bytes.fromhex(register) for register in VECTORS["registers"])
    assert leaf.measurement_digest == measurement_digest("tdx", registers)
    assert leaf.collateral_digest == Collateral.from_bytes(raw("collateral")).manifest_digest()
    assert leaf.statement == statement(b"signed region")


def test_log_proof_verifies() -> None:
    leaf, checkpoint = verify_proof(
        raw("tlog_proof"), origin=VECTORS["origin"], log_key=raw("log_key")
    )
    assert (leaf, checkpoint.size) == (raw("leaf"), 2)


def test_receipt_opens_and_matches() -> None:
    receipt = SignedReceipt.from_bytes(raw("signed_receipt")).open(raw("log_key"))
    assert receipt == Receipt.from_bytes(raw("receipt"))
    assert matches(receipt.request_hash, raw("salt"), b"request")
    assert matches(receipt.response_hash, raw("salt"), b"response")
    assert not matches(receipt.response_hash, raw("salt"), b"respons3")
