"""Messages and storage of AttestationLog, mirroring the structs of its Tolk source.

Invariants: what is decoded here encodes to the same cell again; every bit and every
reference is accounted for; a malformed cell raises ParseError and nothing else.
Layouts: docs/spec/contracts.md.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from pytoniq_core import Builder, Cell, HashMap, Slice, StateInit, begin_cell

from attestation.errors import ParseError
from attestation.formats.address import canonical

STORAGE_VERSION = 2
MAX_RETIRED = 16  # keys; the contract refuses more rotations
MAX_ORIGIN = 60  # bytes; a longer note body would not fit the 127 bytes of one cell
MAX_PROOF = 128  # hashes; two 64-bit sizes never need more
MAX_BOC = 65_536  # bytes; a message of the chain cannot be larger
HASHES_PER_CELL = 3

OP_ANCHOR = 0x554D4101
OP_FORK = 0x554D4102
OP_ROTATE = 0x554D4103
OP_ANCHORED = 0x554D4110
ROTATION_DOMAIN = b"umay/rotate-log-key/v1\0"
OP_EXCESS = 0xD53276DB


class Exit(IntEnum):
    """TVM exit codes with which the contract ends the handling of a message."""

    OK = 0
    CELL_UNDERFLOW = 9
    OUT_OF_GAS = -14
    FORKED = 129
    UNDERFUNDED = 130
    SIZE = 131
    SIGNATURE = 132
    OLD_ROOT = 133
    NEW_ROOT = 134
    PROOF_LONG = 135
    PROOF_SHORT = 136
    NO_FORK = 137
    VERSION = 138
    KEY = 139
    RETIRED_FULL = 140
    POSSESSION = 141
    UNKNOWN_OP = 0xFFFF


def cell_from_boc(boc: bytes) -> Cell:
    """The one root cell of a bag of cells of at most MAX_BOC bytes. Raises ParseError."""
    if len(boc) > MAX_BOC:
        raise ParseError(f"bag of cells: expected at most {MAX_BOC} bytes, got {len(boc)}")
    try:
        cell: Cell = Cell.one_from_boc(boc)
    except Exception as error:  # the library raises exceptions of many kinds
        raise ParseError(
            f"bag of cells: expected one root cell, got bytes that cannot be read "
            f"({type(error).__name__})"
        ) from error
    return cell


@functools.lru_cache(8)
def root_hash(boc: bytes) -> bytes:
    """The hash of that cell, 32 bytes. Kept by the bytes themselves: the code of a contract is read
    with every state of it, and is hashed cell by cell in Python. Raises ParseError."""
    found: bytes = cell_from_boc(boc).hash
    return found


def note_body(origin: str, size: int, root: bytes) -> bytes:
    """The signed text of a checkpoint: origin, decimal size and base64 root, one line each."""
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n".encode()


def check_origin(origin: str) -> bytes:
    """The origin's bytes. Raises ParseError unless printable ASCII of 1..MAX_ORIGIN bytes."""
    if not (1 <= len(origin) <= MAX_ORIGIN and all("!" <= c <= "~" for c in origin)):
        raise ParseError(
            f"origin: expected 1 to {MAX_ORIGIN} printable ASCII bytes, got {origin!r}"
        )
    return origin.encode()


@dataclass(frozen=True)
class LogState:
    """The contract's storage. root and keys are 32 bytes; time is Unix seconds, 0 at genesis;
    `retired` holds earlier log keys, each with the tree size at which it was retired, sorted by
    key."""

    sequence: int
    size: int
    root: bytes
    time: int
    forked: bool
    log_key: bytes
    origin: str
    retired: tuple[tuple[bytes, int], ...] = ()

    @classmethod
    def genesis(cls, *, origin: str, log_key: bytes, size: int, root: bytes) -> LogState:
        """The first storage of a contract. Raises ParseError for an unusable origin or size."""
        check_origin(origin)
        if not (1 <= size < 1 << 64 and len(root) == len(log_key) == 32):
            raise ParseError(
                "genesis: expected a size of at least 1 and a root and a log key of 32 bytes, got "
                f"size {size}, root of {len(root)} bytes, key of {len(log_key)} bytes"
            )
        return cls(0, size, root, 0, False, log_key, origin)

    def to_cell(self) -> Cell:
        identity = begin_cell().store_bytes(self.log_key).store_dict(_retired_cell(self.retired))
        identity.store_uint(len(self.retired), 8).store_bytes(check_origin(self.origin))
        body = begin_cell().store_uint(STORAGE_VERSION, 8).store_uint(self.sequence, 64)
        body.store_uint(self.size, 64).store_bytes(self.root).store_uint(self.time, 64)
        return body.store_bit(int(self.forked)).store_ref(identity.end_cell()).end_cell()

    @classmethod
    def from_boc(cls, boc: bytes) -> LogState:
        """Decode account data. Raises ParseError."""
        cell = cell_from_boc(boc)
        state = _strict(cls._read, cell, "storage")
        if state.to_cell().hash != cell.hash:
            raise ParseError("storage: expected the canonical cell, got another encoding")
        return state

    @classmethod
    def _read(cls, data: Slice) -> LogState:
        version = data.load_uint(8)
        if version != STORAGE_VERSION:
            raise ParseError(f"storage: expected version {STORAGE_VERSION}, got {version}")
        sequence, size = data.load_uint(64), data.load_uint(64)
        root, time, forked = data.load_bytes(32), data.load_uint(64), bool(data.load_bit())
        identity = data.load_ref().begin_parse()
        log_key, retired = identity.load_bytes(32), _retired(identity.load_maybe_ref())
        identity.load_uint(8)  # number of retired keys; compared by the canonical cell
        origin = identity.load_bytes(len(identity.bits) // 8).decode("ascii")
        return cls(sequence, size, root, time, forked, log_key, origin, retired)


@dataclass(frozen=True)
class AnchorMessage:
    """A log-signed checkpoint with the proof that it extends the anchored one.

    root and each hash of proof are 32 bytes, signature is the raw 64-byte Ed25519 one.
    """

    size: int
    root: bytes
    signature: bytes
    proof: tuple[bytes, ...]
    query_id: int = 0

    def to_cell(self) -> Cell:
        body = _claim(OP_ANCHOR, self.query_id, self.size, self.root, self.signature)
        return body.store_maybe_ref(proof_to_cell(self.proof)).end_cell()

    @classmethod
    def from_boc(cls, boc: bytes) -> AnchorMessage:
        return _decode(cls._read, boc, "anchor message")

    @classmethod
    def _read(cls, body: Slice) -> AnchorMessage:
        query_id, size, root, signature = _load_claim(body, OP_ANCHOR)
        proof = proof_from_cell(body.load_maybe_ref())
        return cls(size, root, signature, proof, query_id)


@dataclass(frozen=True)
class ForkMessage:
    """A log-signed checkpoint that contradicts the anchored one.

    `signer` is the log key or a retired one. `other` is the root at the smaller of the two
    sizes that `proof` leads to the larger size's root; both are ignored where they are equal.
    """

    size: int
    root: bytes
    signature: bytes
    signer: bytes
    other: bytes = bytes(32)
    proof: tuple[bytes, ...] = ()
    query_id: int = 0

    def to_cell(self) -> Cell:
        evidence = begin_cell().store_bytes(self.signer).store_bytes(self.other)
        evidence.store_maybe_ref(proof_to_cell(self.proof))
        body = _claim(OP_FORK, self.query_id, self.size, self.root, self.signature)
        return body.store_ref(evidence.end_cell()).end_cell()

    @classmethod
    def from_boc(cls, boc: bytes) -> ForkMessage:
        return _decode(cls._read, boc, "fork message")

    @classmethod
    def _read(cls, body: Slice) -> ForkMessage:
        query_id, size, root, signature = _load_claim(body, OP_FORK)
        evidence = body.load_ref().begin_parse()
        signer, other = evidence.load_bytes(32), evidence.load_bytes(32)
        proof = proof_from_cell(evidence.load_maybe_ref())
        return cls(size, root, signature, signer, other, proof, query_id)


@dataclass(frozen=True)
class RotateMessage:
    """The next log key (32 bytes) with two signatures of 64 bytes: `signature` by the present key,
    `possession` by the next key itself."""

    new_key: bytes
    signature: bytes
    possession: bytes
    query_id: int = 0

    def to_cell(self) -> Cell:
        if (len(self.new_key), len(self.signature), len(self.possession)) != (32, 64, 64):
            sizes = f"{len(self.new_key)}, {len(self.signature)} and {len(self.possession)} bytes"
            raise ParseError(
                f"rotation: expected a key of 32 bytes and two signatures of 64 bytes, got {sizes}"
            )
        possession = begin_cell().store_bytes(self.possession).end_cell()
        body = begin_cell().store_uint(OP_ROTATE, 32).store_uint(self.query_id, 64)
        body.store_bytes(self.new_key).store_bytes(self.signature)
        return body.store_ref(possession).end_cell()

    @classmethod
    def from_boc(cls, boc: bytes) -> RotateMessage:
        return _decode(cls._read, boc, "rotate message")

    @classmethod
    def _read(cls, body: Slice) -> RotateMessage:
        query_id = _load_op(body, OP_ROTATE)
        new_key, signature = body.load_bytes(32), body.load_bytes(64)
        return cls(new_key, signature, body.load_ref().begin_parse().load_bytes(64), query_id)


def rotation_text(address: str, new_key: bytes) -> bytes:
    """The text that both keys sign for a rotation: 87 bytes. `address` may have any spelling.
    Raises ParseError."""
    return ROTATION_DOMAIN + bytes.fromhex(canonical(address).partition(":")[2]) + new_key


@dataclass(frozen=True)
class AnchoredEvent:
    """The event that the contract emits for every anchor. root is 32 bytes, time Unix seconds."""

    sequence: int
    size: int
    root: bytes
    time: int

    @classmethod
    def from_cell(cls, cell: Cell) -> AnchoredEvent:
        return _strict(cls._read, cell, "event")

    @classmethod
    def _read(cls, body: Slice) -> AnchoredEvent:
        if (got := body.load_uint(32)) != OP_ANCHORED:
            raise ParseError(f"event: expected op {OP_ANCHORED:#x} (anchored), got {got:#x}")
        event = cls(body.load_uint(64), body.load_uint(64), body.load_bytes(32), body.load_uint(64))
        if body.remaining_bits or body.refs:
            raise ParseError(
                "event: expected no further data after the time, got "
                f"{body.remaining_bits} bits and {len(body.refs)} references"
            )
        return event


def proof_to_cell(proof: tuple[bytes, ...]) -> Cell | None:
    """A chain of cells with three hashes each; None for an empty proof."""
    cell: Cell | None = None
    for start in reversed(range(0, len(proof), HASHES_PER_CELL)):
        body = begin_cell().store_bytes(b"".join(proof[start : start + HASHES_PER_CELL]))
        cell = (body.store_ref(cell) if cell else body).end_cell()
    return cell


def proof_from_cell(cell: Cell | None) -> tuple[bytes, ...]:
    """The inverse of proof_to_cell. Raises ParseError for more than MAX_PROOF hashes."""
    hashes: list[bytes] = []
    while cell is not None:
        rest = cell.begin_parse()
        hashes += [rest.load_bytes(32) for _ in range(len(rest.bits) // 256)]
        if len(hashes) > MAX_PROOF:
            raise ParseError(f"proof: expected at most {MAX_PROOF} hashes, got more")
        cell = rest.load_ref() if rest.refs else None
    return tuple(hashes)


def state_init(code: Cell, data: Cell) -> StateInit:
    """Code and data; the hash of this structure is the address."""
    return StateInit(code=code, data=data)


T = TypeVar("T")
M = TypeVar("M", AnchorMessage, ForkMessage, RotateMessage)


def _claim(op: int, query_id: int, size: int, root: bytes, signature: bytes) -> Builder:
    if len(root) != 32 or len(signature) != 64:
        raise ParseError(
            "checkpoint: expected a root of 32 bytes and a signature of 64 bytes, got "
            f"{len(root)} and {len(signature)} bytes"
        )
    body = begin_cell().store_uint(op, 32).store_uint(query_id, 64).store_uint(size, 64)
    return body.store_bytes(root).store_bytes(signature)


def _load_claim(body: Slice, op: int) -> tuple[int, int, bytes, bytes]:
    return _load_op(body, op), body.load_uint(64), body.load_bytes(32), body.load_bytes(64)


def _load_op(body: Slice, op: int) -> int:
    """The query id that follows this op."""
    got = body.load_uint(32)
    if got != op:
        raise ParseError(f"message: expected op {op:#x}, got {got:#x}")
    query_id: int = body.load_uint(64)
    return query_id


def _retired_cell(retired: tuple[tuple[bytes, int], ...]) -> Cell | None:
    """The contract's map of 256-bit keys to 64-bit sizes; None where it is empty."""
    keys = HashMap(256)
    for key, size in retired:
        keys.set(int.from_bytes(key), begin_cell().store_uint(size, 64).end_cell())
    return keys.serialize() if retired else None


def _retired(cell: Cell | None) -> tuple[tuple[bytes, int], ...]:
    if cell is None:
        return ()
    found = HashMap.parse(cell.begin_parse(), 256)
    if len(found) > MAX_RETIRED:
        raise ParseError(f"storage: expected at most {MAX_RETIRED} retired keys, got {len(found)}")
    items = ((key.to_bytes(32), value.load_uint(64)) for key, value in sorted(found.items()))
    return tuple(items)


def _decode(read: Callable[[Slice], M], boc: bytes, what: str) -> M:
    cell = cell_from_boc(boc)
    value = _strict(read, cell, what)
    if value.to_cell().hash != cell.hash:
        raise ParseError(f"{what}: expected the canonical cell, got another encoding")
    return value


def _strict(read: Callable[[Slice], T], cell: Cell, what: str) -> T:
    try:
        return read(cell.begin_parse())
    except ParseError:
        raise
    except Exception as error:  # cell underflow, refs missing, text not ASCII
        raise ParseError(
            f"{what}: expected the layout of docs/spec/contracts.md, got a cell that cannot be "
            "read: "
            f"{type(error).__name__}: {error}"
        ) from error
