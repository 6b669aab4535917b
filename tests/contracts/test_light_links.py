"""The light client's links: what leads from a trusted block to a later one, and what does not."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import NotAuthentic, ParseError
from contracts.light import boc, check_links, links, walk
from contracts.light.blocks import BlockId, short_id
from contracts.light.boc import write_bag
from contracts.light.links import ForwardLink, read_proof
from tests.helpers import ton_chain
from tests.helpers.places import EVIDENCE
from tests.helpers.ton_chain import TonChain, candidate, merkle_proof, proof_bytes

RECORDED = {
    "one-link-ordinary": (46894135, 46897112, 85),
    "one-link-simplex": (59238081, 59379986, 66),
}
recorded = pytest.mark.skipif(not (EVIDENCE / "ton").is_dir(), reason=f"no answers in {EVIDENCE}")
FORMS = pytest.mark.parametrize("simplex", [False, True], ids=["ordinary", "simplex"])


@functools.cache
def chain() -> TonChain:
    return TonChain()


@functools.cache
def good(*, simplex: bool = False) -> ForwardLink:
    return chain().link(chain().first, chain().second, simplex=simplex)


@functools.cache
def answer(name: str) -> bytes:
    return bytes.fromhex("".join((EVIDENCE / "ton" / f"{name}.hex").read_text().split()))


def signed_by(link: ForwardLink, pairs: tuple[tuple[bytes, bytes], ...]) -> ForwardLink:
    return replace(link, signatures=replace(link.signatures, signatures=pairs))


def repeated(link: ForwardLink) -> ForwardLink:
    pairs = link.signatures.signatures
    return signed_by(link, (*pairs[:4], *pairs[:4]))


def unknown(link: ForwardLink) -> ForwardLink:
    pairs = link.signatures.signatures
    return signed_by(link, ((b"\x99" * 32, pairs[0][1]), *pairs[1:]))


def beyond_main(link: ForwardLink) -> ForwardLink:
    """The ninth validator is in the list, but no validator of the masterchain."""
    pairs = link.signatures.signatures
    ninth = short_id(chain().validators[8].public)
    return signed_by(link, ((ninth, pairs[0][1]), *pairs[1:]))


def changed_signature(link: ForwardLink) -> ForwardLink:
    (who, signature), *rest = link.signatures.signatures
    return signed_by(link, ((who, signature[:-1] + bytes([signature[-1] ^ 1])), *rest))


def somebody_elses(link: ForwardLink) -> ForwardLink:
    (first, a), (second, b), *rest = link.signatures.signatures
    return signed_by(link, ((first, b), (second, a), *rest))


def changed_file_hash(link: ForwardLink) -> ForwardLink:
    return replace(link, target=replace(link.target, file_hash=b"\1" * 32))


def other_target(link: ForwardLink) -> ForwardLink:
    return replace(link, target=chain().head.block)


def renumbered(link: ForwardLink) -> ForwardLink:
    return replace(link, target=replace(link.target, seqno=link.target.seqno + 1))


def in_a_shard(link: ForwardLink) -> ForwardLink:
    return replace(link, target=replace(link.target, workchain=0))


def other_session(link: ForwardLink) -> ForwardLink:
    return replace(link, signatures=replace(link.signatures, catchain_seqno=78))


def not_said_key(link: ForwardLink) -> ForwardLink:
    return replace(link, to_key_block=not link.to_key_block)


def changed_weight(link: ForwardLink) -> ForwardLink:
    """The same block with one validator of a thousandfold weight: another root hash."""
    heavy = TonChain()
    heavy.validators[0] = replace(heavy.validators[0], weight=10_000)
    block = ton_chain.make_block(100, config=heavy.config())
    return replace(link, config_proof=block.config_proof())


def config_of_another(link: ForwardLink) -> ForwardLink:
    return replace(link, config_proof=chain().second.config_proof())


def config_pruned(link: ForwardLink) -> ForwardLink:
    extra = chain().first.cell.refs[3].refs[3]
    return replace(link, config_proof=chain().first.config_proof(extra.refs[1]))


def bare_block(link: ForwardLink) -> ForwardLink:
    return replace(link, config_proof=write_bag([chain().first.cell]))


def header_pruned(link: ForwardLink) -> ForwardLink:
    made = chain().second
    thin = merkle_proof(made.cell, made.cell.refs)
    return replace(link, dest_proof=write_bag([thin]))


Case = tuple[Callable[[ForwardLink], ForwardLink], str]
CASES: list[Case] = [
    (repeated, "repeated"),
    (unknown, "unknown-validator"),
    (beyond_main, "unknown-validator"),
    (changed_signature, "bad-signature"),
    (somebody_elses, "bad-signature"),
    (other_target, "wrong-root"),
    (renumbered, "other-header"),
    (in_a_shard, "other-chain"),
    (other_session, "other-session"),
    (not_said_key, "other-header"),
    (changed_weight, "wrong-root"),
    (config_of_another, "wrong-root"),
    (config_pruned, "pruned"),
    (bare_block, "not-a-proof"),
    (header_pruned, "pruned"),
]


@FORMS
def test_a_link_that_holds(simplex: bool) -> None:
    link = good(simplex=simplex)
    found = walk(chain().first.block, proof_bytes(link))
    assert found.head == found.key_block == chain().second.block
    assert [(s.count, s.weight, s.total) for s in found.links] == [(6, 60, 80)]


def test_links_in_a_row_end_at_a_block_that_is_no_key_block() -> None:
    last = chain().link(chain().second, chain().head, simplex=True)
    proof = proof_bytes(good(), last)
    assert check_links(chain().first.block, proof) == chain().head.block
    assert walk(chain().first.block, proof).key_block == chain().second.block


@FORMS
@pytest.mark.parametrize(("change", "code"), CASES, ids=[case[0].__name__ for case in CASES])
def test_a_link_that_does_not_hold(
    change: Callable[..., ForwardLink], code: str, simplex: bool
) -> None:
    with pytest.raises(NotAuthentic) as caught:
        check_links(chain().first.block, proof_bytes(change(good(simplex=simplex))))
    assert caught.value.code == code


def test_an_ordinary_signature_covers_the_file_hash() -> None:
    with pytest.raises(NotAuthentic, match="bad-signature"):
        check_links(chain().first.block, proof_bytes(changed_file_hash(good())))


@FORMS
def test_an_invented_trusted_block_brings_no_validators_of_its_own(simplex: bool) -> None:
    invented = BlockId(-1, ton_chain.WHOLE, 100, b"\xaa" * 32, b"\xbb" * 32)
    link = replace(good(simplex=simplex), source=invented)
    with pytest.raises(NotAuthentic, match="wrong-root"):
        check_links(invented, proof_bytes(link))


def test_a_proof_from_another_block_than_the_trusted_one() -> None:
    with pytest.raises(NotAuthentic, match="other-block"):
        check_links(chain().second.block, proof_bytes(good()))


def test_a_block_that_is_no_key_block_is_not_trusted_with_validators() -> None:
    plain = ton_chain.make_block(150)
    link = replace(chain().link(plain, chain().second), config_proof=plain.header_proof())
    with pytest.raises(NotAuthentic, match="not-a-key-block"):
        check_links(plain.block, proof_bytes(link))


def test_a_link_to_the_past() -> None:
    link = chain().link(chain().second, chain().first)
    with pytest.raises(NotAuthentic, match="backward"):
        check_links(chain().second.block, proof_bytes(link))


@FORMS
def test_a_link_to_a_twin_of_the_trusted_block(simplex: bool) -> None:
    twin = ton_chain.make_block(100, utime=1)
    link = chain().link(chain().first, twin, simplex=simplex)
    with pytest.raises(NotAuthentic, match="expected a block after 100, got 100"):
        check_links(chain().first.block, proof_bytes(link))


@FORMS
def test_too_little_weight(simplex: bool) -> None:
    link = chain().link(chain().first, chain().second, simplex=simplex, signers=5)
    with pytest.raises(NotAuthentic, match="too-little-weight"):
        check_links(chain().first.block, proof_bytes(link))


def test_two_thirds_exactly_are_too_little() -> None:
    small = TonChain(main_count=6)
    link = small.link(small.first, small.second, signers=4)
    with pytest.raises(NotAuthentic, match="too-little-weight"):
        check_links(small.first.block, proof_bytes(link))


def test_a_candidate_that_names_another_block() -> None:
    named = replace(chain().second.block, root_hash=b"\xcc" * 32)
    signed = chain().simplex(chain().second.block, named=named)
    with pytest.raises(NotAuthentic, match=r"candidate.*other-block"):
        check_links(chain().first.block, proof_bytes(replace(good(), signatures=signed)))


def test_a_candidate_swapped_under_the_vote() -> None:
    link = good(simplex=True)
    vote = replace(link.signatures.simplex, candidate=candidate(link.target, empty=True))
    other = replace(link, signatures=replace(link.signatures, simplex=vote))
    with pytest.raises(NotAuthentic, match="bad-signature"):
        check_links(chain().first.block, proof_bytes(other))


def test_an_empty_candidate_finalizes_the_block_it_repeats() -> None:
    signed = chain().simplex(chain().second.block, empty=True)
    link = replace(good(), signatures=signed)
    assert check_links(chain().first.block, proof_bytes(link)) == chain().second.block


def test_a_candidate_without_a_parent() -> None:
    block = chain().second.block
    whole = candidate(block)
    alone = whole[: -(4 + 4 + 36)] + links.NO_PARENT.to_bytes(4, "little")
    assert links.read_candidate(alone) == block
    with pytest.raises(ParseError, match="candidate: expected"):
        links.read_candidate(alone + whole[-40:])
    for cut in range(80, len(alone)):
        with pytest.raises(ParseError, match="candidate: expected"):
            links.read_candidate(alone[:cut])


def test_a_vote_of_another_session() -> None:
    link = good(simplex=True)
    vote = replace(link.signatures.simplex, session=b"\0" * 32)
    other = replace(link, signatures=replace(link.signatures, simplex=vote))
    with pytest.raises(NotAuthentic, match="bad-signature"):
        check_links(chain().first.block, proof_bytes(other))


@pytest.mark.parametrize("tail", [b"\0", bytes(4), b"\1\2\3\4"], ids=["byte", "zeros", "word"])
def test_trailing_bytes(tail: bytes) -> None:
    with pytest.raises(ParseError):
        check_links(chain().first.block, proof_bytes(good()) + tail)
    link = good(simplex=True)
    vote = replace(link.signatures.simplex, candidate=candidate(link.target) + tail)
    with pytest.raises(ParseError, match="candidate"):
        links.payload(replace(link.signatures, simplex=vote), link.target)


def test_a_link_back_is_refused() -> None:
    back = proof_bytes(good()).replace(bytes.fromhex("1cce0f52"), bytes.fromhex("ef1b7eef"))
    with pytest.raises(NotAuthentic, match="backward"):
        check_links(chain().first.block, back)


def test_more_links_than_allowed() -> None:
    with pytest.raises(ParseError, match="at most 1 "):
        check_links(chain().first.block, proof_bytes(good(), good()), max_links=1)


def test_an_end_that_no_link_reaches() -> None:
    proof = proof_bytes(good())
    at = 8 + 80
    with pytest.raises(NotAuthentic, match="end of the proof"):
        check_links(
            chain().first.block, proof[:at] + chain().head.block.to_bytes() + proof[at + 80 :]
        )


LINES = {
    links.PARTIAL_BLOCK_PROOF: "liteServer.partialBlockProof complete:Bool from:tonNode.blockIdExt "
    "to:tonNode.blockIdExt steps:vector liteServer.BlockLink = liteServer.PartialBlockProof",
    links.LINK_BACK: "liteServer.blockLinkBack to_key_block:Bool from:tonNode.blockIdExt "
    "to:tonNode.blockIdExt dest_proof:bytes proof:bytes state_proof:bytes = liteServer.BlockLink",
    links.CANDIDATE_ID: "consensus.candidateId slot:int hash:int256 = consensus.CandidateId",
    links.FINALIZE_VOTE: "consensus.simplex.finalizeVote id:consensus.CandidateId "
    "= consensus.simplex.UnsignedVote",
    links.DATA_TO_SIGN: "consensus.dataToSign session_id:int256 data:bytes = consensus.DataToSign",
    links.BLOCK_ID: "ton.blockId root_cell_hash:int256 file_hash:int256 = ton.BlockId",
    links.CANDIDATE_EMPTY: "consensus.candidateHashDataEmpty block:tonNode.blockIdExt "
    "parent:consensus.candidateId = consensus.CandidateHashData",
    links.CANDIDATE_ORDINARY: "consensus.candidateHashDataOrdinary block:tonNode.blockIdExt "
    "collated_file_hash:int256 parent:consensus.CandidateParent = consensus.CandidateHashData",
    links.PARENT: "consensus.candidateParent id:consensus.CandidateId = consensus.CandidateParent",
    links.NO_PARENT: "consensus.candidateWithoutParents = consensus.CandidateParent",
}


@pytest.mark.parametrize("tag", LINES, ids=hex)
def test_constructors_are_the_schemas(tag: int) -> None:
    assert zlib.crc32(LINES[tag].encode()) == tag


@given(st.data())
@FORMS
def test_no_changed_byte_is_taken(simplex: bool, data: st.DataObject) -> None:
    raw = proof_bytes(good(simplex=simplex))
    _refused(raw, chain().first.block, data)


@given(st.binary(max_size=300))
def test_a_bag_is_its_canonical_bytes_or_nothing(tail: bytes) -> None:
    bag = chain().second.header_proof()
    for changed in (tail, bag[:20] + tail, bag + tail):
        try:
            cells = boc.read_bag(changed)
        except ParseError:
            continue
        assert boc.read_bag(write_bag(cells))[0].hash == cells[0].hash


@recorded
@pytest.mark.evidence
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_links_hold(name: str) -> None:
    start, end, count = RECORDED[name]
    raw = answer(name)
    _, trusted, _, steps = read_proof(raw, 1)
    found = walk(trusted, raw)
    assert (trusted.seqno, found.head.seqno) == (start, end) and found.complete
    assert found.key_block == found.head and found.links[0].count == count
    assert proof_bytes(*steps) == raw


@recorded
@pytest.mark.evidence
@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize(
    ("change", "code"),
    [
        (repeated, "repeated"),
        (unknown, "unknown-validator"),
        (changed_signature, "bad-signature"),
        (other_session, "other-session"),
        (not_said_key, "other-header"),
        (config_of_another, "wrong-root"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_recorded_links_changed(name: str, change: Callable[..., ForwardLink], code: str) -> None:
    _, trusted, _, (link,) = read_proof(answer(name), 1)
    with pytest.raises(NotAuthentic) as caught:
        check_links(trusted, proof_bytes(change(link)))
    assert caught.value.code == code


@recorded
@pytest.mark.evidence
@pytest.mark.parametrize("name", RECORDED)
@given(data=st.data())
def test_no_changed_byte_of_a_recorded_link_is_taken(name: str, data: st.DataObject) -> None:
    raw = answer(name)
    _refused(raw, read_proof(raw, 1)[1], data)


def _refused(raw: bytes, trusted: BlockId, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(raw) - 1))
    changed = bytearray(raw)
    changed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises((ParseError, NotAuthentic)):
        check_links(trusted, bytes(changed))
