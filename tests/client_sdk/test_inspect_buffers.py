"""`umay audit inspect`: what stands behind the content, and event logs as they are found."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attestation.errors import ParseError
from attestation.platforms.snp.report import RESPONSE_HEADER
from attestation.platforms.tdx import Event, cut_padding, parse_ccel
from attestation.trust.roots import PRODUCTION
from client_sdk.inspection.files import inspect, inspect_files, offered
from client_sdk.inspection.result import CheckInputs, InspectionResult, exit_code
from enclave.simulator.amd import SimulatedAmd
from tests.helpers.places import CAPTURED, EVIDENCE
from tests.helpers.world import NOW, World

MAYBE = CheckInputs(NOW, PRODUCTION)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.start(tmp_path_factory.mktemp("simulator"))


@pytest.fixture(scope="module")
def contents(world: World) -> dict[str, bytes]:
    table = b"CCEL" + struct.pack("<IB", 56, 1) + bytes(31) + struct.pack("<QQ", 65536, 0x7F000000)
    return {
        "quote": world.evidence.quote,
        "snp": SimulatedAmd().report(),
        "gpu": world.evidence.devices[0].report,
        "table": table,
    }


def of(found: InspectionResult, name: str) -> str:
    return next((f"{item.value}: {item.meaning}" for item in found.fields if item.name == name), "")


def verdicts(found: InspectionResult) -> dict[str, str]:
    return {check.name: check.code or check.status for check in found.checks}


@pytest.mark.parametrize("size", [1, 70, 307, 3061])
@pytest.mark.parametrize("name", ["quote", "snp", "gpu", "table"])
def test_zeros_behind_are_told_as_padding(contents: dict[str, bytes], name: str, size: int) -> None:
    plain = inspect("f", contents[name], MAYBE)[0]
    padded = inspect("f", contents[name] + bytes(size), MAYBE)[0]
    assert of(padded, "padding").startswith(f"{size} zero bytes after the ")
    assert of(padded, "padding").endswith(": padding of the host's buffer")
    assert not of(plain, "padding")
    assert (padded.kind, verdicts(padded)) == (plain.kind, verdicts(plain))


@pytest.mark.parametrize("rest", [b"\n", bytes(69) + b"\1", b"\xff" * 8], ids=["lf", "late", "ff"])
@pytest.mark.parametrize("name", ["quote", "snp", "gpu", "table"])
def test_other_bytes_behind_fail_and_leave_the_verdict(
    contents: dict[str, bytes], name: str, rest: bytes
) -> None:
    plain = verdicts(inspect("f", contents[name], MAYBE)[0])
    found = inspect("f", contents[name] + rest, MAYBE)
    assert verdicts(found[0]) == {"length": "malformed", **plain}
    assert exit_code(found) == 3


def test_the_firmware_s_answer_around_a_report_is_read(contents: dict[str, bytes]) -> None:
    answer = (RESPONSE_HEADER + contents["snp"]).ljust(4000, b"\0")
    found = inspect("f", answer, MAYBE)[0]
    assert found.kind.startswith("SEV-SNP report")
    assert of(found, "padding").startswith("2784 zero bytes")


def test_evidence_with_a_padded_quote_is_malformed(world: World) -> None:
    """The producer cuts: what is on record has one spelling."""
    padded = dataclasses.replace(world.evidence, quote=world.evidence.quote + bytes(307))
    found = inspect("e", padded.to_bytes(), CheckInputs(NOW, world.policy.roots, world.collateral))
    assert verdicts(found[0]) == {"binding": "malformed"}
    assert exit_code(found) == 3


@pytest.mark.parametrize("form", ["raw", "hex", "base64"])
def test_a_padded_quote_serves_the_log_beside_it(world: World, tmp_path: Path, form: str) -> None:
    import base64

    quote, log = world.evidence.quote + bytes(307), world.evidence.ccel + b"\xff" * 60_000
    text = {"raw": quote, "hex": quote.hex().encode(), "base64": base64.encodebytes(quote)}[form]
    (tmp_path / "quote").write_bytes(text)
    (tmp_path / "ccel").write_bytes(log)
    found = inspect_files([tmp_path / "quote", tmp_path / "ccel"], MAYBE)
    assert verdicts(found[1]) == {"measurement": "passed"}
    assert of(found[1], "padding").startswith("60000 bytes of fill")


def test_a_quote_with_other_bytes_behind_it_serves_no_log(world: World, tmp_path: Path) -> None:
    (tmp_path / "quote").write_bytes(world.evidence.quote + bytes(306) + b"\1")
    (tmp_path / "ccel").write_bytes(world.evidence.ccel)
    found = inspect_files([tmp_path / "quote", tmp_path / "ccel"], MAYBE)
    assert verdicts(found[1]) == {"measurement": "not checked"}


def test_a_note_of_the_firmware_is_shown_as_one(world: World) -> None:
    log = parse_ccel(world.evidence.ccel)
    noted = dataclasses.replace(log, events=(Event(0, 3, bytes(48), b"SP800"), *log.events))
    given = dataclasses.replace(MAYBE, quotes=(world.evidence.quote,))
    found = inspect("f", noted.to_bytes() + bytes(500), given)[0]
    assert of(found, "event 0") == f"no register {'0' * 32}…: no action"
    assert verdicts(found) == {"measurement": "passed"}


@pytest.fixture
def captured() -> Path:
    if not CAPTURED.is_dir():
        pytest.skip(f"no captured evidence at {CAPTURED}")
    return CAPTURED


def test_a_real_padded_quote_and_its_log(captured: Path) -> None:
    paths = [captured / "tdx-v4-c8s-padded.bin", captured / "ccel-c8s.bin"]
    found = inspect_files(paths, MAYBE)
    expected = "307 zero bytes after the quote: padding of the host's buffer"
    assert of(found[0], "padding") == expected
    assert verdicts(found[0])["cpu-signature"] == "passed"
    assert verdicts(found[1]) == {"measurement": "passed"}
    assert exit_code(found) == 6  # no collateral was given


# dstack's event log


@pytest.fixture
def dstack() -> dict[str, Any]:
    path = EVIDENCE / "event_log" / "dstack-tee-quote-report.json"
    if not path.is_file():
        pytest.skip(f"no evidence at {path}")
    return dict(json.loads(path.read_bytes()))


HOLDS = {"measurement": "passed", "event-content": "passed"}


def events(report: dict[str, Any]) -> list[dict[str, Any]]:
    return list(json.loads(report["event_log"]))


def stripped(report: dict[str, Any], **change: Any) -> list[dict[str, Any]]:
    """As dstack sends it: digests of RTMR3 left out, payloads of the others too."""
    return [
        {**event, **change} if event["imr"] == 3 else {**event, "event_payload": ""}
        for event in events(report)
    ]


@pytest.mark.parametrize("change", [{"digest": ""}, {"digest": None}], ids=str)
def test_digests_of_rtmr3_are_computed_where_the_list_has_none(
    dstack: dict[str, Any], change: dict[str, Any]
) -> None:
    text = {**dstack, "event_log": json.dumps(stripped(dstack, **change))}
    found = inspect("f", json.dumps(text).encode(), MAYBE)[0]
    assert verdicts(found) == HOLDS
    number = next(n for n, event in enumerate(events(dstack)) if event["event"] == "app-id")
    digest = events(dstack)[number]["digest"]
    text = "app-id; the list has no digest, so it was computed"
    assert of(found, f"event {number}") == f"RTMR3 {digest[:32]}…: {text}"


def test_an_event_without_the_field_digest(dstack: dict[str, Any]) -> None:
    listed = stripped(dstack)
    for event in listed:
        if event["imr"] == 3:
            del event["digest"]
    text = json.dumps({**dstack, "event_log": listed}).encode()
    assert verdicts(inspect("f", text, MAYBE)[0]) == HOLDS


def test_a_list_alone_replays_to_a_quote_beside_it(dstack: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "quote").write_text(dstack["quote"])
    (tmp_path / "log.json").write_text(json.dumps(stripped(dstack, digest="")))
    found = inspect_files([tmp_path / "log.json", tmp_path / "quote"], MAYBE)
    assert verdicts(found[0]) == HOLDS
    alone = inspect_files([tmp_path / "log.json"], MAYBE)
    assert verdicts(alone[0]) == {**HOLDS, "measurement": "not checked"}


CHANGED: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "payload": lambda found: found[-2].update(event_payload="00"),
    "name": lambda found: found[-2].update(event="system-redy"),
    "type": lambda found: found[-2].update(event_type=0x08000002),
    "order": lambda found: found.append(found.pop(-2)),
    "left-out": lambda found: found.pop(),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_computed_digest_follows_its_event(dstack: dict[str, Any], name: str) -> None:
    listed = stripped(dstack, digest="")
    CHANGED[name](listed)
    text = json.dumps({**dstack, "event_log": json.dumps(listed)}).encode()
    assert verdicts(inspect("f", text, MAYBE)[0]) == {**HOLDS, "measurement": "rtmr-mismatch"}


FORGED: dict[str, dict[str, Any]] = {
    "payload": {"event_payload": "00"},
    "no payload": {"event_payload": ""},
    "name": {"event": "instance-id"},
    "no name": {"event": ""},
    "type 1": {"event_type": 1},
    "type 1, payload and name": {"event_type": 1, "event": "app-id", "event_payload": "00"},
    "a type of firmware's": {"event_type": 0x80000007, "event_payload": "00"},
    "the next type": {"event_type": 0x08000002},
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_content_of_an_event_of_the_guest_fails(dstack: dict[str, Any], name: str) -> None:
    listed = events(dstack)
    listed[-1].update(FORGED[name])
    text = json.dumps({**dstack, "event_log": json.dumps(listed)}).encode()
    found = inspect("f", text, MAYBE)
    expected = {"measurement": "passed", "event-content": "event-content"}
    assert verdicts(found[0]) == expected  # the registers bind digests alone
    number = len(listed) - 1
    assert of(found[0], f"event {number}").endswith("; the content is not what was hashed")
    check = next(check for check in found[0].checks if check.name == "event-content")
    assert f"event {number} of RTMR3" in check.text and exit_code(found) == 3


UNBOUND: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "payload of a boot event": lambda found: found[0].update(event_payload="00"),
    "name of a boot event": lambda found: found[7].update(event="app-id"),
    "name and payload of a boot event": lambda found: found[7].update(
        event="app-id", event_payload="00"
    ),
    "a named note": lambda found: found.append(note(3, "app-id", "00")),
    "a named note for no register": lambda found: found.append(note(-1, "app-id", "")),
    "a note with a payload": lambda found: found.append(note(3, "", "53")),
}


def note(register: int, name: str, payload: str) -> dict[str, Any]:
    """An event that extends nothing."""
    text = {"event": name, "event_payload": payload, "digest": ""}
    return {"imr": register, "event_type": 3, **text}


@pytest.mark.parametrize("name", UNBOUND)
def test_content_that_no_known_rule_binds_is_not_checked(dstack: dict[str, Any], name: str) -> None:
    listed = stripped(dstack)
    UNBOUND[name](listed)
    text = json.dumps({**dstack, "event_log": json.dumps(listed)}).encode()
    found = inspect("f", text, MAYBE)
    assert verdicts(found[0]) == {"measurement": "passed", "event-content": "not checked"}
    words = [field.value for field in found[0].fields if field.name.startswith("event ")]
    assert any("not bound" in of(found[0], f"event {number}") for number in range(len(words)))


def test_boot_events_with_the_data_that_was_hashed_hold(dstack: dict[str, Any]) -> None:
    """A separator's digest is SHA-384 of its data; a firmware blob's is of the blob."""
    whole, listed = events(dstack), stripped(dstack)
    listed[7]["event_payload"] = whole[7]["event_payload"]
    text = json.dumps({**dstack, "event_log": json.dumps(listed)}).encode()
    assert verdicts(inspect("f", text, MAYBE)[0]) == HOLDS
    text = json.dumps({**dstack, "event_log": json.dumps(whole)}).encode()
    assert verdicts(inspect("f", text, MAYBE)[0])["event-content"] == "not checked"


def runtime(name: str, payload: bytes, kind: int = 0x08000001) -> dict[str, Any]:
    """An event as dstack's guest extends it."""
    content = b":".join((kind.to_bytes(4, "little"), name.encode(), payload))
    digest = hashlib.sha384(content).hexdigest()
    listed = {"event": name, "event_payload": payload.hex(), "digest": digest}
    return {"imr": 3, "event_type": kind, **listed}


SYNTHETIC: dict[str, tuple[dict[str, Any], str]] = {
    "genuine": (runtime("app-id", b"\1"), "passed"),
    "of another type": (runtime("app-id", b"\1", 7), "passed"),
    "with the digest of another": (
        {**runtime("app-id", b"\1"), "digest": runtime("app-id", b"\2")["digest"]},
        "event-content",
    ),
    "hashed as firmware does": (
        {**runtime("", b"\1"), "digest": hashlib.sha384(b"\1").hexdigest()},
        "event-content",
    ),
    "name and payload cut at another colon": (runtime("config:port", b"1"), "not checked"),
    "a digest alone": ({**runtime("app-id", b"\1"), "event": "", "event_payload": ""}, "passed"),
    "on a boot register": ({**runtime("app-id", b"\1"), "imr": 2}, "not checked"),
}


@pytest.mark.parametrize(("event", "expected"), SYNTHETIC.values(), ids=SYNTHETIC)
def test_a_list_of_one_event(event: dict[str, Any], expected: str) -> None:
    found = inspect("f", json.dumps([event]).encode(), MAYBE)[0]
    assert verdicts(found) == {"measurement": "not checked", "event-content": expected}


def test_a_note_in_the_list_extends_nothing(dstack: dict[str, Any]) -> None:
    text = json.dumps(
        {**dstack, "event_log": json.dumps([note(-1, "", ""), *stripped(dstack)])}
    ).encode()
    found = inspect("f", text, MAYBE)[0]
    assert verdicts(found) == HOLDS
    assert of(found, "event 0").startswith("no register")


BROKEN: dict[str, dict[str, Any]] = {
    "boot-event-without-digest": {"imr": 0, "digest": ""},
    "register-4": {"imr": 4},
    "register-below-zero": {"imr": -1},
    "register-is-true": {"imr": True},
    "short-digest": {"digest": "00" * 32},
    "digest-no-hex": {"digest": "x" * 96},
    "type-too-large": {"event_type": 1 << 32},
    "type-is-text": {"event_type": "6"},
    "payload-no-hex": {"event_payload": "x"},
    "event-is-a-number": {"event": 7},
    "event-is-no-text": {"event": "\ud800"},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_event_is_refused(dstack: dict[str, Any], name: str) -> None:
    listed = events(dstack)
    listed[-1].update(BROKEN[name])
    found = inspect("f", json.dumps({**dstack, "event_log": json.dumps(listed)}).encode(), MAYBE)
    assert verdicts(found[0]) == {"format": "malformed"}
    assert verdicts(found[1])["cpu-attributes"] == "passed"  # the quote beside it is judged


def test_a_padded_quote_in_a_report_is_told(dstack: dict[str, Any]) -> None:
    exact = cut_padding(bytes.fromhex(dstack["quote"]))
    for rest, expected in ((bytes(70), True), (b"", False)):
        text = json.dumps({**dstack, "quote": (exact + rest).hex()}).encode()
        assert bool(of(inspect("f", text, MAYBE)[1], "padding")) == expected
    text = json.dumps({**dstack, "quote": (exact + b"\1").hex()}).encode()
    assert verdicts(inspect("f", text, MAYBE)[1])["length"] == "malformed"


def test_no_events_are_no_log() -> None:
    for text in (b"[]", b'{"quote": "00"}'):
        with pytest.raises(ParseError):
            inspect("f", text, MAYBE)
    named = inspect("f", b'{"quote": "", "event_log": "[]"}', MAYBE)
    assert verdicts(named[0]) == {"format": "malformed"}


def test_a_padded_file_adds_its_quote_once(world: World, tmp_path: Path) -> None:
    (tmp_path / "quote").write_bytes(world.evidence.quote + bytes(70))
    assert offered([tmp_path / "quote"], MAYBE).quotes == (world.evidence.quote,)
