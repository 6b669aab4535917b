"""The embedded chain's disk and blocks, and the toncenter client against bad endpoints."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests
from nacl.signing import SigningKey
from pytoniq_core import Cell, begin_cell
from tonsdk.contract.wallet import WalletV4ContractR2
from tonsdk.crypto import mnemonic_new

from attestation.errors import ParseError, Unavailable, UsageError
from contracts import chain as chain_module
from contracts import node
from contracts.chain import ToncenterV2, raw_address
from contracts.endpoint import toncenter
from contracts.localnet.process import LocalChain
from contracts.localnet.server import command
from contracts.reader import read_anchor
from contracts.wallet import Wallet, create_key, external_message, internal_message, load_key
from tests.helpers.places import VECTORS
from tests.helpers.waiting import HANG_S

needs_node = pytest.mark.skipif(not node.installed(), reason="contracts/localnet not installed")
SOMEBODY = "0:" + "11" * 32


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalChain]:
    with LocalChain.start(tmp_path_factory.mktemp("a chain")) as local:
        yield local


# ---- blocks and disk


@needs_node
def test_blocks_are_looked_up_by_number(shared: LocalChain) -> None:
    chain = shared.client()
    for _ in range(3):
        shared.faucet(SOMEBODY, 1000)
    head = chain.head()
    assert head.level == "reported"
    blocks = [chain.block(seqno) for seqno in range(1, head.seqno + 1)]
    assert blocks[-1] == head
    assert len({block.root_hash for block in blocks}) == head.seqno
    assert [b.utime for b in blocks] == sorted(b.utime for b in blocks)
    for absent in (0, head.seqno + 1000):
        with pytest.raises(Unavailable, match="not found"):
            chain.block(absent)


@needs_node
def test_an_account_is_never_newer_than_its_block(shared: LocalChain) -> None:
    chain = shared.client()
    shared.faucet(SOMEBODY, 5)
    account = chain.account(SOMEBODY)
    assert account.state == "uninitialized"
    assert account.read_at == chain.block(account.seqno).utime


@needs_node
def test_blocks_pass_while_nothing_happens(shared: LocalChain) -> None:
    chain = shared.client()
    before = chain.head().seqno
    time.sleep(2.5)
    assert chain.head().seqno > before


@needs_node
def test_time_travel_and_lookup_by_time(shared: LocalChain) -> None:
    chain = shared.client()
    before = chain.head()
    now = shared.advance(3600)
    assert now >= before.utime + 3600
    assert chain.head().utime >= before.utime + 3600
    answer = requests.get(
        f"{shared.url}/lookupBlock?workchain=-1&shard=0&unixtime={before.utime + 60}",
        timeout=HANG_S,
    ).json()
    assert before.seqno <= answer["result"]["seqno"] < chain.head().seqno


def restarted(directory: Path) -> tuple[int, int]:
    with LocalChain.start(directory) as local:
        chain = local.client()
        return chain.head().seqno, chain.account(SOMEBODY).balance


@needs_node
def test_restart_keeps_blocks_accounts_and_history(tmp_path: Path) -> None:
    with LocalChain.start(tmp_path) as local:
        local.faucet(SOMEBODY, 12_345)
        local.advance(1000)
        chain = local.client()
        head = chain.head()
        blocks = [chain.block(seqno) for seqno in range(1, head.seqno + 1)]
        history = chain.transactions(SOMEBODY)
    with LocalChain.start(tmp_path) as local:
        chain = local.client()
        assert chain.head().seqno >= head.seqno
        assert [chain.block(b.seqno) for b in blocks] == blocks
        assert chain.account(SOMEBODY).balance == 12_345
        assert chain.transactions(SOMEBODY) == history
        assert chain.head().utime >= head.utime


def tear_blocks(directory: Path) -> None:
    with (directory / "blocks.bin").open("ab") as file:
        file.write(b"half a record")


def lose_last_block(directory: Path) -> None:
    path = directory / "blocks.bin"
    sealed = json.loads((directory / "state.json").read_text())["head"]["seqno"]
    os.truncate(path, (sealed - 1) * 72)


def tear_history(directory: Path) -> None:
    with (directory / "transactions.jsonl").open("a") as file:
        file.write('{"address": "0:11')


def leave_temporary(directory: Path) -> None:
    (directory / "state.json.tmp").write_text("{")


@needs_node
@pytest.mark.parametrize("damage", [tear_blocks, lose_last_block, tear_history, leave_temporary])
def test_a_killed_chain_recovers(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    local = LocalChain.start(tmp_path)
    local.faucet(SOMEBODY, 777)
    seqno = json.loads((tmp_path / "state.json").read_text())["head"]["seqno"]
    local.process.kill()
    local.stop()
    damage(tmp_path)
    head, balance = restarted(tmp_path)
    assert balance == 777
    assert head >= seqno


@needs_node
def test_a_directory_of_other_blocks_is_refused(tmp_path: Path) -> None:
    with LocalChain.start(tmp_path) as local:
        local.faucet(SOMEBODY, 1)
        local.faucet(SOMEBODY, 1)
    os.truncate(tmp_path / "blocks.bin", 72)
    with pytest.raises(Unavailable, match="expected the block that state"):
        LocalChain.start(tmp_path)


@needs_node
def test_one_server_per_directory(tmp_path: Path) -> None:
    with LocalChain.start(tmp_path), pytest.raises(Unavailable, match="has this directory open"):
        LocalChain.start(tmp_path)


@needs_node
def test_the_chain_ends_with_its_parent(tmp_path: Path) -> None:
    local = LocalChain.start(tmp_path)
    assert local.process.stdin is not None
    local.process.stdin.close()
    assert local.process.wait(HANG_S) == 0
    local.stop()


@needs_node
def test_module_command_serves(tmp_path: Path) -> None:
    child = subprocess.Popen(command(["--dir", str(tmp_path / "new")]), stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert json.loads(child.stdout.readline())["listening"].startswith("http://127.0.0.1:")
    child.terminate()
    assert child.wait(HANG_S) == 0
    child.stdout.close()


# ---- messages


@needs_node
@pytest.mark.parametrize("boc", [b"", b"rubbish", begin_cell().end_cell().to_boc()])
def test_what_is_no_message_is_refused(shared: LocalChain, boc: bytes) -> None:
    with pytest.raises(Unavailable):
        shared.client().send_boc(boc)


@needs_node
def test_an_unacceptable_message_is_refused(shared: LocalChain) -> None:
    stranger = external_message(SOMEBODY, begin_cell().store_uint(1, 32).end_cell())
    with pytest.raises(Unavailable, match="cannot apply external message"):
        shared.client().send_boc(stranger.to_boc())


@needs_node
def test_an_internal_message_cannot_be_injected(shared: LocalChain) -> None:
    with pytest.raises(Unavailable, match="expected a message"):
        shared.client().send_boc(internal_message(SOMEBODY, 10**9).to_boc())


@needs_node
def test_get_method_of_no_contract(shared: LocalChain) -> None:
    assert shared.client().run_get_method("0:" + "77" * 32, "state").exit_code == -13


@needs_node
def test_no_anchor_where_no_contract_is(shared: LocalChain) -> None:
    with pytest.raises(Unavailable, match="expected an active AttestationLog contract"):
        read_anchor(shared.client(), network="n", address=SOMEBODY)


@needs_node
def test_a_wallet_is_no_log(shared: LocalChain) -> None:
    chain = shared.client()
    wallet = Wallet(chain, SigningKey.generate())
    shared.faucet(wallet.address, 10**9)
    wallet.transfer(SOMEBODY, 1000, bounce=False)
    with pytest.raises(ParseError):
        read_anchor(chain, network="n", address=wallet.address)


def asked(chain: LocalChain, method: str, **parameters: object) -> Any:
    answer = requests.get(f"{chain.url}/{method}", params=parameters, timeout=HANG_S).json()
    assert answer["ok"], answer
    return answer["result"]


def commented(text: bytes, *, rest: Cell | None = None) -> Cell:
    body = begin_cell().store_uint(0, 32).store_bytes(text)
    return (body.store_ref(rest) if rest else body).end_cell()


LONG = "Ä" * 200
MESSAGES: dict[str, tuple[Cell | None, str | None]] = {
    "a comment": (commented(b"hello"), "hello"),
    "letters of every script": (commented("тест ✓ 試".encode()), "тест ✓ 試"),
    "an empty comment": (commented(b""), ""),
    "a comment over four cells": (
        commented(
            LONG.encode()[:121],
            rest=begin_cell()
            .store_bytes(LONG.encode()[121:248])
            .store_ref(
                begin_cell()
                .store_bytes(LONG.encode()[248:375])
                .store_ref(begin_cell().store_bytes(LONG.encode()[375:]).end_cell())
                .end_cell()
            )
            .end_cell(),
        ),
        LONG,
    ),
    "no body": (None, None),
    "an operation": (begin_cell().store_uint(0x0F8A7EA5, 32).store_uint(7, 64).end_cell(), None),
    "what is not UTF-8": (commented(b"\xff\xfe"), None),
    "less than an operation": (begin_cell().store_uint(0, 31).end_cell(), None),
    "half a byte": (begin_cell().store_uint(0, 36).end_cell(), None),
}


@needs_node
@pytest.mark.parametrize(("body", "text"), MESSAGES.values(), ids=MESSAGES)
def test_a_transaction_is_told_as_toncenter_tells_it(
    shared: LocalChain, body: Cell | None, text: str | None
) -> None:
    """Types, account and decoded comments of toncenter v2's ext.transaction."""
    wallet = Wallet(shared.client(), SigningKey.generate())
    shared.faucet(wallet.address, 10**9)
    there = "0:" + SigningKey.generate().encode().hex()
    wallet.transfer(there, 10**6, body, bounce=False)
    (received,) = asked(shared, "getTransactions", address=there)
    sent = asked(shared, "getTransactions", address=wallet.address, limit=1)[0]
    assert received["@type"] == "ext.transaction"
    assert received["account"] == there.upper()
    assert raw_address(received["address"]["account_address"]) == there
    assert received["in_msg"] == sent["out_msgs"][0] and received["out_msgs"] == []
    message = received["in_msg"]
    assert set(message) == {
        *("@type", "hash", "source", "destination", "value", "extra_currencies", "fwd_fee"),
        *("ihr_fee", "created_lt", "body_hash", "msg_data", "message"),
    }
    assert (message["@type"], message["value"]) == ("ext.message", str(10**6))
    assert raw_address(message["source"]) == wallet.address
    assert raw_address(message["destination"]) == there
    whole = body or begin_cell().end_cell()
    assert b64decode(message["body_hash"]) == whole.hash
    data = message["msg_data"]
    if text is None:
        assert data["@type"] == "msg.dataRaw" and set(data) == {"@type", "body", "init_state"}
        assert Cell.one_from_boc(b64decode(data["body"])).hash == whole.hash
        assert b64decode(message["message"]) == whole.bits.tobytes()
    else:
        assert data == {"@type": "msg.dataText", "text": b64encode(text.encode()).decode()}
        assert message["message"] == text


HEADER_FIELDS = {
    **{"@type": str, "id": dict, "global_id": int, "version": int, "flags": int},
    **{"after_merge": bool, "after_split": bool, "before_split": bool, "want_merge": bool},
    **{"want_split": bool, "validator_list_hash_short": int, "catchain_seqno": int},
    **{"min_ref_mc_seqno": int, "is_key_block": bool, "prev_key_block_seqno": int},
    **{"start_lt": str, "end_lt": str, "gen_utime": int, "vert_seqno": int},
    **{"prev_blocks": list, "@extra": str},
}


def header(chain: LocalChain, seqno: int) -> dict[str, Any]:
    where = {"workchain": -1, "shard": "-9223372036854775808", "seqno": seqno}
    found: dict[str, Any] = asked(chain, "getBlockHeader", **where)
    return found


@needs_node
def test_a_block_header_has_every_field_of_toncenter(tmp_path: Path) -> None:
    with LocalChain.start(tmp_path) as chain:
        for amount in (1, 2):
            chain.faucet(SOMEBODY, amount)
            chain.advance(1)
        history = asked(chain, "getTransactions", address=SOMEBODY)
        last = chain.client().head().seqno
        headers = [header(chain, seqno) for seqno in range(1, last + 1)]
    with LocalChain.start(tmp_path) as again:
        assert [{**header(again, h["id"]["seqno"]), "@extra": ""} for h in headers] == [
            {**h, "@extra": ""} for h in headers
        ]
    for found in headers:
        assert {name: type(value) for name, value in found.items()} == HEADER_FIELDS
        assert int(found["start_lt"]) <= int(found["end_lt"])
    for earlier, later in pairwise(headers):
        assert int(earlier["end_lt"]) <= int(later["start_lt"])
        assert later["prev_blocks"] == [earlier["id"]]
    for entry in history:
        lt = int(entry["transaction_id"]["lt"])
        holding = [h for h in headers if int(h["start_lt"]) <= lt < int(h["end_lt"])]
        assert len(holding) == 1


@needs_node
def test_a_full_disk_refuses_and_loses_nothing(tmp_path: Path) -> None:
    """The kernel takes no more for any file of the chain; then it does again."""

    def coins(chain: ToncenterV2) -> int:
        """Whole ones: an account pays a few nano of rent."""
        return round(chain.account(SOMEBODY).balance / 10**9)

    with LocalChain.start(tmp_path) as local:
        chain = local.client()
        local.faucet(SOMEBODY, 5 * 10**9)
        _, hard = resource.prlimit(local.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(local.process.pid, resource.RLIMIT_FSIZE, (80, hard))
        for _ in range(3):
            answer = requests.post(
                f"{local.url}/local/faucet",
                json={"address": SOMEBODY, "amount": "7000000000"},
                timeout=HANG_S,
            )
            assert answer.status_code == 503 and "EFBIG" in answer.json()["error"]
        assert coins(chain) == 5  # it still answers
        assert len(chain.transactions(SOMEBODY)) == 1
        seqno = chain.head().seqno
        resource.prlimit(local.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        local.faucet(SOMEBODY, 11 * 10**9)
        assert coins(chain) == 16 and chain.head().seqno > seqno
        blocks = [chain.block(number) for number in range(1, chain.head().seqno + 1)]
        history = chain.transactions(SOMEBODY)
    with LocalChain.start(tmp_path) as local:
        chain = local.client()
        assert [chain.block(block.seqno) for block in blocks] == blocks
        assert chain.transactions(SOMEBODY) == history and len(history) == 2
        assert coins(chain) == 16


@needs_node
def test_the_faucet_needs_json(shared: LocalChain) -> None:
    answer = requests.post(f"{shared.url}/local/faucet", data="{}", timeout=HANG_S)
    assert answer.status_code == 422


@needs_node
def test_the_configuration_is_the_real_one(shared: LocalChain) -> None:
    gas_prices = shared.client().config_param(21)
    assert gas_prices[:4] == b"\xb5\xee\x9c\x72"
    with pytest.raises(Unavailable):
        shared.client().config_param(999)


# ---- wallet


@needs_node
@pytest.mark.parametrize("version", ["v4r2", "v5r1"])
def test_transfers_count_and_arrive(shared: LocalChain, version: str) -> None:
    chain = shared.client()
    wallet = Wallet(chain, SigningKey.generate(), version)
    with pytest.raises(UsageError, match="TON"):
        wallet.transfer(SOMEBODY, 1)
    shared.faucet(wallet.address, 10**9)
    there = "0:" + SigningKey.generate().encode().hex()
    assert [wallet.transfer(there, 10**6, bounce=False) for _ in range(3)] == [0, 1, 2]
    assert 3 * 10**6 - 10 <= chain.account(there).balance <= 3 * 10**6  # less some rent
    information = requests.get(
        f"{shared.url}/getWalletInformation?address={wallet.address}", timeout=HANG_S
    ).json()["result"]
    named = {"v4r2": "wallet v4 r2", "v5r1": "wallet v5 r1"}[version]
    assert (information.get("wallet_type", named), information.get("seqno", 3)) == (named, 3)
    assert wallet.seqno() == 3


def test_address_is_the_one_everybody_computes() -> None:
    key = SigningKey(bytes(range(32)))
    ours = Wallet(ToncenterV2("http://127.0.0.1:1"), key).address
    theirs = WalletV4ContractR2(
        public_key=bytes(key.verify_key), private_key=b"", wc=0
    ).address.to_string(True)
    assert raw_address(theirs) == ours


OTHERS = json.loads((VECTORS / "wallets.json").read_text())


@pytest.mark.parametrize("vector", OTHERS, ids=range(len(OTHERS)))
def test_addresses_are_those_of_the_usual_wallets(tmp_path: Path, vector: dict[str, str]) -> None:
    path = tmp_path / "key"
    for version in ("v4r2", "v5r1"):
        path.write_text(f"{vector.get('mnemonic', vector['seed'])}\n{version}\n")
        path.chmod(0o600)
        opened = Wallet.open(ToncenterV2("http://127.0.0.1:1"), path)
        assert (opened.version, opened.address) == (version, vector[version])
        assert bytes(load_key(path)).hex() == vector["seed"]


def test_a_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_WALLET", OTHERS[0]["seed"] + " v5r1")
    opened = Wallet.open(ToncenterV2("http://127.0.0.1:1"), Path("env:SOME_WALLET"))
    assert opened.address == OTHERS[0]["v5r1"]
    with pytest.raises(UsageError, match="OTHER_WALLET"):
        load_key(Path("env:OTHER_WALLET"))


def test_key_files(tmp_path: Path) -> None:
    path = tmp_path / "wallet key"
    key = create_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path) == key
    with pytest.raises(UsageError, match="a key file is never overwritten"):
        create_key(path)
    path.chmod(0o644)
    with pytest.raises(UsageError, match="0600"):
        load_key(path)


@pytest.mark.parametrize("content", ["", "zz", "00" * 31, "word " * 24, "00" * 32 + " v6"])
def test_bad_key_file_is_not_shown(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ParseError) as error:
        load_key(path)
    assert not content.strip() or content.strip() not in str(error.value)


def test_mnemonic_key_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(" ".join(mnemonic_new()))
    path.chmod(0o600)
    assert len(bytes(load_key(path))) == 32


# ---- the client against bad endpoints


class Endpoint(ThreadingHTTPServer):
    """Answers the queued (status, body) pairs, the last one for ever."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.queue: list[tuple[int, bytes]] = []
        self.calls: list[dict[str, object]] = []

    @property
    def client(self) -> ToncenterV2:
        return ToncenterV2(f"http://127.0.0.1:{self.server_port}", timeout=HANG_S)


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.calls.append({"path": self.path, **json.loads(body)})
        queue = self.server.queue
        status, answer = queue.pop(0) if len(queue) > 1 else queue[0]
        self.send_response(status)
        self.send_header("location", "http://127.0.0.1:1/")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(chain_module, "FIRST_PAUSE", 0.01)
    server = Endpoint()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ok(result: object) -> tuple[int, bytes]:
    return 200, json.dumps({"ok": True, "result": result}).encode()


HEADER = {
    "id": {"workchain": -1, "seqno": 7, "root_hash": "A" * 43 + "="},
    "gen_utime": 1_800_000_000,
}


def test_overload_is_waited_out(endpoint: Endpoint) -> None:
    endpoint.queue = [(429, b"{}"), (502, b"<html>"), (500, b'{"ok": false}'), ok(HEADER)]
    assert endpoint.client.block(7).utime == 1_800_000_000
    assert len(endpoint.calls) == 4
    assert endpoint.calls[0]["path"] == "/api/v2/jsonRPC"


def test_overload_without_end(endpoint: Endpoint) -> None:
    endpoint.queue = [(503, b"")]
    with pytest.raises(Unavailable, match="503"):
        endpoint.client.head()
    assert len(endpoint.calls) == chain_module.RETRIES


def test_a_send_is_never_repeated(endpoint: Endpoint) -> None:
    endpoint.queue = [(503, b"")]
    with pytest.raises(Unavailable):
        endpoint.client.send_boc(b"boc")
    assert len(endpoint.calls) == 1


BAD_HEADERS = {
    "another block": {**HEADER, "id": {**HEADER["id"], "seqno": 8}},
    "another workchain": {**HEADER, "id": {**HEADER["id"], "workchain": 0}},
    "short hash": {**HEADER, "id": {**HEADER["id"], "root_hash": "AAAA"}},
    "hash not base64": {**HEADER, "id": {**HEADER["id"], "root_hash": "*" * 44}},
    "no time": {"id": HEADER["id"]},
    "a list": [],
    "null": None,
    "text": "no",
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_bad_block_header(endpoint: Endpoint, name: str) -> None:
    endpoint.queue = [ok(BAD_HEADERS[name])]
    with pytest.raises(Unavailable, match="expected an answer as toncenter v2 gives it"):
        endpoint.client.block(7)


ACCOUNT = {
    "state": "active",
    "code": "AA==",
    "data": "AA==",
    "balance": "5",
    "sync_utime": 9,
    "block_id": {"seqno": 3},
}
BAD_ACCOUNTS = {
    "state unknown": {"state": "sleeping"},
    "code not base64": {"code": "*"},
    "balance not a number": {"balance": "much"},
    "no block": {"block_id": {}},
    "block null": {"block_id": None},
}


@pytest.mark.parametrize("name", BAD_ACCOUNTS)
def test_bad_account(endpoint: Endpoint, name: str) -> None:
    endpoint.queue = [ok(ACCOUNT)]
    assert endpoint.client.account(SOMEBODY).balance == 5
    endpoint.queue = [ok({**ACCOUNT, **BAD_ACCOUNTS[name]})]
    with pytest.raises(Unavailable, match="expected an answer as toncenter v2 gives it"):
        endpoint.client.account(SOMEBODY)


BAD_ANSWERS = {
    "not JSON": (200, b"hello"),
    "not ok": (200, b'{"ok": false, "error": "no"}'),
    "ok with error status": (404, b'{"ok": true, "result": {}}'),
    "a redirect": (302, b""),
    "JSON list": (200, b"[]"),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_bad_answer(endpoint: Endpoint, name: str) -> None:
    endpoint.queue = [BAD_ANSWERS[name]]
    with pytest.raises(Unavailable):
        endpoint.client.head()
    assert len(endpoint.calls) == 1


PASSING: dict[str, tuple[int, bytes]] = {
    "a rate limit under HTTP 200": (
        200,
        b'{"ok": false, "error": "Ratelimit exceed", "code": 429}',
    ),
    "a lite server's timeout under HTTP 200": (
        200,
        b'{"ok": false, "error": "LITE_SERVER_NETWORK: timeout", "code": 500}',
    ),
    "a rate limit without a code": (200, b'{"ok": false, "error": "Rate limit exceeded"}'),
    "a timeout in words": (200, b'{"ok": false, "result": "", "error": "request timed out"}'),
    "a lite server that is not ready": (200, b'{"ok": false, "error": "LITE_SERVER_NOTREADY"}'),
    "JSON-RPC's error object": (200, b'{"ok": false, "error": {"code": 503, "message": "later"}}'),
    "a gateway's page": (504, b"<html><title>Gateway time-out</title></html>"),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_asked_for_again_whatever_the_status(endpoint: Endpoint, name: str) -> None:
    endpoint.queue = [PASSING[name], PASSING[name], ok(HEADER)]
    assert endpoint.client.block(7).seqno == 7
    assert len(endpoint.calls) == 3


STAYING: dict[str, tuple[int, bytes]] = {
    "a wrong parameter": (200, b'{"ok": false, "error": "Incorrect address", "code": 416}'),
    "a wrong parameter under its own status": (422, b'{"ok": false, "error": "bad", "code": 422}'),
    "no such method": (404, b'{"ok": false, "error": "no", "code": 404}'),
    "JSON-RPC's error object": (200, b'{"error": {"code": -32601, "message": "no method"}}'),
    "a key that is not accepted": (401, b'{"ok": false, "error": "API key does not exist"}'),
    "a code that is no number": (200, b'{"ok": false, "error": "no", "code": "429"}'),
    "nested brackets": (200, b"[" * 200_000),
    "nested brackets under an error": (400, b"[" * 200_000),
    "a portal's page": (200, b"<!doctype html><title>Hotel</title>"),
}


@pytest.mark.parametrize("name", STAYING)
def test_what_stays_so_is_asked_for_once_and_named(endpoint: Endpoint, name: str) -> None:
    endpoint.queue = [STAYING[name]]
    with pytest.raises(Unavailable) as told:
        endpoint.client.block(7)
    assert len(endpoint.calls) == 1 and not told.value.again
    assert f"http://127.0.0.1:{endpoint.server_port}/api/v2: getBlockHeader" in str(told.value)
    assert "Hotel" in str(told.value) or "portal" not in name


def test_a_send_that_may_pass_is_not_repeated_either(endpoint: Endpoint) -> None:
    endpoint.queue = [PASSING["a rate limit under HTTP 200"]]
    with pytest.raises(Unavailable):
        endpoint.client.send_boc(b"boc")
    assert len(endpoint.calls) == 1


KEYED = {
    "api_key": "/api/v2?api_key=s3cret",
    "another name for it": "/api/v2?apikey=s3cret",
    "the whole method's address": "/api/v2/jsonRPC?api_key=s3cret",
    "no path": "?api_key=s3cret",
    "a part of the path": "/s3cret0123456789abc/api/v2",
}


@pytest.mark.parametrize("name", KEYED)
def test_a_key_in_the_address_is_sent_and_shown_to_nobody(endpoint: Endpoint, name: str) -> None:
    endpoint.queue = [ok(HEADER), (404, b"{}")]
    chain = ToncenterV2(f"http://127.0.0.1:{endpoint.server_port}{KEYED[name]}")
    chain.block(7)
    path, _, query = KEYED[name].partition("?")
    asked = f"{path.removesuffix('/jsonRPC') or '/api/v2'}/jsonRPC" + (f"?{query}" * bool(query))
    assert endpoint.calls[0]["path"] == asked
    with pytest.raises(Unavailable) as told:
        chain.block(7)
    down = ToncenterV2(f"http://127.0.0.1:1{KEYED[name]}")
    with pytest.raises(Unavailable) as nobody:
        down.send_boc(b"")
    assert "s3cret" not in f"{told.value!r} {nobody.value!r} {chain!r} {chain.url} {down!r}"


def test_a_user_and_password_in_the_address_are_shown_to_nobody() -> None:
    chain = ToncenterV2("http://ada:s3cret@127.0.0.1:1/api/v2")
    with pytest.raises(Unavailable) as told:
        chain.send_boc(b"")
    assert "s3cret" not in f"{told.value!r} {chain!r} {chain.url}"
    with pytest.raises(UsageError) as usage:
        ToncenterV2("ftp://ada:s3cret@127.0.0.1:1/")
    assert "s3cret" not in str(usage.value)


def test_an_endless_answer(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_module, "MAX_ANSWER", 1000)
    endpoint.queue = [(200, b"x" * 1_000_000)]
    with pytest.raises(Unavailable, match="at most"):
        endpoint.client.head()


@pytest.mark.parametrize("url", ["", "ftp://x", "127.0.0.1:80", "http://"])
def test_bad_endpoint_address(url: str) -> None:
    with pytest.raises(UsageError):
        ToncenterV2(url)


def test_nobody_there() -> None:
    with pytest.raises(Unavailable):
        ToncenterV2("http://127.0.0.1:1", timeout=1).send_boc(b"")


def test_the_key_is_not_shown() -> None:
    assert "secret" not in repr(ToncenterV2("http://x", api_key="secret"))


@pytest.mark.parametrize("text", ["", "0:", "0:zz", "x" * 48, "-1"])
def test_bad_address(text: str) -> None:
    with pytest.raises(UsageError):
        raw_address(text)


def test_a_commands_endpoint_gets_the_key_of_the_environment_and_shows_it_to_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("UMAY_TONCENTER_KEY", raising=False)
    assert "x-api-key" not in toncenter("http://127.0.0.1:9")._headers
    monkeypatch.setenv("UMAY_TONCENTER_KEY", key := "k" * 40)
    opened = toncenter("http://127.0.0.1:9")
    assert opened._headers["x-api-key"] == key
    with pytest.raises(Unavailable) as told:
        opened.head()
    assert key not in f"{opened!r} {told.value}"
