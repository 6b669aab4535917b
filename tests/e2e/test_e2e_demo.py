"""`umay demo` as anybody runs it: one object, everything held, within its time."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.helpers.waiting import HANG_S

CHECKS = ["measurement", "binding", "gpu", "cpu-attributes", "log", "replay"]


@pytest.mark.e2e
def test_the_demo_holds() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "client_sdk", "demo", "--json"],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    outcome = json.loads(done.stdout)
    assert done.returncode == 0 and outcome["ok"], outcome
    assert outcome["answer"].strip() and outcome["receipt_ok"]
    assert outcome["relay_saw_plaintext"] is False
    assert outcome["audit"]["ok"] and outcome["audit"]["contract"]
    assert [attack["check"] for attack in outcome["attacks"]] == CHECKS
    assert all(attack["refused"] for attack in outcome["attacks"])
    assert {step["status"] for step in outcome["steps"]} == {"ok"}
