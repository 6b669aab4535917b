"""From a trusted key block to a later block, through the signatures of its validators.

Plan, for each forward link of a liteServer.partialBlockProof:

1. it starts at the trusted block;
2. the config proof's root is the trusted block's root, and its header says key block;
3. the validators are those of that configuration;
4. the destination proof has the target's root hash, and its header has the target's shard and
   number;
5. the signed payload names the target, each signature is valid and of a different validator,
   and weight * 3 > total * 2;
6. the target is trusted, and the next link starts there.

A link back proves the past and has its own plan (back.py). It is refused here.
Source: TON tl/generate/scheme/{lite_api,ton_api}.tl.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from nacl.exceptions import CryptoError
from nacl.signing import VerifyKey

from attestation.errors import NotAuthentic
from contracts.light.blocks import (
    MASTERCHAIN,
    MAX_VALIDATORS,
    WHOLE_SHARD,
    BlockHeader,
    BlockId,
    Validators,
    check_header,
    read_validators,
    same_block,
)
from contracts.light.boc import read_bag
from contracts.light.cells import STEP, proof_root
from contracts.light.tl import TlReader, tl_bytes

PARTIAL_BLOCK_PROOF = 0x8ED0D2C1
LINK_FORWARD, LINK_BACK = 0x520FCE1C, 0xEF7E1BEF
SIGNATURES_ORDINARY, SIGNATURES_SIMPLEX = 0xF644A6E6, 0xAC249800
BLOCK_ID = 0xC50B6E70
DATA_TO_SIGN = 0xA8E33DF8
FINALIZE_VOTE = 0x40A7E105
CANDIDATE_ID = 0xB691CD3F
CANDIDATE_ORDINARY, CANDIDATE_EMPTY = 0xE8F9BCDC, 0x72B4D933
PARENT, NO_PARENT = 0x1A4B9AF1, 0x22CBCCA9
MAX_LINKS = 64  # a server sends 16 at most


@dataclass(frozen=True)
class Simplex:
    """The fields of a Simplex signature set besides the signatures: session (32 bytes), slot
    (4 bytes), candidate (TL)."""

    session: bytes
    slot: bytes
    candidate: bytes


@dataclass(frozen=True)
class SignatureSet:
    """Pairs of short id (32 bytes) and signature (64 bytes), and the session that made them."""

    validator_hash: int
    catchain_seqno: int
    signatures: tuple[tuple[bytes, bytes], ...]
    simplex: Simplex | None


@dataclass(frozen=True)
class ForwardLink:
    """liteServer.blockLinkForward; the proofs are bags of cells."""

    to_key_block: bool
    source: BlockId
    target: BlockId
    dest_proof: bytes
    config_proof: bytes
    signatures: SignatureSet


@dataclass(frozen=True)
class CheckedLink:
    """One valid link: `count` validators signed it, with `weight` out of `total`."""

    target: BlockId
    header: BlockHeader
    count: int
    weight: int
    total: int


@dataclass(frozen=True)
class Walk:
    """The end of a proof: the last block, the last key block, and each link between.

    The next proof starts at `key_block`; `complete` is the server's claim that it has nothing more
    to send.
    """

    head: BlockId
    key_block: BlockId
    links: tuple[CheckedLink, ...]
    complete: bool


def check_links(trusted: BlockId, proof: bytes, *, max_links: int = MAX_LINKS) -> BlockId:
    """The block to which `proof` (liteServer.partialBlockProof, TL) leads from `trusted`.

    Raises ParseError for a malformed proof, NotAuthentic if a link is not valid.
    """
    return walk(trusted, proof, max_links=max_links).head


def walk(trusted: BlockId, proof: bytes, *, max_links: int = MAX_LINKS) -> Walk:
    """Like check_links, but it returns each link and the key block from which to continue. A proof
    without links leads to `trusted` itself."""
    complete, source, target, links = read_proof(proof, max_links)
    same_block(source, trusted, "proof")
    head = key_block = trusted
    signed: list[CheckedLink] = []
    for link in links:
        signed.append(check_link(head, link))
        head = link.target
        key_block = head if link.to_key_block else key_block
    same_block(target, head, "end of the proof")
    return Walk(head, key_block, tuple(signed), complete)


def check_link(trusted: BlockId, link: ForwardLink) -> CheckedLink:
    """Steps 1 to 5 of the plan for one link. Raises ParseError or NotAuthentic."""
    same_block(link.source, trusted, "link")
    _check_target(trusted, link.target)
    validators = _validators(trusted, link.config_proof)
    (proof,) = read_bag(link.dest_proof)
    header = check_header(proof_root(proof, link.target.root_hash, "target"), link.target)
    if header.key_block != link.to_key_block:
        text = f"target: expected key block {link.to_key_block}, got {header.key_block}"
        raise NotAuthentic(STEP, "other-header", text)
    _check_session(link.signatures, header)
    weight = _check_signatures(link.signatures, validators, payload(link.signatures, link.target))
    return CheckedLink(
        link.target, header, len(link.signatures.signatures), weight, validators.total
    )


def payload(signed: SignatureSet, target: BlockId) -> bytes:
    """The bytes that the validators signed for `target`.

    ton.blockId in the ordinary form; in the Simplex form the session's consensus.dataToSign
    over a finalizeVote for a candidate. The vote has only the candidate's hash, so the candidate
    is parsed: it must name the target. Raises ParseError, NotAuthentic.
    """
    if signed.simplex is None:
        return BLOCK_ID.to_bytes(4, "little") + target.root_hash + target.file_hash
    vote = signed.simplex
    same_block(read_candidate(vote.candidate), target, "candidate")
    digest = hashlib.sha256(vote.candidate).digest()
    tags = FINALIZE_VOTE.to_bytes(4, "little") + CANDIDATE_ID.to_bytes(4, "little")
    data = tl_bytes(tags + vote.slot + digest)
    return DATA_TO_SIGN.to_bytes(4, "little") + vote.session + data


def read_candidate(candidate: bytes) -> BlockId:
    """The block a consensus.CandidateHashData names. Raises ParseError.

    An empty candidate repeats its parent's block: a vote that finalizes it finalizes that block.
    """
    data = TlReader(candidate, "candidate")
    tag = data.expect(CANDIDATE_ORDINARY, CANDIDATE_EMPTY)
    block = BlockId.read(data)
    if tag == CANDIDATE_EMPTY:
        data.take(36)  # the parent: slot and hash
    else:
        data.take(32)  # file hash of the collated data
        if data.expect(PARENT, NO_PARENT) == PARENT:
            data.expect(CANDIDATE_ID)
            data.take(36)
    data.end()
    return block


def read_proof(
    proof: bytes, max_links: int
) -> tuple[bool, BlockId, BlockId, tuple[ForwardLink, ...]]:
    """A liteServer.partialBlockProof: complete, from, to, steps. Raises ParseError."""
    data = TlReader(proof, "block proof")
    data.expect(PARTIAL_BLOCK_PROOF)
    complete, source, target = data.flag(), BlockId.read(data), BlockId.read(data)
    links = tuple(_link(data) for _ in range(data.count(max_links)))
    data.end()
    return complete, source, target, links


def _link(data: TlReader) -> ForwardLink:
    if data.expect(LINK_FORWARD, LINK_BACK) == LINK_BACK:
        text = "link: expected a forward link, got a link back"
        raise NotAuthentic(STEP, "backward", text)
    return ForwardLink(
        data.flag(),
        BlockId.read(data),
        BlockId.read(data),
        data.blob(),
        data.blob(),
        _signature_set(data),
    )


def _signature_set(data: TlReader) -> SignatureSet:
    """A signature set in either form. The two forms have their first two integers swapped."""
    form = data.expect(SIGNATURES_ORDINARY, SIGNATURES_SIMPLEX)
    first, second = data.uint(), data.uint()
    pairs = tuple((data.take(32), data.blob()) for _ in range(data.count(MAX_VALIDATORS)))
    if form == SIGNATURES_ORDINARY:
        return SignatureSet(first, second, pairs, None)
    return SignatureSet(second, first, pairs, Simplex(data.take(32), data.take(4), data.blob()))


def _check_target(trusted: BlockId, target: BlockId) -> None:
    if (target.workchain, target.shard) != (MASTERCHAIN, WHOLE_SHARD):
        raise NotAuthentic(STEP, "other-chain", f"link: expected the masterchain, got {target}")
    if target.seqno <= trusted.seqno:
        text = f"link: expected a block after {trusted.seqno}, got {target.seqno}"
        raise NotAuthentic(STEP, "backward", text)


def _validators(trusted: BlockId, config_proof: bytes) -> Validators:
    (proof,) = read_bag(config_proof)
    block = proof_root(proof, trusted.root_hash, "configuration")
    if not check_header(block, trusted).key_block:
        text = f"configuration: expected that {trusted} is a key block, its header says it is not"
        raise NotAuthentic(STEP, "not-a-key-block", text)
    return read_validators(block)


def _check_session(signed: SignatureSet, header: BlockHeader) -> None:
    got = (signed.validator_hash, signed.catchain_seqno)
    expected = (header.validator_hash, header.catchain_seqno)
    if got != expected:
        text = f"signatures: expected the session {expected} of the target, got {got}"
        raise NotAuthentic(STEP, "other-session", text)


def _check_signatures(signed: SignatureSet, validators: Validators, text: bytes) -> int:
    """The total weight of the signers of `text`. One invalid signature makes the set invalid."""
    seen: set[bytes] = set()
    weight = 0
    for who, signature in signed.signatures:
        if who not in validators.members:
            reason = f"signatures: {who.hex()} is not a validator of the trusted configuration"
            raise NotAuthentic(STEP, "unknown-validator", reason)
        if who in seen:
            reason = f"signatures: expected each validator once, got {who.hex()} twice"
            raise NotAuthentic(STEP, "repeated", reason)
        seen.add(who)
        key, share = validators.members[who]
        _check_signature(key, signature, text)
        weight += share
    if weight * 3 <= validators.total * 2:
        reason = (
            f"signatures: expected more than 2/3 of the weight {validators.total}, got {weight}"
        )
        raise NotAuthentic(STEP, "too-little-weight", reason)
    return weight


def _check_signature(key: bytes, signature: bytes, text: bytes) -> None:
    try:
        VerifyKey(key).verify(text, signature)
    except (CryptoError, ValueError) as error:
        reason = f"signatures: the signature of the validator key {key.hex()} is not valid"
        raise NotAuthentic(STEP, "bad-signature", reason) from error
