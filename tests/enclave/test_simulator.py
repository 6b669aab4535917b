"""The simulator: one PKI per state directory, a VM whose RTMR3 only grows, honest refusals."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attestation.errors import UsageError
from attestation.formats import cbor
from attestation.formats.collateral import Collateral
from attestation.platforms import tdx
from attestation.platforms.tdx.eventlog import extend
from attestation.trust.roots import PRODUCTION, Roots
from enclave.simulator import intel, server
from enclave.simulator.ccel import SOURCE_ROOT, guest_digest, launch
from enclave.simulator.service import Simulator
from tests.helpers.tdx_machine import NOW, machine, refuses
from tests.helpers.waiting import HANG_S
from tests.helpers.world import quoted_of

REPORT_DATA = bytes(range(64))
NONCE = bytes(range(32))


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    return Simulator(tmp_path_factory.mktemp("state"), clock=lambda: NOW)


def ask(simulator: Simulator, operation: str, *arguments: Any) -> dict[int, Any]:
    answer = simulator.handle({0: operation, **dict(enumerate(arguments, 1))})
    assert answer[0] == "ok", answer
    assert cbor.decode(cbor.encode(answer)) == answer
    return answer


def refused(simulator: Simulator, operation: object, *arguments: Any) -> str:
    answer = simulator.handle({0: operation, **dict(enumerate(arguments, 1))})
    assert answer.keys() == {0, 1}
    assert answer[0] == "error"
    return answer[1]


def quote_of(simulator: Simulator, vm: str) -> tdx.TdQuote:
    return tdx.parse_quote(quoted_of(ask(simulator, "tdx.quote", vm, REPORT_DATA)).quote)


def roots_of(simulator: Simulator) -> Roots:
    pins = ask(simulator, "roots")[1]
    intel_pin, device, rim = (
        frozenset({pins[name]}) for name in ("intel", "nvidia_device", "nvidia_rim")
    )
    return Roots(intel_pin, frozenset(), device, rim, True)


def test_quote_of_a_launched_vm_passes_every_tdx_step(simulator: Simulator) -> None:
    ask(simulator, "launch", "vm-a")
    digest = hashlib.sha384(b"host config").digest()
    ask(simulator, "tdx.extend", "vm-a", digest)
    quoted = quoted_of(ask(simulator, "tdx.quote", "vm-a", REPORT_DATA))
    quote = tdx.parse_quote(quoted.quote)
    who = tdx.check_signature(quote, roots=roots_of(simulator), now=NOW)
    tdx.check_attributes(quote)
    collateral = Collateral(ask(simulator, "collateral")[1])
    result = tdx.check_tcb(quoted.quote, collateral, root_der=who.root_der, now=NOW)
    assert result.status == "UpToDate"
    assert quoted.rtmr3_events == (digest,)
    tdx.check_replay(quote, quoted.ccel, quoted.rtmr3_events)
    assert quote.report_data == REPORT_DATA
    assert list(quote.registers) == ask(simulator, "measurement")[1]


def test_shipped_roots_name_the_simulator(simulator: Simulator) -> None:
    ask(simulator, "launch", "vm-roots")
    quote = quote_of(simulator, "vm-roots")
    with refuses("simulated-root"):
        tdx.check_signature(quote, roots=PRODUCTION, now=NOW)


def test_every_name_of_the_pki_says_simulated() -> None:
    for der in tdx.parse_quote(machine().quote()).pck_chain:
        certificate = x509.load_der_x509_certificate(der)
        assert "SIMULATED" in certificate.subject.rfc4514_string()


def test_rtmr3_grows_and_a_launch_starts_anew(simulator: Simulator) -> None:
    ask(simulator, "launch", "vm-b")
    first, second = b"\1" * 48, b"\2" * 48
    ask(simulator, "tdx.extend", "vm-b", first)
    ask(simulator, "tdx.extend", "vm-b", second)
    assert quote_of(simulator, "vm-b").rt_mr3 == extend(extend(bytes(48), first), second)
    ask(simulator, "launch", "vm-b")
    assert quote_of(simulator, "vm-b").rt_mr3 == bytes(48)
    assert ask(simulator, "tdx.quote", "vm-b", REPORT_DATA)[3] == []


def test_gpu_reports_are_bound_to_vm_and_nonce(simulator: Simulator) -> None:
    ask(simulator, "launch", "vm-c", 2)
    first = ask(simulator, "gpu.report", "vm-c", 0, NONCE)
    second = ask(simulator, "gpu.report", "vm-c", 1, NONCE)
    assert first[1][4:36] == NONCE
    assert first[2][0] != second[2][0]
    assert "below 2" in refused(simulator, "gpu.report", "vm-c", 2, NONCE)
    ask(simulator, "launch", "vm-d")
    assert ask(simulator, "gpu.report", "vm-d", 0, NONCE)[2][0] not in (first[2][0], second[2][0])


def test_forged_quote_is_signed_anew(simulator: Simulator) -> None:
    ask(simulator, "launch", "vm-e")
    start = quote_of(simulator, "vm-e").to_bytes()
    forged = ask(simulator, "forge.quote", start, {"td_attributes": b"\1\0\0\x10\0\0\0\0"})[1]
    quote = tdx.parse_quote(forged)
    tdx.check_signature(quote, roots=roots_of(simulator), now=NOW)
    assert quote.report_data == REPORT_DATA
    with refuses("debug"):
        tdx.check_attributes(quote)


def test_forged_quote_under_another_root(simulator: Simulator) -> None:
    ask(simulator, "launch", "vm-f")
    start = quote_of(simulator, "vm-f").to_bytes()
    quote = tdx.parse_quote(ask(simulator, "forge.quote", start, {}, True)[1])
    assert quote.signed_region == tdx.parse_quote(start).signed_region
    with refuses("wrong-root"):
        tdx.check_signature(quote, roots=roots_of(simulator), now=NOW)


def test_forged_gpu_report_answers_any_nonce(simulator: Simulator) -> None:
    assert ask(simulator, "forge.gpu", 3, NONCE)[1][4:36] == NONCE


REFUSED = {
    "unknown-operation": ("reboot",),
    "operation-is-no-text": (7,),
    "no-such-vm": ("tdx.quote", "nobody", REPORT_DATA),
    "vm-id-is-bytes": ("launch", b"vm"),
    "vm-id-too-long": ("launch", "v" * 65),
    "too-many-gpus": ("launch", "vm-x", 9),
    "gpus-is-bool": ("launch", "vm-x", True),
    "short-report-data": ("tdx.quote", "vm", bytes(63)),
    "short-digest": ("tdx.extend", "vm", bytes(32)),
    "short-nonce": ("gpu.report", "vm", 0, bytes(31)),
    "gpu-below-zero": ("gpu.report", "vm", -1, NONCE),
    "forge-unknown-field": ("forge.quote", machine().quote(), {"mr_nothing": b""}),
    "forge-wrong-length": ("forge.quote", machine().quote(), {"mr_td": b""}),
    "forge-text-value": ("forge.quote", machine().quote(), {"mr_td": "text"}),
    "forge-from-no-quote": ("forge.quote", b"quote", {}),
    "forge-gpu-no-index": ("forge.gpu", None, NONCE),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_request_is_answered_with_an_error(simulator: Simulator, name: str) -> None:
    ask(simulator, "launch", "vm")
    assert refused(simulator, *REFUSED[name])


def test_rtmr3_log_is_bounded(simulator: Simulator) -> None:
    ask(simulator, "launch", "vm-log")
    for _ in range(64):
        ask(simulator, "tdx.extend", "vm-log", bytes(48))
    assert "at most 64" in refused(simulator, "tdx.extend", "vm-log", bytes(48))


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=80)
OPERATIONS = st.sampled_from(
    ["launch", "tdx.extend", "tdx.quote", "gpu.report", "forge.quote", "forge.gpu", "x"]
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(OPERATIONS, st.dictionaries(st.integers(1, 3), VALUES | st.dictionaries(VALUES, VALUES)))
def test_any_request_is_answered(
    simulator: Simulator, operation: str, arguments: dict[int, Any]
) -> None:
    assert simulator.handle({**arguments, 0: operation})[0] in ("ok", "error")


def test_state_directory_keeps_the_pki_and_its_keys_to_the_owner(tmp_path: Path) -> None:
    state = tmp_path / "state"
    first, second = (intel.SimulatedIntel(state, NOW) for _ in range(2))
    assert first.quote() == second.quote()
    assert first.collateral(NOW) == second.collateral(NOW + 60)
    keys = list(state.iterdir())
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    assert intel.SimulatedIntel(tmp_path / "other", NOW).root_spki != first.root_spki


def test_pki_does_not_reach_beyond_its_dates(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        intel.SimulatedIntel(tmp_path, 2_400_000_000)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sources")
    for package in ("attestation", "enclave/guest"):
        shutil.copytree(SOURCE_ROOT / package, root / package)
    return root


def test_changed_guest_code_changes_rtmr2_only(sources: Path) -> None:
    before = launch(sources)
    added = sources / "enclave" / "guest" / "backdoor.py"
    added.write_text("prompts = []\n")
    after = launch(sources)
    assert before.registers[:3] == after.registers[:3]
    assert before.registers[3] != after.registers[3]
    added.unlink()
    assert launch(sources) == before


def test_names_are_measured_with_their_contents(sources: Path) -> None:
    before = guest_digest(sources)
    path = sources / "attestation" / "trust" / "roots.py"
    path.rename(path.with_name("roots2.py"))
    assert guest_digest(sources) != before
    path.with_name("roots2.py").rename(path)
    (sources / "attestation" / "__pycache__").mkdir(exist_ok=True)
    (sources / "attestation" / "__pycache__" / "roots.pyc").write_bytes(b"x")
    assert guest_digest(sources) == before


def test_sources_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        guest_digest(tmp_path)


def exchange(path: Path, request: bytes) -> dict[int, Any]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        data = b""
        while part := client.recv(65536):
            data += part
    return cbor.decode(data)


@pytest.fixture
def socket_path(simulator: Simulator, tmp_path: Path):
    path = tmp_path / "sim"
    with server.Server(path, simulator) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield path
        running.shutdown()
        thread.join()


def test_one_connection_is_one_request(socket_path: Path) -> None:
    assert stat.S_IMODE(socket_path.stat().st_mode) == 0o600
    assert exchange(socket_path, cbor.encode({0: "launch", 1: "vm-s"})) == {0: "ok"}
    answer = exchange(socket_path, cbor.encode({0: "tdx.quote", 1: "vm-s", 2: REPORT_DATA}))
    assert tdx.parse_quote(tdx.cut_padding(answer[1])).report_data == REPORT_DATA


@pytest.mark.parametrize(
    "request_bytes",
    [b"", b"\xff", cbor.encode([]), cbor.encode({1: "x"}), cbor.encode({0: "roots"}) + b"\0"],
    ids=["empty", "no-cbor", "no-map", "no-operation", "trailing-byte"],
)
def test_malformed_request_is_answered_with_an_error(
    socket_path: Path, request_bytes: bytes
) -> None:
    assert exchange(socket_path, request_bytes)[0] == "error"


def test_a_second_simulator_does_not_take_the_socket(
    socket_path: Path, simulator: Simulator
) -> None:
    with pytest.raises(UsageError, match="another simulator"):
        server.Server(socket_path, simulator)


def test_process_serves_until_sigterm(tmp_path: Path) -> None:
    path = tmp_path / "sim"
    command = [sys.executable, "-m", "enclave.simulator"]
    command += ["--socket", str(path), "--state", str(tmp_path / "state")]
    with subprocess.Popen(command, cwd=SOURCE_ROOT, stdout=subprocess.PIPE) as process:
        assert json.loads(process.stdout.readline()) == {"listening": str(path)}
        pins = exchange(path, cbor.encode({0: "roots"}))[1]
        assert {len(pin) for pin in pins.values()} == {32}
        process.send_signal(signal.SIGTERM)
        assert process.wait(HANG_S) == 0
    assert not path.exists()
