"""The Registry's storage as an endpoint hands it over: read whole, or not at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pytoniq_core import Address, Builder, Cell, HashMap, begin_cell

from attestation.errors import ParseError
from attestation.trust.registry import GUEST
from contracts.registry import MAX_DIGESTS, MAX_FLOORS, MAX_RELEASES, RegistryState
from tests.helpers import registries

ENTRY = registries.entry(GUEST, b"\x01" * 32)


def zeros(body: Builder, bits: int) -> Builder:
    return body.store_bits("0" * bits)


def digests(count: int, more: int = 0) -> HashMap:
    listed = HashMap(256)
    for number in range(count):
        value = zeros(begin_cell().store_uint(3, 32), more)
        listed.set(number, value.end_cell())
    return listed


def release(listed: HashMap, more: int = 0) -> Cell:
    body = begin_cell().store_uint(GUEST, 8).store_uint(0, 3 * 64 + 8).store_bytes(bytes(32))
    return zeros(body.store_dict(listed.serialize()), more).end_cell()


def level(more: int = 0) -> Cell:
    return zeros(begin_cell(), 2 * 144 + 64 + 1 + more).end_cell()


def listed(count: int, bits: int, value: Callable[[], Builder]) -> HashMap:
    found = HashMap(bits)
    for number in range(count):
        found.set(number, value().end_cell())
    return found


def boc(
    entry: Cell | None = None,
    *,
    entries: int = 1,
    floor: Cell | None = None,
    floors: int = 1,
    value_bits: int = 0,
    end: Callable[[Builder], Builder] = lambda body: body,
    floors_end: Callable[[Builder], Builder] = lambda body: body,
) -> bytes:
    """A Registry whose entries and minimum TCB levels are all alike."""
    item, least = entry or release(digests(1)), floor or level()
    releases = listed(entries, 256, lambda: zeros(begin_cell().store_ref(item), value_bits))
    levels = listed(floors, 48, lambda: begin_cell().store_slice(least.begin_parse()))
    part = begin_cell().store_uint(floors, 16).store_address(None).store_dict(levels.serialize())
    body = begin_cell().store_uint(1, 8).store_address(Address(registries.CONTRACT))
    body.store_address(None).store_uint(60, 32).store_uint(entries, 16)
    body.store_dict(releases.serialize()).store_ref(floors_end(part).end_cell())
    data: bytes = end(body).end_cell().to_boc()
    return data


def bit(body: Builder) -> Builder:
    return body.store_uint(0, 1)


def reference(body: Builder) -> Builder:
    return body.store_ref(begin_cell().end_cell())


def test_a_whole_registry_is_read() -> None:
    state = RegistryState.from_boc(boc(release(digests(MAX_DIGESTS)), entries=3, floors=2))
    assert (len(state.entries), len(state.floors)) == (3, 2)
    assert {len(entry.digests) for entry in state.entries.values()} == {MAX_DIGESTS}
    assert RegistryState.from_boc(registries.storage((ENTRY,))).entries == {ENTRY.manifest: ENTRY}


WRONG: dict[str, tuple[Callable[[], bytes], str]] = {
    "a bit at the end": (lambda: boc(end=bit), "no further data"),
    "a reference at the end": (lambda: boc(end=reference), "no further data"),
    "a bit behind the levels": (lambda: boc(floors_end=bit), "no further data"),
    "a reference behind the levels": (lambda: boc(floors_end=reference), "no further data"),
    "a bit beside an entry": (lambda: boc(value_bits=1), "no further data"),
    "a bit behind an entry": (lambda: boc(release(digests(1), more=1)), "no further data"),
    "a bit behind a digest's shape": (lambda: boc(release(digests(1, more=1))), "no further data"),
    "a bit behind a level": (lambda: boc(floor=level(more=1)), "no further data"),
    "an entry of no digests": (lambda: boc(release(digests(0))), "1 to 16 digests"),
    "an entry of 17 digests": (lambda: boc(release(digests(MAX_DIGESTS + 1))), "1 to 16 digests"),
    "more entries than there can be": (
        lambda: boc(entries=MAX_RELEASES + 1),
        "at most 512 entries and 256",
    ),
    "more levels than there can be": (
        lambda: boc(floors=MAX_FLOORS + 1),
        "at most 512 entries and 256",
    ),
}


@pytest.mark.parametrize(("make", "says"), WRONG.values(), ids=WRONG)
def test_what_no_registry_can_hold_is_refused(make: Callable[[], bytes], says: str) -> None:
    """What is revoked is kept by every client, so a list has an end."""
    with pytest.raises(ParseError, match=says):
        RegistryState.from_boc(make())
