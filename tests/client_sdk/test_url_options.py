"""Every option and field that takes a URL says so when it gets something else: exit code 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from attestation.errors import UsageError
from client_sdk import connect
from client_sdk.cli import umay
from client_sdk.config import load
from contracts.logservice.witnessing import parse_witness
from enclave.guest.feed import Feed
from tests.attestation.test_policy import GOOD as POLICY
from tests.helpers.places import ROOT

BAD = "http://[bad"
GOOD = "http://127.0.0.1:1"
CONTRACT = "0:" + "11" * 32
KEY = "00" * 32
LISTEN = "127.0.0.1:0"
AGENT = ("host", "agent", "--listen", LISTEN, "--feed-listen", LISTEN, "--contract", CONTRACT)
VENDORS = (*AGENT, "--guest", GOOD, "--log", GOOD, "--chain", GOOD, "--archive", "{place}")
AUDIT = ("audit", "run", "--contract", CONTRACT, "--policy", "{policy}")

COMMANDS = {
    "--url": ("client", "verify", "--url", BAD, "--chain", GOOD, "--policy", "{policy}"),
    "--chain": ("client", "verify", "--url", GOOD, "--chain", BAD, "--policy", "{policy}"),
    "an audit's --chain": (*AUDIT, "--chain", BAD),
    "an audit's --mirror": (*AUDIT, "--chain", GOOD, "--mirror", BAD),
    "an agent's --guest": (*AGENT, "--guest", BAD, "--log", GOOD, "--chain", GOOD),
    "an agent's --log": (*AGENT, "--guest", GOOD, "--log", BAD, "--chain", GOOD),
    "an agent's chain": (*VENDORS[:-4], "--chain", BAD, "--archive", "{place}"),
    "a relay's --upstream": ("host", "relay", "--listen", LISTEN, "--upstream", BAD),
    "a second --upstream": (
        *("host", "relay", "--listen", LISTEN),
        *("--upstream", GOOD, "--upstream", "http://127.0.0.1:99999"),
    ),
    "a retirement's --feed": ("host", "retire", "--feed", BAD),
    "a release's --log": ("log", "release", "{policy}", "--log", BAD),
    "an export's --log": ("log", "export", "{place}", "--log", BAD, "--log-key", KEY),
    "an anchor's --log": (
        *("log", "anchor", "--log", BAD, "--chain", GOOD, "--contract", CONTRACT),
        *("--wallet", "{place}/wallet"),
    ),
    "a faucet's --chain": ("net", "faucet", "--chain", BAD, "--to", CONTRACT),
    "a deployment's --log": (
        *("net", "deploy", "--chain", GOOD, "--wallet", "{place}/wallet"),
        *("--log", BAD, "--log-key", KEY),
    ),
    **{
        f"a vendor's {option}": (*VENDORS, option, BAD)
        for option in ("--intel", "--intel-root-crl", "--amd", "--nvidia-rim", "--nvidia-ocsp")
    },
}


@pytest.mark.parametrize(("name", "words"), COMMANDS.items(), ids=COMMANDS)
def test_a_malformed_url_names_its_option(
    name: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    argv = [word.format(place=tmp_path, policy=policy) for word in words]
    done = CliRunner().invoke(umay, argv)
    assert isinstance(done.exception, UsageError), done
    option = name.split("'s ")[-1].split()[-1].removeprefix("--")
    assert f"{option}: expected an http(s) URL, got 'http://" in str(done.exception)


@pytest.mark.parametrize("option", ["--url", "--chain"])
def test_it_ends_the_process_with_2_and_one_line(option: str, tmp_path: Path) -> None:
    given = {"--url": GOOD, "--chain": GOOD, "--policy": str(tmp_path / "none"), option: BAD}
    words = [word for pair in given.items() for word in pair]
    done = subprocess.run(
        [sys.executable, "-m", "client_sdk", "client", "verify", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"{option}: expected an http(s) URL" in done.stderr


def test_a_webhook_is_never_repeated(tmp_path: Path) -> None:
    for url in (
        "http://[hooks/s3cret",
        "ftp://hooks.example/s3cret",
        "http://hooks.example/s3cret",
    ):
        words = [
            "audit",
            "watch",
            "--contract",
            CONTRACT,
            "--keep",
            str(tmp_path / "kept"),
            "--webhook",
            url,
        ]
        done = CliRunner().invoke(umay, words)
        assert isinstance(done.exception, UsageError), done
        assert "--webhook: expected " in str(done.exception)
        assert "s3cret" not in str(done.exception)


@pytest.mark.parametrize("field", ["url", "chain"])
def test_a_malformed_url_in_umay_toml_names_file_and_field(field: str, tmp_path: Path) -> None:
    values = {"url": GOOD, "chain": GOOD, field: BAD}
    lines = [f'{name} = "{value}"\n' for name, value in values.items()]
    (tmp_path / "umay.toml").write_text("".join(lines))
    expected = rf"{tmp_path}/umay.toml: {field}: expected an http\(s\) URL"
    with pytest.raises(UsageError, match=expected):
        load(url=None, chain=None, policy=tmp_path, directory=tmp_path)
    with pytest.raises(UsageError, match=expected):
        connect(directory=tmp_path)


@pytest.mark.parametrize("url", [BAD, "https://127.0.0.1:1", "http://127.0.0.1:99999", "feed"])
def test_a_guest_takes_no_other_address_of_its_agent(url: str) -> None:
    with pytest.raises(UsageError, match="agent: expected an http URL"):
        Feed(url)


@pytest.mark.parametrize("url", [BAD, "http://127.0.0.1:99999", "ftp://w.example"])
def test_a_witness_at_no_url_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"--witness: expected an http\(s\) URL"):
        parse_witness(url, "")
