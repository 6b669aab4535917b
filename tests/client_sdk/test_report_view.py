"""`umay client verify`: the table of a machine's steps, with and without --explain."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from attestation.errors import Refused
from attestation.verify.explanation import explained
from attestation.verify.verdict import CAVEATS, Finding, Report, StepResult
from client_sdk.cli import umay
from client_sdk.commands import cli

STEPS = (
    StepResult(1, "parse", "passed", "", "TDX"),
    StepResult(2, "cpu-signature", "failed", "wrong-root", "expected A, got B", "A", "B", "Do C."),
    StepResult(3, "cpu-attributes", "not checked", "not-checked", "it has not", "D", "E", "Do F."),
)
REPORT = Report(STEPS, simulated=False)
Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    def verify(place: object) -> None:
        raise Refused("cpu-signature", "wrong-root", "expected A, got B", REPORT)

    place = SimpleNamespace(boot="00" * 16)
    fake = SimpleNamespace(places=lambda: (place,), verify=verify, examine=lambda place: REPORT)
    monkeypatch.setattr(cli, "opened_client", lambda **where: fake)
    return lambda *words: CliRunner().invoke(umay, ["client", "verify", *words])


def lines(result: Result) -> str:
    """The output without the table's lines."""
    return " ".join(result.output.replace("│", " ").split())


def test_a_failed_step_has_its_reason_and_what_to_do(run: Run) -> None:
    result = run()
    text = lines(result)
    assert result.exit_code == 4
    assert "[wrong-root] expected A, got B What to do: Do C." in text
    assert "1 of 3 steps passed, 1 failed, 1 not checked" in text
    assert "Do F." not in text and "Checks:" not in text
    assert all(caveat.split(":")[0] in text for caveat in CAVEATS)


def test_what_a_machine_says_does_not_steer_the_terminal(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "expected A, got \x1b[8m\x9b2J\x07 \u202eB"
    step = StepResult(1, "parse", "failed", "wrong-network", told, "A", told, "Do C.")
    hostile = Report((step,), simulated=False, findings=(Finding("gpu", "x", told),))
    monkeypatch.setattr(
        cli, "opened_client", lambda **where: SimpleNamespace(
            places=lambda: (SimpleNamespace(boot="\x1b[2J"),),
            verify=lambda place: hostile,
            examine=lambda place: hostile,
        )
    )  # fmt: skip
    for shown in (run("--explain").output, str(hostile)):
        assert "expected A, got" in shown
        assert not [c for c in shown if not c.isprintable() and c != "\n"]


def test_explain_adds_what_each_step_checks_and_by_which_document(run: Run) -> None:
    text = lines(run("--explain"))
    for item in explained()[:3]:
        assert f"Checks: {item.checks}" in text and f"Source: {item.source}" in text
    assert "What to do: Do C." in text and "What to do: Do F." in text


def test_json_has_the_same_for_programs(run: Run) -> None:
    told = json.loads(run("--json").output)
    assert told["ok"] is False
    (enclave,) = told["enclaves"]
    assert enclave["steps"][1]["advice"] == "Do C." and enclave["boot"] == "00" * 16
