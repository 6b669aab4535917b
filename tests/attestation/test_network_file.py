"""The network file: strict in form, signed by k of n, followed version by version."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import NotAuthentic, ParseError, Refused, VerificationError
from attestation.formats import cbor
from attestation.formats.network_file import MAX_FILE_BYTES, MAX_LIFE_S, NetworkFile, sign
from attestation.log import checkpoint as checkpoints
from attestation.log.checkpoint import Checkpoint
from attestation.log.leaf import NETWORK, RELEASE, document_leaf
from attestation.log.merkle import Tree
from attestation.log.proof import Proof
from attestation.trust.anchor import Anchor
from attestation.verify.network import check_dates, check_logged, check_next, check_own
from tests.helpers.network_files import KEYS, body, network_file
from tests.helpers.world import NOW, World


def test_a_file_is_read_as_it_was_signed() -> None:
    lite = [["203.0.113.7", 4924, b"\x07" * 32], ["2001:db8::7", 4924, b"\x08" * 32]]
    file = network_file(3, k8=["https://mirror.example/log"], k10=lite)
    again = NetworkFile.from_bytes(file.to_bytes())
    assert again == file and (again.version, again.required) == (3, 2)
    assert again.relays == ("https://relay3.example",)
    assert again.lite_servers[0].port == 4924
    check_own(again, network="umay-test")


MALFORMED: dict[str, dict[str, Any]] = {
    "another format": {"k0": 2},
    "version 0": {"k2": 0},
    "a life of 31 days": {"k4": NOW - 100 + MAX_LIFE_S + 1},
    "ends before it begins": {"k4": NOW - 101},
    "no signer": {"k5": 0},
    "more signers than keys": {"k5": 4},
    "no keys": {"k6": [], "k5": 0},
    "a key twice": {"k6": [b"\x01" * 32] * 2},
    "a short key": {"k6": [b"\x01" * 31], "k5": 1},
    "relays as text": {"k7": "https://relay.example"},
    "no URL": {"k7": ["relay.example"]},
    "a slash at the end": {"k7": ["https://relay.example/"]},
    "a query": {"k7": ["https://relay.example?x=1"]},
    "an empty query": {"k7": ["https://relay.example?"]},
    "an empty fragment": {"k7": ["https://relay.example#"]},
    "a backslash": {"k7": ["https://relay.example\\evil.example"]},
    "a look-alike host": {"k7": ["https://r\u0435lay.example"]},
    "another scheme": {"k7": ["ftp://relay.example"]},
    "a line end": {"k7": ["https://relay.example\n"]},
    "a lite server's host as a path": {"k10": [["../x", 4924, bytes(32)]]},
    "a lite server's host with a port": {"k10": [["host:1", 4924, bytes(32)]]},
    "a password": {"k8": ["https://me:secret@relay.example"]},
    "too many": {"k9": [f"https://w{n}.example" for n in range(65)]},
    "too long": {"k7": ["https://relay.example/" + "a" * 256]},
    "an empty name": {"k1": ""},
    "a lite server without a key": {"k10": [["203.0.113.7", 4924, b""]]},
    "a lite server without a port": {"k10": [["203.0.113.7", 0, bytes(32)]]},
    "a name that steers a terminal": {"k1": "\x1b[2J"},
    "17 keys": {"k6": [bytes([number]) * 32 for number in range(17)]},
    "a version of 54 bits": {"k2": 2**53},
    "a time as true": {"k3": True},
    "a format as true": {"k0": True},
    "a time as text": {"k3": "now"},
    "a life of no second": {"k4": NOW - 100},
    "relays as a map": {"k7": {}},
    "relays as a number": {"k7": 5},
    "a key as text": {"k6": ["a" * 32], "k5": 1},
    "a name as bytes": {"k1": b"umay-test"},
    "a name of 257": {"k1": "a" * 257},
    "a lite server as a number": {"k10": [7]},
    "a lite server of nothing": {"k10": [[]]},
    "a lite server's host as bytes": {"k10": [[b"203.0.113.7", 4924, bytes(32)]]},
    "a lite server's port as text": {"k10": [["203.0.113.7", "4924", bytes(32)]]},
    "a lite server's port of 17 bits": {"k10": [["203.0.113.7", 65536, bytes(32)]]},
}


@pytest.mark.parametrize("change", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_network_file(change: dict[str, Any]) -> None:
    with pytest.raises(ParseError):
        network_file(1, **change)


AT_THE_LIMIT: dict[str, dict[str, Any]] = {
    "a time of 0": {"k3": 0, "k4": 1},
    "a life of 30 days": {"k4": NOW - 100 + 2_592_000},
    "as many signers as keys": {"k5": 3},
    "16 keys": {"k6": [bytes([number]) * 32 for number in range(16)]},
    "64 witnesses": {"k9": [f"https://w{n}.example" for n in range(64)]},
    "a name of 256": {"k1": "a" * 256},
    "the last port": {"k10": [["203.0.113.7", 65535, bytes(32)]]},
}


@pytest.mark.parametrize("change", AT_THE_LIMIT.values(), ids=AT_THE_LIMIT)
def test_what_is_just_a_network_file(change: dict[str, Any]) -> None:
    file = network_file(1, **change)
    assert NetworkFile.from_bytes(file.to_bytes()) == file


def test_a_file_is_a_body_and_signatures_of_at_most_64_kib() -> None:
    whole, signatures = cbor.decode(network_file(1).to_bytes())
    for wrong in ([whole], [whole, signatures, 0], ["body", signatures], {0: whole}, 7):
        with pytest.raises(ParseError, match="network file: expected"):
            NetworkFile.from_bytes(cbor.encode(wrong))
    for size, long in ((65_536, False), (65_537, True)):
        with pytest.raises(ParseError) as caught:
            NetworkFile.from_bytes(bytes(size))
        assert ("at most 65536 bytes" in str(caught.value)) == long


@pytest.mark.parametrize("key", range(11))
def test_every_key_must_be_there(key: int) -> None:
    fields = body(1, KEYS[:3])
    del fields[key]
    with pytest.raises(ParseError):
        sign(fields, KEYS[:2])


def test_signatures_stand_once_and_in_order() -> None:
    whole, signatures = cbor.decode(network_file(1).to_bytes())
    for wrong in (
        signatures[::-1],
        [signatures[0], signatures[0]],
        [[signatures[0][0], bytes(63)]],
        [signatures[0][:1]],
        [[bytes([number]) * 32, bytes(64)] for number in range(33)],
        [7],
        {},
    ):
        with pytest.raises(ParseError):
            NetworkFile.from_bytes(cbor.encode([whole, wrong]))
    most = [[bytes([number]) * 32, bytes(64)] for number in range(32)]
    assert len(NetworkFile.from_bytes(cbor.encode([whole, most])).signatures) == 32
    with pytest.raises(ParseError):
        NetworkFile.from_bytes(bytes(MAX_FILE_BYTES + 1))


@given(st.binary(max_size=200))
def test_hypothesis_arbitrary_bytes(data: bytes) -> None:
    with pytest.raises(ParseError):
        NetworkFile.from_bytes(data)


@given(st.integers(0, 400), st.integers(1, 255))
def test_hypothesis_no_changed_byte_is_followed(at: int, flip: int) -> None:
    good = bytearray(network_file(2).to_bytes())
    good[at % len(good)] ^= flip
    with pytest.raises((ParseError, VerificationError)):
        check_next(network_file(1), NetworkFile.from_bytes(bytes(good)))


def test_a_pin_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        network_file(1, k11="0:" + "11" * 32)
    assert (caught.value.step, caught.value.code) == ("network", "pin-conflict")
    with pytest.raises(Refused) as caught:
        check_own(network_file(1), network="another")
    assert caught.value.code == "pin-conflict"
    with pytest.raises(ParseError):  # a critical key
        sign({**body(1, KEYS[:3]), -1: 1}, KEYS[:2])


ROTATED = KEYS[3:6]


def test_keys_are_replaced_with_the_signatures_of_old_and_new_ones() -> None:
    first = network_file(1)
    second = network_file(2, keys=ROTATED, signers=[*KEYS[:2], *ROTATED[:2]])
    check_next(first, second)
    check_next(first, first)
    check_next(second, network_file(3, keys=ROTATED, signers=ROTATED[1:]))


def test_a_step_back_says_what_came() -> None:
    with pytest.raises(Refused, match=r"got 1 \["):
        check_next(network_file(2), network_file(1))
    with pytest.raises(Refused, match="got another file of that version"):
        check_next(network_file(2), network_file(2, k7=[]))


FOLLOWS: dict[str, tuple[NetworkFile, str]] = {
    "one old signer": (
        network_file(2, keys=ROTATED, signers=[KEYS[0], *ROTATED]),
        "bad-signature",
    ),
    "new keys alone": (network_file(2, keys=ROTATED, signers=ROTATED), "bad-signature"),
    "old keys alone": (network_file(2, keys=ROTATED, signers=KEYS[:3]), "bad-signature"),
    "strangers": (network_file(2, signers=ROTATED), "bad-signature"),
    "nobody": (network_file(2, signers=[]), "bad-signature"),
    "a lower threshold of its own": (network_file(2, signers=KEYS[:1], k5=1), "bad-signature"),
    "a version skipped": (network_file(3), "gap"),
    "the same version, other places": (network_file(1, k7=[]), "rollback"),
    "another network": (network_file(2, k1="another"), "pin-conflict"),
}


@pytest.mark.parametrize(("file", "code"), FOLLOWS.values(), ids=FOLLOWS)
def test_what_may_not_follow(file: NetworkFile, code: str) -> None:
    with pytest.raises(VerificationError) as caught:
        check_next(network_file(1), file)
    assert (caught.value.step, caught.value.code) == ("network", code)


def test_an_older_version_is_a_rollback() -> None:
    with pytest.raises(Refused) as caught:
        check_next(network_file(5), network_file(4))
    assert caught.value.code == "rollback"


def test_a_signature_over_another_body_counts_for_nothing() -> None:
    moved = dataclasses.replace(network_file(2), signatures=network_file(1).signatures)
    with pytest.raises(NotAuthentic):
        check_own(moved, network="umay-test")


def test_a_file_counts_from_its_date_to_its_end() -> None:
    file = network_file(1)
    for now in (file.issued - 60, file.expires - 1):
        check_dates(file, now=now)
    for now in (file.issued - 61, file.expires):
        with pytest.raises(Refused) as caught:
            check_dates(file, now=now)
        assert caught.value.code == "expired"


# In the log


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.start(tmp_path_factory.mktemp("simulator"))


def logged(world: World, kind: int, document: bytes) -> tuple[bytes, Anchor]:
    tree, leaf = Tree(), document_leaf(kind, document).to_bytes()
    for entry in (b"first", leaf, b"third"):
        tree.append(entry)
    head = Checkpoint(world.policy.log_origin, 3, tree.root(3))
    note = checkpoints.sign(head, key=world.log_key)
    proof = Proof(1, tuple(tree.inclusion(1, 3)), note, leaf)
    return proof.to_bytes(), world.anchor(3, tree.root(3))


def test_a_logged_file_is_one_whose_leaf_is_in_the_anchored_tree(world: World) -> None:
    file = network_file(2)
    proof, anchor = logged(world, NETWORK, file.to_bytes())
    check_logged(file, proof, anchor=anchor, policy=world.policy, now=NOW)
    other = dataclasses.replace(anchor, root=b"\x01" * 32)
    elsewhere = logged(world, RELEASE, file.to_bytes())
    for wrong, at in (
        (b"no proof", anchor),
        (proof, other),
        elsewhere,
        logged(world, NETWORK, network_file(3).to_bytes()),
    ):
        with pytest.raises(NotAuthentic) as caught:
            check_logged(file, wrong, anchor=at, policy=world.policy, now=NOW)
        assert (caught.value.step, caught.value.code) == ("network", "not-logged")
    with pytest.raises(Refused, match="anchor-too-old"):
        check_logged(file, proof, anchor=anchor, policy=world.policy, now=NOW + 10_000)
