"""Reports: what every step says, as an object, as text, as JSON and on exceptions."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jsonschema
import pytest

from attestation.channel.client import ClientRequest
from attestation.channel.key_config import KeyConfig
from attestation.errors import NotAuthentic, NotChecked, Refused, VerificationError
from attestation.verify.advice import FORGED, advice
from attestation.verify.explanation import explained
from attestation.verify.report_text import SIMULATED, WIDTH, counted
from attestation.verify.verdict import CAVEATS, NVLINK_CAVEAT, Report, StepResult, reporting
from attestation.verify.verifier import PLAN, Verifier, not_begun
from attestation.verify.wording import expected_and_got
from client_sdk.chain_reader import ChainReader
from tests.helpers.places import ROOT
from tests.helpers.world import NOW, World

SCHEMA = json.loads((ROOT / "docs/spec/report.schema.json").read_text())
AUDIT = json.loads((ROOT / "docs/spec/audit.schema.json").read_text())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.start(tmp_path_factory.mktemp("simulator"))


def verifier(world: World, **rules: Any) -> Verifier:
    return Verifier(dataclasses.replace(world.policy, **rules))


@pytest.fixture(scope="module")
def good(world: World) -> Report:
    presented, anchor = world.logged(world.presented())
    found = verifier(world).verify(presented, anchor=anchor, beacon=world.beacon, now=NOW)
    return found.report


@pytest.fixture(scope="module")
def refused(world: World) -> VerificationError:
    presented, anchor = world.logged(world.presented())
    strict = verifier(world, tcb_status=frozenset({"OutOfDate"}))
    with pytest.raises(Refused) as caught:
        strict.verify(presented, anchor=anchor, beacon=world.beacon, now=NOW)
    return caught.value


def test_a_failed_step_says_all_that_a_reader_needs(refused: VerificationError) -> None:
    assert refused.report is not None
    step = refused.report.steps[3]
    assert (step.code, step.expected, step.got) == ("tcb-status", "OutOfDate", "UpToDate")
    assert step.advice.endswith("change [cpu] tcb_status in the policy.")


def test_steps_after_a_failure_name_the_one_that_failed(refused: VerificationError) -> None:
    assert refused.report is not None
    for step in refused.report.steps[4:]:
        assert (step.status, step.code) == ("not checked", "not-checked")
        assert (step.expected, step.got) == ("the step cpu-tcb to have passed", "it has not")
        assert step.advice


def test_passed_steps_have_no_reason(good: Report) -> None:
    assert all(step.code == step.expected == step.got == step.advice == "" for step in good.steps)


def test_the_text_of_a_good_report(good: Report) -> None:
    lines = str(good).splitlines()
    assert [line.split()[1] for line in lines[: len(PLAN)]] == [name for name, _ in PLAN]
    assert lines[len(PLAN)] == f"{len(PLAN)} of {len(PLAN)} steps passed"
    assert lines[len(PLAN) + 1].startswith("SIMULATED")
    assert "What to do" not in str(good) and max(map(len, lines)) <= WIDTH


def test_the_text_of_a_bad_report(refused: VerificationError) -> None:
    text = str(refused.report)
    assert " 4 cpu-tcb         failed       [tcb-status] TCB status: expected OutOfDate" in text
    assert text.count("What to do: Choose another machine") == 1
    assert f"3 of {len(PLAN)} steps passed, 1 failed, {len(PLAN) - 4} not checked" in text
    for caveat in CAVEATS:
        assert caveat.split(":")[0] in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= WIDTH


STEPS = (
    StepResult(1, "parse", "passed", "", "TDX, 1 device(s)"),
    StepResult(
        2, "cpu-signature", "failed", "bad-signature", "no\x1b[2J signature", advice="Wait."
    ),
    StepResult(3, "binding", "failed", "wrong-report-data", "another"),
    StepResult(10, "mint", "not checked", "not-checked", "", advice="Read the steps above."),
)


def test_a_text_line_by_line() -> None:
    text = str(Report(STEPS, simulated=False, caveats=("Nobody knows.",)))
    assert text.split("\n") == [
        " 1 parse          passed       TDX, 1 device(s)",
        " 2 cpu-signature  failed       [bad-signature] no [2J signature",
        "                               What to do: Wait.",
        " 3 binding        failed       [wrong-report-data] another",
        "10 mint           not checked",
        "1 of 4 steps passed, 2 failed, 1 not checked",
        "note: Nobody knows.",
    ]
    assert f"\n{SIMULATED}\nnote: Nobody" in str(Report(STEPS, True, caveats=("Nobody knows.",)))


@pytest.mark.parametrize(("size", "lines"), [(94, 1), (95, 2)])
def test_a_line_of_a_text_has_at_most_100_columns(size: int, lines: int) -> None:
    _, *caveat = str(Report((), simulated=False, caveats=("x" * size,))).split("\n")
    assert [len(line) for line in caveat] == [100, 7][:lines]


def test_findings_are_in_the_text(world: World) -> None:
    presented, anchor = world.logged(world.presented())
    lax = verifier(world, gpu_revocation="not-required")
    report = lax.verify(presented, anchor=anchor, beacon=world.beacon, now=NOW).report
    assert "[gpu/revocation-unchecked]" in str(report)


def test_an_empty_report_has_a_text() -> None:
    assert str(Report((), simulated=False)).startswith("0 of 0 steps passed")
    alone = Report((StepResult(1, "parse", "not checked"),), simulated=False)
    assert counted(alone) == "0 of 1 steps passed, 1 not checked"


def test_json_is_of_the_schema(good: Report, refused: VerificationError) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert refused.report is not None
    for report in (good, refused.report):
        said = json.loads(json.dumps(report.to_json()))
        jsonschema.validate(said, SCHEMA)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**said, "more": 1}, SCHEMA)
        del said["steps"][0]["advice"]
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(said, SCHEMA)


def test_an_audit_has_the_same_reports() -> None:
    for name in ("named", "step", "finding"):
        assert AUDIT["$defs"][name] == SCHEMA["$defs"][name]
    report = AUDIT["$defs"]["report"]
    assert report == {key: SCHEMA[key] for key in report}


def test_several_gpus_have_a_caveat_of_their_own(world: World, good: Report) -> None:
    assert good.caveats == CAVEATS
    evidence = world.prove(dataclasses.replace(world.bundle, gpu_count=2))
    pair = dataclasses.replace(evidence, devices=evidence.devices * 2)
    report = verifier(world).examine(
        world.presented(pair), anchor=None, beacon=world.beacon, now=NOW
    )
    assert report.caveats == (*CAVEATS, NVLINK_CAVEAT)


def test_every_step_of_the_plan_is_explained() -> None:
    found = explained()
    assert [item.name for item in found] == [name for name, _ in PLAN]
    for item in found:
        assert item.checks.endswith(".") and item.source and "Source" not in item.checks


FORMS = {
    "TCB status: expected UpToDate, got OutOfDate": ("UpToDate", "OutOfDate"),
    "collateral: expected the part a/b, got none; fetch it": ("the part a/b", "none"),
    "the CRL: valid until 2026, now is 2027": ("valid until 2026", "now is 2027"),
    "the keys are valid from 2027, now is 2026": ("valid from 2027", "now is 2026"),
    "the beacon is 9 s old, it is of A; expected at most 5 s (policy)": (
        "at most 5 s (policy)",
        "the beacon is 9 s old, it is of A",
    ),
    "the beacon is of B; expected a time before now: check the clock": (
        "a time before now",
        "the beacon is of B",
    ),
    "RTMR1: expected aa as quoted, the event log replays to bb": (
        "aa as quoted",
        "the event log replays to bb",
    ),
    "Registry R: expected an entry for x, found none; ask": ("an entry for x", "none"),
    "expected keys that end later; the first ended": ("keys that end later", "the first ended"),
    "the list: expected one, got two; expected at most one": ("one", "two"),
    "expected something": ("something", ""),
    "Verification failed": ("", "Verification failed"),
}


@pytest.mark.parametrize("message", FORMS)
def test_the_forms_of_messages(message: str) -> None:
    assert expected_and_got(message) == FORMS[message]


ADVICE = {
    ("cpu-signature", "chain-signature", False): FORGED,
    ("gpu", "rim-chain-order", False): "fetch its collateral again",
    ("gpu", "rim-simulated-root", False): "simulated machine",
    ("cpu-tcb", "crl-not-yet-valid", True): "clock",
    ("gpu", "wrong-count", False): FORGED,
    ("gpu", "wrong-count", True): "change [gpu] count in the policy",
    ("log", "bad-signature", False): "umay audit run",
    ("chain", "wrong-root", False): "Use another server",
    ("receipt", "other-amount", False): "Keep the answer",
    ("parse", "malformed", False): "newer version",
}


@pytest.mark.parametrize(("step", "code", "refuses"), ADVICE)
def test_advice_is_for_the_reason(step: str, code: str, refuses: bool) -> None:
    assert ADVICE[step, code, refuses] in advice(step, code, refused=refuses)


def test_a_refusal_of_the_policy_has_no_advice_by_chance() -> None:
    assert advice("engine", "never-heard-of", refused=True) == ""


def test_an_error_keeps_the_report_that_it_has(good: Report) -> None:
    own = Report((), simulated=False)
    for given, expected in ((None, good), (own, own)):
        with pytest.raises(NotAuthentic) as caught, reporting(good):
            raise NotAuthentic("receipt", "other-amount", "text", given)
        assert caught.value.report is expected


def test_errors_of_the_channel_carry_the_report(world: World) -> None:
    x25519 = KeyConfig(1, 0x0020, bytes(32), algorithms=((1, 0x7777),)).to_bytes()
    bundle = dataclasses.replace(world.bundle, key_configs=(x25519,))
    presented, anchor = world.logged(world.presented(world.prove(bundle)))
    enclave = verifier(world).verify(presented, anchor=anchor, beacon=world.beacon, now=NOW)
    for pq, now, code in (
        ("required", enclave.valid_until + 1, "expired"),
        ("required", NOW, "pq-required"),
        ("preferred", NOW, "no-common-suite"),
    ):
        with pytest.raises(VerificationError) as caught:
            ClientRequest.to(enclave, pq=pq, now=now)
        assert (caught.value.code, caught.value.report) == (code, enclave.report)


class Lying:
    """A chain whose answers do not follow from blocks that are trusted."""

    def account(self, *_: object) -> None:
        raise NotAuthentic("chain", "wrong-root", "expected a proof of A, got B")

    head = block = account


def test_errors_of_the_chain_carry_a_report_in_which_nothing_was_checked(world: World) -> None:
    reader = ChainReader(Lying(), world.policy)  # type: ignore[arg-type]
    for read in (reader.anchor, lambda: reader.beacon(1)):
        with pytest.raises(NotAuthentic) as caught:
            read()
        report = caught.value.report
        assert report is not None and report.simulated
        assert [step.status for step in report.steps] == ["not checked"] * len(PLAN)
        assert "wrong-root" in report.steps[0].got


def test_not_begun_names_every_step() -> None:
    report = not_begun(NotChecked("text", step="log"), simulated=False)
    assert [step.name for step in report.steps] == [name for name, _ in PLAN]
