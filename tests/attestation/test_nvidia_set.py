"""Protected-PCIe sets: eight GPUs and four switches, and every set that is not whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from attestation.errors import NotAuthentic, ParseError, Refused
from attestation.nvidia import (
    CheckedDevice,
    check_driver,
    check_measurements,
    check_revocation,
    check_set,
    topology,
)
from attestation.nvidia.report import DEVICE_PDI, SWITCH_PDIS
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


def test_a_switch_that_reports_another_identity_than_its_certificate() -> None:
    whole = protected_set()
    switch_ = whole[GPUS]
    for own in (switch_pdi(1), None):
        fields = {**switch_.report.opaque, DEVICE_PDI: own}
        other = {kind: data for kind, data in fields.items() if data is not None}
        report = dataclasses.replace(switch_.report, opaque=other)
        whole[GPUS] = dataclasses.replace(switch_, report=report)
        with pytest.raises(NotAuthentic, match="expected a switch to report itself"):
            check_set(whole)


@pytest.mark.parametrize("unused", [bytes(8), b"\xff" * 8], ids=["zeros", "ones"])
def test_links_that_are_not_used_name_no_switch(unused: bytes) -> None:
    links = [switch_pdi(link % SWITCHES)[::-1] for link in range(LINKS - 2)] + [unused] * 2
    check_set(swapped(0, checked(device(0, opaque=listing(SWITCH_PDIS, links)))))


@pytest.mark.parametrize(
    "serials", [[], ["01" * 9] * 2, ["01" * 8], ["01" * 10], ["other"]], ids=str
)
def test_a_factory_certificate_without_one_identity(serials: list[str]) -> None:
    named = [x509.NameAttribute(NameOID.SERIAL_NUMBER, serial) for serial in serials]
    named.append(x509.NameAttribute(NameOID.COMMON_NAME, "device"))
    factory = SimpleNamespace(subject=x509.Name(named))
    with refuses("topology", NotAuthentic):
        topology._own(cast(CheckedDevice, SimpleNamespace(certificates=(None, factory))))
