"""From a trusted block to an older one, through the list of old blocks in its state.

Plan, for a liteServer.partialBlockProof of one link back:

1. it starts at the trusted block and ends at the requested block, which is older;
2. a proof of the trusted block shows the hash of its state, another proof that state;
3. the state's list of old masterchain blocks names the target with both hashes;
4. the destination proof has the target's root hash, and its header has the target's shard and
   number.

No signature is needed: the trusted block's own state is the proof. Source: TON
crypto/block/block.tlb (McStateExtra, OldMcBlocksInfo, KeyExtBlkRef, KeyMaxLt).
"""

from __future__ import annotations

from dataclasses import dataclass

from pytoniq_core import Cell

from attestation.errors import NotAuthentic, ParseError
from contracts.light.accounts import ChainState, state_after
from contracts.light.blocks import MASTERCHAIN, WHOLE_SHARD, BlockId, check_header, same_block
from contracts.light.boc import read_bag
from contracts.light.cells import STEP, Reader, lookup, proof_root
from contracts.light.links import LINK_BACK, PARTIAL_BLOCK_PROOF
from contracts.light.tl import TlReader


@dataclass(frozen=True)
class BackLink:
    """liteServer.blockLinkBack; the proofs are bags of cells."""

    to_key_block: bool
    source: BlockId
    target: BlockId
    dest_proof: bytes
    proof: bytes
    state_proof: bytes


def check_back(trusted: BlockId, target: BlockId, answer: bytes) -> None:
    """Check that `answer` proves `target` to be an older block of `trusted`'s own chain.

    Raises ParseError for a malformed proof, NotAuthentic for one that is not valid.
    """
    link = read_back(answer)
    same_block(link.source, trusted, "link back")
    same_block(link.target, target, "end of the link back")
    if target.seqno >= trusted.seqno:
        text = f"link back: expected a block before {trusted.seqno}, got {target.seqno}"
        raise NotAuthentic(STEP, "not-older", text)
    (block,), (state,) = read_bag(link.proof), read_bag(link.state_proof)
    key_block = _listed(state_after(block, state, trusted), target)
    (proof,) = read_bag(link.dest_proof)
    header = check_header(proof_root(proof, target.root_hash, "target"), target)
    if not header.key_block == key_block == link.to_key_block:
        text = f"target: expected key block {key_block}, got {header.key_block}"
        raise NotAuthentic(STEP, "other-header", text)


def read_back(answer: bytes) -> BackLink:
    """A liteServer.partialBlockProof of one link back. Raises ParseError."""
    data = TlReader(answer, "block proof")
    data.expect(PARTIAL_BLOCK_PROOF)
    data.flag()
    source, target = BlockId.read(data), BlockId.read(data)
    if (got := data.uint()) != 1:
        raise ParseError(f"block proof: expected exactly 1 link back, got {got} links")
    data.expect(LINK_BACK)
    link = BackLink(
        data.flag(),
        BlockId.read(data),
        BlockId.read(data),
        data.blob(),
        data.blob(),
        data.blob(),
    )
    data.end()
    same_block(link.source, source, "link")
    same_block(link.target, target, "link")
    return link


def _listed(state: ChainState, target: BlockId) -> bool:
    """Whether the old block `target` is a key block. Raises NotAuthentic if it is not listed."""
    entry = lookup(_old_blocks(state), target.seqno, 32, "old blocks")
    if entry is None:
        raise NotAuthentic(STEP, "no-such-block", f"old blocks: expected {target}, found no entry")
    entry.uint(1 + 64)  # KeyMaxLt of the leaf
    key_block = entry.bit()
    entry.uint(64)  # end of its logical time
    listed = BlockId(MASTERCHAIN, WHOLE_SHARD, entry.uint(32), entry.octets(32), entry.octets(32))
    entry.end()
    same_block(listed, target, "old blocks")
    return key_block


def _old_blocks(state: ChainState) -> Cell:
    if state.custom is None:
        raise ParseError("state: expected a masterchain state, got one without its extra part")
    extra = Reader(state.custom, "masterchain state").expect(0xCC26, 16)
    extra.maybe_ref()  # shards
    extra.octets(32), extra.ref()  # configuration: address and parameters
    rest = Reader(extra.ref(), "masterchain state")
    if (flags := rest.uint(16)) > 1:
        raise ParseError(f"masterchain state: expected the flags 0 or 1, got {flags}")
    rest.uint(32 + 32 + 1)  # ValidatorInfo
    root = rest.maybe_ref()
    if root is None:
        raise NotAuthentic(
            STEP, "no-such-block", "old blocks: expected a list of old blocks, found none"
        )
    return root
