"""The light client's account reads: proven under a head block, absent ones too."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import NotAuthentic, ParseError, Refused, UmayError
from contracts.light import ProvenAccount, accounts, read_account
from contracts.light.accounts import AccountAnswer, find_shard, proven_state
from contracts.light.blocks import BlockId
from contracts.light.boc import read_bag, read_cell, write_bag
from contracts.light.cells import Reader
from tests.helpers import ton_chain
from tests.helpers.places import EVIDENCE
from tests.helpers.ton_chain import (
    ABSENT,
    LOG_ADDRESS,
    UTIME,
    TonChain,
    answer_bytes,
    cell,
    hashmap,
    merkle_proof,
    octets,
    pruned,
    uint,
)

recorded = pytest.mark.skipif(not (EVIDENCE / "ton").is_dir(), reason=f"no answers in {EVIDENCE}")
CONFIG_ADDRESS = "-1:" + "55" * 32
OTHER_ADDRESS = "0:" + "e1" * 32


@functools.cache
def chain() -> TonChain:
    return TonChain()


def good(address: str = LOG_ADDRESS) -> AccountAnswer:
    return chain().answer(address)


def read(answer: AccountAnswer, address: str = LOG_ADDRESS, *, now: int = UTIME) -> ProvenAccount:
    return read_account(chain().head.block, answer_bytes(answer), address, max_age_s=60, now=now)


@pytest.mark.parametrize("address", [LOG_ADDRESS, CONFIG_ADDRESS], ids=["basechain", "masterchain"])
def test_an_account_that_is_there(address: str) -> None:
    found = read(good(address), address)
    assert (found.state, found.balance, found.address) == ("active", 200, address)
    assert read_cell(found.code).hash == chain().code.hash
    assert read_cell(found.data).hash == chain().data.hash
    assert (found.seqno, found.read_at) == (210, UTIME)
    workchain = int(address.partition(":")[0])
    assert found.shard_block.workchain == workchain


def test_absence_is_an_answer() -> None:
    found = read(good(ABSENT), ABSENT)
    assert (found.state, found.code, found.data, found.balance) == ("absent", b"", b"", 0)


@pytest.mark.parametrize(
    ("bits", "state"),
    [("00", "uninitialized"), ("01" + "1" * 256, "frozen")],
    ids=["new", "frozen"],
)
def test_an_account_without_code(bits: str, state: str) -> None:
    whole = chain().account
    bare = cell(whole.bits.to01()[: -len("100110")] + bits)
    data = Reader(bare, "account")
    data.bit()
    assert accounts._contents(data, LOG_ADDRESS) == (state, 200, b"", b"")


def test_an_account_with_more_behind_its_libraries() -> None:
    whole = chain().account
    for bits, refs in (("0", ()), ("", (chain().data,))):
        data = Reader(cell(whole.bits.to01() + bits, *whole.refs, *refs), "account")
        data.bit()
        with pytest.raises(ParseError, match="expected the end of the cell"):
            accounts._contents(data, LOG_ADDRESS)


def another_head(answer: AccountAnswer) -> AccountAnswer:
    return replace(answer, block=chain().second.block)


def another_shard_block(answer: AccountAnswer) -> AccountAnswer:
    return replace(answer, shard_block=replace(answer.shard_block, seqno=51))


def another_accounts_state(answer: AccountAnswer) -> AccountAnswer:
    return replace(answer, state=good(OTHER_ADDRESS).state)


def state_withheld(answer: AccountAnswer) -> AccountAnswer:
    return replace(answer, state=b"")


def shard_proof_of_another_block(answer: AccountAnswer) -> AccountAnswer:
    return replace(answer, shard_proof=answer.proof)


def proof_of_another_block(answer: AccountAnswer) -> AccountAnswer:
    return replace(answer, proof=answer.shard_proof)


def state_of_another_block(answer: AccountAnswer) -> AccountAnswer:
    first, _ = read_bag(answer.proof, roots=2)
    _, second = read_bag(answer.shard_proof, roots=2)
    return replace(answer, proof=write_bag([first, second]))


def path_to_the_account_pruned(answer: AccountAnswer) -> AccountAnswer:
    table = chain().shard_state.refs[1]
    proof = chain()._state_proof(chain().shard, chain().shard_state, table.refs[0])
    return replace(answer, proof=proof)


def shards_pruned(answer: AccountAnswer) -> AccountAnswer:
    custom = chain().state.refs[3]
    proof = chain()._state_proof(chain().head, chain().state, custom.refs[0])
    return replace(answer, shard_proof=proof)


def update_pruned(answer: AccountAnswer) -> AccountAnswer:
    made = chain().head
    _, state = read_bag(answer.shard_proof, roots=2)
    thin = merkle_proof(made.cell, made.cell.refs)
    return replace(answer, shard_proof=write_bag([thin, state]))


CASES: list[tuple[Callable[[AccountAnswer], AccountAnswer], str]] = [
    (another_head, "other-block"),
    (another_shard_block, "other-block"),
    (another_accounts_state, "other-account"),
    (state_withheld, "no-account"),
    (shard_proof_of_another_block, "wrong-root"),
    (proof_of_another_block, "wrong-root"),
    (state_of_another_block, "wrong-root"),
    (path_to_the_account_pruned, "pruned"),
    (shards_pruned, "pruned"),
    (update_pruned, "pruned"),
]


@pytest.mark.parametrize(("change", "code"), CASES, ids=[case[0].__name__ for case in CASES])
def test_an_answer_that_does_not_hold(change: Callable[..., AccountAnswer], code: str) -> None:
    with pytest.raises(NotAuthentic) as caught:
        read(change(good()))
    assert caught.value.code == code


@pytest.mark.parametrize("workchain", [1, 2, -2])
def test_a_workchain_that_the_chain_does_not_have(workchain: int) -> None:
    head = proven_state(good().shard_proof, chain().head.block)
    with pytest.raises(NotAuthentic) as caught:
        find_shard(head, workchain, bytes(32))
    assert caught.value.code == "no-shard"


def test_a_masterchain_state_that_lists_no_shards() -> None:
    head = proven_state(good().shard_proof, chain().head.block)
    bare = replace(head, custom=cell(uint(0xCC26, 16) + "0"))
    with pytest.raises(NotAuthentic, match="no entry for it") as caught:
        find_shard(bare, 0, bytes(32))
    assert caught.value.code == "no-shard"
    with pytest.raises(ParseError, match="without its extra part"):
        find_shard(replace(head, custom=None), 0, bytes(32))


@pytest.mark.parametrize(("splits", "good_"), [(0, True), (1, True), (60, True), (61, False)])
def test_a_shard_is_split_at_most_60_times(splits: int, good_: bool) -> None:
    made = cell("0" + uint(0xB, 4) + uint(7, 32) + uint(0, 160) + octets(b"r" * 32 + b"f" * 32))
    for _ in range(splits):
        made = cell("1", made, cell(""))
    table = hashmap({uint(0, 32): ("", (made,))}, 32)
    head = proven_state(good().shard_proof, chain().head.block)
    head = replace(head, custom=cell(uint(0xCC26, 16) + "1", table))
    if good_:
        found = find_shard(head, 0, bytes(32))
        assert (found.seqno, found.shard) == (7, 1 << (63 - splits))
    else:
        with pytest.raises(ParseError, match="at most 60 splits"):
            find_shard(head, 0, bytes(32))


@pytest.mark.parametrize("tag", range(8))
def test_storage_extra_is_none_or_one_hash(tag: int) -> None:
    data = Reader(cell(uint(tag, 3) + "1" * min(256 * tag, 600)), "account")
    if tag <= 1:
        accounts._skip_extra(data)
        data.end()
    else:
        with pytest.raises(ParseError, match=f"storage extra 0 or 1, got {tag}"):
            accounts._skip_extra(data)


def test_another_accounts_whole_proof() -> None:
    with pytest.raises(NotAuthentic, match="other-account"):
        read(good(OTHER_ADDRESS))


def test_a_state_given_for_an_absent_account() -> None:
    with pytest.raises(NotAuthentic, match="other-account"):
        read(replace(good(ABSENT), state=good().state), ABSENT)


def test_a_pruned_cell_that_poses_as_data() -> None:
    """The account's hash is that of the real account; its data is only a hash."""
    account = chain().account
    thin = merkle_proof(account, (chain().data,)).refs[0]
    assert thin.get_hash(0) == account.hash
    with pytest.raises(ParseError, match="pruned"):
        read(replace(good(), state=write_bag([thin])))


def test_a_pruned_cell_that_poses_as_the_account() -> None:
    with pytest.raises(ParseError, match="pruned"):
        read(replace(good(), state=write_bag([pruned(chain().account)])))


def test_an_account_that_names_another_address() -> None:
    def contents(address: str) -> tuple[str, int, bytes, bytes]:
        data = Reader(read_cell(good().state), "account")
        assert data.bit()
        return accounts._contents(data, address)

    assert contents(LOG_ADDRESS)[:2] == ("active", 200)
    for other in (OTHER_ADDRESS, "-1" + LOG_ADDRESS[1:]):
        with pytest.raises(NotAuthentic, match="expected the address") as caught:
            contents(other)
        assert caught.value.code == "other-account"


def test_a_merkle_proof_that_poses_as_the_account() -> None:
    with pytest.raises(NotAuthentic, match="other-account"):
        read(replace(good(), state=write_bag([merkle_proof(chain().account, ())])))


@pytest.mark.parametrize(
    ("now", "code"), [(UTIME + 61, "stale-head"), (UTIME - 61, "future-head")], ids=["old", "new"]
)
def test_a_head_of_another_time(now: int, code: str) -> None:
    with pytest.raises(Refused) as caught:
        read(good(), now=now)
    assert caught.value.code == code
    assert read(good(), now=UTIME + 60).read_at == UTIME


def test_a_head_that_is_no_block_of_the_masterchain() -> None:
    shard = chain().shard.block
    answer = replace(good(), block=shard)
    with pytest.raises(NotAuthentic, match="other-chain"):
        read_account(shard, answer_bytes(answer), LOG_ADDRESS, max_age_s=60, now=UTIME)


def test_a_workchain_that_the_masterchain_does_not_list() -> None:
    head = proven_state(good().shard_proof, chain().head.block)
    with pytest.raises(NotAuthentic) as caught:
        find_shard(head, 5, bytes(32))
    assert caught.value.code == "no-shard"


def test_a_shard_proof_where_none_belongs() -> None:
    answer = replace(good(CONFIG_ADDRESS), shard_proof=good().shard_proof)
    with pytest.raises(ParseError, match="no shard proof"):
        read(answer, CONFIG_ADDRESS)


@pytest.mark.parametrize("tail", [b"\0", bytes(4), b"\1\2\3\4"], ids=["byte", "zeros", "word"])
def test_trailing_bytes(tail: bytes) -> None:
    raw = answer_bytes(good()) + tail
    with pytest.raises(ParseError, match="expected"):
        read_account(chain().head.block, raw, LOG_ADDRESS, max_age_s=60, now=UTIME)


@pytest.mark.parametrize(
    "address", ["", "0:", "0:" + "C1" * 32, "1:" + "c1" * 32, "0:" + "c1" * 33, "c1" * 32]
)
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(ParseError, match="address"):
        read(good(), address)


def exotic(data: bytes, *refs: object) -> bytes:
    """A bag with one exotic cell, as its bytes: data of at most 127 bytes."""
    body = bytes((8 + len(refs), 2 * len(data))) + data
    return bytes.fromhex("b5ee9c72 01 01 01 01 00") + bytes((len(body), 0)) + body


BAD_CELLS = {
    "a pruned branch with a short hash": exotic(b"\1\1" + bytes(33)),
    "a pruned branch of level 0": exotic(b"\1\0" + bytes(34)),
    "a Merkle proof of nothing": exotic(b"\3" + bytes(34)),
    "an exotic cell that calls itself ordinary": exotic(b"\xff" + bytes(34)),
    "an exotic cell of no type": exotic(b""),
}


@pytest.mark.parametrize("name", BAD_CELLS)
def test_an_exotic_cell_of_another_form(name: str) -> None:
    with pytest.raises(ParseError, match="cell 0"):
        read_bag(BAD_CELLS[name])


def test_a_merkle_proof_whose_own_hash_is_not_its_cells() -> None:
    lie = cell(octets(b"\3" + bytes(34)), chain().account, kind=3)
    with pytest.raises(ParseError, match="hash and depth of the cells under it"):
        read_bag(write_bag([lie]))


def test_the_constructor_is_the_schemas() -> None:
    line = (
        "liteServer.accountState id:tonNode.blockIdExt shardblk:tonNode.blockIdExt "
        "shard_proof:bytes proof:bytes state:bytes = liteServer.AccountState"
    )
    assert zlib.crc32(line.encode()) == accounts.ACCOUNT_STATE


@given(st.data())
@pytest.mark.parametrize("address", [LOG_ADDRESS, ABSENT, CONFIG_ADDRESS], ids=["log", "no", "mc"])
def test_no_changed_byte_is_taken(address: str, data: st.DataObject) -> None:
    _refused(chain().head.block, answer_bytes(good(address)), address, UTIME, data)


def _refused(head: BlockId, raw: bytes, address: str, now: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(raw) - 1))
    changed = bytearray(raw)
    changed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(UmayError):
        read_account(head, bytes(changed), address, max_age_s=60, now=now)


@functools.cache
def reading(name: str) -> tuple[BlockId, bytes, str, bytes]:
    """Head, answer, address and account hash of a recorded read; file hashes are zeros."""
    lines = (EVIDENCE / "ton" / name).read_text().split("\n")
    fields = dict(line.split("=", 1) for line in lines if "=" in line)
    raw = {key: bytes.fromhex(fields[key]) for key in ("shard_proof", "proof", "state")}
    root = bytes.fromhex(fields["block_root_hash"])
    head = BlockId(-1, ton_chain.WHOLE, int(fields["block_seqno"]), root, bytes(32))
    shard = head
    if fields["workchain"] == "0":
        account_id = bytes.fromhex(fields["account_id"])
        shard = find_shard(proven_state(raw["shard_proof"], head), 0, account_id)
        assert shard.root_hash.hex() == fields["shard_block_root_hash"]
        assert shard.seqno == int(fields["shard_block_seqno"])
    answer = AccountAnswer(head, shard, **raw)
    address = f"{fields['workchain']}:{fields['account_id']}"
    return head, answer_bytes(answer), address, read_cell(raw["state"]).hash


READS = {
    "read-basechain.txt": (1784607542, 1067259229327, 81037208),
    "read-masterchain.txt": (1784607576, 222859282039087, 81037290),
}


@recorded
@pytest.mark.evidence
@pytest.mark.parametrize("name", READS)
def test_recorded_reads_hold(name: str) -> None:
    head, raw, address, _ = reading(name)
    utime, balance, seqno = READS[name]
    found = read_account(head, raw, address, max_age_s=60, now=utime + 60)
    assert (found.state, found.balance, found.seqno) == ("active", balance, seqno)
    assert found.code and found.data and found.read_at == utime
    with pytest.raises(Refused, match="stale-head"):
        read_account(head, raw, address, max_age_s=60, now=utime + 61)


@recorded
@pytest.mark.evidence
@pytest.mark.parametrize("name", READS)
@given(data=st.data())
def test_no_changed_byte_of_a_recorded_read_is_taken(name: str, data: st.DataObject) -> None:
    head, raw, address, _ = reading(name)
    _refused(head, raw, address, READS[name][0], data)


@recorded
@pytest.mark.evidence
def test_a_recorded_account_proof_is_read() -> None:
    text = (EVIDENCE / "ton" / "account-proof.hex").read_text()
    first, second = read_bag(bytes.fromhex("".join(text.split())), roots=2)
    assert first.refs[0].get_hash(0)[:4].hex() == "2f138b6a"
    assert Reader(second.refs[0], "state").uint(32) == 0x9023AFE2
