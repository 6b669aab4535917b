"""What others write evidence into is named for what it is, shown, and judged as far as it goes."""

from __future__ import annotations

import base64
import dataclasses
import functools
import gzip
import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import ParseError
from attestation.platforms import azure, tdx
from attestation.platforms.tdx.quote import write_pem
from attestation.trust.roots import PRODUCTION
from client_sdk.inspection import gpu, jsontext, tcglog, tokens, wrapped
from client_sdk.inspection.files import inspect, inspect_files, offered
from client_sdk.inspection.result import CheckInputs, InspectionResult, exit_code
from enclave.simulator.amd import SimulatedAmd
from tests.helpers import azure_machine, tcg_logs
from tests.helpers.world import NOW, World

MAYBE = CheckInputs(NOW, PRODUCTION)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.start(tmp_path_factory.mktemp("simulator"))


@pytest.fixture
def mine(world: World) -> CheckInputs:
    return CheckInputs(NOW, world.policy.roots, world.collateral)


def said(found: InspectionResult) -> dict[str, str]:
    """By check: "passed", "not checked", or the code of the failure."""
    return {c.name: c.code if c.status == "failed" else c.status for c in found.checks}


def values(found: InspectionResult) -> dict[str, str]:
    return {field.name: field.value for field in found.fields}


def text_of(found: InspectionResult, name: str) -> str:
    return next(check.text for check in found.checks if check.name == name)


# Event logs of TPMs


LOCALITY = (0, tcg_logs.NO_ACTION, b"StartupLocality\0\3")
TPM_LOGS: dict[str, tuple[Callable[[], bytes], str]] = {
    "SHA-1, SHA-256 and SHA-384": (tcg_logs.agile, "sha256"),
    "SHA-256 alone": (lambda: tcg_logs.agile(("sha256",)), "sha256"),
    "SHA-1 alone, agile": (lambda: tcg_logs.agile(("sha1",)), "sha1"),
    "SHA-384 alone, as a CCEL has it": (lambda: tcg_logs.agile(("sha384",)), "sha384"),
    "SHA-512 among them": (lambda: tcg_logs.agile(("sha384", "sha512")), "sha512"),
    "of TPM 1.2": (
        lambda: tcg_logs.header(b"Spec ID Event00\0" + bytes(9)) + tcg_logs.sha1(),
        "sha1",
    ),
    "of TPM 1.2 without a format event": (tcg_logs.sha1, "sha1"),
    "with 0xFF behind it": (lambda: tcg_logs.agile() + b"\xff" * 900, "sha256"),
    "with zeros behind it": (lambda: tcg_logs.agile() + bytes(65_536), "sha256"),
    "with one zero behind it": (lambda: tcg_logs.agile() + b"\0", "sha256"),
}


@pytest.mark.parametrize(("make", "bank"), TPM_LOGS.values(), ids=TPM_LOGS)
def test_tpm_log_is_named_and_replayed(make: Callable[[], bytes], bank: str) -> None:
    found = inspect("log", make(), MAYBE)[0]
    assert found.kind == "TPM event log, 5 events"
    expected = tcg_logs.pcrs(bank)
    for pcr in (0, 4, 7):
        assert values(found)[f"PCR{pcr}"] == expected[pcr].hex()
    assert said(found) == {"measurement": "not checked"}
    assert values(found)["event 1"].startswith("PCR7 ")


def test_the_locality_of_a_tpm_start_is_in_pcr_0() -> None:
    events = (LOCALITY, *tcg_logs.EVENTS)
    found = inspect("log", tcg_logs.agile(("sha256",), events), MAYBE)[0]
    assert values(found)["PCR0"] != tcg_logs.pcrs()[0].hex()
    assert values(found)["PCR7"] == tcg_logs.pcrs()[7].hex()
    assert values(found)["event 0"].startswith("no register")


@pytest.mark.parametrize("pcrs", [1, 23])
def test_the_work_for_a_tpm_log_grows_with_its_length_alone(
    monkeypatch: pytest.MonkeyPatch, pcrs: int
) -> None:
    """A PCR at reset is asked for once for each PCR, the locality once for each log."""
    asked: list[str] = []

    def counted(name: str) -> Callable[..., bytes]:
        real = getattr(tcglog, name)
        return lambda *given: (asked.append(name), real(*given))[1]

    for name in ("_initial", "_locality"):
        monkeypatch.setattr(tcglog, name, counted(name))
    events = [(number % pcrs, tcg_logs.SEPARATOR, b"") for number in range(4000)]
    found = inspect("log", tcg_logs.agile(("sha256",), events), MAYBE)[0]
    assert found.kind == "TPM event log, 4000 events"
    assert asked.count("_initial") == pcrs and asked.count("_locality") == 1


def test_a_locality_far_into_a_log_counts() -> None:
    late = (*tcg_logs.EVENTS, LOCALITY)
    both = [tcglog.replay(tcglog.read(tcg_logs.agile(("sha256",), events)), "sha256")
            for events in ((LOCALITY, *tcg_logs.EVENTS), late)]  # fmt: skip
    assert both[0] == both[1]


GARBAGE = bytes.fromhex("0500000004000000") + b"\7" * 40
BROKEN_LOGS: dict[str, bytes] = {
    "cut in an event": tcg_logs.agile()[:-3],
    "PCR 24": tcg_logs.agile() + tcg_logs.agile_event((24, 4, b""), ("sha1", "sha256", "sha384")),
    "unknown type": tcg_logs.agile()
    + tcg_logs.agile_event((1, 0x7777, b""), ("sha1", "sha256", "sha384")),
    "a digest too few": tcg_logs.agile() + tcg_logs.agile_event((1, 4, b""), ("sha1", "sha256")),
    "a digest twice": tcg_logs.agile()
    + tcg_logs.agile_event((1, 4, b""), ("sha1", "sha256", "sha256")),
    "a digest of another bank": tcg_logs.agile()
    + tcg_logs.agile_event((1, 4, b""), ("sha1", "sha256", "sha512")),
    "fill that is none": tcg_logs.agile() + bytes(40) + b"\1",
    "garbage behind it": tcg_logs.agile() + GARBAGE,
}


@pytest.mark.parametrize("data", BROKEN_LOGS.values(), ids=BROKEN_LOGS)
def test_broken_tpm_log_is_shown_as_far_as_it_goes(data: bytes) -> None:
    found = inspect("log", data, MAYBE)[0]
    assert found.kind.startswith("TPM event log")
    assert values(found)["event 0"].startswith("PCR0 ")
    assert said(found) == {"measurement": "malformed"}
    assert text_of(found, "measurement").startswith("at byte ")


def spec(banks: int, content: bytes) -> bytes:
    head = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, banks)
    return tcg_logs.header(head + content + b"\0") + tcg_logs.agile()


BROKEN_HEADS = {
    "no bank": spec(0, b""),
    "a thousand banks": spec(1000, b""),
    "an unknown bank": spec(1, struct.pack("<HH", 0x99, 32)),
    "a bank of another size": spec(1, struct.pack("<HH", 0x0B, 20)),
    "a bank twice": spec(2, struct.pack("<HHHH", 0x0B, 32, 0x0B, 32)),
    "cut short": tcg_logs.agile()[:50],
    "bytes after the banks": tcg_logs.header(tcg_logs.specification(("sha256",)) + b"x"),
    "a first event that extends": b"\0\0\0\0\3\0\0\0" + b"\1" * 20 + tcg_logs.agile()[28:],
}


@pytest.mark.parametrize("data", BROKEN_HEADS.values(), ids=BROKEN_HEADS)
def test_log_with_a_broken_first_event_is_named(data: bytes) -> None:
    found = inspect("log", data, MAYBE)[0]
    assert found.kind == "event log, malformed" and said(found) == {"format": "malformed"}


@functools.cache
def vtpm(pcrs: tuple[bytes, ...]) -> bytes:
    """A vTPM quote of these PCRs, as az-cvm-vtpm serialises it."""
    message = azure_machine.message(pcrs=pcrs)
    parts = [struct.pack("<Q", 256), azure_machine.sign(message)]
    parts += [struct.pack("<Q", len(message)), message, struct.pack("<Q", 24), *pcrs]
    return b"".join(parts)


def test_tpm_log_against_a_vtpm_quote(tmp_path: Path) -> None:
    for pcrs, expected in ((tcg_logs.pcrs(), "passed"), (azure_machine.PCRS, "pcr-mismatch")):
        quote = tmp_path / "quote"
        quote.write_bytes(vtpm(pcrs))
        beside = offered([quote], MAYBE)
        assert said(inspect("log", tcg_logs.agile(), beside)[0]) == {"measurement": expected}
        other_bank = tcg_logs.agile(("sha384",))
        assert said(inspect("log", other_bank, beside)[0]) == {"measurement": "not checked"}


def test_broken_ccel_stays_a_ccel(world: World) -> None:
    log = world.evidence.ccel
    count = len(tdx.parse_ccel(log).events)
    for behind in (tcg_logs.agile_event((5, 4, b"x"), ("sha384",)), GARBAGE, b"\1"):
        found = inspect("log", log + behind, MAYBE)[0]
        assert found.kind.startswith("CCEL event log")
        assert said(found) == {"measurement": "malformed"}
        assert values(found)[f"event {count - 1}"].startswith("RTMR")


def test_a_ccel_is_no_tpm_log(world: World) -> None:
    assert inspect("log", world.evidence.ccel, MAYBE)[0].kind.startswith("CCEL")


@given(st.data())
@settings(max_examples=60)
def test_any_event_list_comes_back(data: st.DataObject) -> None:
    banks = data.draw(st.lists(st.sampled_from(sorted(tcg_logs.NUMBERS)), min_size=1, unique=True))
    kinds = st.sampled_from([1, 4, 8, 13, 0x80000001, 0x80000008])
    event = st.tuples(st.integers(0, 15), kinds, st.binary(max_size=40))
    events = data.draw(st.lists(event, min_size=1, max_size=8))
    read = tcglog.read(tcg_logs.agile(banks, events))
    assert [(e.register, e.type, e.data) for e in read.events] == events
    bank = banks[0]
    expected = tcg_logs.pcrs(bank, events)
    assert all(expected[pcr] == value for pcr, value in tcglog.replay(read, bank).items())


@given(st.integers(0, 8 * len(tcg_logs.agile()) - 1), st.integers(0, len(tcg_logs.agile())))
def test_a_changed_or_cut_log_is_a_log_or_refused(bit: int, end: int) -> None:
    data = bytearray(tcg_logs.agile())
    data[bit // 8] ^= 1 << bit % 8
    for changed in (bytes(data), bytes(data[:end])):
        try:
            assert inspect("log", changed, MAYBE)
        except ParseError:
            assert changed[32:46] != b"Spec ID Event0"


def test_limits_of_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcglog, "MAX_EVENTS", 3)
    found = inspect("log", tcg_logs.agile(), MAYBE)[0]
    assert "at most 3 events" in text_of(found, "measurement") and "event 2" in values(found)
    monkeypatch.setattr(tcglog, "MAX_LOG_BYTES", 99)
    found = inspect("log", tcg_logs.agile(), MAYBE)[0]
    assert "at most 99 bytes" in text_of(found, "format")


def test_pcrs_that_are_more_than_24(tmp_path: Path) -> None:
    quote = tmp_path / "quote"
    for behind, expected in (
        (b"", "not checked"),
        (bytes(32), "malformed"),
        (bytes(4096), "malformed"),
    ):
        quote.write_bytes(vtpm(tcg_logs.pcrs()) + behind)
        found = inspect("quote", quote.read_bytes(), MAYBE)[0]
        assert expected in said(found).values()
        assert len(offered([quote], MAYBE).pcrs) == (0 if behind else 1)


# HCL reports


def exact_hcl(data: bytes | None = None) -> bytes:
    data = data or azure_machine.hcl()
    return data[: azure.hcl_length(data)]


@pytest.mark.parametrize("size", [0, 2599, 2600, 2601, 4096])
def test_hcl_report_of_any_length(size: int) -> None:
    found = inspect("hcl", exact_hcl().ljust(size, b"\0"), MAYBE)
    assert said(found[0]) == {"azure-runtime": "passed", "support": "azure-paravisor"}
    assert found[1].kind == "SEV-SNP report, version 3"


@pytest.mark.parametrize("behind", [b"\1", bytes(300) + b"\xff", b"HCLA"])
def test_bytes_behind_an_hcl_report_are_said(behind: bytes) -> None:
    found = inspect("hcl", exact_hcl() + behind, MAYBE)
    assert said(found[0]) | {"length": "malformed"} == said(found[0])
    assert said(found[0])["azure-runtime"] == "passed" and values(found[0])["user_data"]


@pytest.mark.parametrize("cut", [1, 100, 200])
def test_of_a_cut_hcl_report_the_chip_s_report_is_shown(cut: int) -> None:
    found = inspect("hcl", exact_hcl()[:-cut], MAYBE)
    assert [item.kind for item in found[:1]] == ["HCL report of Azure, malformed"]
    assert found[1].kind == "SEV-SNP report, version 3" and values(found[1])["measurement"]


def test_of_a_cut_header_nothing_is_invented() -> None:
    assert len(inspect("hcl", azure_machine.hcl()[:600], MAYBE)) == 1


# Reports with something behind them, and reports that are cut


BEHIND = {"one byte": b"\1", "a line end": b"\n", "zeros and a byte": bytes(40) + b"\1"}
ZEROS = {"one zero": b"\0", "307 zeros": bytes(307)}


@pytest.mark.parametrize("behind", [*BEHIND.values(), *ZEROS.values()], ids=[*BEHIND, *ZEROS])
def test_gpu_report_with_bytes_behind_it_is_judged(
    world: World, mine: CheckInputs, behind: bytes
) -> None:
    device = world.evidence.devices[0]
    beside = dataclasses.replace(mine, certificates=device.chain)
    found = inspect("report", device.report + behind, beside)[0]
    stray = {"length": "malformed"} if any(behind) else {}
    assert said(found) == stray | {"gpu": "passed", "gpu-firmware": "passed"}
    assert values(found)["nonce"] and "certificate 4" in values(found)
    assert exit_code([found]) == (3 if stray else 0)


@pytest.mark.parametrize("cut", [1, 97, 3000, 3700])
def test_cut_gpu_report_is_named_with_its_chain(world: World, mine: CheckInputs, cut: int) -> None:
    device = world.evidence.devices[0]
    beside = dataclasses.replace(mine, certificates=device.chain)
    found = inspect("report", device.report[:-cut], beside)[0]
    assert found.kind == "NVIDIA device report, malformed"
    assert said(found) == {"format": "malformed"} and "early" in text_of(found, "format")
    assert values(found)["nonce"] == device.report[4:36].hex() and "certificate 0" in values(found)


@pytest.mark.parametrize("end", [-1, -900, 702])
def test_cut_quote_is_named_with_its_body(world: World, end: int) -> None:
    quote = world.evidence.quote
    found = inspect("quote", quote[:end], MAYBE)[0]
    assert found.kind == f"TDX quote, version {quote[0]}, malformed" and exit_code([found]) == 3
    assert values(found)["mr_td"] == tdx.parse_quote(quote).mr_td.hex()
    assert ("certificate 0" in values(found)) is (end < 0)


@pytest.mark.parametrize("at", [0x4C, 0x208, 0x1EB])
def test_snp_report_with_a_reserved_byte_is_named(at: int) -> None:
    data = bytearray(SimulatedAmd().report())
    data[at] = 1
    found = inspect("report", bytes(data), MAYBE)[0]
    assert found.kind == "SEV-SNP report, malformed"
    assert values(found)["measurement"] == bytes(data[0x90:0xC0]).hex()


def td_report(*, mr_td: bytes = b"\7" * 48, digest: bytes | None = None) -> bytes:
    info = (bytes(16) + mr_td).ljust(512, b"\0")
    digest = digest or hashlib.sha384(info).digest()
    head = b"\x81\0\1\0" + bytes(76) + digest + b"\5" * 64
    return head.ljust(512, b"\0") + info


def test_tdreport() -> None:
    found = inspect("report", td_report(), MAYBE)[0]
    assert found.kind == "TDREPORT" and values(found)["mr_td"] == "07" * 48
    assert values(found)["report_data"] == "05" * 64
    assert said(found) == {"digest": "passed", "cpu-signature": "not checked"}
    forged = inspect("report", td_report(digest=bytes(48)), MAYBE)[0]
    assert said(forged)["digest"] == "td-info"
    behind = inspect("report", td_report() + b"\1", MAYBE)[0]
    assert said(behind)["length"] == "malformed" and said(behind)["digest"] == "passed"
    cut = inspect("report", td_report()[:-1], MAYBE)[0]
    assert cut.kind == "TDREPORT, malformed" and said(cut) == {"format": "malformed"}


@pytest.mark.parametrize(
    "change", [(b'product="', b'product="X'), (b'index="', b'index="9'), (b"</", b"<")]
)
def test_of_a_rim_that_does_not_hold_the_names_and_signers_are_shown(
    world: World, mine: CheckInputs, change: tuple[bytes, bytes]
) -> None:
    parts = world.collateral.parts.items()
    good = next(data for name, data in parts if name.startswith("nvidia/rim/"))
    assert said(inspect("rim", good, mine)[0]) == {"rim": "passed"}
    found = inspect("rim", good.replace(*change), mine)[0]
    assert "passed" not in said(found).values() and exit_code([found]) == 3
    assert {"product", "version"} <= values(found).keys()
    assert ("certificate 1" in values(found)) is (change[0] != b"</")  # or where no tag closes


# JSON of NVIDIA and of providers


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def device_json(world: World, **changes: object) -> dict[str, object]:
    device = world.evidence.devices[0]
    chain = b"".join(write_pem(der) for der in device.chain)
    return {
        "arch": "HOPPER",
        "certificate": text(chain),
        "evidence": text(device.report),
        **changes,
    }


def payload(world: World, *more: dict[str, object], **changes: object) -> dict[str, object]:
    nonce = world.evidence.devices[0].report[4:36].hex()
    listed = [device_json(world), *more]
    return {"nonce": nonce, "arch": "HOPPER", "evidence_list": listed, **changes}


def inspect_json(value: object, beside: CheckInputs = MAYBE) -> list[InspectionResult]:
    return inspect("json", json.dumps(value).encode(), beside)


def test_nvidia_payload(world: World, mine: CheckInputs) -> None:
    found = inspect_json(payload(world), mine)
    assert [item.kind for item in found] == ["NVIDIA payload", "NVIDIA GPU report"]
    assert said(found[0]) == {"nonce": "passed"} and said(found[1])["gpu"] == "passed"
    other = inspect_json(payload(world, nonce="00" * 32), mine)
    assert said(other[0]) == {"nonce": "wrong-nonce"}


def test_one_member_copied_with_its_quotation_marks(world: World, mine: CheckInputs) -> None:
    found = inspect_json(json.dumps(payload(world)), mine)
    assert [item.kind for item in found] == ["NVIDIA payload", "NVIDIA GPU report"]
    assert inspect_json(world.evidence.quote.hex(), mine)[0].kind.startswith("TDX quote")
    with pytest.raises(ParseError):
        inspect_json("nothing of the kind", mine)


BAD_DEVICES: dict[str, dict[str, object]] = {
    "no certificates": {"certificate": text(b"none")},
    "no base64": {"evidence": "*"},
    "no report": {"evidence": text(b"\x11\xe0\x01\xff")},
}


@pytest.mark.parametrize("changes", BAD_DEVICES.values(), ids=BAD_DEVICES)
def test_one_bad_device_leaves_the_others(
    world: World, mine: CheckInputs, changes: dict[str, object]
) -> None:
    bad = device_json(world, **changes)
    for value in ([device_json(world), bad], payload(world, bad)):
        found = [item for item in inspect_json(value, mine) if "report" in item.kind]
        assert said(found[0])["gpu"] == "passed" and said(found[1]) == {"format": "malformed"}


def test_a_device_of_nvidia_s_list_answers_the_nonce_beside_it(
    world: World, mine: CheckInputs
) -> None:
    for nonce, expected in ((payload(world)["nonce"], "passed"), ("00" * 32, "wrong-nonce")):
        found = inspect_json([device_json(world, nonce=nonce)], mine)[0]
        assert said(found)["nonce"] == expected


def log_of(world: World) -> list[dict[str, object]]:
    """dstack's list of the events that lead to the quote's registers."""
    events = [
        {"imr": event.rtmr, "event_type": event.type, "digest": event.digest.hex()}
        for event in tdx.parse_ccel(world.evidence.ccel).events
        if event.extends
    ]
    return events + [
        {"imr": 3, "event_type": 1, "digest": digest.hex()}
        for digest in world.evidence.rtmr3_events
    ]


def proxied(world: World, **changes: object) -> dict[str, object]:
    """As dstack's inference proxy answers; lists and objects inside as texts."""
    quote = tdx.parse_quote(world.evidence.quote)
    claimed = {"mrtd": quote.mr_td.hex(), "rtmr0": quote.rt_mr0.hex(), "app_compose": "{}"}
    return {
        "signing_address": "0x" + quote.report_data[:32].hex(),
        "signing_algo": "ed25519",
        "request_nonce": quote.report_data[32:].hex(),
        "intel_quote": world.evidence.quote.hex(),
        "nvidia_payload": json.dumps(payload(world)),
        "event_log": json.dumps(log_of(world)),
        "info": {"tcb_info": json.dumps(claimed)},
        **changes,
    }


def test_report_of_an_inference_proxy(world: World, mine: CheckInputs) -> None:
    found = inspect_json(proxied(world), mine)
    assert [item.kind.partition(",")[0] for item in found] == [
        "attestation report of dstack's inference proxy",
        "TDX quote",
        "dstack event log",
        "NVIDIA payload",
        "NVIDIA GPU report",
    ]
    assert exit_code(found) == 0
    assert said(found[0]) == {"binding": "passed", "claims": "passed"}
    assert values(found[0])["signing_algo"] == "ed25519"
    assert found[1].file == "json[intel_quote]"


QUOTE_FORMS: dict[str, Callable[[bytes], object]] = {
    "hex": lambda data: data.hex(),
    "0x": lambda data: "0x" + data.hex(),
    "base64": text,
    "base64url without padding": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "gzip": lambda data: text(gzip.compress(data)),
    "numbers": list,
    "padded": lambda data: (data + bytes(70)).hex(),
}
WRAPPERS: dict[str, tuple[str, Callable[[object, World], object]]] = {
    "Chutes": (
        "attestation of Chutes",
        lambda quote, world: {"evidence": [{"quote": quote, "gpu_evidence": [device_json(world)]}]},
    ),
    "near.ai": (
        "attestation report of dstack's inference proxy",
        lambda quote, world: {
            "gateway_attestation": {"intel_quote": quote, "event_log": log_of(world)},
            "model_attestations": [proxied(world)],
        },
    ),
    "Confidential Containers": (
        "TDX evidence of Confidential Containers",
        lambda quote, world: {"quote": quote, "cc_eventlog": text(world.evidence.ccel)},
    ),
    "Tinfoil": (
        "attestation document of Tinfoil",
        lambda quote, _: {"format": "https://tinfoil.sh/predicate/tdx-guest/v2", "body": quote},
    ),
    "unknown": ("JSON with evidence", lambda quote, _: {"machines": [{"a": {"b": quote}}]}),
    "text in text": ("JSON with evidence", lambda quote, _: [json.dumps({"q": quote})]),
}


@pytest.mark.parametrize("form", QUOTE_FORMS.values(), ids=QUOTE_FORMS)
@pytest.mark.parametrize(("name", "wrap"), WRAPPERS.values(), ids=WRAPPERS)
def test_quotes_are_found_in_every_wrapper(
    world: World, mine: CheckInputs, name: str, wrap: Callable, form: Callable
) -> None:
    found = inspect_json(wrap(form(world.evidence.quote), world), mine)
    assert name in [item.kind for item in found]
    quotes = [item for item in found if item.kind.startswith("TDX quote")]
    assert quotes and all(said(item)["cpu-signature"] == "passed" for item in quotes)
    logs = [item for item in found if "event log" in item.kind]
    assert all(set(said(item).values()) == {"passed"} for item in logs)
    assert exit_code(found) in (0, 6)


def test_claims_that_are_not_the_quote_s(world: World, mine: CheckInputs) -> None:
    other = {"tcb_info": {"mrtd": "00" * 48}}
    assert said(inspect_json(proxied(world, info=other), mine)[0])["claims"] == "claim-mismatch"
    nothing = {"tcb_info": {"os": "1"}}
    assert said(inspect_json(proxied(world, info=nothing), mine)[0])["claims"] == "not checked"


@pytest.mark.parametrize(
    "changes",
    [{"request_nonce": "00" * 32}, {"signing_address": "0x00"}, {"signing_address": None}],
)
def test_a_binding_that_cannot_be_told(
    world: World, mine: CheckInputs, changes: dict[str, object]
) -> None:
    found = inspect_json(proxied(world, **changes), mine)
    assert said(found[0])["binding"] == "not checked" and exit_code(found) == 6


def test_a_broken_part_is_said_beside_the_others(world: World, mine: CheckInputs) -> None:
    cut = proxied(world, intel_quote=world.evidence.quote[:-9].hex())
    found = inspect_json(cut, mine)
    assert said(found[1]) == {"format": "malformed"} and said(found[-1])["gpu"] == "passed"
    log = log_of(world)
    log[0]["digest"] = "zz"
    found = inspect_json(proxied(world, event_log=log), mine)
    assert said(found[1])["cpu-signature"] == "passed"
    assert any(said(item) == {"format": "malformed"} for item in found)


def test_certificates_beside_a_report_serve_it() -> None:
    amd = SimulatedAmd()
    chain = amd.certificates
    value = {
        "report": text(amd.report()),
        "vcek": text(chain[0]),
        "ca": "".join(write_pem(der).decode() for der in chain[1:]),
    }
    found = inspect_json(value)
    report = next(item for item in found if item.kind.startswith("SEV-SNP"))
    assert said(report)["cpu-signature"] == "simulated-root"
    assert sum(item.kind == "X.509 certificate" for item in found) == 3


NO_EVIDENCE = {
    "nothing": {},
    "a list": [1, 2],
    "other keys": {"model": "x", "usage": {"prompt": 1}},
    "long text": {"text": "word " * 2000},
    "long hex": {"key": "ab" * 4000},
    "numbers": {"vector": list(range(256)) * 8},
}


@pytest.mark.parametrize("value", NO_EVIDENCE.values(), ids=NO_EVIDENCE)
def test_json_without_evidence_is_said_to_be_so(value: object) -> None:
    with pytest.raises(ParseError, match="JSON"):
        inspect_json(value)


BAD_JSON = {
    "no JSON": b"{hello",
    "200,000 brackets": b"[" * 200_000,
    "a key twice": b'{"a": 1, "a": 2}',
    "a number of 5,000 digits": b'{"a": ' + b"1" * 5000 + b"}",
    "no UTF-8": b'{"a": "\xff"}',
}


@pytest.mark.parametrize("data", BAD_JSON.values(), ids=BAD_JSON)
def test_bad_json(data: bytes) -> None:
    with pytest.raises(ParseError, match="JSON"):
        inspect("json", data, MAYBE)


def test_evidence_under_a_key_that_stands_twice_is_refused(world: World) -> None:
    quote = json.dumps(world.evidence.quote.hex()).encode()
    with pytest.raises(ParseError, match="stands twice"):
        inspect("json", b'{"quote_": ' + quote + b', "quote_": ' + quote + b"}", MAYBE)


def nested(depth: int, inner: object) -> object:
    return functools.reduce(lambda value, _: [value], range(depth), inner)


def test_limits_of_json(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    quote = world.evidence.quote.hex()
    assert inspect_json(nested(jsontext.MAX_DEPTH, quote))
    with pytest.raises(ParseError, match="at most 32 levels"):
        inspect_json(nested(jsontext.MAX_DEPTH + 1, quote))
    texts = functools.reduce(lambda value, _: json.dumps([value]), range(8), quote)
    assert inspect_json(texts)
    many = [device_json(world)] * (gpu.MAX_DEVICES + 1)
    found = inspect_json(many)
    assert said(found[0]) == {"format": "malformed"} and len(found) == 1
    chain = "".join(write_pem(der).decode() for der in world.evidence.devices[0].chain)
    monkeypatch.setattr(wrapped, "MAX_CERTIFICATES", 5)
    assert inspect_json({"chain": chain, "quote_": quote})
    with pytest.raises(ParseError, match="at most 5 certificates"):
        inspect_json({"chain": chain, "other": chain})
    monkeypatch.setattr(wrapped, "MAX_PARTS", 2)
    assert inspect_json([quote, quote])
    with pytest.raises(ParseError, match="at most 2 pieces"):
        inspect_json([quote, quote, quote])
    monkeypatch.setattr(wrapped, "MAX_NODES", 10)
    with pytest.raises(ParseError, match="at most 10 values"):
        inspect_json([0] * 10)
    monkeypatch.setattr(jsontext, "MAX_JSON_BYTES", 9)
    with pytest.raises(ParseError, match="at most 9 bytes"):
        inspect_json([0] * 10)


def test_a_small_text_that_inflates_is_not_followed(world: World) -> None:
    bomb = text(gzip.compress(world.evidence.quote + bytes(wrapped.MAX_INFLATED_BYTES)))
    with pytest.raises(ParseError, match="expected evidence in a known format, got none"):
        inspect_json({"quote_": bomb})


INFLATING: dict[str, Callable[[], bytes]] = {
    "evidence": lambda: gzip.compress(bytes(600_000)),
    "more than one piece may hold": lambda: gzip.compress(bytes(1 << 21)),
    "with a wrong sum at its end": lambda: gzip.compress(bytes(600_000))[:-8] + bytes(8),
    "cut": lambda: gzip.compress(bytes(600_000))[:-9],
    "with bytes behind it": lambda: gzip.compress(bytes(600_000)) + b"\1",
}


@pytest.mark.parametrize("make", INFLATING.values(), ids=INFLATING)
def test_many_small_texts_that_inflate_are_not_followed_together(
    world: World, make: Callable[[], bytes]
) -> None:
    quote, piece = world.evidence.quote.hex(), text(make())
    assert inspect_json({"quote_": quote, "noise": [piece] * 10})
    with pytest.raises(ParseError, match="inside all gzip texts together"):
        inspect_json({"quote_": quote, "noise": [piece] * 500})


TEXTS = (
    "{",
    "[]",
    '{"evidence_list": [{}]}',
    "aa" * 300,
    "BAACAIEA" * 200,
    "eyJhbGciOiJub25lIn0.e30.",
)
KEYS = ["quote", "intel_quote", "event_log", "imr", "event_type", "certificate", "evidence"]
KEYS += ["evidence_list", "nonce", "info", "tcb_info", "report", "tpm_quote", "claims", "body"]


def tree() -> st.SearchStrategy[object]:
    scalar = st.none() | st.booleans() | st.integers() | st.text(max_size=20)
    keys = st.sampled_from(KEYS)
    return st.recursive(
        scalar | st.sampled_from(TEXTS),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5),
    )


@given(tree())
@settings(max_examples=150)
def test_any_json_is_explained_or_refused(value: object) -> None:
    try:
        found = inspect_json(value)
    except ParseError:
        return
    assert found and exit_code(found) in (0, 3, 4, 6)


# Tokens


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def token(signature: str = "c2ln", **claims: object) -> str:
    algorithm = "none" if not signature else "ES384"
    return f"{part({'typ': 'JWT', 'alg': algorithm})}.{part(claims)}.{signature}"


@pytest.mark.parametrize(
    ("signature", "code"), [("c2ln", "service-token"), ("", "unsigned-claims")]
)
def test_tokens_are_named_and_are_no_evidence(signature: str, code: str) -> None:
    issued = token(signature, iss="https://nras.example", exp=NOW, eat_nonce="ab")
    alone = inspect("token", issued.encode(), MAYBE)[0]
    inside = inspect_json([["JWT", issued], {"GPU-0": issued}])
    named = [item for item in inside if item.kind.startswith("token")]
    assert len(named) == 2
    for found in (alone, *named):
        assert found.kind == "token of https://nras.example"
        assert said(found) == {"support": code} and values(found)["eat_nonce"] == "ab"


def test_a_token_has_a_size_limit() -> None:
    long = token(filler="x" * tokens.MAX_TOKEN_BYTES)
    with pytest.raises(ParseError):
        inspect("token", long.encode(), MAYBE)


def test_a_token_with_broken_parts_is_named() -> None:
    with pytest.raises(ParseError):
        tokens.token("token", b"no.token", MAYBE)
    for broken in (f"{part({'alg': 'ES384'})}.{part([])}.c2ln", "eyJhbGciOiJ9.e30.c2ln"):
        found = inspect("token", broken.encode(), MAYBE)[0]
        assert found.kind == "token, malformed" and exit_code([found]) == 3


# Files together


def test_an_unknown_file_leaves_the_others_their_verdict(
    world: World, mine: CheckInputs, tmp_path: Path
) -> None:
    names = {
        "unknown": b"\7" * 99,
        "quote": world.evidence.quote,
        "pem": b"-----BEGIN CERTIFICATE-----",
    }
    for name, data in names.items():
        (tmp_path / name).write_bytes(data)
    found = inspect_files([tmp_path / name for name in names], mine)
    assert [item.kind for item in found] == [
        "no known format, malformed",
        f"TDX quote, version {world.evidence.quote[0]}",
        "PEM certificates, malformed",
    ]
    assert said(found[1])["cpu-tcb"] == "passed" and exit_code(found) == 3


@pytest.mark.parametrize("data", [b"correct horse battery staple", b"\x9a" * 32, bytes(64)])
def test_bytes_of_no_known_format_are_not_shown(data: bytes) -> None:
    with pytest.raises(ParseError) as refused:
        inspect("file", data, MAYBE)
    assert data.hex()[:8] not in str(refused.value) and "horse" not in str(refused.value)
    assert f"{len(data)} " in str(refused.value)


@pytest.mark.parametrize(
    "data", [b"HCLA", b"\4\0\2\0\x81\0\0\0", b"CCEL", b"\x11\xe0", tcg_logs.agile()[:48]]
)
def test_a_beginning_alone_is_named_and_malformed(data: bytes) -> None:
    found = inspect("file", data, MAYBE)
    assert said(found[0]) == {"format": "malformed"} and exit_code(found) == 3
