"""Messages and storage of Registry, mirroring the structs of its Tolk source.

One read of the account says what was allowed at every moment of the past. Layouts:
docs/spec/registry.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from pytoniq_core import Address, Builder, Cell, HashMap, Slice, begin_cell

from attestation.errors import NotAuthentic, ParseError, Unavailable
from attestation.trust.registry import Entry, RegistrySnapshot
from contracts import artefact
from contracts.chain import AccountState, ReadOnlyChain, raw_address
from contracts.codec import cell_from_boc, root_hash
from contracts.quote_verifier import Floor

STORAGE_VERSION = 1
MAX_RELEASES, MAX_DIGESTS, MAX_FLOORS = 512, 16, 256
OP_PROPOSE, OP_REVOKE, OP_LEVEL, OP_PUSH = 0x554D5201, 0x554D5202, 0x554D5203, 0x554D5204
OP_BLOCK, OP_OFFER, OP_ACCEPT, OP_VERIFIER = 0x554D5205, 0x554D5206, 0x554D5207, 0x554D5208
OP_CHANGED = 0x554D5220


class Exit(IntEnum):
    """TVM exit codes with which the contract ends the handling of a message."""

    OK = 0
    CELL_UNDERFLOW = 9
    UNDERFUNDED = 130
    VERSION = 138
    FULL = 167
    SENDER = 168
    KIND = 170
    EXISTS = 171
    DIGESTS = 172
    UNKNOWN = 173
    REVOKED = 174
    REASON = 175
    NO_VERIFIER = 176
    UNKNOWN_OP = 0xFFFF


@dataclass(frozen=True)
class FloorState:
    """The minimum TCB level of one platform family (FMSPC).

    `next` replaces `current` at `next_from` (Unix seconds; 0 means that no change is announced).
    `in_force` is false until the notice period of the first level has passed.
    """

    current: Floor
    next: Floor
    next_from: int
    in_force: bool


@dataclass(frozen=True)
class RegistryState:
    """The contract's storage. Addresses are raw; `notice` is seconds."""

    owner: str
    pending: str | None
    notice: int
    verifier: str | None
    entries: dict[bytes, Entry]
    floors: dict[bytes, FloorState]

    def allowed(self, digest: bytes, moment: int) -> tuple[Entry, ...]:
        """The entries that allowed this measurement or model digest at `moment`."""
        return tuple(
            entry
            for entry in self.entries.values()
            if digest in entry.digests and entry.allowed_at(moment)
        )

    @classmethod
    def from_boc(cls, boc: bytes) -> RegistryState:
        """Decode account data. Raises ParseError."""
        try:
            return cls._read(cell_from_boc(boc).begin_parse())
        except ParseError:
            raise
        except Exception as error:  # the library raises exceptions of many kinds
            raise ParseError(
                "registry: expected the layout of docs/spec/registry.md, got a cell that cannot be "
                f"read: {type(error).__name__}: {error}"
            ) from error

    @classmethod
    def _read(cls, body: Slice) -> RegistryState:
        if (version := body.load_uint(8)) != STORAGE_VERSION:
            raise ParseError(f"registry: expected version {STORAGE_VERSION}, got {version}")
        owner, pending = _address(body), _maybe_address(body)
        notice, count = body.load_uint(32), body.load_uint(16)
        releases = _map(body, 256)
        floors = body.load_ref().begin_parse()
        floor_count, verifier = floors.load_uint(16), _maybe_address(floors)
        levels = _map(floors, 48)
        if (len(releases), len(levels)) != (count, floor_count):
            raise ParseError(
                f"registry: expected {count} entries and {floor_count} minimum TCB levels as its "
                f"counters say, got {len(releases)} and {len(levels)}"
            )
        entries = {
            key.to_bytes(32): _entry(key.to_bytes(32), value) for key, value in releases.items()
        }
        states = {key.to_bytes(6): _floor_state(value) for key, value in levels.items()}
        if count > MAX_RELEASES or floor_count > MAX_FLOORS:
            raise ParseError(
                f"registry: expected at most {MAX_RELEASES} entries and {MAX_FLOORS} minimum TCB "
                f"levels, got {count} and {floor_count}"
            )
        _check_end(body, floors)
        return cls(owner, pending, notice, verifier, entries, states)


def genesis(*, owner: str, notice: int) -> Cell:
    """The storage of a new contract: `owner` an address in any spelling, `notice` in seconds."""
    floors = begin_cell().store_uint(0, 16).store_address(None).store_bit(0).end_cell()
    body = begin_cell().store_uint(STORAGE_VERSION, 8).store_address(Address(raw_address(owner)))
    body.store_address(None)
    return body.store_uint(notice, 32).store_uint(0, 16).store_bit(0).store_ref(floors).end_cell()


def propose(
    kind: int, manifest: bytes, digests: dict[bytes, int], *, notes: bytes = bytes(32)
) -> Cell:
    """The message that proposes a release (GUEST) or a model (MODEL).

    `manifest` and `notes` are SHA-256 digests. `digests` maps measurement digests or model digests
    (32 bytes) to the number of a VM shape.
    """
    listed = HashMap(256)
    for digest, shape in digests.items():
        listed.set(int.from_bytes(digest), begin_cell().store_uint(shape, 32).end_cell())
    body = _head(OP_PROPOSE).store_uint(kind, 8).store_bytes(manifest).store_bytes(notes)
    return body.store_dict(listed.serialize()).end_cell()


def revoke(manifest: bytes, reason: int) -> Cell:
    """The message that revokes an entry. `reason` is 1 to 255; docs/spec/registry.md explains
    them."""
    return _head(OP_REVOKE).store_bytes(manifest).store_uint(reason, 8).end_cell()


def set_level(fmspc: bytes, floor: Floor) -> Cell:
    body = _head(OP_LEVEL).store_bytes(fmspc).store_bytes(floor.tee_tcb_svn)
    return body.store_uint(floor.qe_isv_svn, 16).end_cell()


def push(fmspc: bytes) -> Cell:
    return _head(OP_PUSH).store_bytes(fmspc).end_cell()


def block(key: bytes) -> Cell:
    return _head(OP_BLOCK).store_bytes(key).end_cell()


def offer(to: str) -> Cell:
    return _head(OP_OFFER).store_address(Address(raw_address(to))).end_cell()


def accept() -> Cell:
    return _head(OP_ACCEPT).end_cell()


def set_verifier(address: str) -> Cell:
    return _head(OP_VERIFIER).store_address(Address(raw_address(address))).end_cell()


def _head(op: int) -> Builder:
    return begin_cell().store_uint(op, 32).store_uint(0, 64)


def _address(body: Slice) -> str:
    found = body.load_address()
    if found is None:
        raise ParseError("registry: owner: expected an address, got none (addr_none)")
    return f"{found.wc}:{found.hash_part.hex()}"


def _maybe_address(body: Slice) -> str | None:
    """Tolk's `address?`: none is addr_none, two zero bits."""
    found = body.load_address()
    return None if found is None else f"{found.wc}:{found.hash_part.hex()}"


def _check_end(*parts: Slice) -> None:
    """Raises ParseError where one of them has data that nobody read."""
    for part in parts:
        if part.remaining_bits or part.remaining_refs:
            raise ParseError(
                f"registry: expected no further data, got {part.remaining_bits} bits and "
                f"{part.remaining_refs} references more"
            )


def _map(body: Slice, bits: int) -> dict[int, Slice]:
    cell = body.load_maybe_ref()
    return HashMap.parse(cell.begin_parse(), bits) if cell else {}


def _entry(manifest: bytes, value: Slice) -> Entry:
    body = value.load_ref().begin_parse()
    kind, proposed, active, revoked = (body.load_uint(size) for size in (8, 64, 64, 64))
    reason, notes = body.load_uint(8), body.load_bytes(32)
    shapes = _map(body, 256)
    listed = {key.to_bytes(32): shape.load_uint(32) for key, shape in shapes.items()}
    if not 0 < len(listed) <= MAX_DIGESTS:
        raise ParseError(
            f"registry: entry {manifest.hex()}: expected 1 to {MAX_DIGESTS} digests, got "
            f"{len(listed)}"
        )
    _check_end(value, body, *shapes.values())
    return Entry(kind, manifest, proposed, active, revoked, reason, notes, listed)


def _floor_state(body: Slice) -> FloorState:
    current, waiting = (Floor(body.load_bytes(16), body.load_uint(16)) for _ in range(2))
    state = FloorState(current, waiting, body.load_uint(64), bool(body.load_bit()))
    _check_end(body)
    return state


def read_registry(chain: ReadOnlyChain, *, address: str) -> RegistrySnapshot:
    """The Registry at `address` (any spelling), which has the code that this version ships.

    Raises UsageError for a malformed address, NotAuthentic if the contract has other code, and
    what `snapshot_of` raises.
    """
    account = chain.account(raw_address(address))
    got, expected = _code_hash(account), artefact.load("registry").code_hash
    if got != expected:
        text = f"{address}: expected a Registry with code hash {expected.hex()}, got "
        raise NotAuthentic("registry", "other-code", text + (got.hex() or "none"))
    return snapshot_of(account)


def snapshot_of(account: AccountState) -> RegistrySnapshot:
    """What an account says as a Registry. Whether it is the right contract is decided by the
    policy. Raises Unavailable if it is not active, ParseError if its data is malformed."""
    return RegistrySnapshot(
        address=account.address,
        code_hash=_code_hash(account),
        seqno=account.seqno,
        read_at=account.read_at,
        level=account.level,
        entries=tuple(RegistryState.from_boc(account.data).entries.values()),
    )


def _code_hash(account: AccountState) -> bytes:
    """32 bytes; empty where the account has no code."""
    if account.state != "active":
        raise Unavailable(
            f"{account.address}: expected an active Registry contract, got an account in state "
            f"{account.state}; check the address, or deploy it (umay net deploy-registry)"
        )
    code_hash = root_hash(account.code) if account.code else b""
    return code_hash
