"""`umay client proxy` as a process: its memory is private, and a systemd unit runs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from attestation.errors import UsageError
from client_sdk.proxy.cli import _token
from client_sdk.proxy.unit import unit
from tests.attestation.test_policy import GOOD
from tests.helpers.places import ROOT

ODD = 'a "b" $c %d \\e'


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Its paths are relative."""
    monkeypatch.chdir(tmp_path)
    token, policy = tmp_path / ODD, tmp_path / "policy.toml"
    token.write_text("0123456789abcdef")
    token.chmod(0o600)
    policy.write_text(GOOD)
    return [
        sys.executable, "-m", "client_sdk", "client", "proxy", "--listen", "127.0.0.1:0",
        "--url", "http://127.0.0.1:1", "--chain", "http://127.0.0.1:1", "--policy", policy.name,
        "--token-file", ODD, "--alias", "gpt-4o=demo", "--max-price", "5", "20",
    ]  # fmt: skip


def run(command: list[str], *more: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [*command, *more]
    return subprocess.run(words, capture_output=True, text=True, env=environ, check=False)


def test_no_core_dump_and_no_other_process_shows_its_memory(command: list[str]) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["base_url"].endswith("/v1")
        proc = Path(f"/proc/{process.pid}")
        (core,) = [
            line
            for line in (proc / "limits").read_text().splitlines()
            if line.startswith("Max core file size")
        ]
        owner = (proc / "mem").stat().st_uid
        process.send_signal(signal.SIGTERM)
    assert core.split()[4:6] == ["0", "0"] and owner == 0 and process.returncode == 0


def test_it_ends_undumpable() -> None:
    """As root every file of /proc is root's: the process itself is asked."""
    code = (
        "import ctypes; from attestation.process import keep_memory_private as keep\n"
        "get = lambda: ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)\n"
        "before = get(); keep(); print(before, get())"
    )
    assert run([sys.executable, "-c", code]).stdout == "1 0\n"


def test_a_unit_says_the_whole_command_with_absolute_paths(
    command: list[str], tmp_path: Path
) -> None:
    done = run(command, "--unit")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ExecStart=")]
    assert done.returncode == 0, done.stderr
    assert line.startswith(f'ExecStart="{sys.executable}" "-m" "client_sdk" "client" "proxy"')
    assert '"--alias" "gpt-4o=demo"' in line and '"--max-price" "5.0" "20.0"' in line
    assert f'"{tmp_path}/a \\"b\\" $$c %%d \\\\e"' in line
    assert "0123456789abcdef" not in done.stdout
    assert "LimitCORE=0" in done.stdout and '"--unit"' not in line


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    path = tmp_path / "umay-proxy.service"
    path.write_text(unit([sys.executable, "-m", "client_sdk", "--token-file", ODD]))
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "SYSTEMD_LOG_LEVEL": "warning"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_wrong_option_ends_it_before_it_listens(command: list[str]) -> None:
    done = run(command, "--allow-origin", "*")
    assert done.returncode == 2 and "--allow-origin" in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    "content", [b"", b"fifteen-letters", b"two words, long enough", b"\xff" * 32]
)
def test_a_key_that_no_program_can_send_is_refused(tmp_path: Path, content: bytes) -> None:
    token = tmp_path / "token"
    token.write_bytes(content + b"\n")
    token.chmod(0o600)
    with pytest.raises(UsageError, match="at least 16 characters, visible ASCII without spaces"):
        _token(token)
    token.write_bytes(b"  sixteen-letters!\n")
    assert _token(token) == "sixteen-letters!"
