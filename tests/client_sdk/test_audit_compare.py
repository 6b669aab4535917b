"""Two views of a log: the same, one further than the other, split, damaged, incomplete."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.log import checkpoint as checkpoints
from attestation.log.checkpoint import Checkpoint
from attestation.log.merkle import Tree
from attestation.log.tiles import TilePath, encode_bundle
from attestation.trust.policy import Policy
from client_sdk.auditing.comparison import Comparison, compare
from client_sdk.auditing.sources import DirectorySource
from tests.attestation.test_policy import GOOD
from tests.client_sdk.test_client_audit import ORIGIN

KEY = Ed25519PrivateKey.from_private_bytes(b"\x05" * 32)
LEAVES = [b"leaf %d" % number for number in range(600)]


def policy() -> Policy:
    public = KEY.public_key().public_bytes_raw()
    read = Policy.from_toml(GOOD.encode())
    return dataclasses.replace(read, log_key=public, log_origin=ORIGIN)


def view(
    directory: Path, leaves: Sequence[bytes], origin: str = ORIGIN, signer: Ed25519PrivateKey = KEY
) -> Path:
    """A static export of these entries."""
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    directory.mkdir()
    note = checkpoints.sign(Checkpoint(origin, len(leaves), tree.root()), key=signer)
    (directory / "checkpoint").write_bytes(note)
    for start in range(0, len(leaves), 256):
        part = leaves[start : start + 256]
        path = directory / str(TilePath(None, start // 256, len(part)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_bundle(part))
    return directory


def compared(a: Path, b: Path, under: Policy | None) -> Comparison:
    done = compare(DirectorySource(a), DirectorySource(b), under)
    swapped = compare(DirectorySource(b), DirectorySource(a), under)
    assert (done.exit_code, done.differs) == (swapped.exit_code, swapped.differs)
    return done


@pytest.mark.parametrize("size", [0, 1, 256, 300, 600])
def test_one_log_may_show_more_than_the_other(tmp_path: Path, size: int) -> None:
    done = compared(view(tmp_path / "a", LEAVES), view(tmp_path / "b", LEAVES[:size]), policy())
    assert done.exit_code == 0 and done.common == size and done.differs is None, done.problems
    assert done.to_json()["ok"] and "consistent" in done.verdict


@pytest.mark.parametrize("at", [0, 255, 256, 599])
def test_a_split_view_is_a_contradiction(tmp_path: Path, at: int) -> None:
    other = [*LEAVES[:at], b"another", *LEAVES[at + 1 :]]
    done = compared(view(tmp_path / "a", LEAVES), view(tmp_path / "b", other), policy())
    assert done.exit_code == 1 and done.differs == at
    assert {problem.code for problem in done.problems} == {"differs", "split-view"}


def test_a_split_view_behind_a_longer_one_is_a_contradiction(tmp_path: Path) -> None:
    other = [*LEAVES[:300], b"another"]
    done = compared(view(tmp_path / "a", LEAVES), view(tmp_path / "b", other), policy())
    assert done.exit_code == 1 and done.differs == 300


def other_origin(tmp_path: Path) -> Path:
    return view(tmp_path / "b", LEAVES, origin="elsewhere.example")


def other_key(tmp_path: Path) -> Path:
    return view(tmp_path / "b", LEAVES, signer=Ed25519PrivateKey.generate())


def other_bytes(tmp_path: Path) -> Path:
    path = view(tmp_path / "b", LEAVES) / "tile/entries/001"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    return tmp_path / "b"


def an_entry_less(tmp_path: Path) -> Path:
    path = view(tmp_path / "b", LEAVES) / "tile/entries/002.p/88"
    path.write_bytes(encode_bundle(LEAVES[512:-1]))
    return tmp_path / "b"


def no_checkpoint(tmp_path: Path) -> Path:
    (view(tmp_path / "b", LEAVES) / "checkpoint").unlink()
    return tmp_path / "b"


def no_tile(tmp_path: Path) -> Path:
    (view(tmp_path / "b", LEAVES) / "tile/entries/001").unlink()
    return tmp_path / "b"


def a_truncated_bundle(tmp_path: Path) -> Path:
    path = view(tmp_path / "b", LEAVES) / "tile/entries/000"
    path.write_bytes(path.read_bytes()[:-3])
    return tmp_path / "b"


def an_empty_bundle(tmp_path: Path) -> Path:
    (view(tmp_path / "b", LEAVES) / "tile/entries/000").write_bytes(b"")
    return tmp_path / "b"


def a_bundle_twice(tmp_path: Path) -> Path:
    tiles = view(tmp_path / "b", LEAVES) / "tile/entries"
    (tiles / "001").write_bytes((tiles / "000").read_bytes())
    return tmp_path / "b"


def a_flipped_root(tmp_path: Path) -> Path:
    path = view(tmp_path / "b", LEAVES) / "checkpoint"
    lines = path.read_text().split("\n")
    lines[2] = ("B" if lines[2][0] == "A" else "A") + lines[2][1:]
    path.write_text("\n".join(lines))
    return tmp_path / "b"


def an_empty_checkpoint(tmp_path: Path) -> Path:
    (view(tmp_path / "b", LEAVES) / "checkpoint").write_bytes(b"")
    return tmp_path / "b"


FAULTS: dict[str, tuple[Callable[[Path], Path], int, str]] = {
    "another origin": (other_origin, 6, "checkpoint"),
    "another key": (other_key, 6, "checkpoint"),
    "an entry with other bytes": (other_bytes, 6, "tree"),
    "an entry less": (an_entry_less, 6, "entries"),
    "a truncated bundle": (a_truncated_bundle, 6, "entries"),
    "an empty bundle": (an_empty_bundle, 6, "entries"),
    "a bundle of another place": (a_bundle_twice, 6, "tree"),
    "a flipped root": (a_flipped_root, 6, "checkpoint"),
    "an empty checkpoint": (an_empty_checkpoint, 6, "checkpoint"),
    "no checkpoint": (no_checkpoint, 6, "checkpoint"),
    "a bundle lacks": (no_tile, 6, "entries"),
}


@pytest.mark.parametrize(("fault", "exit_code", "code"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named(
    tmp_path: Path, fault: Callable[[Path], Path], exit_code: int, code: str
) -> None:
    done = compared(view(tmp_path / "a", LEAVES), fault(tmp_path), policy())
    assert done.exit_code == exit_code and code in {p.code for p in done.problems}
    assert all(str(tmp_path / "b") in p.text for p in done.problems if p.code == code)
    assert not any(str(tmp_path / "a") in p.text for p in done.problems)


@pytest.mark.parametrize("fault", [row[0] for row in FAULTS.values()], ids=FAULTS)
def test_without_a_policy_damage_is_no_contradiction_either(
    tmp_path: Path, fault: Callable[[Path], Path]
) -> None:
    assert compared(view(tmp_path / "a", LEAVES), fault(tmp_path), None).exit_code == 6


def test_two_signed_trees_contradict_whatever_is_damaged(tmp_path: Path) -> None:
    """The log's signature stands under both, so no damage can have made them."""
    done = compared(
        view(tmp_path / "a", LEAVES), view(tmp_path / "b", [*LEAVES[:-1], b"x"]), policy()
    )
    assert done.exit_code == 1
    (tmp_path / "b/tile/entries/000").write_bytes(b"")
    done = compared(tmp_path / "a", tmp_path / "b", policy())
    assert done.exit_code == 1
    assert [p.code for p in done.problems if p.severity == "violation"] == ["split-view"]


def test_a_size_that_nobody_serves_ends(tmp_path: Path) -> None:
    a, b = view(tmp_path / "a", LEAVES), view(tmp_path / "b", LEAVES)
    endless = Checkpoint(ORIGIN, 2**62, bytes(32))
    (a / "checkpoint").write_bytes(checkpoints.sign(endless, key=KEY))
    done = compared(a, b, policy())
    assert done.exit_code == 6


def test_without_a_policy_nothing_is_good(tmp_path: Path) -> None:
    a, b = view(tmp_path / "a", LEAVES), view(tmp_path / "b", LEAVES)
    done = compared(a, b, None)
    assert done.exit_code == 6 and [p.code for p in done.problems] == ["unsigned"]


def test_without_a_policy_origins_are_compared(tmp_path: Path) -> None:
    done = compared(view(tmp_path / "a", LEAVES), other_origin(tmp_path), None)
    assert done.exit_code == 6 and "other-origin" in {p.code for p in done.problems}


def test_entries_that_make_another_root_are_damage_on_both_sides(tmp_path: Path) -> None:
    for name in ("a", "b"):
        path = view(tmp_path / name, LEAVES) / "tile/entries/000"
        path.write_bytes(encode_bundle([b"another", *LEAVES[1:256]]))
    done = compared(tmp_path / "a", tmp_path / "b", policy())
    assert done.exit_code == 6 and {p.code for p in done.problems} == {"tree"}
    assert all(any(str(tmp_path / name) in p.text for p in done.problems) for name in "ab")
