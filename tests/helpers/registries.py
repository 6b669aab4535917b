"""Registries in memory: rules that pin one, what it lists, and its account."""

from __future__ import annotations

from pytoniq_core import Address, Cell, HashMap, begin_cell

from attestation.trust.policy import RegistryRules
from attestation.trust.registry import Entry, RegistrySnapshot
from tests.helpers.world import NOW

CONTRACT, CODE = "0:" + "5e" * 32, b"\x5f" * 32


def rules(source: str) -> RegistryRules:
    return RegistryRules(CONTRACT, CODE, source, source)


def entry(kind: int, digest: bytes, *, active: int = NOW - 500, revoked: int = 0) -> Entry:
    reason = 2 if revoked else 0
    return Entry(kind, digest, active - 60, active, revoked, reason, bytes(32), {digest: 3})


def snapshot(entries: tuple[Entry, ...]) -> RegistrySnapshot:
    return RegistrySnapshot(CONTRACT, CODE, 9, NOW - 10, "reported", entries)


def storage(entries: tuple[Entry, ...]) -> bytes:
    """The data of a Registry contract with these entries, as docs/spec/registry.md lays it out."""
    floors = begin_cell().store_uint(0, 16).store_address(None).store_bit(0).end_cell()
    listed = HashMap(256)
    for item in entries:
        listed.set(int.from_bytes(item.manifest), begin_cell().store_ref(_cell(item)).end_cell())
    body = begin_cell().store_uint(1, 8).store_address(Address(CONTRACT)).store_address(None)
    body.store_uint(60, 32).store_uint(len(entries), 16).store_dict(listed.serialize())
    data: bytes = body.store_ref(floors).end_cell().to_boc()
    return data


def _cell(item: Entry) -> Cell:
    digests = HashMap(256)
    for digest, shape in item.digests.items():
        digests.set(int.from_bytes(digest), begin_cell().store_uint(shape, 32).end_cell())
    body = begin_cell().store_uint(item.kind, 8)
    for moment in (item.proposed_at, item.active_from, item.revoked_at):
        body.store_uint(moment, 64)
    body.store_uint(item.reason, 8).store_bytes(item.notes)
    return body.store_dict(digests.serialize()).end_cell()
