"""Merkle proofs beside the RFC's own recursion, pymerkle, and published vectors."""

from __future__ import annotations

import random
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymerkle import InmemoryTree

from attestation.errors import LogError, UsageError
from attestation.log import merkle
from attestation.log.merkle import Tree, leaf_hash, node_hash

SIZE = 130
LEAVES = [b"entry %d" % index for index in range(SIZE)]

# The test tree of Certificate Transparency (transparency-dev/merkle, testonly/constants.go).
CT_LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657",
                 "606162636465666768696a6b6c6d6e6f")
]  # fmt: skip
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
CT_INCLUSION_5_OF_8 = [
    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
]
CT_CONSISTENCY_6_TO_8 = [
    "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
]


def tree_of(leaves: list[bytes]) -> Tree:
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    return tree


def mth(leaves: list[bytes]) -> bytes:
    """RFC 6962 §2.1, as written."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    k = split(len(leaves))
    return sha256(b"\1" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962 §2.1.1, as written."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: list[bytes], b: bool) -> list[bytes]:
    """RFC 6962 §2.1.2, as written."""
    n = len(leaves)
    if m == n:
        return [] if b else [mth(leaves)]
    k = split(n)
    if m <= k:
        return [*subproof(m, leaves[:k], b), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def split(n: int) -> int:
    return 1 << (n - 1).bit_length() - 1


def walk_9162(m: int, n: int, proof: list[bytes], first: bytes) -> tuple[bytes, bytes] | None:
    """RFC 9162 §2.1.4.2, as written: the two roots a consistency proof leads to."""
    if m & (m - 1) == 0:
        proof = [first, *proof]
    if not proof:
        return None
    fn, sn = m - 1, n - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = proof[0]
    for c in proof[1:]:
        if sn == 0:
            return None
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return (fr, sr) if sn == 0 else None


TREE = tree_of(LEAVES)
ROOTS = [TREE.root(size) for size in range(SIZE + 1)]


def test_certificate_transparency_vectors() -> None:
    tree = tree_of(CT_LEAVES)
    assert [tree.root(size).hex() for size in range(9)] == CT_ROOTS
    assert [item.hex() for item in tree.inclusion(5, 8)] == CT_INCLUSION_5_OF_8
    assert [item.hex() for item in tree.consistency(6, 8)] == CT_CONSISTENCY_6_TO_8


def test_roots_as_the_rfc_and_pymerkle_have_them() -> None:
    oracle = InmemoryTree("sha256")
    for size, leaf in enumerate(LEAVES, 1):
        oracle.append_entry(leaf)
        assert ROOTS[size] == oracle.get_root(size)
    for size in range(40):
        assert ROOTS[size] == mth(LEAVES[:size])


def test_every_inclusion_proof_is_pymerkles() -> None:
    oracle = InmemoryTree("sha256")
    for leaf in LEAVES:
        oracle.append_entry(leaf)
    for size in range(1, SIZE + 1):
        for index in range(size):
            proof = TREE.inclusion(index, size)
            # pymerkle counts from one and puts the leaf's own hash first
            assert proof == oracle.prove_inclusion(index + 1, size).path[1:]
            merkle.verify_inclusion(
                leaf_hash(LEAVES[index]), index=index, size=size, root=ROOTS[size], proof=proof
            )


def test_every_consistency_proof_is_the_rfcs() -> None:
    for new in range(1, SIZE + 1):
        for old in range(new + 1):
            proof = TREE.consistency(old, new)
            merkle.verify_consistency(
                old_size=old, old_root=ROOTS[old], new_size=new, new_root=ROOTS[new], proof=proof
            )
            if 0 < old < new:
                assert walk_9162(old, new, proof, ROOTS[old]) == (ROOTS[old], ROOTS[new])
            if 0 < old <= new <= 40:
                assert proof == subproof(old, LEAVES[:new], True)


def test_larger_trees_at_random() -> None:
    seeded = random.Random(7)
    tree = tree_of([b"%d" % n for n in range(20_000)])
    for _ in range(300):
        new = seeded.randrange(2, 20_001)
        old, index = seeded.randrange(1, new), seeded.randrange(new)
        proof = tree.consistency(old, new)
        assert walk_9162(old, new, proof, tree.root(old)) == (tree.root(old), tree.root(new))
        roots = {"old_root": tree.root(old), "new_root": tree.root(new)}
        merkle.verify_consistency(old_size=old, new_size=new, proof=proof, **roots)
        merkle.verify_inclusion(
            leaf_hash(b"%d" % index),
            index=index,
            size=new,
            root=tree.root(new),
            proof=tree.inclusion(index, new),
        )


def mutations(proof: list[bytes]) -> dict[str, list[bytes]]:
    flipped = {
        f"hash {at} flipped": [*proof[:at], bytes(32), *proof[at + 1 :]] for at in range(len(proof))
    }
    return flipped | {
        "one hash more": [*proof, bytes(32)],
        "one hash before": [bytes(32), *proof],
        "last hash missing": proof[:-1] if proof else [bytes(32)],
        "first hash missing": proof[1:] if proof else [bytes(32)],
        "short hash": [*proof[:-1], bytes(31)],
    }


def test_no_mutated_inclusion_proof_passes() -> None:
    for size in range(1, 40):
        for index in range(size):
            good = TREE.inclusion(index, size)
            right = {"index": index, "size": size, "root": ROOTS[size], "proof": good}
            wrong = [{"proof": proof} for proof in mutations(good).values()]
            wrong += [{"index": index + 1}, {"index": index - 1}, {"root": bytes(32)}]
            wrong += [{"size": size + 1, "root": ROOTS[size + 1]}]
            for change in wrong:
                with pytest.raises(LogError):
                    merkle.verify_inclusion(leaf_hash(LEAVES[index]), **(right | change))
            with pytest.raises(LogError):
                merkle.verify_inclusion(leaf_hash(b"another"), **right)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 1), (5, 5), (8, 5)])
def test_a_path_from_outside_of_a_tree_leads_nowhere(index: int, size: int) -> None:
    for hashes in range(5):
        with pytest.raises(LogError, match="expected an index below"):
            merkle.root_from_inclusion(
                bytes(32), index=index, size=size, proof=[bytes(32)] * hashes
            )


def test_a_path_of_another_length_leads_nowhere() -> None:
    for size in range(1, 40):
        good = TREE.inclusion(size - 1, size)
        for proof in ([*good, bytes(32)], good[:-1], [*good[:-1], bytes(31)]):
            if proof != good:
                with pytest.raises(LogError, match="inclusion"):
                    merkle.root_from_inclusion(bytes(32), index=size - 1, size=size, proof=proof)


def test_no_mutated_consistency_proof_passes() -> None:
    for new in range(1, 40):
        for old in range(1, new + 1):
            right = {
                "old_size": old,
                "old_root": ROOTS[old],
                "new_size": new,
                "new_root": ROOTS[new],
                "proof": TREE.consistency(old, new),
            }
            wrong = [{"proof": proof} for proof in mutations(right["proof"]).values()]
            wrong += [{"old_root": bytes(32)}, {"new_root": bytes(32)}]
            wrong += [{"old_size": new + 1}, {"old_size": -1}]
            for change in wrong:
                with pytest.raises(LogError):
                    merkle.verify_consistency(**(right | change))


def test_only_the_empty_tree_extends_to_every_tree_without_proof() -> None:
    empty = merkle.EMPTY_ROOT
    ends = {"new_size": 5, "new_root": ROOTS[5]}
    merkle.verify_consistency(old_size=0, old_root=empty, proof=[], **ends)
    for bad in ({"old_root": bytes(32), "proof": []}, {"old_root": empty, "proof": [bytes(32)]}):
        with pytest.raises(LogError):
            merkle.verify_consistency(old_size=0, **ends, **bad)
    with pytest.raises(LogError):
        merkle.verify_consistency(
            old_size=0, old_root=empty, new_size=0, new_root=bytes(32), proof=[]
        )


def test_an_inner_node_is_no_leaf() -> None:
    pair = leaf_hash(LEAVES[0]) + leaf_hash(LEAVES[1])
    with pytest.raises(LogError):
        merkle.verify_inclusion(leaf_hash(pair), index=0, size=1, root=ROOTS[2], proof=[])


def test_proofs_of_what_is_not_there_are_usage_errors() -> None:
    for ask in (
        lambda: TREE.inclusion(5, 5),
        lambda: TREE.inclusion(-1, 5),
        lambda: TREE.inclusion(0, SIZE + 1),
        lambda: TREE.consistency(6, 5),
        lambda: TREE.consistency(1, SIZE + 1),
        lambda: TREE.root(SIZE + 1),
        lambda: TREE.root(-1),
    ):
        with pytest.raises(UsageError):
            ask()


@given(
    st.lists(st.binary(min_size=32, max_size=32), max_size=10),
    st.integers(-1, 300),
    st.integers(-1, 300),
)
def test_hypothesis_arbitrary_proofs(proof: list[bytes], first: int, second: int) -> None:
    with pytest.raises(LogError):
        merkle.verify_inclusion(bytes(32), index=first, size=second, root=b"\1" * 32, proof=proof)
    with pytest.raises(LogError):
        merkle.verify_consistency(
            old_size=first, old_root=bytes(32), new_size=second, new_root=b"\1" * 32, proof=proof
        )
