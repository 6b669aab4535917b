"""Signed notes, checkpoints and tlog-proofs: Go's vectors, strict text, named bad cases."""

from __future__ import annotations

import base64
import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import NotAuthentic, ParseError, UmayError
from attestation.log import checkpoint, note
from attestation.log.checkpoint import Checkpoint
from attestation.log.merkle import EMPTY_ROOT, Tree
from attestation.log.note import Note, Signature, VerifierKey
from attestation.log.proof import Proof, verify_proof

# golang.org/x/mod/sumdb/note, note_test.go and the package's example: a public test key.
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_SKEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
GO_NOTE = (
    GO_TEXT + "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXg"
    "KvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()

# The example of c2sp.org/tlog-checkpoint; its key is not published.
C2SP_CHECKPOINT = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhc"
    "yv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
).encode()

KEY = Ed25519PrivateKey.from_private_bytes(b"\7" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
ORIGIN = "log.example/umay"
LEAVES = [b"leaf %d" % n for n in range(11)]
TREE = Tree()
for _leaf in LEAVES:
    TREE.append(_leaf)
SIGNED = checkpoint.sign(Checkpoint(ORIGIN, 11, TREE.root()), key=KEY)
PROOF = Proof(4, tuple(TREE.inclusion(4, 11)), SIGNED, LEAVES[4])


def test_gos_note_verifies_and_is_made_again_byte_for_byte() -> None:
    key = VerifierKey.from_text(GO_VKEY)
    assert (key.to_text(), key.key_id.hex()) == (GO_VKEY, "c74f20a3")
    parsed = Note.from_bytes(GO_NOTE)
    parsed.verify(key)
    assert parsed.to_bytes() == GO_NOTE
    name, secret = note.parse_signer(GO_SKEY)
    assert note.signer_text(name, secret) == GO_SKEY
    assert note.sign(GO_TEXT, name=name, key=secret).to_bytes() == GO_NOTE


def test_c2sps_checkpoint_parses() -> None:
    parsed, signed = checkpoint.parse(C2SP_CHECKPOINT)
    assert (parsed.origin, parsed.size) == ("example.com/behind-the-sofa", 20852163)
    assert signed.to_bytes() == C2SP_CHECKPOINT
    assert signed.text == parsed.body()


def test_no_shortened_or_changed_vkey_is_accepted() -> None:
    for start in range(len(GO_VKEY)):
        for end in range(start + 1, len(GO_VKEY) + 1):
            if (start, end) != (0, len(GO_VKEY)):
                with pytest.raises(ParseError):
                    VerifierKey.from_text(GO_VKEY[start:end])
    for at in range(len(GO_VKEY)):
        changed = GO_VKEY[:at] + chr(ord(GO_VKEY[at]) + 1) + GO_VKEY[at + 1 :]
        with pytest.raises(ParseError):
            VerifierKey.from_text(changed)


def test_unknown_signatures_are_kept_and_ignored() -> None:
    mine = Note.from_bytes(SIGNED)
    witness = Signature("witness.example", b"\1\2\3\4", b"\4" * 72)
    namesake = Signature(ORIGIN, b"\1\2\3\4", b"\5" * 64)
    both = Note(mine.text, (witness, *mine.signatures, namesake))
    data = both.to_bytes()
    assert Note.from_bytes(data) == both
    assert checkpoint.verify(data, origin=ORIGIN, log_key=PUBLIC).size == 11


def test_one_bad_signature_of_the_known_key_spoils_the_note() -> None:
    mine = Note.from_bytes(SIGNED)
    bad = Signature(ORIGIN, mine.signatures[0].key_id, b"\5" * 64)
    data = Note(mine.text, (*mine.signatures, bad)).to_bytes()
    with pytest.raises(NotAuthentic) as caught:
        checkpoint.verify(data, origin=ORIGIN, log_key=PUBLIC)
    assert (caught.value.step, caught.value.code) == ("log", "bad-signature")


def lines(*signatures: str) -> bytes:
    return ("text\n\n" + "".join(signatures)).encode()


SIG = "— name AQIDBAU=\n"
BAD_NOTES = {
    "empty": b"",
    "no signature": b"text\n",
    "no signature lines": b"text\n\n",
    "no final newline": lines(SIG)[:-1],
    "no text": b"\n\n" + SIG.encode(),
    "no blank line": b"text\n" + SIG.encode(),
    "hyphen for dash": lines("- name AQIDBAU=\n"),
    "no dash": lines("name AQIDBAU=\n"),
    "no name": lines("—  AQIDBAU=\n"),
    "plus in name": lines("— na+me AQIDBAU=\n"),
    "no-break space in name": lines("— na\u00a0me AQIDBAU=\n"),
    "three words": lines("— na me AQIDBAU=\n"),
    "not base64": lines("— name AQID*AU=\n"),
    "base64 without padding": lines("— name AQIDBAU\n"),
    "base64 with loose bits": lines("— name AQIDBAV=\n"),
    "URL base64": lines("— name _QIDBAU=\n"),
    "key id alone": lines("— name AQIDBA==\n"),
    "control character": b"te\rxt\n\n" + SIG.encode(),
    "zero byte": b"te\0xt\n\n" + SIG.encode(),
    "not UTF-8": b"te\xffxt\n\n" + SIG.encode(),
    "65 signatures": lines(SIG * 65),
    "oversized": b"x" * (note.MAX_NOTE_BYTES + 1),
}


@pytest.mark.parametrize("data", BAD_NOTES.values(), ids=BAD_NOTES)
def test_bad_notes_are_refused(data: bytes) -> None:
    with pytest.raises(ParseError):
        Note.from_bytes(data)


def test_sixteen_signatures_and_empty_lines_in_the_text_are_fine() -> None:
    data = b"a\n\nb\n\n" + SIG.encode() * 16
    assert Note.from_bytes(data).to_bytes() == data
    assert Note.from_bytes(data).text == "a\n\nb\n"


ROOT = base64.b64encode(b"\x01" * 32).decode()
BAD_BODIES = {
    "empty": "",
    "two lines": f"{ORIGIN}\n5\n",
    "extension line": f"{ORIGIN}\n5\n{ROOT}\nmore\n",
    "no final newline": f"{ORIGIN}\n5\n{ROOT}",
    "text behind the last newline": f"{ORIGIN}\n5\n{ROOT}\nmore",
    "leading zero": f"{ORIGIN}\n05\n{ROOT}\n",
    "negative": f"{ORIGIN}\n-5\n{ROOT}\n",
    "plus": f"{ORIGIN}\n+5\n{ROOT}\n",
    "underscore": f"{ORIGIN}\n1_0\n{ROOT}\n",
    "other digits": f"{ORIGIN}\n٥\n{ROOT}\n",
    "superscript": f"{ORIGIN}\n²\n{ROOT}\n",
    "over 63 bits": f"{ORIGIN}\n{2**63}\n{ROOT}\n",
    "long size": f"{ORIGIN}\n{'9' * 5000}\n{ROOT}\n",
    "short root": f"{ORIGIN}\n5\n{base64.b64encode(bytes(31)).decode()}\n",
    "another empty root": f"{ORIGIN}\n0\n{ROOT}\n",
    "empty origin": f"\n5\n{ROOT}\n",
    "origin with space": f"log example\n5\n{ROOT}\n",
    "origin with plus": f"log+example\n5\n{ROOT}\n",
    "origin of 61 bytes": f"{'o' * 61}\n5\n{ROOT}\n",
    "origin not ASCII": f"lög\n5\n{ROOT}\n",
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_bad_checkpoints_are_refused(body: str) -> None:
    with pytest.raises(ParseError):
        Checkpoint.from_body(body)


def test_a_checkpoint_of_60_bytes_origin_fits_one_cell_slice() -> None:
    largest = Checkpoint("o" * 60, 2**63 - 1, bytes(32))
    assert len(largest.body()) <= 127
    assert Checkpoint.from_body(largest.body()) == largest
    assert Checkpoint(ORIGIN, 0, EMPTY_ROOT).size == 0


@pytest.mark.parametrize(
    ("origin", "key", "code"),
    [
        ("log.example/other", KEY, "other-origin"),
        (ORIGIN, OTHER, "unsigned"),
    ],
)
def test_checkpoints_of_others_are_not_authentic(
    origin: str, key: Ed25519PrivateKey, code: str
) -> None:
    with pytest.raises(NotAuthentic) as caught:
        checkpoint.verify(SIGNED, origin=origin, log_key=key.public_key().public_bytes_raw())
    assert caught.value.code == code


def test_a_changed_size_is_a_bad_signature() -> None:
    changed = SIGNED.replace(b"\n11\n", b"\n12\n")
    with pytest.raises(NotAuthentic) as caught:
        checkpoint.verify(changed, origin=ORIGIN, log_key=PUBLIC)
    assert caught.value.code == "bad-signature"


def test_a_proof_gives_its_leaf_and_checkpoint() -> None:
    data = PROOF.to_bytes()
    assert Proof.from_bytes(data) == PROOF
    leaf, signed = verify_proof(data, origin=ORIGIN, log_key=PUBLIC)
    assert (leaf, signed) == (LEAVES[4], Checkpoint(ORIGIN, 11, TREE.root()))


def test_a_proof_without_hashes_or_extra_is_text_both_ways() -> None:
    alone = Proof(0, (), SIGNED)
    assert alone.to_bytes() == b"c2sp.org/tlog-proof@v1\nindex 0\n\n" + SIGNED
    assert Proof.from_bytes(alone.to_bytes()) == alone


def test_extra_data_has_at_most_65535_bytes() -> None:
    longest = Proof(0, (), SIGNED, bytes(65_535))
    assert Proof.from_bytes(longest.to_bytes()) == longest
    longer = dataclasses.replace(longest, extra=bytes(65_536))
    with pytest.raises(ParseError, match="1 to 65535 bytes, got 65536"):
        Proof.from_bytes(longer.to_bytes())


WRONG_PROOFS = {
    "another leaf": Proof(4, PROOF.hashes, SIGNED, b"leaf 5"),
    "another index": Proof(5, PROOF.hashes, SIGNED, LEAVES[4]),
    "index past the end": Proof(11, PROOF.hashes, SIGNED, LEAVES[4]),
    "no hashes": Proof(4, (), SIGNED, LEAVES[4]),
    "one hash more": Proof(4, (*PROOF.hashes, bytes(32)), SIGNED, LEAVES[4]),
    "hashes reversed": Proof(4, PROOF.hashes[::-1], SIGNED, LEAVES[4]),
}


@pytest.mark.parametrize("proof", WRONG_PROOFS.values(), ids=WRONG_PROOFS)
def test_wrong_proofs_are_not_authentic(proof: Proof) -> None:
    with pytest.raises(NotAuthentic) as caught:
        verify_proof(proof.to_bytes(), origin=ORIGIN, log_key=PUBLIC)
    assert (caught.value.step, caught.value.code) == ("log", "not-included")


GOOD = PROOF.to_bytes()
BAD_PROOFS = {
    "empty": b"",
    "other version": GOOD.replace(b"@v1", b"@v2"),
    "no extra": Proof(4, PROOF.hashes, SIGNED).to_bytes(),
    "empty extra": GOOD.replace(b"extra bGVhZiA0\n", b"extra \n"),
    "extra after index": GOOD.replace(b"extra bGVhZiA0\nindex 4\n", b"index 4\nextra bGVhZiA0\n"),
    "two extras": GOOD.replace(b"extra bGVhZiA0\n", b"extra bGVhZiA0\n" * 2),
    "no index": GOOD.replace(b"index 4\n", b""),
    "index with zero": GOOD.replace(b"index 4\n", b"index 04\n"),
    "index in upper case": GOOD.replace(b"index 4\n", b"Index 4\n"),
    "short hash": Proof(4, (*PROOF.hashes, bytes(31)), SIGNED, LEAVES[4]).to_bytes(),
    "64 hashes": Proof(4, (bytes(32),) * 64, SIGNED, LEAVES[4]).to_bytes(),
    "carriage returns": GOOD.replace(b"\n", b"\r\n"),
    "no checkpoint": GOOD.partition(b"\n\n")[0],
    "unsigned checkpoint": Proof(4, PROOF.hashes, SIGNED.split(b"\n\n")[0], LEAVES[4]).to_bytes(),
    "trailing bytes": GOOD + b"x",
    "trailing newline": GOOD + b"\n",
}


@pytest.mark.parametrize("data", BAD_PROOFS.values(), ids=BAD_PROOFS)
def test_bad_proofs_are_refused(data: bytes) -> None:
    with pytest.raises(ParseError):
        verify_proof(data, origin=ORIGIN, log_key=PUBLIC)


PARSERS = (Note.from_bytes, Proof.from_bytes)


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_hypothesis_arbitrary_bytes(data: bytes) -> None:
    for parse in PARSERS:
        try:
            assert parse(data).to_bytes() == data
        except UmayError:
            pass


@given(st.sampled_from([GO_NOTE, SIGNED, GOOD]), st.data())
def test_hypothesis_edited_text_is_refused_or_itself(data: bytes, draw: st.DataObject) -> None:
    start = draw.draw(st.integers(0, len(data)))
    end = draw.draw(st.integers(start, min(len(data), start + 6)))
    edited = data[:start] + draw.draw(st.binary(max_size=4)) + data[end:]
    for parse in PARSERS:
        try:
            assert parse(edited).to_bytes() == edited
        except UmayError:
            pass
    if edited != GOOD:
        try:
            assert verify_proof(edited, origin=ORIGIN, log_key=PUBLIC)[0] == LEAVES[4]
        except UmayError:
            pass


@given(st.text(max_size=90))
def test_hypothesis_keys_and_bodies(text: str) -> None:
    for parse, back in (
        (VerifierKey.from_text, VerifierKey.to_text),
        (Checkpoint.from_body, Checkpoint.body),
    ):
        try:
            assert back(parse(text)) == text  # type: ignore[arg-type]
        except UmayError:
            pass


@given(
    st.integers(0, 2**63 - 1),
    st.lists(st.binary(min_size=32, max_size=32), max_size=63),
    st.none() | st.binary(min_size=1, max_size=300),
)
def test_hypothesis_proof_identity(index: int, hashes: list[bytes], extra: bytes | None) -> None:
    proof = Proof(index, tuple(hashes), SIGNED, extra)
    assert Proof.from_bytes(proof.to_bytes()) == proof


def test_secret_keys_never_show_in_errors() -> None:
    for text in (GO_SKEY[:-1], GO_SKEY.replace("c74f20a3", "c74f20a4"), GO_SKEY[12:]):
        with pytest.raises(ParseError) as caught:
            note.parse_signer(text)
        assert "AYEKFALV" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "na me", "na\u00a0me"])
def test_a_key_of_no_name(name: str) -> None:
    """The key id is right for this name: only the name is not one."""
    identity = note.key_id(name, PUBLIC).hex()
    text = f"{name}+{identity}+{base64.b64encode(note.ED25519 + PUBLIC).decode()}"
    with pytest.raises(ParseError, match="expected a key name"):
        VerifierKey.from_text(text)
    with pytest.raises(ParseError, match="expected a key name"):
        note.parse_signer(note.signer_text(name, KEY))


def test_a_note_has_at_most_64_signatures_and_512_kib() -> None:
    sig = "— name AQIDBAU=\n"
    assert len(Note.from_bytes(b"text\n\n" + sig.encode() * 64).signatures) == 64
    with pytest.raises(ParseError, match="at most 64 signatures"):
        Note.from_bytes(b"text\n\n" + sig.encode() * 65)
    assert note.decode_text(b"x" * 512 * 1024)
    with pytest.raises(ParseError, match="at most 524288 bytes"):
        note.decode_text(b"x" * (512 * 1024 + 1))


def test_a_note_of_signatures_alone() -> None:
    with pytest.raises(ParseError, match="text, an empty line, and signature lines"):
        Note.from_bytes("— name AQIDBAU=\n".encode())


def test_a_proof_with_another_note_for_a_checkpoint() -> None:
    other = note.sign("some text\n", name=ORIGIN, key=KEY).to_bytes()
    with pytest.raises(ParseError, match="checkpoint"):
        Proof.from_bytes(Proof(4, PROOF.hashes, other, LEAVES[4]).to_bytes())


def test_a_proof_without_lines() -> None:
    head = PROOF.to_bytes().split(b"\n")[0]
    with pytest.raises(ParseError, match="expected an index line"):
        Proof.from_bytes(head + b"\n\n" + SIGNED)
