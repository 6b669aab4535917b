"""What type checkers see of the public face: real types, and mistakes found. A cold mypy takes
half a minute, so this is for `make test-long`; `make type` checks the house itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.places import ROOT
from tests.helpers.waiting import HANG_S

pytestmark = pytest.mark.long

GOOD = """
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, assert_type

import httpx
import openai

import attestation
import client_sdk
from attestation import Evidence, Report, VerifiedEnclave, Verifier
from client_sdk import Answer, AsyncAnswer, AsyncClient, Client, Policy, errors
from client_sdk import connect, connect_async
from client_sdk.errors import Unavailable
from client_sdk.openai_transport import AsyncSealedTransport, SealedTransport
from client_sdk.session import CheckedReceipt

with connect(Path("somewhere"), timeout=3) as umay:
    assert_type(umay, Client)
    assert_type(umay.policy, Policy)
    answer = umay.chat("Good evening.")
    assert_type(answer, Answer)
    assert_type(answer.text(), str)
    assert_type(answer.stream(), Iterator[str])
    assert_type(answer.status, int)
    assert_type(answer.enclave, VerifiedEnclave)
    if answer.receipt is not None:
        assert_type(answer.receipt.receipt.amount, int)
        assert_type(answer.receipt.receipt.model_digest, bytes)
    for place in umay.places():
        assert_type(umay.examine(place), Report)
    try:
        umay.choose()
    except errors.VerificationError as error:
        assert_type(error.step, str)
        assert_type(error.report, Report | None)
    except Unavailable as error:
        assert_type(error.code, str)
    assert_type(umay.verify(), Report)
    assert_type(umay.receipts[answer.id], CheckedReceipt)
    assert_type(answer.may_have_run, int)
    assert_type(umay.openai(max_retries=0), openai.OpenAI)
    httpx.Client(transport=SealedTransport(umay))

async def ask() -> None:
    async with connect_async("somewhere", max_price=(1, 2)) as umay:
        assert_type(umay, AsyncClient)
        answer = await umay.chat("Good evening.", timeout=3, idempotency_key="0" * 16)
        assert_type(answer, AsyncAnswer)
        assert_type(answer.stream(), AsyncIterator[str])
        assert_type(await answer.text(), str)
        assert_type(answer.status, int)
        assert_type(answer.receipt, CheckedReceipt | None)
        async for piece in answer:
            assert_type(piece, bytes)
        for place in await umay.places():
            assert_type(await umay.examine(place), Report)
        assert_type(await umay.verify(), Report)
        assert_type(umay.async_openai(), openai.AsyncOpenAI)
        httpx.AsyncClient(transport=AsyncSealedTransport(umay))

policy = attestation.Policy.from_toml(b"")
assert_type(policy, client_sdk.Policy)
assert_type(Verifier(policy).policy, Policy)
assert_type(Evidence.from_bytes(b"").quote, bytes)
"""

WRONG = {
    "from client_sdk import Clint": "Clint",
    "import attestation; attestation.Verifyer": "Verifyer",
    "from client_sdk import connect; connect(3)": "arg-type",
    "from client_sdk import connect; connect().chat(3)": "arg-type",
    "from client_sdk import connect; connect(tiemout=3)": "tiemout",
    "from client_sdk import connect_async; connect_async().chat(3)": "arg-type",
    "from client_sdk import Client; Client('https://r', policy=None, chain=None)": "arg-type",
    "from attestation import Verifier; Verifier('policy.toml')": "arg-type",
    "from client_sdk import errors; errors.Unavailible": "Unavailible",
    "from client_sdk.errors import Unavailible": "Unavailible",
}


def mypy(*words: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """Strict, as a user runs it: none of this repository's settings."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull]
    hide = "--follow-imports=silent"
    return subprocess.run(
        [*command, hide, "--cache-dir", str(cache), *words],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
        cwd=ROOT,
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


def test_a_program_sees_our_types_and_none_is_any(cache: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(GOOD)
    done = mypy(str(program), cache=cache)
    assert done.returncode == 0, done.stdout


def test_the_examples_are_typed(cache: Path) -> None:
    """But openai_client.py: the openai package takes a client of httpx, and its types do not."""
    examples = {path for path in (ROOT / "examples").glob("*.py") if path.stem != "openai_client"}
    done = mypy(*map(str, sorted(examples)), cache=cache)
    assert done.returncode == 0, done.stdout


def test_mistakes_are_found(cache: Path, tmp_path: Path) -> None:
    program = tmp_path / "wrong.py"
    program.write_text("\n".join(WRONG) + "\n")
    found = mypy(str(program), cache=cache).stdout.splitlines()
    for line, (text, said) in enumerate(WRONG.items(), 1):
        assert any(f"wrong.py:{line}: error" in each and said in each for each in found), text
