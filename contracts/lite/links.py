"""From one key block to the next: the validators it names signed the block it leads to.

Trust begins at a pinned key block. Its configuration (parameters 28 and 34), proven under
its own root hash, names the validators; more than two thirds of their weight, each counted
once, must have signed the target. Ordinary signatures are over ton.blockId; Simplex ones,
used since April 2026, over a vote that finalises a candidate, which must name the target.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pytoniq_core import Cell, Slice

from attestation.errors import NotAuthentic, ParseError
from contracts.lite import proofs, tl
from contracts.lite.tl import BlockId, ForwardLink, SignatureSet

MASTERCHAIN, WHOLE_SHARD = -1, 1 << 63
MAX_VALIDATORS = 1024
PUBLIC_KEY = tl.constructor("pub.ed25519 key:int256 = PublicKey")
BLOCK_ID = tl.constructor("ton.blockId root_cell_hash:int256 file_hash:int256 = ton.BlockId")
DATA_TO_SIGN = tl.constructor(
    "consensus.dataToSign session_id:int256 data:bytes = consensus.DataToSign"
)
FINALIZE = tl.constructor(
    "consensus.simplex.finalizeVote id:consensus.CandidateId = consensus.simplex.UnsignedVote"
)
CANDIDATE_ID = tl.constructor("consensus.candidateId slot:int hash:int256 = consensus.CandidateId")
CANDIDATE = tl.constructor(
    "consensus.candidateHashDataOrdinary block:tonNode.blockIdExt collated_file_hash:int256 "
    "parent:consensus.CandidateParent = consensus.CandidateHashData"
)
PARENT = tl.constructor(
    "consensus.candidateParent id:consensus.CandidateId = consensus.CandidateParent"
)
NO_PARENT = tl.constructor("consensus.candidateWithoutParents = consensus.CandidateParent")


@dataclass(frozen=True)
class Validator:
    """Ed25519 key (32 bytes) and weight of one masterchain validator."""

    key: bytes
    weight: int


@dataclass(frozen=True)
class Reached:
    """A block that validators signed, its time (Unix seconds), and the last key block on the
    way to it: where to begin the next time."""

    block: BlockId
    utime: int
    key_block: BlockId


def follow(trusted: BlockId, answer: bytes) -> Reached:
    """Every link of a liteServer.partialBlockProof from the key block `trusted` on.

    Raises ParseError or NotAuthentic("chain", …).
    """
    source, _, links = tl.read_block_proof(answer)
    if source != trusted or not links:
        raise proofs.refused("other-start", "expected a proof that begins at the trusted block")
    reached = Reached(trusted, 0, trusted)
    for link in links:
        if link.source != reached.block or link.source != reached.key_block:
            raise proofs.refused("broken-chain", "a link does not begin where the last one ended")
        utime = check_link(link)
        last_key = link.target if link.to_key_block else reached.key_block
        reached = Reached(link.target, utime, last_key)
    return reached


def check_link(link: ForwardLink) -> int:
    """One link whose source is trusted already; the target's time. Raises as `follow`."""
    target = proofs.reading(lambda: _header_of(link.target, link.target_proof))
    if target.is_key_block != link.to_key_block or link.target.seqno <= link.source.seqno:
        raise proofs.refused("other-block", "the target is not the block that the link says")
    validators = proofs.reading(lambda: _validators(link.source, link.config_proof))
    payload = signed_payload(link.target, link.signatures)
    check_signatures(validators, link.signatures, payload)
    return target.utime


def _header_of(block: BlockId, proof: bytes) -> proofs.Header:
    return _checked_header(block, proofs.proven(proofs.roots(proof, 1)[0], block.root_hash))


def _checked_header(block: BlockId, cell: Cell) -> proofs.Header:
    found = proofs.header(cell)
    said = (found.workchain, found.shard, found.seqno)
    if said != (block.workchain, block.shard, block.seqno) or said[:2] != (
        MASTERCHAIN,
        WHOLE_SHARD,
    ):
        raise proofs.refused("other-block", "the header is not that of this masterchain block")
    return found


def _validators(block: BlockId, proof: bytes) -> tuple[Validator, ...]:
    """The masterchain's validators by a key block's own configuration."""
    cell = proofs.proven(proofs.roots(proof, 1)[0], block.root_hash)
    if not _checked_header(block, cell).is_key_block:
        raise proofs.refused("no-key-block", "only a key block names validators")
    config = _config(cell)
    _check_catchain(proofs.look_up(config, f"{28:032b}"))
    found = proofs.look_up(config, f"{34:032b}")
    if found is None:
        raise proofs.refused("no-validators", "the configuration names no validators")
    return _set(proofs.ordinary(found.load_ref()))


def _config(block: Cell) -> Cell:
    """The dictionary of ConfigParams in masterchain_block_extra#cca5."""
    extra = proofs.ordinary(block.refs[3])
    proofs.tag(extra, 32, 0x4A33F6FD, "block extra")
    for _ in range(3):
        extra.load_ref()
    extra.load_bits(512)  # random seed, creator
    if not extra.load_bit():
        raise ParseError("block extra: expected that of a masterchain block")
    body = proofs.ordinary(extra.load_ref())
    proofs.tag(body, 16, 0xCCA5, "masterchain block extra")
    if not body.load_bit():
        raise proofs.refused("no-key-block", "only a key block has the configuration")
    for _ in range(2):  # shard hashes and fees
        if body.load_bit():
            body.load_ref()
    for _ in range(2):  # the fees' own sums
        proofs.skip_currency(body)
    body.load_ref()
    body.load_bits(256)  # the configuration contract's address
    found: Cell = body.load_ref()
    return found


def _check_catchain(param: Slice | None) -> None:
    """Parameter 28 says whether validators are shuffled: that moves the order in which they
    produce blocks, not who they are, so the set below is the same either way."""
    if param is None:
        raise proofs.refused("no-validators", "the configuration lacks parameter 28")
    if proofs.ordinary(param.load_ref()).load_uint(8) not in (0xC1, 0xC2):
        raise ParseError("parameter 28: expected catchain_config")


def _set(body: Slice) -> tuple[Validator, ...]:
    """validators_ext#12: of all, the first `main` serve the masterchain."""
    proofs.tag(body, 8, 0x12, "validator set")
    body.load_bits(64)  # since, until
    total, main = body.load_uint(16), body.load_uint(16)
    body.load_uint(64)  # the weight of all, masterchain or not
    if not 1 <= main <= total <= MAX_VALIDATORS or not body.load_bit():
        raise ParseError("validator set: expected at least one validator")
    root = body.load_ref()
    return tuple(_descriptor(proofs.look_up(root, f"{at:016b}")) for at in range(main))


def _descriptor(body: Slice | None) -> Validator:
    if body is None:
        raise proofs.refused("no-validators", "a validator is missing from the set")
    if body.load_uint(8) not in (0x53, 0x73):
        raise ParseError("validator: expected validator or validator_addr")
    proofs.tag(body, 32, 0x8E81278A, "validator key")
    return Validator(body.load_bytes(32), body.load_uint(64))


def signed_payload(target: BlockId, signatures: SignatureSet) -> bytes:
    """What each validator signed for this target. Raises NotAuthentic where a Simplex
    candidate names another block."""
    if signatures.session is None:
        return BLOCK_ID.to_bytes(4, "little") + target.root_hash + target.file_hash
    if _candidate(signatures.candidate) != target:
        raise proofs.refused("other-candidate", "the candidate names another block")
    name = hashlib.sha256(signatures.candidate).digest()
    vote = FINALIZE.to_bytes(4, "little") + CANDIDATE_ID.to_bytes(4, "little")
    vote += signatures.slot.to_bytes(4, "little") + name
    return DATA_TO_SIGN.to_bytes(4, "little") + signatures.session + tl.write_bytes(vote)


def _candidate(data: bytes) -> BlockId:
    """The block of a consensus.candidateHashDataOrdinary, read to its last byte."""
    reader = tl.Reader(data)
    reader.expect(CANDIDATE, "consensus.candidateHashDataOrdinary")
    block = reader.block_id()
    reader.take(32)
    parent = reader.u32()
    if parent == PARENT:
        reader.expect(CANDIDATE_ID, "consensus.candidateId")
        reader.take(36)
    elif parent != NO_PARENT:
        raise ParseError("candidate: expected a parent, or none")
    reader.end()
    return block


def check_signatures(
    validators: tuple[Validator, ...], signatures: SignatureSet, payload: bytes
) -> int:
    """The weight that signed. Raises NotAuthentic for a stranger, a repetition, a signature
    that does not hold, or two thirds and less of the weight."""
    known, signed = _by_short_id(validators), 0
    seen: set[bytes] = set()
    for name, signature in signatures.signatures:
        if name not in known:
            raise proofs.refused("unknown-validator", "a signer is none of the validators")
        if known[name].key in seen:
            raise proofs.refused("repeated-signature", "a validator's signature stands twice")
        seen.add(known[name].key)
        _verify(known[name], signature, payload)
        signed += known[name].weight
    total = sum(validator.weight for validator in validators)
    if signed * 3 <= total * 2:
        raise proofs.refused("too-little-weight", f"{signed} of {total} signed")
    return signed


def _by_short_id(validators: tuple[Validator, ...]) -> Mapping[bytes, Validator]:
    tag = PUBLIC_KEY.to_bytes(4, "little")
    named = {hashlib.sha256(tag + item.key).digest(): item for item in validators}
    if len(named) != len(validators):
        raise proofs.refused("repeated-validator", "a validator's key stands twice in the set")
    return named


def _verify(validator: Validator, signature: bytes, payload: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(validator.key).verify(signature, payload)
    except (InvalidSignature, ValueError):
        raise NotAuthentic(proofs.STEP, "bad-signature", "a validator did not sign this") from None
