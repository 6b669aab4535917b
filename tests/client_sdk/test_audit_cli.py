"""The audit commands' own mistakes: what cannot be asked ends with 2, what is no file with 3."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attestation.test_policy import GOOD
from tests.helpers.waiting import HANG_S

UMAY = [sys.executable, "-m", "client_sdk", "audit"]
CONTRACT = ["--contract", "0:" + "ab" * 32, "--chain", "http://127.0.0.1:9"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "policy.toml").write_text(GOOD)
    (tmp_path / "junk").write_bytes(b"junk")
    return tmp_path


def umay(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*UMAY, *words], cwd=place, capture_output=True, text=True, timeout=HANG_S, check=False
    )


POLICY = ["--policy", "policy.toml"]
MISTAKES: dict[str, tuple[list[str], int, str]] = {
    "prove of nothing": (["prove", *CONTRACT, *POLICY, "--out", "x"], 2, "got 0"),
    "prove of both": (
        ["prove", *CONTRACT, *POLICY, "--out", "x", "--boot", "ab" * 16, "--index", "1"],
        2,
        "--boot, --index and --evidence, got 2",
    ),
    "evidence that is none": (
        ["prove", *CONTRACT, *POLICY, "--out", "x", "--evidence", "AB" * 32],
        2,
        "64 lower-case hex",
    ),
    "a boot id that is none": (
        ["prove", *CONTRACT, *POLICY, "--out", "x", "--boot", "AB"],
        2,
        "32 lower-case hex",
    ),
    "a page that cannot be written": (["run", *CONTRACT, *POLICY, "--html", "no/x"], 2, "no/x"),
    "a page where a file is": (["run", *CONTRACT, *POLICY, "--html", "junk/x"], 2, "junk/x"),
    "a proof that cannot be written": (
        ["prove", *CONTRACT, *POLICY, "--index", "1", "--out", "no/x"],
        2,
        "no/x",
    ),
    "collateral that cannot be written": (["fetch", "junk", "--out", "/no/x"], 3, "CBOR"),
    "a sample of none": (["run", *CONTRACT, *POLICY, "--sample", "0"], 2, "--sample"),
    "an address that is none": (["run", "--contract", "x", *POLICY], 2, "address"),
    "a state that is none": (["run", *CONTRACT, *POLICY, "--state", "junk"], 2, "state"),
    "an archive that is none": (
        ["run", *CONTRACT, *POLICY, "--archive", "no"],
        2,
        "expected an archive",
    ),
    "collateral that is none": (["run", *CONTRACT, *POLICY, "--collateral", "junk"], 2, "junk"),
    "a chain that is silent": (["entry", "0", *CONTRACT, *POLICY], 5, "refused"),
    "a negative index": (["entry", "-1", *CONTRACT, *POLICY], 2, "-1"),
    "a proof that is none": (["check-proof", "junk", *POLICY], 3, "junk: CBOR"),
    "a proof that is not there": (["check-proof", "no", *POLICY], 2, "no"),
    "a proof under no policy": (["check-proof", "junk"], 2, "--policy"),
    "directories that are not there": (["compare", "no", "no", *POLICY], 6, "checkpoint"),
    "plain http": (["compare", "http://log.example", "no"], 2, "https"),
}


@pytest.mark.parametrize(("words", "code", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_has_its_exit_code(place: Path, words: list[str], code: int, said: str) -> None:
    done = umay(place, *words)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ("http://127.0.0.1:9", {"code": "unavailable", "exit_code": 5}),
        ("lite:nowhere.json", {"code": "usage", "exit_code": 2}),
    ],
)
def test_json_says_the_error_too(place: Path, chain: str, expected: dict[str, object]) -> None:
    words = ["allowed", "--registry", "0:" + "1" * 64, "--measurement", "ab" * 32, "--json"]
    done = umay(place, *words, "--chain", chain)
    said = json.loads(done.stdout)
    assert said["ok"] is False and done.returncode == expected["exit_code"]
    assert expected.items() <= said["error"].items()
    assert said["error"]["message"] in done.stderr
