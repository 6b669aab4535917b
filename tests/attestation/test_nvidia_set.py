"""Protected-PCIe sets: eight GPUs and four switches, and every set that is not whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from attestation.errors import NotAuthentic, ParseError, Refused
from attestation.nvidia import (
    CheckedDevice,
    check_driver,
    check_measurements,
    check_revocation,
    check_set,
)
from attestation.nvidia.report import SWITCH_PDIS
from attestation.nvidia.topology import GPUS, LINKS, SWITCHES
from enclave.simulator.hopper import protected_opaque, switch_pdi
from tests.helpers.nvidia_machine import NOW, checked, collateral, device, refuses, roots, switch


def protected_set() -> list[CheckedDevice]:
    gpus = [checked(device(index, opaque=protected_opaque())) for index in range(GPUS)]
    return gpus + [checked(switch(index)) for index in range(SWITCHES)]


def test_protected_set_is_exactly_itself() -> None:
    whole = protected_set()
    check_set(whole)
    for one in whole:
        firmware = check_measurements(one, collateral(), roots=roots(), now=NOW)
        assert check_revocation(one, firmware, collateral(), now=NOW) > NOW
        check_driver(one, minimum="550")


def swapped(at: int, other: CheckedDevice) -> list[CheckedDevice]:
    whole = protected_set()
    whole[at] = other
    return whole


def listing(field: int, entries: list[bytes]) -> dict[int, bytes]:
    return {**protected_opaque(), field: b"".join(entries)}


SETS: dict[str, tuple[str, type, Callable[[], list[CheckedDevice]]]] = {
    "seven-gpus": ("incomplete-set", Refused, lambda: protected_set()[1:]),
    "three-switches": ("incomplete-set", Refused, lambda: protected_set()[:-1]),
    "no-switches": ("incomplete-set", Refused, lambda: protected_set()[:GPUS]),
    "switches-alone": ("incomplete-set", Refused, lambda: protected_set()[GPUS:]),
    "one-gpu-unprotected": ("mixed-modes", Refused, lambda: swapped(0, checked(device(0)))),
    "a-gpu-twice": ("duplicate-device", NotAuthentic, lambda: swapped(0, protected_set()[1])),
    "a-switch-twice": (
        "duplicate-device",
        NotAuthentic,
        lambda: swapped(GPUS, protected_set()[GPUS + 1]),
    ),
    "a-gpu-of-another-machine": (
        "topology",
        NotAuthentic,
        lambda: swapped(0, checked(device(9, opaque=protected_opaque()))),
    ),
    "a-switch-of-another-machine": (
        "topology",
        NotAuthentic,
        lambda: swapped(GPUS, checked(switch(4))),
    ),
    "a-switch-that-sees-fewer-gpus": (
        "topology",
        NotAuthentic,
        lambda: swapped(GPUS, checked(switch(0, gpus=7))),
    ),
    "a-gpu-that-sees-a-fifth-switch": (
        "topology",
        NotAuthentic,
        lambda: swapped(
            0,
            checked(
                device(
                    0,
                    opaque=listing(
                        SWITCH_PDIS, [switch_pdi(link % 5)[::-1] for link in range(LINKS)]
                    ),
                )
            ),
        ),
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_bad_sets(name: str) -> None:
    code, kind, make = SETS[name]
    with refuses(code, kind):
        check_set(make())


def test_set_with_a_cut_list_of_links() -> None:
    short = listing(SWITCH_PDIS, [bytes(8)] * 3)
    with pytest.raises(ParseError):
        check_set(swapped(0, checked(device(0, opaque=short))))
