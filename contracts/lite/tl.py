"""Liteserver answers in TL: strict readers of the few types that proofs need.

Schemas: ton/tl/generate/scheme/lite_api.tl and ton_api.tl; a constructor is the CRC-32 of
its line. Integers are little-endian; bytes carry their length and are padded to four.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from attestation.errors import ParseError

MAX_STEPS = 64
MAX_SIGNATURES = 1024
MAX_ANSWER_BYTES = 4 << 20


def constructor(line: str) -> int:
    """The id of a TL type by its schema line, without the semicolon."""
    return zlib.crc32(line.encode())


BOOL_TRUE, BOOL_FALSE = 0x997275B5, 0xBC799737
PARTIAL_PROOF, LINK_FORWARD, LINK_BACK = 0x8ED0D2C1, 0x520FCE1C, 0xEF7E1BEF
SIGNATURES, SIGNATURES_SIMPLEX = 0xF644A6E6, 0xAC249800


@dataclass(frozen=True)
class BlockId:
    """tonNode.blockIdExt: workchain, shard (64 bits), seqno, root and file hash (32 bytes)."""

    workchain: int
    shard: int
    seqno: int
    root_hash: bytes
    file_hash: bytes

    def to_tl(self) -> bytes:
        """80 bytes."""
        head = struct.pack("<iQi", self.workchain, self.shard, self.seqno)
        return head + self.root_hash + self.file_hash


@dataclass(frozen=True)
class SignatureSet:
    """(key's short id, signature) of each; `session` is None in the ordinary form."""

    signatures: tuple[tuple[bytes, bytes], ...]
    session: bytes | None = None
    slot: int = 0
    candidate: bytes = b""


@dataclass(frozen=True)
class ForwardLink:
    """From a key block to a later block, with the proofs of both headers."""

    to_key_block: bool
    source: BlockId
    target: BlockId
    target_proof: bytes
    config_proof: bytes
    signatures: SignatureSet


class Reader:
    """Takes TL values off bytes; `end` demands that nothing is left. Raises ParseError."""

    def __init__(self, data: bytes) -> None:
        if len(data) > MAX_ANSWER_BYTES:
            raise ParseError(f"TL: expected at most {MAX_ANSWER_BYTES} bytes")
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise ParseError(f"TL: expected {count} more bytes, got {len(self._data) - self._at}")
        self._at += count
        return self._data[self._at - count : self._at]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def boolean(self) -> bool:
        found = self.u32()
        if found not in (BOOL_TRUE, BOOL_FALSE):
            raise ParseError(f"TL: expected a Bool, got {found:#x}")
        return found == BOOL_TRUE

    def block_id(self) -> BlockId:
        workchain, shard, seqno = struct.unpack("<iQi", self.take(16))
        return BlockId(workchain, shard, seqno, self.take(32), self.take(32))

    def content(self) -> bytes:
        """TL bytes."""
        start = self._at
        length = self.take(1)[0]
        if length == 254:
            length = int.from_bytes(self.take(3), "little")
            if length < 254:
                raise ParseError("TL: a short length in the long form")
        elif length == 255:
            raise ParseError("TL: expected a length")
        found = self.take(length)
        if any(self.take(-(self._at - start) % 4)):
            raise ParseError("TL: expected zeros as padding")
        return found

    def expect(self, wanted: int, what: str) -> None:
        if (found := self.u32()) != wanted:
            raise ParseError(f"TL: expected {what} ({wanted:#x}), got {found:#x}")

    def end(self) -> None:
        if self._at != len(self._data):
            raise ParseError(f"TL: {len(self._data) - self._at} bytes after the end")


def write_bytes(data: bytes) -> bytes:
    """TL bytes of up to 2^24 − 1."""
    short = len(data) < 254
    head = bytes([len(data)]) if short else b"\xfe" + len(data).to_bytes(3, "little")
    whole = head + data
    return whole + bytes(-len(whole) % 4)


def read_block_proof(data: bytes) -> tuple[BlockId, BlockId, tuple[ForwardLink, ...]]:
    """liteServer.partialBlockProof: (from, to, links). Links back are refused by name."""
    reader = Reader(data)
    reader.expect(PARTIAL_PROOF, "liteServer.partialBlockProof")
    reader.boolean()  # whether it is complete: what it reaches is judged, not what it says
    source, target = reader.block_id(), reader.block_id()
    count = reader.u32()
    if count > MAX_STEPS:
        raise ParseError(f"TL: expected at most {MAX_STEPS} links")
    links = tuple(_link(reader) for _ in range(count))
    reader.end()
    return source, target, links


def _link(reader: Reader) -> ForwardLink:
    kind = reader.u32()
    if kind == LINK_BACK:
        raise ParseError("block proof: a link back to an older block is not supported")
    if kind != LINK_FORWARD:
        raise ParseError(f"TL: expected a block link, got {kind:#x}")
    return ForwardLink(
        reader.boolean(),
        reader.block_id(),
        reader.block_id(),
        reader.content(),
        reader.content(),
        _signatures(reader),
    )


def _signatures(reader: Reader) -> SignatureSet:
    """The two forms have their first two numbers in another order; neither is believed."""
    kind = reader.u32()
    if kind not in (SIGNATURES, SIGNATURES_SIMPLEX):
        raise ParseError(f"TL: expected a signature set, got {kind:#x}")
    reader.take(8)  # validator set hash and catchain seqno: the set is taken from the proof
    count = reader.u32()
    if count > MAX_SIGNATURES:
        raise ParseError(f"TL: expected at most {MAX_SIGNATURES} signatures")
    pairs = tuple((reader.take(32), reader.content()) for _ in range(count))
    if kind == SIGNATURES:
        return SignatureSet(pairs)
    return SignatureSet(pairs, reader.take(32), reader.u32(), reader.content())
