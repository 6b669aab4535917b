"""Lite servers over real ADNL: proven reads, servers that lie, break or are silent."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from attestation.errors import ParseError, Unavailable, UsageError
from attestation.trust.anchor import BlockRef
from client_sdk.cli import umay
from contracts import artefact, registry
from contracts.codec import LogState
from contracts.endpoint import reading
from contracts.light import adnl, liteserver
from contracts.light.adnl import Connection, Server, read_answer
from contracts.light.blocks import BLOCK_HEADER, BlockId
from contracts.light.chain import ProvenChain
from contracts.light.client import TrustedBlock
from contracts.light.liteserver import LiteServers, NetworkConfig
from contracts.reader import read_anchor
from tests.helpers.lite_server import (
    ACCOUNT,
    INFO,
    KEY,
    PROOF,
    LiteChain,
    LiteServer,
    framed,
    serving,
    write_config,
)
from tests.helpers.ton_chain import BEFORE, LOG_ADDRESS, UTIME, TonChain, proof_bytes, tl_blob

GENESIS = LogState.genesis(origin="a.example/log", log_key=bytes(32), size=7, root=bytes(32))
CHAIN = TonChain(data=GENESIS.to_cell())
OTHER_KEY = SigningKey(b"\7" * 32)
SCHEMA = {
    "adnl.message.query query_id:int256 query:bytes = adnl.Message": adnl.QUERY,
    "adnl.message.answer query_id:int256 answer:bytes = adnl.Message": adnl.ANSWER,
    "liteServer.query data:bytes = Object": liteserver.LITE_QUERY,
    "liteServer.error code:int message:string = liteServer.Error": liteserver.LITE_ERROR,
    "liteServer.getMasterchainInfo = liteServer.MasterchainInfo": liteserver.GET_MASTERCHAIN_INFO,
    "liteServer.masterchainInfo last:tonNode.blockIdExt state_root_hash:int256 "
    "init:tonNode.zeroStateIdExt = liteServer.MasterchainInfo": liteserver.MASTERCHAIN_INFO,
    "liteServer.getBlockProof mode:# known_block:tonNode.blockIdExt "
    "target_block:mode.0?tonNode.blockIdExt = liteServer.PartialBlockProof": (
        liteserver.GET_BLOCK_PROOF
    ),
    "liteServer.getAccountState id:tonNode.blockIdExt account:liteServer.accountId "
    "= liteServer.AccountState": liteserver.GET_ACCOUNT_STATE,
    "liteServer.lookupBlock mode:# id:tonNode.blockId lt:mode.1?long utime:mode.2?int "
    "= liteServer.BlockHeader": liteserver.LOOKUP_BLOCK,
    "liteServer.blockHeader id:tonNode.blockIdExt mode:# header_proof:bytes "
    "= liteServer.BlockHeader": BLOCK_HEADER,
}


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contracts.light.chain._now", lambda: UTIME + 5)


@pytest.fixture
def lite() -> Iterator[tuple[LiteChain, LiteServer]]:
    told = LiteChain(CHAIN)
    with serving(told) as server:
        yield told, server


@pytest.fixture
def config(tmp_path: Path, lite: tuple[LiteChain, LiteServer], now: None) -> Path:
    return write_config(tmp_path / "config.json", CHAIN.first.block, lite[1])


def server_of(server: LiteServer, key: SigningKey | None = None) -> Server:
    public = (key or server.key).verify_key.encode()
    return Server("127.0.0.1", server.server_address[1], public)


@pytest.mark.parametrize("line", SCHEMA)
def test_constructors_are_the_schemas(line: str) -> None:
    assert zlib.crc32(line.encode()) == SCHEMA[line]


def test_an_anchor_is_proven_over_adnl(config: Path) -> None:
    anchor = read_anchor(reading(f"lite:{config}"), network="test", address=LOG_ADDRESS)
    assert (anchor.level, anchor.size, anchor.read_at) == ("proven", 7, UTIME)
    assert anchor.code_hash == CHAIN.code.hash
    assert TrustedBlock(Path(f"{config}.trusted")).read() == CHAIN.second.block


def test_blocks_before_and_after_the_trusted_one_are_proven(config: Path) -> None:
    chain = reading(f"lite:{config}")
    head = chain.head()
    assert (head.seqno, head.root_hash) == (210, CHAIN.head.block.root_hash)
    for made in (CHAIN.first, CHAIN.middle, CHAIN.second, CHAIN.head):
        seqno, utime = made.block.seqno, UTIME - BEFORE if made is CHAIN.middle else UTIME
        assert chain.block(seqno) == BlockRef(seqno, made.block.root_hash, utime, "proven")
    with pytest.raises(Unavailable, match="not in db"):
        chain.block(1000)


def test_a_block_is_proven_once(config: Path, lite: tuple[LiteChain, LiteServer]) -> None:
    chain = reading(f"lite:{config}")
    chain.block(150)
    count = len(lite[0].asked)
    assert chain.block(150) == chain.block(150)
    assert len(lite[0].asked) == count


def test_one_connection_serves_and_one_that_ended_is_made_anew(
    lite: tuple[LiteChain, LiteServer],
) -> None:
    servers = LiteServers((server_of(lite[1]),), seconds=5)
    question = INFO
    first = servers.ask(question)
    assert servers.ask(question) == first
    assert len(lite[1].hellos) == 1
    servers._open._socket.shutdown(2)  # type: ignore[union-attr]
    assert servers.ask(question) == first
    assert len(lite[1].hellos) == 2


def test_each_server_is_asked_once_and_a_connection_that_was_open_besides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silent = SimpleNamespace(close=lambda: None)

    def gone(*_: object, **__: object) -> bytes:
        raise Unavailable("away")

    silent.ask = gone
    monkeypatch.setattr(liteserver, "Connection", gone)
    servers = LiteServers((Server("a", 1, KEY.verify_key.encode()),) * 2)
    for opened, asked in ((None, 2), (silent, 3)):
        servers._open = opened  # type: ignore[assignment]
        with pytest.raises(Unavailable) as caught:
            servers.ask(INFO)
        assert str(caught.value).count("away") == asked


def test_a_server_that_is_away_is_left_for_the_next(
    tmp_path: Path, lite: tuple[LiteChain, LiteServer], now: None
) -> None:
    with serving(LiteChain(CHAIN)) as gone:
        pass
    config = write_config(tmp_path / "two.json", CHAIN.first.block, gone, lite[1])
    assert reading(f"lite:{config}").head().seqno == 210
    config = write_config(tmp_path / "none.json", CHAIN.first.block, gone, gone)
    with pytest.raises(Unavailable, match=r"got none \(.*; .*got none \("):
        reading(f"lite:{config}").head()


def test_a_server_that_lies_is_left_for_the_next_and_is_no_verdict(
    tmp_path: Path, lite: tuple[LiteChain, LiteServer], now: None
) -> None:
    liar = LiteChain(CHAIN)
    few = CHAIN.link(CHAIN.first, CHAIN.second, signers=3)
    liar.spoil[PROOF] = lambda _: proof_bytes(few)
    with serving(liar, OTHER_KEY) as lying:
        config = write_config(tmp_path / "two.json", CHAIN.first.block, lying, lite[1])
        assert reading(f"lite:{config}").head().seqno == 210
        assert liar.asked
        alone = write_config(tmp_path / "liar.json", CHAIN.first.block, lying)
        with pytest.raises(Unavailable, match="more than 2/3"):
            reading(f"lite:{alone}").account(LOG_ADDRESS)
        assert TrustedBlock(Path(f"{alone}.trusted")).read() == CHAIN.first.block


UNREACHED = dataclasses.replace(CHAIN.head.block, seqno=211)


@pytest.mark.parametrize("head", [CHAIN.first.block, UNREACHED], ids=["behind", "no way there"])
def test_a_server_that_stays_behind_is_left_for_the_next(
    tmp_path: Path, lite: tuple[LiteChain, LiteServer], now: None, head: BlockId
) -> None:
    slow = LiteChain(CHAIN)
    slow.head = head
    slow.spoil[PROOF] = lambda _: proof_bytes(CHAIN.link(CHAIN.second, CHAIN.head), complete=False)
    with serving(slow, OTHER_KEY) as lagging:
        config = write_config(tmp_path / "two.json", CHAIN.first.block, lagging, lite[1])
        TrustedBlock(Path(f"{config}.trusted")).pin(CHAIN.second.block)
        chain = reading(f"lite:{config}")
        assert chain.head().seqno == 210
        assert slow.asked


def test_a_stale_head_is_no_answer(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contracts.light.chain._now", lambda: UTIME + 601)
    for read in (ProvenChain.head, lambda chain: chain.account(LOG_ADDRESS)):
        with pytest.raises(Unavailable, match="600 s"):
            read(reading(f"lite:{config}"))  # type: ignore[arg-type]


def test_another_server_cannot_answer_for_it(lite: tuple[LiteChain, LiteServer]) -> None:
    with pytest.raises(Unavailable):
        Connection(server_of(lite[1], OTHER_KEY), seconds=2)


def spoiled(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda data: change(framed(data))


BROKEN = {
    "checksum": spoiled(lambda frame: frame[:-1] + bytes([frame[-1] ^ 1])),
    "content": spoiled(lambda frame: frame[:40] + b"\0" + frame[41:] if len(frame) > 68 else frame),
    "length of 4 GiB": lambda data: b"\xff\xff\xff\xff" + framed(data)[4:],
    "length below a frame": lambda data: (63).to_bytes(4, "little") + framed(data)[4:],
    "silence": lambda data: framed(data)[:10],
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_frame_ends_the_connection(lite: tuple[LiteChain, LiteServer], how: str) -> None:
    lite[1].frame = BROKEN[how]
    with pytest.raises(Unavailable):
        Connection(server_of(lite[1]), seconds=0.5).ask(b"1234")


@pytest.mark.parametrize(("size", "good"), [(63, False), (64, True), (8 << 20, True)])
def test_a_packet_has_64_bytes_to_8_mib(
    monkeypatch: pytest.MonkeyPatch, size: int, good: bool
) -> None:
    assert adnl.MAX_PACKET == 8 << 20
    connection = object.__new__(Connection)
    connection._server = Server("127.0.0.1", 1, OTHER_KEY.verify_key.encode())
    body = bytes(max(size - 32, 0))
    arriving = [size.to_bytes(4, "little"), body + hashlib.sha256(body).digest()]
    monkeypatch.setattr(connection, "_take", lambda _: arriving.pop(0))
    if good:
        assert connection._receive() == bytes(size - 64)
    else:
        with pytest.raises(Unavailable, match="expected a packet of 64 to 8388608 bytes"):
            connection._receive()
    arriving = [(adnl.MAX_PACKET + 1).to_bytes(4, "little")]
    with pytest.raises(Unavailable, match="got 8388609"):
        connection._receive()


def test_a_greeting_that_is_not_empty(lite: tuple[LiteChain, LiteServer]) -> None:
    lite[1].greeting = b"hello"
    with pytest.raises(Unavailable, match="empty packet"):
        Connection(server_of(lite[1]), seconds=2)


ID = bytes(range(32))
GOOD = bytes.fromhex("1684ac0f") + ID + tl_blob(b"answer")


@pytest.mark.parametrize(
    "packet",
    [b"", GOOD[:20], GOOD + b"\0\0\0\0", b"\0" + GOOD[1:], GOOD.replace(ID, ID[::-1])],
    ids=["empty", "short", "trailing", "other-constructor", "other-question"],
)
def test_a_packet_that_is_no_answer(packet: bytes) -> None:
    assert read_answer(GOOD, ID) == b"answer"
    with pytest.raises(ParseError):
        read_answer(packet, ID)


@given(st.binary(max_size=200))
def test_any_packet_is_an_answer_or_a_parse_error(packet: bytes) -> None:
    try:
        assert tl_blob(read_answer(packet, packet[4:36])) == packet[36:]
    except ParseError:
        pass


@pytest.mark.parametrize("key", [bytes(32), b"\xff" * 32], ids=["zeros", "no point"])
def test_a_key_that_is_none(key: bytes) -> None:
    with pytest.raises(UsageError, match="Ed25519"):
        Server("127.0.0.1", 1, key)


def without(config: dict[str, Any], *path: str) -> None:
    for name in path[:-1]:
        config = config[name]
    del config[path[-1]]


def put(*path: Any) -> Callable[[dict[str, Any]], None]:
    def change(config: Any) -> None:
        for name in path[:-2]:
            config = config[name]
        config[path[-2]] = path[-1]

    return change


INIT = ("validator", "init_block")
BAD_CONFIGS = {
    "no-servers": put("liteservers", []),
    "servers-no-list": put("liteservers", 7),
    "port-0": put("liteservers", 0, "port", 0),
    "port-too-great": put("liteservers", 0, "port", 65536),
    "port-bool": put("liteservers", 0, "port", True),
    "ip-text": put("liteservers", 0, "ip", "127.0.0.1"),
    "key-short": put("liteservers", 0, "id", "key", base64.b64encode(bytes(31)).decode()),
    "key-no-point": put("liteservers", 0, "id", "key", base64.b64encode(b"\xff" * 32).decode()),
    "key-not-base64": put("liteservers", 0, "id", "key", "*"),
    "no-init-block": lambda config: without(config, "validator", "init_block"),
    "basechain": put(*INIT, "workchain", 0),
    "other-shard": put(*INIT, "shard", 1 << 62),
    "seqno-negative": put(*INIT, "seqno", -1),
    "seqno-bool": put(*INIT, "seqno", True),
    "seqno-text": put(*INIT, "seqno", "7"),
    "hash-short": put(*INIT, "root_hash", base64.b64encode(bytes(31)).decode()),
}


@pytest.mark.parametrize("how", BAD_CONFIGS)
def test_a_config_that_is_none(config: Path, how: str) -> None:
    raw = json.loads(config.read_text())
    BAD_CONFIGS[how](raw)
    config.write_text(json.dumps(raw))
    with pytest.raises(UsageError, match=r"config\.json"):
        NetworkConfig.read(config)


def test_a_config_at_its_limits(config: Path) -> None:
    raw = json.loads(config.read_text())
    for port in (1, 65535):
        put("liteservers", 0, "port", port)(raw)
        config.write_text(json.dumps(raw))
        assert NetworkConfig.read(config).servers[0].port == port
    put(*INIT, "seqno", 0)(raw)
    text = json.dumps(raw)
    for size in (1 << 20, (1 << 20) + 1):
        config.write_text(text[:-1].ljust(size - 1) + "}")
        if size == 1 << 20:
            assert NetworkConfig.read(config).init_block.seqno == 0
            continue
        with pytest.raises(UsageError, match="expected a TON global config"):
            NetworkConfig.read(config)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_a_file_that_is_no_config(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(UsageError, match=r"config\.json"):
        NetworkConfig.read(path)
    path.write_text(text)
    with pytest.raises(UsageError, match=r"config\.json"):
        NetworkConfig.read(path)


@pytest.mark.parametrize("more", ["?to=x", "?save=", "?from=", "?from"])
def test_a_spelling_that_is_none(config: Path, more: str) -> None:
    for text in (f"lite:{config}{more}", f"lite:{more}", "lite:"):
        with pytest.raises(UsageError, match=r"expected lite:CONFIG\.json"):
            reading(text)


def test_a_recording_that_is_not_there(config: Path) -> None:
    with pytest.raises(UsageError, match="missing"):
        reading(f"lite:{config}?from=missing")


def test_blocks_that_were_read_are_kept_until_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def block(seqno: int) -> BlockRef:
        asked.append(seqno)
        return BlockRef(seqno, bytes(32), UTIME, "proven")

    monkeypatch.setattr("contracts.light.chain.MAX_KEPT", 2)
    chain = ProvenChain(SimpleNamespace(block=block), clock=lambda: UTIME)  # type: ignore[arg-type]
    for seqno in (1, 2, 1, 2, 3, 3, 1):
        assert chain.block(seqno).seqno == seqno
    assert asked == [1, 2, 3, 1]


@pytest.mark.parametrize("servers", [None, 1, 3])
def test_each_server_is_asked_for_a_proof_once(servers: int | None) -> None:
    turns: list[int] = []

    def block(seqno: int) -> BlockRef:
        raise ParseError(f"no proof {len(turns)}")

    many = SimpleNamespace(count=servers, turn=lambda: turns.append(1)) if servers else None
    client = SimpleNamespace(block=block)
    chain = ProvenChain(client, clock=lambda: UTIME, servers=many)  # type: ignore[arg-type]
    with pytest.raises(Unavailable, match=f"the last: no proof {max(0, (servers or 0) - 1)}"):
        chain.block(1)
    assert len(turns) == (servers or 0)


@pytest.mark.parametrize("address", ["", "0:", "0:xy", "7:" + "1" * 64, "0:" + "1" * 63])
def test_an_address_that_is_none_is_not_asked_for(
    config: Path, lite: tuple[LiteChain, LiteServer], address: str
) -> None:
    with pytest.raises(UsageError, match="address"):
        reading(f"lite:{config}").account(address)
    assert ACCOUNT not in lite[0].asked


def test_a_slow_drip_ends_with_the_time_given(lite: tuple[LiteChain, LiteServer]) -> None:
    def drip(data: bytes) -> bytes:
        time.sleep(0.4)
        return framed(data)[:40]

    lite[1].frame = drip
    with pytest.raises(Unavailable):
        Connection(server_of(lite[1]), seconds=0.5)


def test_every_read_waits_for_what_is_left_of_the_time_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that sends one byte after another does not begin the time anew."""
    clock, waits = [100.0], list[float]()

    def recv(_: int) -> bytes:
        clock[0] += 4
        return b"x"

    monkeypatch.setattr("contracts.light.adnl.time.monotonic", lambda: clock[0])
    connection = object.__new__(Connection)
    connection._server = Server("127.0.0.1", 1, OTHER_KEY.verify_key.encode())
    connection._seconds, connection._until = 10, 110.0
    connection._socket = SimpleNamespace(recv=recv, settimeout=waits.append)  # type: ignore[assignment]
    with pytest.raises(Unavailable, match="within 10 s"):
        connection._take(5)
    assert waits == [10, 6, 2]


def test_a_registry_is_read_by_command_over_adnl(tmp_path: Path, now: None) -> None:
    made = registry.genesis(owner="0:" + "1" * 64, notice=60)
    chain = TonChain(data=made, code=artefact.load("registry").code)
    with serving(LiteChain(chain)) as server:
        config = write_config(tmp_path / "config.json", chain.first.block, server)
        words = ["audit", "allowed", "--registry", LOG_ADDRESS, "--measurement", "ab" * 32]
        words += ["--chain", f"lite:{config}", "--json"]
        done = CliRunner().invoke(umay, words)
    assert json.loads(done.output)["read_at"] == UTIME, done.output
    assert done.exit_code == 4  # proven: nothing of this digest is there
