"""What a client has seen of the chain is a floor: nobody shows it less a second time."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from attestation.errors import Refused, Unavailable, UsageError
from attestation.trust.anchor import Anchor
from attestation.trust.policy import Policy
from attestation.trust.registry import GUEST, RegistrySnapshot, Unread
from client_sdk.chain_reader import READS, ChainReader
from client_sdk.floors import LAG_S, Floors
from tests.attestation.test_policy import GOOD
from tests.helpers import registries
from tests.helpers.waiting import HANG_S
from tests.helpers.world import NOW

LOG = "0:" + "c0" * 32


def anchor(seqno: int, size: int, revoked: tuple[bytes, ...] | None = None, **more: Any) -> Anchor:
    listed = tuple(registries.entry(GUEST, digest, revoked=NOW) for digest in revoked or ())
    registry = None if revoked is None else registries.snapshot(listed)
    values: dict[str, Any] = {
        "network": "umay-test",
        "address": LOG,
        "code_hash": bytes(32),
        "origin": "127.0.0.1:9/log",
        "log_key": bytes(32),
        "sequence": 1,
        "size": size,
        "root": bytes(32),
        "time": NOW,
        "forked": False,
        "read_at": NOW + 2 * seqno,
        "level": "reported",
        "seqno": seqno,
        "registry": registry,
    }
    return Anchor(**{**values, **more})


A, B = b"\x0a" * 32, b"\x0b" * 32


@pytest.fixture
def floors(tmp_path: Path) -> Floors:
    floors = Floors(tmp_path / "floors.json")
    floors.pass_over(anchor(100, 50, (A,)))
    return floors


def test_what_grows_passes_and_is_kept(floors: Floors) -> None:
    floors.pass_over(anchor(100, 50, (A,)))
    floors.pass_over(anchor(101, 60, (A, B)))
    (kept,) = json.loads(floors.path.read_bytes())["floors"]
    assert (kept["seqno"], kept["size"], kept["revoked"]) == (101, 60, [A.hex(), B.hex()])
    assert floors.path.stat().st_mode & 0o777 == 0o600


def test_a_log_that_shrank_is_refused(floors: Floors) -> None:
    with pytest.raises(Refused) as caught:
        floors.pass_over(anchor(101, 49, (A,)))
    assert (caught.value.step, caught.value.code) == ("log", "shrank")
    floors.pass_over(anchor(101, 50, (A,)))


def test_a_revocation_that_is_gone_is_refused(floors: Floors) -> None:
    with pytest.raises(Refused) as caught:
        floors.pass_over(anchor(101, 50, (B,)))
    assert (caught.value.step, caught.value.code) == ("registry", "unrevoked")


@pytest.mark.parametrize("seqno", [99, 100, 101])
def test_a_fork_that_was_proven_stays_proven(floors: Floors, seqno: int) -> None:
    floors.pass_over(anchor(100, 50, (A,), forked=True))  # the verification plan refuses it
    with pytest.raises(Refused) as caught:
        floors.pass_over(anchor(seqno, 50, (A,)))
    assert (caught.value.step, caught.value.code) == ("log", "forked")
    floors.pass_over(anchor(101, 50, (A,), forked=True))


def test_a_file_of_before_forks_were_kept_is_read(floors: Floors) -> None:
    floors.path.write_text(floors.path.read_text().replace(',\n   "forked": false', ""))
    assert "forked" not in floors.path.read_text()
    with pytest.raises(Refused, match="50 entries"):
        floors.pass_over(anchor(101, 49, (A,)))
    floors.pass_over(anchor(101, 50, (A,)))


def test_a_later_block_of_an_earlier_time_lowers_nothing(floors: Floors) -> None:
    floors.pass_over(anchor(101, 50, (A,), read_at=1))
    (kept,) = json.loads(floors.path.read_bytes())["floors"]
    assert (kept["seqno"], kept["read_at"]) == (101, NOW + 200)


def test_an_older_block_passes_only_where_it_shows_no_less(floors: Floors) -> None:
    floors.pass_over(anchor(99, 50, (A,)))  # a server that lags
    floors.pass_over(anchor(100 - LAG_S // 2, 50, (A,)))
    for older in (
        anchor(99 - LAG_S // 2, 50, (A,)),
        anchor(99, 49, (A,)),
        anchor(99, 50, ()),
    ):
        with pytest.raises(Unavailable, match="block 100, which was read before") as caught:
            floors.pass_over(older)
        assert caught.value.again
    assert json.loads(floors.path.read_bytes())["floors"][0]["seqno"] == 100


def test_floors_are_of_one_network_log_and_registry(floors: Floors) -> None:
    floors.pass_over(anchor(1, 1))  # without a Registry
    floors.pass_over(anchor(1, 1, registry=Unread("no answer")))
    floors.pass_over(anchor(1, 1, (), network="another"))
    floors.pass_over(anchor(1, 1, (), address="0:" + "c1" * 32))
    other = dataclasses.replace(registries.snapshot(()), address="0:" + "5d" * 32)
    assert isinstance(other, RegistrySnapshot)
    floors.pass_over(anchor(1, 1, registry=other))
    assert len(json.loads(floors.path.read_bytes())["floors"]) == 5


DAMAGED = {
    "not JSON": b"{",
    "another file": b"[]",
    "no floors": b"{}",
    "a floor without its size": b'{"floors": [{"network": "n", "log": "l", "registry": ""}]}',
    "a size below zero": (
        b'{"floors": [{"network": "n", "log": "l", "registry": "", "seqno": 1, "read_at": 1, '
        b'"size": -1, "revoked": []}]}'
    ),
    "a fork as text": (
        b'{"floors": [{"network": "n", "log": "l", "registry": "", "seqno": 1, "read_at": 1, '
        b'"size": 1, "revoked": [], "forked": "no"}]}'
    ),
    "revocations as a number": (
        b'{"floors": [{"network": "n", "log": "l", "registry": "", "seqno": 1, "read_at": 1, '
        b'"size": 1, "revoked": [1]}]}'
    ),
    "a key more": (
        b'{"floors": [{"network": "n", "log": "l", "registry": "", "seqno": 1, "read_at": 1, '
        b'"size": 1, "revoked": [], "more": 1}]}'
    ),
    "half of it": b'{"floors": [{"network": "n", "lo',
    "nothing": b"",
    "a size as text": (
        b'{"floors": [{"network": "n", "log": "l", "registry": "", "seqno": 1, "read_at": 1, '
        b'"size": "1", "revoked": []}]}'
    ),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_said_and_not_taken_for_none(floors: Floors, content: bytes) -> None:
    floors.path.write_bytes(content)
    with pytest.raises(UsageError, match="remove the file to begin anew"):
        floors.pass_over(anchor(200, 60, (A,)))
    assert floors.path.read_bytes() == content


def test_a_file_of_others_is_not_used(floors: Floors) -> None:
    floors.path.chmod(0o666)
    with pytest.raises(UsageError, match="0666"):
        floors.pass_over(anchor(200, 60, (A,)))


def test_a_link_is_not_followed(floors: Floors, tmp_path: Path) -> None:
    for path in (floors.path, floors.path.with_name("floors.json.lock")):
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UsageError, match="symbolic link"):
            floors.pass_over(anchor(200, 60, (A,)))
        path.unlink()
        (tmp_path / "elsewhere").rename(path)
    with pytest.raises(UsageError, match="No such file"):
        Floors(tmp_path / "gone" / "floors.json").pass_over(anchor(200, 60, (A,)))


def test_threads_and_processes_keep_the_highest(floors: Floors) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from client_sdk.floors import Floors\n"
        "from tests.client_sdk.test_floors import anchor, A\n"
        "for size in range(60, 80):\n"
        f"    Floors(Path({str(floors.path)!r})).pass_over(anchor(size * 10, size, (A,)))\n"
    )
    other = subprocess.Popen([sys.executable, "-c", program])

    def run() -> None:
        for number in range(101, 121):
            try:
                floors.pass_over(anchor(number, number, (A,)))
            except (Unavailable, Refused):
                return  # the other process was ahead

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.wait(HANG_S)
    (kept,) = json.loads(floors.path.read_bytes())["floors"]
    assert kept["size"] >= 79 and kept["seqno"] >= 120


def test_the_file_is_read_under_the_lock(floors: Floors, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    read = Floors._read

    def reading(self: Floors) -> Any:
        steps.append("read")
        return read(self)

    monkeypatch.setattr("fcntl.flock", lambda number, how: steps.append("locked"))
    monkeypatch.setattr(Floors, "_read", reading)
    floors.pass_over(anchor(101, 60, (A,)))
    assert steps == ["locked", "read"]


def pinning(expected: Anchor) -> Policy:
    """A policy that pins the contracts of this anchor."""
    return dataclasses.replace(
        Policy.from_toml(GOOD.encode()),
        network=expected.network,
        log_contract=expected.address,
        log_code_hash=expected.code_hash,
        log_origin=expected.origin,
        log_key=expected.log_key,
        registry=registries.rules("both"),
    )


OTHERS: dict[str, dict[str, Any]] = {
    "other code": {"code_hash": b"\x01" * 32},
    "another log key": {"log_key": b"\x01" * 32},
    "another log": {"origin": "elsewhere.example"},
    "other code of the Registry": {
        "registry": dataclasses.replace(registries.snapshot(()), code_hash=bytes(32))
    },
}


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS)
def test_a_contract_that_is_not_pinned_raises_no_floor(
    floors: Floors, changes: dict[str, Any]
) -> None:
    """A wrong endpoint would otherwise spoil the right one for ever. The plan refuses it."""
    found = anchor(900, 10**9, (A, B), **changes)
    before = floors.path.read_bytes()

    class Reader(ChainReader):
        def anchor_of(self, contract: str) -> Anchor:
            return found

    reader = Reader(None, pinning(anchor(1, 1)), floors.path)  # type: ignore[arg-type]
    assert reader.anchor() == found and floors.path.read_bytes() == before


@pytest.mark.parametrize(("later", "good"), [(101, True), (11, False)])
def test_the_client_reads_again_before_it_says_that_an_endpoint_lags(
    floors: Floors, later: int, good: bool
) -> None:
    reads: list[str] = []

    class Reader(ChainReader):
        def anchor_of(self, contract: str) -> Anchor:
            reads.append(contract)
            return anchor(10 if len(reads) < READS else later, 50, (A,))

    reader = Reader(None, pinning(anchor(10, 50, (A,))), floors.path)  # type: ignore[arg-type]
    if good:
        assert reader.anchor().seqno == 101
    else:
        with pytest.raises(Unavailable):
            reader.anchor()
    assert len(reads) == READS
