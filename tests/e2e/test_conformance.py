"""Conformance: @ton/ton and tonutils work unchanged against the embedded chain, and tonutils
against the lite server of these tests.

Both are installed into throw-away places. Where no package can be had the test skips, and
says so.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from contracts import node
from contracts.localnet.process import LocalChain
from contracts.wallet import VERSIONS, Wallet
from tests.helpers.lite_server import LiteChain, serving
from tests.helpers.places import TESTS
from tests.helpers.ton_chain import LOG_ADDRESS, TonChain
from tests.helpers.waiting import HANG_S

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.long,
    pytest.mark.skipif(not node.installed(), reason="contracts/localnet not installed"),
]
PROGRAMS = TESTS / "conformance"
PACKAGES = ("@ton/ton@16.3.0", "@ton/core@0.63.1", "@ton/crypto@3.3.0")
TONUTILS = "tonutils==2.5.1"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalChain]:
    with LocalChain.start(tmp_path_factory.mktemp("chain of others")) as chain:
        yield chain


def install(command: list[str], where: Path) -> None:
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no packages to be had: {done.stderr[-200:]}")


@pytest.fixture(scope="module")
def ton(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    place = tmp_path_factory.mktemp("ton")
    (place / "package.json").write_text('{"private": true}')
    tools = node.find()
    install([*tools.npm, "install", "--ignore-scripts", "--no-audit", *PACKAGES], place)
    shutil.copy(PROGRAMS / "ton.mjs", place)
    return [*tools.node, str(place / "ton.mjs")]


@pytest.fixture(scope="module")
def tonutils(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    place = tmp_path_factory.mktemp("tonutils")
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    python = str(place / "bin" / "python")
    install([python, "-m", "pip", "install", "--quiet", TONUTILS], place)
    return [python, str(PROGRAMS / "tonutils_client.py")]


def test_another_client_understands_the_lite_server_that_tests_ours(tonutils: list[str]) -> None:
    """Or both ends of our ADNL could be wrong in the same way."""
    chain = TonChain()
    with serving(LiteChain(chain)) as server:
        port, key = str(server.entry["port"]), server.entry["id"]["key"]
        words = [tonutils[0], str(PROGRAMS / "tonutils_lite.py"), port, key]
        words += [str(chain.second.block.seqno), LOG_ADDRESS.partition(":")[2]]
        done = subprocess.run(words, capture_output=True, text=True, timeout=HANG_S, check=True)
    assert json.loads(done.stdout) == {
        "head": chain.head.block.root_hash.hex(),
        "block": chain.second.block.root_hash.hex(),
        "to": chain.head.block.root_hash.hex(),
        "signatures": 6,
        "shard": chain.shard.block.seqno,
        "state": len(chain.answer().state),
    }


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("library", ["ton", "tonutils"])
def test_unchanged(
    request: pytest.FixtureRequest, local: LocalChain, library: str, version: str
) -> None:
    command: list[str] = request.getfixturevalue(library)
    key, receiver = SigningKey.generate(), "0:" + SigningKey.generate().encode().hex()
    wallet = Wallet(local.client(), key, version)
    local.faucet(wallet.address, 10**10)
    given = [local.url, bytes(key).hex(), receiver, version]
    done = subprocess.run(
        [*command, *given], capture_output=True, text=True, timeout=HANG_S, check=True
    )
    said = json.loads(done.stdout)
    assert (said["address"], said["seqno"], said["deployed"]) == (wallet.address, 1, True)
    assert said["history"] == 2  # the faucet's gift, and the transfer
    assert wallet.seqno() == 1
    assert 499_999_990 <= local.client().account(receiver).balance <= 500_000_000
