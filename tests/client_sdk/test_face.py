"""The public face: its names and types, what importing it loads, wrong use refused in words."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import attestation
import client_sdk
from attestation.errors import Truncated, Unavailable, UsageError
from attestation.formats.evidence import Evidence
from attestation.trust.policy import Policy
from attestation.verify.verifier import Presented, Verifier
from client_sdk import Client, config, connect
from client_sdk.client import TIMEOUT_SECONDS
from client_sdk.openai_transport import SealedTransport
from tests.attestation.test_policy import GOOD
from tests.helpers.fake_enclave import FakeClient, FakeEnclave, NoChain
from tests.helpers.places import ROOT

POLICY = Policy.from_toml(GOOD.encode())
HEAVY = {
    "requests": "HTTP",
    "urllib3": "HTTP",
    "pytoniq_core": "cells of the chain",
    "tonsdk": "wallets",
    "nacl": "wallets",
    "lxml": "NVIDIA's RIMs",
    "dcap_qvl": "Intel's lists",
    "cryptography": "signatures and the channel",
    "rich": "tables for people",
    "click": "commands",
    "httpx": "the openai package",
    "torch": "the engine",
    "sqlite3": "a log's store",
    "asyncio": "servers",
}
OURS = ("attestation.verify", "attestation.platforms", "attestation.nvidia", "contracts", "enclave")
NOBODY = "http://127.0.0.1:1"
SECRET = "the moon is my witness"


def loaded_by(statement: str) -> set[str]:
    """The modules of a fresh interpreter after one statement."""
    code = f"import sys, json\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout))


# What importing loads


def test_importing_the_client_loads_nothing_heavy() -> None:
    loaded = loaded_by("from client_sdk import connect, Client, Policy, Answer, errors")
    assert not {f"{name} ({what})" for name, what in HEAVY.items() if name in loaded}
    assert not {name for name in loaded if name.startswith(OURS)}
    assert {"client_sdk.client", "client_sdk.answer", "attestation.trust.policy"} <= loaded


def test_importing_a_package_loads_none_of_its_modules() -> None:
    ours = {name for name in loaded_by("import client_sdk") if name.startswith("client_sdk")}
    assert ours == {"client_sdk"}


def test_every_error_is_in_the_package_s_own_module() -> None:
    ours = importlib.import_module("client_sdk.errors")
    theirs = vars(attestation.errors).items()
    tree = {name: value for name, value in theirs if isinstance(value, type)}
    assert "UmayError" in tree and tree.items() <= vars(ours).items()


def test_a_client_that_only_talks_loads_no_log_service_and_no_engine() -> None:
    loaded = loaded_by("import client_sdk.choosing, client_sdk.session, contracts.endpoint")
    assert {"attestation.verify.verifier", "cryptography"} <= loaded
    assert not loaded & {"sqlite3", "torch", "rich", "click", "asyncio", "tonsdk", "lxml"}
    ours = ("contracts.registry", "contracts.artefact", "contracts.logservice", "contracts.light")
    assert not {name for name in loaded if name.startswith((*ours, "attestation.platforms.snp"))}


# Names


@pytest.mark.parametrize("package", [attestation, client_sdk], ids=["attestation", "client_sdk"])
def test_every_public_name_is_there_once_and_listed(package: Any) -> None:
    assert dir(package) == sorted(package.__all__)
    for name in package.__all__:
        assert getattr(package, name).__name__.rpartition(".")[2] == name
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        package.Clint  # noqa: B018


def test_the_face_of_the_issue_is_the_real_thing() -> None:
    from attestation import Report, VerifiedEnclave
    from client_sdk import Answer, errors

    assert client_sdk.Policy is attestation.Policy is Policy
    assert issubclass(errors.Unavailable, errors.UmayError)
    assert {Report.__module__, VerifiedEnclave.__module__} == {"attestation.verify.verdict"}
    assert Answer.__module__ == "client_sdk.answer"


def test_no_public_name_is_hidden_by_a_module() -> None:
    """`import client_sdk.connect` would put the module in the function's place."""
    for package in (attestation, client_sdk):
        modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
        clash = modules & set(package.__all__) - {"errors"}
        assert not clash, package.__name__


def examples() -> dict[str, str]:
    """The first indented block of each public docstring."""
    things: list[Any] = [attestation, client_sdk, connect, Client, client_sdk.Answer]
    found = {}
    for thing in things:
        lines = (thing.__doc__ or "").split("\n")[1:]
        body = textwrap.dedent("\n".join(lines)).split("\n")
        start = next(at for at, line in enumerate(body) if line.startswith("    "))
        block = []
        for line in body[start:]:
            if line and not line.startswith("    "):
                break
            block.append(line)
        found[thing.__name__] = textwrap.dedent("\n".join(block))
    return found


@pytest.mark.parametrize("name", examples())
def test_an_example_of_a_docstring_compiles_and_imports_what_there_is(name: str) -> None:
    text = examples()[name]
    compile(text, name, "exec")
    for line in text.splitlines():
        if line.startswith("from "):
            exec(line, {})
    assert len(text.strip().splitlines()) >= 4


def test_every_package_says_that_it_is_typed() -> None:
    listed = (ROOT / "setup.cfg").read_text()
    for name in ("attestation", "contracts", "client_sdk", "enclave"):
        assert (ROOT / name / "py.typed").exists()
        assert f"\n{name} = py.typed" in listed


# Wrong use


def client(**options: Any) -> Client:
    given = {"url": "https://relay.example", "policy": POLICY, "chain": NoChain()} | options
    return Client(given.pop("url"), **given)


def presented(**parts: Any) -> Presented:
    whole = dict.fromkeys(("evidence", "engine_config", "price_table", "host_config"), b"")
    return Presented(**{**whole, "collateral": attestation.Collateral({}), **parts})


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "url is bytes": (lambda: client(url=b"x"), "url: expected an http.* got bytes"),
    "url is a name": (lambda: client(url="relay"), "url: expected an http"),
    "url is clear": (lambda: client(url="http://relay.example"), "url: expected https"),
    "policy is a path": (
        lambda: client(policy="policy.toml"),
        r"policy: expected a Policy .*, got str",
    ),
    "policy is none": (lambda: client(policy=None), "policy: expected a Policy .*, got NoneType"),
    "chain is a url": (lambda: client(chain="https://c"), "chain: expected a reader.* got str"),
    "chain is a class": (lambda: client(chain=object()), "chain: expected a reader.* got object"),
    "pacing": (lambda: client(pacing="slow"), "pacing: expected none, clock, strict or None"),
    "timeout is text": (lambda: client(timeout="3"), "timeout: expected seconds.* got str"),
    "timeout is true": (lambda: client(timeout=True), "timeout: expected seconds.* got bool"),
    "timeout is zero": (lambda: client(timeout=0), "timeout: expected more than 0 seconds"),
    "timeout is no number": (lambda: client(timeout=float("nan")), "timeout: expected more than"),
    "body is a list": (lambda: client().chat([]), "body: expected a text, .* got list"),
    "body is bytes": (lambda: client().chat(b"hi"), "body: expected a text, .* got bytes"),
    "content is text": (
        lambda: client().request("POST", "/v1/embeddings", "{}"),
        "content: expected bytes, got str",
    ),
    "path is bytes": (lambda: client().request("GET", b"/"), "path: expected str, got bytes"),
    "directory": (lambda: connect(3), "directory: expected a directory's path, got int"),
    "connect's policy": (
        lambda: connect(url="https://r.example", policy=3, chain=NoChain()),
        "policy: expected a Policy or the path of its file, got int",
    ),
    "connect's chain": (
        lambda: connect(url="https://r.example", policy=POLICY, chain="ftp://c"),
        "chain: expected an http",
    ),
    "verifier's policy": (lambda: Verifier("p"), "policy: expected Policy, got str"),
    "verifier's memory": (lambda: Verifier(POLICY, remember=None), "remember: expected how many"),
    "evidence is text": (lambda: Evidence.from_bytes("x"), "CBOR: expected bytes .*, got str"),
    "policy is text": (lambda: Policy.from_toml("x"), "policy: expected bytes of TOML, got str"),
    "presented is bytes": (
        lambda: Verifier(POLICY).verify(b"x", anchor=None, beacon=None, now=1),
        "presented: expected Presented, got bytes",
    ),
    "method is none": (lambda: client().request(None, "/"), "method: expected str, got NoneType"),
    "a config is missing": (
        lambda: presented(host_config=None),
        "presented.host_config: expected bytes, got NoneType",
    ),
    "evidence is parsed": (
        lambda: presented(evidence=Evidence("tdx", b"", b"")),
        "presented.evidence: expected bytes, got Evidence",
    ),
    "collateral is bytes": (
        lambda: presented(collateral=b""),
        "presented.collateral: expected Collateral, got bytes",
    ),
    "proof is text": (
        lambda: presented(proof=""),
        "presented.proof: expected bytes or None, got s",
    ),
    "session is a nonce": (
        lambda: presented(session=bytes(32)),
        "presented.session: expected OpenedSession or None, got bytes",
    ),
    "a url for a client": (
        lambda: SealedTransport("https://relay.example"),
        "client: expected a Client .*, got str",
    ),
    "admitted without a beacon": (
        lambda: Verifier(POLICY).admit(
            presented(), beacon=None, now=1, kind=1, release=None, previous=None
        ),
        "beacon: expected BlockRef, got NoneType",
    ),
}


@pytest.mark.parametrize(("wrong", "said"), WRONG.values(), ids=WRONG)
def test_wrong_use_is_refused_with_a_sentence(wrong: Callable[[], object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        wrong()


@pytest.mark.parametrize("name", ["anchor", "beacon", "now"])
def test_the_verifier_names_a_wrong_argument(name: str) -> None:
    block = attestation.BlockRef(1, bytes(32), 1, "reported")
    anchor = attestation.Anchor(
        "n", "a", b"", "o", b"", 1, 1, b"", time=1, forked=False, read_at=1, level="reported"
    )
    given: dict[str, Any] = {"anchor": anchor, "beacon": block, "now": 1}
    for value in ("x", True, 1.5):
        with pytest.raises(UsageError, match=f"^{name}: expected .*, got {type(value).__name__}$"):
            Verifier(POLICY).verify(presented(), **{**given, name: value})
        with pytest.raises(UsageError, match=f"^{name}: expected .*, got {type(value).__name__}$"):
            Verifier(POLICY).examine(presented(), **{**given, name: value})


def test_no_refusal_shows_a_value() -> None:
    with pytest.raises(UsageError) as caught:
        client().chat([SECRET])
    assert SECRET not in str(caught.value)


# connect


def network(directory: Path, **lines: str) -> Path:
    policy = directory / "policy.toml"
    policy.write_text(GOOD)
    said = {"url": "http://127.0.0.1:1", "chain": "http://127.0.0.1:2", "policy": str(policy)}
    text = "".join(f'{key} = "{value}"\n' for key, value in (said | lines).items() if value)
    (directory / "umay.toml").write_text(text)
    return directory


def test_connect_reads_the_network_at_home(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".umay").mkdir()
    network(tmp_path / ".umay")
    with connect() as umay:
        assert umay.url == "http://127.0.0.1:1" and umay.policy == POLICY


@pytest.mark.parametrize("kind", [str, Path, os.fspath])
def test_connect_reads_another_directory(tmp_path: Path, kind: Callable[[Path], Any]) -> None:
    with connect(kind(network(tmp_path))) as umay:
        assert umay.policy == POLICY


def test_what_is_given_wins_over_the_file(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(GOOD.replace("umay-test", "umay-other"))
    directory = network(tmp_path)
    assert connect(directory, url="http://127.0.0.1:9").url == "http://127.0.0.1:9"
    for policy in (other, str(other), Policy.from_toml(other.read_bytes())):
        assert connect(directory, policy=policy).policy.network == "umay-other"
    with pytest.raises(UsageError, match="chain: expected an http"):
        connect(directory, chain="ftp://elsewhere")
    with pytest.raises(UsageError, match="pacing"):
        connect(directory, pacing="slow")
    with pytest.raises(UsageError, match="timeout"):
        connect(directory, timeout=-1)


def test_with_everything_given_no_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "umay.toml").write_text("not = [toml")
    where = {"url": "http://127.0.0.1:1", "chain": "http://127.0.0.1:2", "policy": POLICY}
    connect(tmp_path, **where).close()
    with pytest.raises(UsageError, match=r"umay\.toml"):
        connect(tmp_path)


@pytest.mark.parametrize("name", ["url", "policy", "chain"])
def test_what_the_file_lacks_is_named(tmp_path: Path, name: str) -> None:
    network(tmp_path, **{name: ""})
    with pytest.raises(UsageError, match=rf"^{name}: .*umay\.toml does not name a {name}; start"):
        connect(tmp_path)


def test_a_directory_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for wrong in ("absent", "file"):
        with pytest.raises(UsageError, match=r"umay\.toml does not exist; start a network"):
            connect(tmp_path / wrong)


# Answers


def whole(enclave: FakeEnclave, body: object, *, status: int = 200) -> None:
    enclave.script.media_type, enclave.script.status = "application/json", status
    enclave.script.pieces = [json.dumps(body).encode()]


def test_a_text_is_a_whole_prompt(ada: FakeEnclave) -> None:
    whole(ada, {"choices": [{"message": {"content": "Good evening to you."}}]})
    answer = FakeClient([ada]).chat(SECRET)
    assert json.loads(ada.script.seen[0].content) == {
        "model": "demo",
        "messages": [{"role": "user", "content": SECRET}],
    }
    assert answer.text() == answer.text() == "Good evening to you."
    assert answer.receipt is not None


def test_a_text_is_refused_where_the_policy_names_two_models(ada: FakeEnclave) -> None:
    two = GOOD + f'[[model]]\nname = "other"\ndigest = "{"45" * 32}"\n'
    client = FakeClient([ada])
    client.policy = Policy.from_toml(two.encode())
    with pytest.raises(UsageError, match="one of demo, other"):
        client.chat(SECRET)
    assert not ada.script.seen


def test_a_stream_is_read_as_text(ada: FakeEnclave) -> None:
    with FakeClient([ada]).chat({"model": "demo", "messages": [], "stream": True}) as answer:
        assert list(answer.stream()) == [f"{n} " for n in range(8)]
        assert answer.receipt is not None
    assert FakeClient([ada]).chat({"model": "demo", "stream": True}).text() == "0 1 2 3 4 5 6 7 "


def test_an_answer_that_calls_tools_has_no_text(ada: FakeEnclave) -> None:
    whole(ada, {"choices": [{"message": {"content": None, "tool_calls": []}}]})
    assert FakeClient([ada]).chat("x").text() == ""


NO_COMPLETION = {
    "an empty list": {"choices": []},
    "a list": [],
    "a number": {"choices": [{"message": {"content": 7}}]},
    "no choices": {},
}


@pytest.mark.parametrize("body", NO_COMPLETION.values(), ids=NO_COMPLETION)
def test_what_is_no_completion_has_no_text(ada: FakeEnclave, body: object) -> None:
    whole(ada, body)
    with pytest.raises(client_sdk.errors.ParseError, match="answer: expected"):
        FakeClient([ada]).chat("x").text()


def test_content_that_is_no_json_is_named(ada: FakeEnclave) -> None:
    whole(ada, {})
    ada.script.pieces = [b"[" * 100_000]
    with pytest.raises(client_sdk.errors.ParseError, match="expected JSON"):
        FakeClient([ada]).chat("x").json()


@pytest.mark.parametrize(
    ("status", "error"), [(400, UsageError), (404, UsageError), (429, Unavailable)]
)
def test_a_refused_request_has_no_text(
    ada: FakeEnclave, status: int, error: type[Exception]
) -> None:
    whole(ada, {"error": {"code": "model_not_found", "message": "no model"}}, status=status)
    for read in (lambda answer: answer.text(), lambda answer: list(answer.stream())):
        with pytest.raises(error, match=f"the enclave answered HTTP {status}: .*model_not_found"):
            read(FakeClient([ada]).chat("x"))


def test_a_cut_answer_has_no_text(ada: FakeEnclave) -> None:
    ada.script.fault = "connection cut"
    answer = FakeClient([ada]).chat("x")
    for _ in range(2):
        with pytest.raises(Truncated):
            answer.text()


# close, with, repr


def test_a_closed_client_asks_nothing(ada: FakeEnclave) -> None:
    with FakeClient([ada]) as client:
        client.chat("x").read()
    with pytest.raises(UsageError, match="closed"):
        client.chat("x")
    client.close()
    assert len(ada.script.seen) == 1


def test_a_client_closes_only_a_transport_of_its_own() -> None:
    from client_sdk.transport import Transport

    class Counted(Transport):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    given = Counted()
    client(transport=given).close()
    assert given.closed == 0
    own = client()
    own._transport = Counted()
    own.close()
    assert own._transport.closed == 1


def test_the_timeout_is_the_transports() -> None:
    from client_sdk.transport import READ_SECONDS

    assert client(timeout=7)._transport._sealed.head == 7
    assert client()._transport._sealed.idle == READ_SECONDS == TIMEOUT_SECONDS
    assert client(pacing="strict")._pacing == "strict"


def test_no_repr_shows_prompt_answer_length_or_salt(ada: FakeEnclave) -> None:
    whole(ada, {"choices": [{"message": {"content": SECRET}}]})
    client = FakeClient([ada])
    client.url = "https://user:password@relay.example/path"
    answer = client.chat(SECRET)
    answer.text()
    receipt = answer.receipt
    assert receipt is not None
    assert repr(answer) == "<Answer with status 200, receipt checked>"
    assert repr(client) == "<Client of umay-test at relay.example>"
    shown = repr((answer, client, receipt, answer._reading, client._chooser)) + str(receipt)
    for hidden in (SECRET, "password", receipt.request_salt.hex(), str(receipt.request_salt)):
        assert hidden not in shown
    assert "tokens" not in shown and "CheckedReceipt of evidence 4848" in shown


def test_every_module_of_the_face_is_importable_alone() -> None:
    for name in ("attestation.lazy", "attestation.arguments", "client_sdk.choosing"):
        importlib.import_module(name)


# A model that the policy does not name

UNNAMED: dict[str, tuple[dict[str, Any], str]] = {
    "another": ({"model": "gpt-4"}, "gpt-4"),
    "its name in capitals": ({"model": "Demo"}, "Demo"),
    "none": ({"messages": []}, "none"),
    "a list": ({"model": ["demo"]}, "none"),
    "steering a terminal": ({"model": "\x1b[2J"}, r" ?\[2J"),
}


@pytest.mark.parametrize(("body", "said"), UNNAMED.values(), ids=UNNAMED)
def test_a_model_that_the_policy_does_not_name_is_refused_before_anything_is_sent(
    ada: FakeEnclave, body: dict[str, Any], said: str
) -> None:
    client = FakeClient([ada])
    expected = r"model: expected one that the policy names \(demo\)"
    with pytest.raises(UsageError, match=f"^{expected}, got {said}; nothing was sent$"):
        client.chat(body)
    assert not ada.script.seen
    client.request("POST", "/v1/chat/completions", json.dumps(body).encode()).read()
    assert ada.script.seen


# A network of this computer that does not run


@pytest.mark.parametrize("asked", [lambda c: c.chat("x"), lambda c: c.places()])
def test_a_network_that_does_not_run_is_told_of_with_its_command(
    tmp_path: Path, asked: Callable[[Client], object]
) -> None:
    (tmp_path / "policy.toml").write_text(GOOD)
    (tmp_path / "policy.toml").chmod(0o600)
    saved = config.Config(NOBODY, f"{NOBODY}/api/v2", tmp_path / "policy.toml")
    (tmp_path / config.NAME).write_text(saved.to_toml())
    with connect(tmp_path) as client, pytest.raises(Unavailable) as caught:
        asked(client)
    end = f"; is the network of {tmp_path} running? Start it with `umay up --dir {tmp_path}`"
    assert str(caught.value).endswith(f"Connection refused{end}")
    own = connect(tmp_path, url=NOBODY)
    with own as client, pytest.raises(Unavailable, match=r"Connection refused$"):
        asked(client)


def test_the_usual_network_is_named_as_everybody_writes_it() -> None:
    start = "is the network of ~/.umay running[?] Start it with `umay up`$"
    with pytest.raises(Unavailable, match=start), config.asking(config.DEFAULT_DIR):
        raise Unavailable("http://127.0.0.1:1: Connection refused")
    with (
        pytest.raises(Unavailable, match=r"^the answer was cut$"),
        config.asking(config.DEFAULT_DIR),
    ):
        raise Unavailable("the answer was cut")


def test_the_transport_of_openai_names_its_extra() -> None:
    code = "import sys; sys.modules['httpx'] = None; import client_sdk.openai_transport"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: the package httpx is not installed")
    assert last.endswith("run: pip install -c constraints.txt '.[openai]'")
