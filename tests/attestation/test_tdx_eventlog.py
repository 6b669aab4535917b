"""The CCEL: only a log that replays to the quote's registers is believed."""

from __future__ import annotations

import functools
import hashlib
import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import NotAuthentic, ParseError, UmayError
from attestation.formats.evidence import INIT_DONE, Evidence
from attestation.platforms.tdx import check_replay, parse_ccel, parse_quote, replay
from attestation.platforms.tdx.cpu import TdxCpu
from attestation.platforms.tdx.eventlog import (
    Event,
    EventLog,
    cut_fill,
    extend,
    specification,
)
from enclave.simulator import ccel
from tests.helpers.tdx_machine import flip, machine, refuses

LAUNCH = ccel.launch(ccel.SOURCE_ROOT)
LOG = parse_ccel(LAUNCH.ccel)
RTMR3 = (hashlib.sha384(b"host config").digest(), hashlib.sha384(b"init done").digest())


def quote(rtmr3: bytes):
    registers = {f"rt_mr{number}": value for number, value in enumerate(LAUNCH.rtmrs)}
    return parse_quote(machine().quote(**registers, mr_td=LAUNCH.mr_td, rt_mr3=rtmr3))


QUOTE = quote(extend(extend(bytes(48), RTMR3[0]), RTMR3[1]))


def with_events(*events: Event) -> bytes:
    return replace(LOG, events=events).to_bytes()


def test_log_replays_to_the_quote() -> None:
    check_replay(QUOTE, LAUNCH.ccel, RTMR3)
    assert replay(LAUNCH.ccel, RTMR3) == QUOTE.rtmrs
    assert QUOTE.registers == LAUNCH.registers


def test_replay_is_sha384_of_register_and_digest() -> None:
    first, second = b"\1" * 48, b"\2" * 48
    expected = hashlib.sha384(hashlib.sha384(bytes(48) + first).digest() + second).digest()
    log = EventLog(1, specification(), (Event(2, 7, first, b""), Event(2, 7, second, b"x")))
    assert replay(log.to_bytes(), ())[1] == expected


def test_no_action_events_extend_nothing() -> None:
    log = EventLog(1, specification(), (Event(1, 3, b"\1" * 48, b"note"),))
    assert replay(log.to_bytes(), ())[0] == bytes(48)


def note(index: int = 0, data: bytes = b"SP800-155 Event3") -> Event:
    return Event(index, 3, bytes(48), data)


NOTED = {
    "in-front": with_events(note(), *LOG.events),
    "at-the-end": with_events(*LOG.events, note()),
    "one-per-component": with_events(*[note()] * 3, *LOG.events[:4], note(), *LOG.events[4:]),
    "in-rtmr0": with_events(note(1), *LOG.events),
    "in-rtmr3": with_events(*LOG.events, note(4)),
    "without-data": with_events(note(data=b""), *LOG.events),
}


@pytest.mark.parametrize("fill", [b"", b"\xff" * 60_000, bytes(60_000)], ids=["none", "ff", "zero"])
@pytest.mark.parametrize("name", NOTED)
def test_notes_of_the_firmware_change_no_register(name: str, fill: bytes) -> None:
    assert cut_fill(NOTED[name] + fill) == NOTED[name]
    check_replay(QUOTE, NOTED[name], RTMR3)
    assert parse_ccel(NOTED[name]).to_bytes() == NOTED[name]


def test_events_say_which_data_is_measured() -> None:
    action = next(event for event in LOG.events if event.data.startswith(b"Exit Boot"))
    guest = LOG.events[-1]
    assert (action.data_is_measured, action.rtmr, action.name) == (True, 1, "UEFI action")
    assert (guest.data_is_measured, guest.rtmr) == (False, 2)


CHANGED = {
    "wrong-event-digest": with_events(
        replace(LOG.events[0], digest=flip(LOG.events[0].digest, 0)), *LOG.events[1:]
    ),
    "extra-event": with_events(*LOG.events, Event(3, 6, b"\1" * 48, b"")),
    "event-left-out": with_events(*LOG.events[:-1]),
    "other-order": with_events(LOG.events[1], LOG.events[0], *LOG.events[2:]),
    "other-register": with_events(replace(LOG.events[0], index=2), *LOG.events[1:]),
    "no-events": with_events(),
}


@pytest.mark.parametrize("name", CHANGED)
def test_other_log_does_not_replay(name: str) -> None:
    with refuses("rtmr-mismatch", NotAuthentic):
        check_replay(QUOTE, CHANGED[name], RTMR3)


@pytest.mark.parametrize(
    "events", [(), RTMR3[:1], RTMR3[::-1], (*RTMR3, RTMR3[1]), (b"\1" * 48, RTMR3[1])]
)
def test_other_rtmr3_events_do_not_replay(events: tuple[bytes, ...]) -> None:
    with refuses("rtmr-mismatch", NotAuthentic) as caught:
        check_replay(QUOTE, LAUNCH.ccel, events)
    assert "RTMR3" in str(caught.value)


def test_firmware_event_in_rtmr3() -> None:
    with refuses("rtmr3-in-ccel", NotAuthentic):
        replay(with_events(*LOG.events, Event(4, 6, b"\1" * 48, b"")), RTMR3)


def test_rtmr3_event_of_another_length() -> None:
    with pytest.raises(ParseError):
        replay(LAUNCH.ccel, (b"\1" * 32,))


HOST = b"[network]\n"
MEASURED = tuple(hashlib.sha384(part).digest() for part in (HOST, INIT_DONE))
OTHER_BOOTS = {
    "no events": (),
    "host config alone": MEASURED[:1],
    "an event more": (*MEASURED, MEASURED[1]),
    "another host config": RTMR3,
    "other order": MEASURED[::-1],
}


def booted(events: tuple[bytes, ...]) -> str:
    """Step measurement over a quote to whose RTMR3 exactly these events lead."""
    rtmr3 = functools.reduce(extend, events, bytes(48))
    registers = {f"rt_mr{number}": value for number, value in enumerate(LAUNCH.rtmrs[:3])}
    cpu = TdxCpu(machine().quote(**registers, rt_mr3=rtmr3))
    evidence = Evidence(
        platform="tdx",
        bundle=b"",
        quote=cpu.bytes,
        ccel=LAUNCH.ccel,
        rtmr3_events=events,
        devices=(),
    )
    return cpu.check_boot(evidence, HOST)


@pytest.mark.parametrize("events", OTHER_BOOTS.values(), ids=OTHER_BOOTS)
def test_rtmr3_names_the_host_config_and_nothing_else(events: tuple[bytes, ...]) -> None:
    assert booted(MEASURED) == "event log replays to RTMR0-3"
    with refuses("host-config-mismatch", NotAuthentic):
        booted(events)


def raw_event(index: int = 1, count: int = 1, algorithm: int = 0xC, size: int = 0) -> bytes:
    return struct.pack("<IIIH", index, 6, count, algorithm) + bytes(48) + struct.pack("<I", size)


HEAD = EventLog(1, specification(), ()).to_bytes()
BAD = {
    "empty": b"",
    "truncated": LAUNCH.ccel[:-1],
    "truncated-header": LAUNCH.ccel[:30],
    "fill-after-the-end": LAUNCH.ccel + b"\xff" * 8,
    "trailing-byte": LAUNCH.ccel + b"\0",
    "too-long": bytes(600 * 1024),
    "first-event-is-no-spec-id": raw_event(),
    "first-event-of-register-2": b"\2" + HEAD[1:],
    "first-event-of-another-type": HEAD[:4] + b"\4" + HEAD[5:],
    "first-digest-not-zero": flip(HEAD, 10),
    "sha256-log": EventLog(
        1, specification().replace(b"\x0c\0\x30\0", b"\x0b\0\x20\0"), ()
    ).to_bytes(),
    "two-algorithms": EventLog(
        1, specification().replace(b"\1\0\0\0\x0c", b"\2\0\0\0\x0c"), ()
    ).to_bytes(),
    "older-spec": EventLog(1, specification().replace(b"t03", b"t02"), ()).to_bytes(),
    "spec-id-trailing": EventLog(1, specification() + b"\0", ()).to_bytes(),
    "register-0": HEAD + raw_event(index=0),
    "register-5": HEAD + raw_event(index=5),
    "note-in-register-5": with_events(note(5)),
    "two-digests": HEAD + raw_event(count=2),
    "sha256-event": HEAD + raw_event(algorithm=0xB),
    "data-beyond-the-end": HEAD + raw_event(size=1),
    "too-many-events": HEAD + raw_event() * 4097,
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_log_is_refused(name: str) -> None:
    with pytest.raises(ParseError):
        parse_ccel(BAD[name])


@pytest.mark.parametrize("size", [0, 3, 4, 8, 11, 12, 4096])
@pytest.mark.parametrize("value", [b"\xff", b"\0"])
def test_guest_cuts_the_fill_and_nothing_else(value: bytes, size: int) -> None:
    assert cut_fill(LAUNCH.ccel + value * size) == LAUNCH.ccel


@pytest.mark.parametrize(
    "rest",
    [b"\xff" * 64 + b"\0", bytes(64) + b"\xff", bytes(64) + raw_event(), b"\xff" * 64 + b"text"],
    ids=["ff-zero", "zero-ff", "zero-event", "ff-text"],
)
def test_what_is_no_fill_is_not_cut(rest: bytes) -> None:
    with pytest.raises(ParseError, match="fill"):
        cut_fill(LAUNCH.ccel + rest)


def test_an_event_of_four_bytes_is_cut_short() -> None:
    with pytest.raises(ParseError, match="expected 4 more bytes, got 0"):
        cut_fill(LAUNCH.ccel + b"text")


def test_an_area_has_a_limit() -> None:
    with pytest.raises(ParseError, match="at most"):
        cut_fill(LAUNCH.ccel.ljust(4 * 1024 * 1024 + 1, b"\xff"))
    assert cut_fill(LAUNCH.ccel.ljust(4 * 1024 * 1024, b"\xff")) == LAUNCH.ccel


def test_a_log_has_a_limit() -> None:
    def log(size: int) -> bytes:
        data = bytes(size - len(HEAD) - len(raw_event()))
        return HEAD + raw_event(size=len(data)) + data

    assert parse_ccel(log(512 * 1024)).events
    with pytest.raises(ParseError, match="at most 524288 bytes"):
        parse_ccel(log(512 * 1024 + 1))


def test_a_log_has_at_most_4096_events() -> None:
    assert len(parse_ccel(HEAD + raw_event() * 4096).events) == 4096


@pytest.mark.parametrize("kind", [0, 4, 6, 0x80000001])
def test_an_event_that_extends_needs_a_register(kind: int) -> None:
    for read in (parse_ccel, cut_fill):
        with pytest.raises(ParseError, match="register index 0"):
            read(with_events(Event(0, kind, bytes(48), b"")))


EVENTS = st.builds(
    Event,
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
    st.binary(min_size=48, max_size=48),
    st.binary(max_size=80),
)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1), st.binary(max_size=20), st.lists(EVENTS, max_size=8))
def test_logs_encode_and_parse_back(index: int, vendor: bytes, events: list[Event]) -> None:
    log = EventLog(index, specification(vendor), tuple(events))
    assert parse_ccel(log.to_bytes()) == log


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(LAUNCH.ccel) - 1), st.binary(max_size=70))
def test_any_log_raises_only_our_errors(at: int, data: bytes) -> None:
    for attempt in (data, LAUNCH.ccel[:at] + data, LAUNCH.ccel[:at] + data + LAUNCH.ccel[at:]):
        try:
            assert parse_ccel(attempt).to_bytes() == attempt
            replay(attempt, ())
        except UmayError:
            pass
        try:
            cut_fill(attempt)
        except UmayError:
            pass
