"""The simulator is as rough as real hosts: every form it can take, and real captures beside it."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from attestation.formats.collateral import Collateral
from attestation.formats.evidence import GPU, Device
from attestation.nvidia import check_device, check_measurements, cut_padding, parse_report
from attestation.platforms import tdx
from enclave.guest.platforms.tsm import QuoteWithLogs
from enclave.simulator import rough as roughness
from enclave.simulator.ccel import SOURCE_ROOT, launch
from enclave.simulator.hopper import OPAQUE, newer_opaque
from enclave.simulator.rough import SMOOTH, Roughness, of_boot
from enclave.simulator.service import Simulator
from tests.helpers.places import CAPTURED, EVIDENCE
from tests.helpers.tdx_machine import NOW, collateral, machine, roots
from tests.helpers.world import ask, device_of, quoted_of

NONCE = bytes(range(32))
REPORT_DATA = bytes(range(64))
BOOTS = [of_boot("enclave", number) for number in range(64)]
EACH = {
    "padding-70": Roughness(padding=70),
    "padding-307": Roughness(padding=307),
    "padding-3061": Roughness(padding=3061),
    "version-5": Roughness(quote_version=5),
    "version-5-td15": Roughness(quote_version=5, body=3),
    "version-5-extended": Roughness(quote_version=5, body=4, td_id=b"\x22" * 32),
    "platform-id": Roughness(platform_id=b"\x11" * 16),
    "google-auth-data": Roughness(auth_data=bytes(32)),
    "chain-ends-in-nul": Roughness(chain_ends_in_nul=True),
    "log-header-0": Roughness(log_header=0),
    "log-vendor": Roughness(log_vendor=b"td-shim"),
    "one-note": Roughness(notes=1),
    "three-notes": Roughness(notes=3),
    "fill-ff": Roughness(fill=b"\xff", area=65_536),
    "fill-zero": Roughness(fill=b"\0", area=65_536),
    "fill-tight": Roughness(fill=b"\xff"),
    "zero-fill-tight": Roughness(fill=b"\0"),
    "all-at-once": Roughness(
        padding=3061,
        quote_version=5,
        body=4,
        td_id=b"\x22" * 32,
        platform_id=b"\x11" * 16,
        auth_data=bytes(32),
        chain_ends_in_nul=True,
        log_header=0,
        log_vendor=b"td-shim",
        notes=3,
        fill=b"\0",
        area=262_144,
        gpu_padding=4096,
        newer_gpu_fields=True,
    ),
    **{f"boot-{number}": BOOTS[number] for number in range(8)},
}


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    return Simulator(tmp_path_factory.mktemp("state"), clock=lambda: NOW)


def evidence(rough: Roughness) -> QuoteWithLogs:
    """What a guest on a machine as rough as that makes its evidence of."""
    started, event = launch(SOURCE_ROOT), hashlib.sha384(b"host config").digest()
    registers = {f"rt_mr{number}": value for number, value in enumerate(started.rtmrs)}
    rtmr3 = tdx.eventlog.extend(bytes(48), event)
    quote = machine().quote(
        rough, **registers, mr_td=started.mr_td, rt_mr3=rtmr3, report_data=REPORT_DATA
    )
    return QuoteWithLogs.from_buffers(quote, started.area(rough), (event,))


@pytest.mark.parametrize("name", EACH)
def test_each_roughness_passes_every_step(name: str) -> None:
    quoted = evidence(EACH[name])
    quote = tdx.parse_quote(quoted.quote)
    who = tdx.check_signature(quote, roots=roots(), now=NOW)
    tdx.check_attributes(quote)
    assert tdx.check_tcb(quoted.quote, collateral(), root_der=who.root_der, now=NOW).status == (
        "UpToDate"
    )
    tdx.check_replay(quote, quoted.ccel, quoted.rtmr3_events)


@pytest.mark.parametrize("name", EACH)
def test_no_roughness_changes_what_is_measured(name: str) -> None:
    rough, smooth = (tdx.parse_quote(evidence(form).quote) for form in (EACH[name], SMOOTH))
    assert rough.registers == smooth.registers
    assert rough.rt_mr3 == smooth.rt_mr3


def test_buffers_are_longer_than_what_stands_in_them() -> None:
    started = launch(SOURCE_ROOT)
    for rough in BOOTS[:16]:
        quote, area = machine().quote(rough), started.area(rough)
        assert quote.endswith(bytes(rough.padding)) and rough.padding
        assert tdx.cut_padding(quote) == quote[: -rough.padding]
        assert len(tdx.cut_fill(area)) <= len(area) - 8


def test_a_boot_is_rough_in_one_way_and_others_in_others() -> None:
    assert of_boot("enclave", 3) == of_boot("enclave", 3)
    assert len({repr(rough) for rough in BOOTS}) > 32
    for field in dataclasses.fields(Roughness):
        values = {getattr(rough, field.name) for rough in BOOTS}
        assert len(values) > 1, field.name
        smooth = getattr(SMOOTH, field.name)
        assert values - {smooth}, field.name


def test_the_same_state_and_vm_give_the_same_bytes(simulator: Simulator, tmp_path: Path) -> None:
    again = Simulator(simulator._state_dir, clock=lambda: NOW)
    for machine_ in (simulator, again):
        ask(machine_, "launch", "vm-same")
    asked = ("tdx.quote", "vm-same", REPORT_DATA)
    assert ask(simulator, *asked) == ask(again, *asked)
    asked = ("gpu.report", "vm-same", 0, NONCE)
    assert ask(simulator, *asked)[1] == ask(again, *asked)[1]


def test_a_reboot_is_rough_in_its_own_way(simulator: Simulator) -> None:
    seen = set()
    for _ in range(8):
        ask(simulator, "launch", "vm-reboot")
        seen.add(len(ask(simulator, "tdx.quote", "vm-reboot", REPORT_DATA)[1]))
    assert len(seen) > 1


def test_two_quotes_of_one_boot_are_of_one_machine(simulator: Simulator) -> None:
    ask(simulator, "launch", "vm-one")
    first, second = (
        tdx.parse_quote(quoted_of(ask(simulator, "tdx.quote", "vm-one", data)).quote)
        for data in (bytes(64), REPORT_DATA)
    )
    assert first.identity == second.identity
    assert (first.version, first.user_data) == (second.version, second.user_data)


def test_a_forged_quote_keeps_the_form_it_came_in() -> None:
    for rough in (SMOOTH, EACH["all-at-once"]):
        start = tdx.parse_quote(tdx.cut_padding(machine().quote(rough)))
        forged = tdx.parse_quote(machine().forge(start, report_data=REPORT_DATA))
        assert replace(forged, report_data=start.report_data, signature=start.signature) == start


@pytest.mark.parametrize("newer", [False, True])
def test_gpu_reports_hold_with_the_fields_of_either_driver(
    simulator: Simulator, newer: bool
) -> None:
    fields = newer_opaque() if newer else OPAQUE
    report, chain = simulator.nvidia.report(0, NONCE, opaque=fields)
    pins = ask(simulator, "roots")[1]
    pinned = dataclasses.replace(
        roots(),
        nvidia_device=frozenset({pins["nvidia_device"]}),
        nvidia_rim=frozenset({pins["nvidia_rim"]}),
    )
    device = check_device(Device(GPU, report, chain), nonce=NONCE, roots=pinned, now=NOW)
    parts = Collateral(ask(simulator, "collateral")[1])
    check_measurements(device, parts, roots=pinned, now=NOW)
    assert list(parse_report(report).opaque) == list(fields)


def test_a_gpu_s_report_stands_in_a_longer_buffer(simulator: Simulator) -> None:
    ask(simulator, "launch", "vm-gpu")
    reply = ask(simulator, "gpu.report", "vm-gpu", 0, NONCE)
    assert len(reply[1]) > len(cut_padding(reply[1]))
    assert parse_report(device_of(reply).report).nonce == NONCE


# Beside real captures


def captured(*patterns: str) -> list[bytes]:
    """Real captures by their paths below either folder of evidence."""
    folders = (EVIDENCE, CAPTURED)
    found = [path for folder in folders for each in patterns for path in sorted(folder.glob(each))]
    if not found:
        pytest.skip(f"no real evidence at {EVIDENCE}")
    return [path.read_bytes() for path in found]


def test_quotes_take_every_form_of_real_ones() -> None:
    """Each form that a real quote has, some boot has too."""

    def form(quote: tdx.TdQuote) -> set[tuple[str, object]]:
        return {
            ("version", quote.version),
            ("body", quote.body_type),
            ("auth data", quote.qe_auth_data),
            ("NUL after the chain", quote.pck_pem.endswith(b"\0")),
            ("reserved", quote.header_reserved),
            ("user data is zero", not any(quote.user_data)),
            ("user data's end", quote.user_data[16:]),
            ("QE vendor", quote.qe_vendor_id),
            ("QE attributes", quote.qe_report[48:64]),
            ("QE product", quote.qe_report[256:258]),
        }

    simulated = [tdx.parse_quote(tdx.cut_padding(machine().quote(rough))) for rough in BOOTS]
    forms = set().union(*map(form, simulated))
    paths = captured("tdx_quote/*.bin", "tdx-*.bin")
    for data in paths:
        assert form(tdx.parse_quote(tdx.cut_padding(data))) <= forms


def test_gpu_reports_have_the_fields_of_real_ones_in_their_order() -> None:
    old, new = list(OPAQUE), list(newer_opaque())
    reports = [parse_report(data) for data in captured("nvidia_gpu_report/*550.90*.bin")]
    assert [list(report.opaque) for report in reports] == [old] * len(reports)
    sizes = {kind: len(value) for kind, value in OPAQUE.items()}
    assert {k: len(v) for k, v in reports[0].opaque.items()} == sizes
    (ppcie, *_) = [parse_report(data) for data in captured("nvidia_gpu_report/*590*-0.bin")]
    assert [kind for kind in ppcie.opaque if kind != 22] == new


def test_the_log_knows_every_kind_of_event_that_real_ones_have() -> None:
    """But for those of td-shim, which are OVMF's under other registers."""
    simulated = {(event.index, event.type) for event in launch(SOURCE_ROOT).events}
    real = set()
    for data in captured("event_log/*CCEL_data_*", "event_log/google-ccel_data.dat", "ccel-*"):
        log = tdx.parse_ccel(tdx.cut_fill(data))
        real |= {(event.index, event.type) for event in log.events}
    assert real - simulated == set()


def test_defaults_are_smooth() -> None:
    assert machine().quote() == machine().quote(SMOOTH)
    started = launch(SOURCE_ROOT)
    assert started.area(SMOOTH) == started.ccel
    assert Roughness() == roughness.SMOOTH
