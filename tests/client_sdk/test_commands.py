"""Every command ends with one clear line and its exit code, however early something goes wrong."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from attestation.errors import Unavailable, UsageError
from attestation.log.note import ED25519, VerifierKey
from attestation.trust.policy import Policy
from client_sdk import config
from client_sdk.auditing.results import Audit
from client_sdk.cli import umay as root
from client_sdk.commands import cli as commands
from client_sdk.localnet import extras
from client_sdk.localnet.demo import Demo, Outcome
from client_sdk.localnet.drills import Attack
from contracts import node
from contracts.localnet.server import become
from tests.attestation.test_policy import GOOD
from tests.helpers.places import ROOT

HANG_S = 1800
VKEY = VerifierKey("o.example/log", bytes(range(32)), ED25519).to_text()


def umay(
    *words: str, module: str = "client_sdk", setup: Callable[[], None] | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        timeout=HANG_S,
        preexec_fn=setup,
    )


def clear(done: subprocess.CompletedProcess[str], code: int, said: str = "") -> None:
    text = done.stdout + done.stderr
    assert done.returncode == code and said in text, text
    assert "Traceback" not in text and 'File "' not in text


# Importing


def test_the_root_imports_no_room() -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom client_sdk.cli import umay\n"
        "assert CliRunner().invoke(umay, ['--help']).exit_code == 0\n"
        "print(*[n for n in sys.modules if n.split('.')[0] in "
        "('attestation', 'contracts', 'enclave', 'client_sdk')])"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=env)
    face = {"client_sdk", "attestation", "attestation.lazy", "attestation.errors"}
    assert set(done.stdout.decode().split()) <= face | {"client_sdk.cli"}


EARLY = {
    "the root": ("client_sdk", ("client", "verify"), "click"),
    "a group": ("client_sdk", ("audit", "inspect", __file__), "client_sdk.commands.cli"),
    "what a command needs": ("client_sdk", ("client", "verify"), "attestation.trust.policy"),
    "a guest": ("enclave.guest", (), "cryptography"),
    "a simulator": ("enclave.simulator", (), "lxml"),
}


@pytest.mark.parametrize(("module", "words", "while_importing"), EARLY.values(), ids=EARLY)
def test_ctrl_c_in_the_first_second_is_no_traceback(
    module: str, words: tuple[str, ...], while_importing: str
) -> None:
    """-X importtime writes a line as each module has been imported."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", module, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stderr
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.decode().rpartition("|")[2].strip().startswith(while_importing):
            process.send_signal(signal.SIGINT)
            break
    rest = process.stderr.read().decode()
    assert process.wait(HANG_S) == 130, rest
    assert "Traceback" not in rest and "KeyboardInterrupt" not in rest


NOWHERE = "http://127.0.0.1:1"
ANYWHERE = ("--listen", "127.0.0.1:0")
WHERE = ("--chain", f"{NOWHERE}/api/v2", "--policy", "policy.toml")
CONTRACT = "0:" + "1" * 64
SERVERS = {
    "proxy": ("client", "proxy", *ANYWHERE, *WHERE, "--url", NOWHERE, "--token-file", "token"),
    "relay": ("host", "relay", *ANYWHERE, "--upstream", NOWHERE),
    "agent": (
        *("host", "agent", *ANYWHERE, "--feed-listen", "127.0.0.1:0", "--guest", NOWHERE),
        *("--log", f"{NOWHERE}/log", *WHERE[:2], "--contract", CONTRACT, "--token-file", "feed"),
        *("--archive", "archive"),
    ),
    "log": ("log", "serve", *ANYWHERE, *WHERE, "--dir", "log", "--origin", "o.example/log"),
    "witness": (
        *("log", "witness", *ANYWHERE, "--state", "seen", "--name", "w.example/w"),
        *("--key", "witness.key", "--follow", VKEY),
    ),
    "anchoring": (
        *("log", "anchor", "--log", f"{NOWHERE}/log", *WHERE[:2], "--contract", CONTRACT),
        *("--wallet", "wallet.key"),
    ),
    "watch": (
        *("audit", "watch", *WHERE, "--contract", CONTRACT, "--keep", "kept", "--json"),
        *("--every", "1"),
    ),
}
STOPS = [(name, signal.SIGINT) for name in SERVERS]
STOPS += [(name, signal.SIGTERM) for name in ("anchoring", "watch")]


@pytest.mark.parametrize(("name", "number"), STOPS)
def test_a_server_that_was_stopped_ends_well(
    tmp_path: Path, name: str, number: signal.Signals
) -> None:
    (tmp_path / "policy.toml").write_text(GOOD)
    (tmp_path / "token").write_text("0123456789abcdef")
    (tmp_path / "token").chmod(0o600)
    key = ("--key", "log.key") if name == "log" else ()
    process = subprocess.Popen(
        [sys.executable, "-m", "client_sdk", *SERVERS[name], *key],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert process.stdout
    ready = process.stdout.readline()
    process.send_signal(number)
    _, said = process.communicate(timeout=HANG_S)
    assert ready and process.returncode == 0, said
    assert "Traceback" not in said
    if name == "proxy":
        told = json.loads(ready)
        assert told["base_url"] == f"{told['listening']}/v1"


@pytest.mark.skipif(not node.installed(), reason="contracts/localnet not installed")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_chain_that_was_stopped_ends_well(tmp_path: Path, number: signal.Signals) -> None:
    words = ("net", "chain", "--dir", str(tmp_path / "chain"))
    with _begun(*words) as process:
        assert "listening" in json.loads(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(HANG_S) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_was_stopped_says_so_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    with _begun("demo", TMPDIR=str(tmp_path)) as process:
        while not list(tmp_path.glob("umay-demo-*/chain")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        out, said = process.communicate(timeout=HANG_S)
    assert process.returncode == 130 and "Traceback" not in out + said, said
    assert not list(tmp_path.glob("umay-demo-*"))


def _begun(*words: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "client_sdk", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


# A network of this computer that does not run

ASKED = {
    "an audit": ("audit", "run", "--contract", CONTRACT),
    "an entry": ("audit", "entry", "0", "--contract", CONTRACT),
    "a proof": ("audit", "prove", "--index", "0", "--out", "proof", "--contract", CONTRACT),
    "a Registry": ("audit", "allowed", "--registry", CONTRACT, "--measurement", "ab" * 32),
    "a verification": ("client", "verify"),
}


@pytest.mark.parametrize("words", ASKED.values(), ids=ASKED)
def test_the_command_that_starts_the_network_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.toml").write_text(GOOD)
    saved = config.Config(NOWHERE, f"{NOWHERE}/api/v2", tmp_path / "policy.toml")
    (tmp_path / config.NAME).write_text(saved.to_toml())
    with pytest.raises(Unavailable) as caught:
        root([*words, "--dir", str(tmp_path)], standalone_mode=False)
    assert str(caught.value).endswith(f"Start it with `umay up --dir {tmp_path}`")
    with pytest.raises(Unavailable, match=r"Connection refused$"):
        root(
            [*words, "--dir", str(tmp_path), "--chain", f"{NOWHERE}/api/v2"], standalone_mode=False
        )


# Which model is asked


def test_the_one_model_of_the_policy_is_asked_unless_another_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Asked(Exception):
        pass

    class Named:
        def __init__(self, *names: str) -> None:
            self.names = names
            self.policy = Policy.from_toml(GOOD.encode())

        def models(self) -> list[str]:
            return list(self.names)

        def chat(self, body: dict[str, Any]) -> None:
            raise Asked(body["model"])

    def asked(*names: str, options: tuple[str, ...] = ()) -> str:
        monkeypatch.setattr(commands, "opened_client", lambda **where: Named(*names))
        with pytest.raises(Asked) as caught:
            root(["client", "chat", *options, "Good evening."], standalone_mode=False)
        return str(caught.value)

    assert asked("one") == "one"
    assert asked("one", "two", options=("--model", "two")) == "two"
    with pytest.raises(
        UsageError, match=r"^expected --model with one that the policy names \(one, two\)"
    ):
        asked("one", "two")


# What a machine lacks


@pytest.mark.parametrize(
    ("lacking", "named"),
    [
        ({"torch"}, "the extra guest:"),
        ({"h11", "psycopg"}, "the extras log and host:"),
        ({"torch", "starlette"}, "the extras guest, log, host and proxy:"),
    ],
)
def test_up_and_demo_name_every_extra_before_they_begin(
    monkeypatch: pytest.MonkeyPatch, lacking: set[str], named: str
) -> None:
    monkeypatch.setattr(extras, "_installed", lambda package: package not in lacking)
    for words in (["up", "--dir", "/nowhere"], ["demo"]):
        with pytest.raises(UsageError, match=f"`umay {words[0]}` needs {named}") as caught:
            root(words, standalone_mode=False)
        assert "`make dev`, or pip install -c constraints.txt '.[" in str(caught.value)


def test_an_audit_without_a_contract_says_where_its_address_is_printed() -> None:
    clear(umay("audit", "run"), 2, "`umay up` prints the address of its contract")


def full_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


SERVE = [
    "log",
    "serve",
    "--dir",
    "log",
    "--listen",
    "127.0.0.1:0",
    "--origin",
    "o.example/log",
    "--policy",
    "p",
]
SERVE += ["--chain", "http://127.0.0.1:1/api/v2"]
WRITERS = {
    "up": ("up", "--dir", "new"),
    "a wallet": ("net", "wallet", "--chain", "http://127.0.0.1:1/api/v2", "--wallet", "key"),
    "a policy": ("client", "policy", "make", "network.toml", "--out", "policy.toml"),
    "a log": (*SERVE, "--key", "key"),
    "a log's database": (*SERVE, "--key", "log.key"),
    "a simulator": ("enclave.simulator", "--socket", "s", "--state", "state"),
}


@pytest.mark.parametrize("words", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    from contracts.logservice.store import load_or_create_key

    monkeypatch.chdir(tmp_path)
    (tmp_path / "network.toml").write_text("")
    if "log.key" in words:
        load_or_create_key(tmp_path / "log.key", origin="o.example/log")
    if words[0] == "enclave.simulator":
        done = umay(*words[1:], module=words[0], setup=full_disk)
    else:
        done = umay(*words, setup=full_disk)
    clear(done, 2 if words[1] == "policy" else 5)
    assert len(done.stderr.splitlines()) == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_machine_without_node_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "_from_path", lambda: None)
    monkeypatch.setattr(node, "_from_wheel", lambda: None)
    with pytest.raises(Unavailable, match="install Node"):
        become([])
    monkeypatch.setattr(node, "_from_path", lambda: node.Node(("/no/such/node",), ("npm",)))
    with pytest.raises(Unavailable, match=r"/no/such/node: .* cannot be started .*install Node"):
        become([])


def test_an_old_node_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, answer in (("node", "v12.22.9"), ("npm", "6")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {answer}\n")
        (tmp_path / name).chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert node._from_path() is None


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_port_that_is_taken(tmp_path: Path, taken: str) -> None:
    (tmp_path / "ports.json").write_text(json.dumps({"chain": int(taken.rpartition(":")[2])}))
    tmp_path.chmod(0o700)
    clear(umay("up", "--dir", str(tmp_path)), 5, "is in use")
    clear(umay("host", "relay", "--listen", taken, "--upstream", "http://127.0.0.1:1"), 5, taken)
    done = umay("--dir", str(tmp_path / "chain"), "--listen", taken, module="contracts.localnet")
    clear(done, 5, "EADDRINUSE")


CHAIN = {
    "an unknown option": (("--nope",), 2, "Unknown option '--nope'"),
    "no such port": (("--dir", "chain", "--listen", "127.0.0.1:99999"), 2, "port"),
    "no directory": ((), 2, "--dir"),
    "a directory that cannot be": (("--dir", "/proc/none"), 2, "/proc/none"),
    "a name that nobody knows": (("--dir", "chain", "--listen", "no.invalid:1"), 5, "no.invalid"),
}


@pytest.mark.parametrize(("words", "code", "said"), CHAIN.values(), ids=CHAIN)
def test_the_chain_s_own_process_ends_as_every_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = umay(*words, module="contracts.localnet")
    clear(done, code, said)
    assert len(done.stderr.splitlines()) == 1 and "node:" not in done.stderr


@pytest.mark.parametrize("name", ["none/socket", "s" * 200, "file"])
def test_a_simulator_where_no_socket_can_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    words = ("--socket", str(tmp_path / name), "--state", str(tmp_path / "state"))
    clear(umay(*words, module="enclave.simulator"), 2, str(tmp_path / name))


# What is in a file's place

NONSENSE: dict[str, Callable[[Path], object]] = {
    "a directory": lambda path: path.mkdir(),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe"),
    "nested too deeply": lambda path: path.write_text("url = " + "[" * 200_000),
    "another user's choice": lambda path: (path.write_text(""), path.chmod(0o666)),
    "a link": lambda path: path.symlink_to("/dev/null"),
    "a typo": lambda path: path.write_text('polcy = "policy.toml"\n'),
}


@pytest.mark.parametrize("make", NONSENSE.values(), ids=NONSENSE)
def test_a_config_that_cannot_be_read_is_usage(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    make(tmp_path / "umay.toml")
    done = umay("client", "verify", "--json", "--dir", str(tmp_path))
    clear(done, 2, f"{tmp_path}/umay.toml")
    said = json.loads(done.stdout)
    assert said["ok"] is False and said["error"]["code"] == "usage"
    assert f"umay: {said['error']['message']}\n" == done.stderr


def test_a_typo_is_named_with_what_was_meant(tmp_path: Path) -> None:
    (tmp_path / "umay.toml").write_text('polcy = "policy.toml"\n')
    done = umay("client", "verify", "--dir", str(tmp_path))
    clear(done, 2, f"{tmp_path}/umay.toml: polcy: unknown key; did you mean policy?")


# What a server answers

ANSWERS = {
    "200,000 open brackets": b"[" * 200_000,
    "200,000 nested results": b'{"ok":true,"result":' * 200_000,
    "a result that Python just stands": b'{"ok":true,"result":' + b"[" * 900 + b"]" * 900 + b"}",
    "a page": b"<html>Log in</html>",
    "nothing": b"",
}


@pytest.fixture
def endpoint() -> Iterator[tuple[str, list[bytes]]]:
    answers: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answers[0])))
            self.end_headers()
            self.wfile.write(answers[0])

        do_GET = do_POST

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_endpoint_s_rubbish_is_the_endpoint_s(
    tmp_path: Path, endpoint: tuple[str, list[bytes]], answer: bytes
) -> None:
    url, answers = endpoint
    answers.append(answer)
    clear(umay("net", "wallet", "--chain", f"{url}/api/v2", "--wallet", f"{tmp_path}/key"), 5, url)
    done = umay("net", "faucet", "--chain", url, "--to", "0:" + "1" * 64)
    clear(done, 5, f"{url}/local/faucet")
    retired = umay("host", "retire", "--feed", url)
    assert retired.returncode not in (1, 70) and "Traceback" not in retired.stderr


# The demo


def failing(error: Exception) -> Callable[[Any], None]:
    def start(self: Any) -> None:
        raise error

    return start


@pytest.mark.parametrize("error", [Unavailable("chain: not ready"), UsageError("no model")])
def test_a_demo_that_cannot_start_found_no_violation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: UsageError | Unavailable
) -> None:
    monkeypatch.setattr("client_sdk.localnet.devnet.Network.start", failing(error))
    outcome = Demo(tmp_path / "demo").run()
    assert not outcome.ok and outcome.exit_code == error.exit_code
    assert outcome.steps == [("start", f"failed: {error}")]
    assert outcome.verdict == "NOT everything could be shown"


def test_what_the_demo_finds_is_its_exit_code() -> None:
    assert Outcome(relay_saw_plaintext=True, failure=Unavailable("x")).exit_code == 1
    passed = Attack("a replayed request", "replay", (), "answered twice")
    assert Outcome(attacks=[passed]).exit_code == 1
    assert Outcome(attacks=[passed]).verdict == "NOT everything held"
    assert Outcome().exit_code == 6
    broken = Audit("c")
    broken.violation("tree", "x")
    assert Outcome(audit=broken).exit_code == 1


def test_a_demo_on_a_full_disk(tmp_path: Path) -> None:
    done = umay("demo", "--json", setup=full_disk, TMPDIR=str(tmp_path))
    clear(done, 5)
    assert json.loads(done.stdout)["ok"] is False


# Usage errors as JSON

MISUSE = {
    "an unknown option": ("client", "verify", "--json", "--nope"),
    "an unknown command": ("client", "nothing", "--json"),
    "no value": ("audit", "run", "--json", "--contract"),
    "a missing argument": ("audit", "inspect", "--json"),
    "a missing option": ("audit", "run", "--json"),
    "a number that is none": ("audit", "run", "--json", "--contract", "x", "--sample", "two"),
    "a directory as a file": ("client", "policy", "check", "--json", "/"),
    "a policy that is none": ("client", "policy", "check", "--json", "/dev/null"),
    "a contract that is none": ("audit", "run", "--json", "--contract", "nowhere"),
}


@pytest.mark.parametrize("words", MISUSE.values(), ids=MISUSE)
def test_json_is_said_for_usage_errors_too(words: tuple[str, ...]) -> None:
    done = umay(*words)
    assert done.returncode == 2, done.stderr
    said = json.loads(done.stdout)
    assert said["ok"] is False and said["error"]["code"] == "usage"
    assert said["error"]["exit_code"] == 2 and said["error"]["message"]


def test_a_prompt_that_says_json_asks_for_none() -> None:
    done = umay("client", "chat", "--dir", "/nowhere", "--", "--json")
    assert done.returncode == 2 and done.stdout == "" and done.stderr
