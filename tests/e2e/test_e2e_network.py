"""The whole network as processes on loopback: verify, talk, audit, break, start again."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import Result

from attestation.errors import Refused, Unavailable
from attestation.files import replace
from attestation.formats.evidence import MAX_EVIDENCE_BYTES, Evidence
from attestation.platforms import tdx
from attestation.verify.verifier import PLAN
from benchmarks import imports
from client_sdk.client import Client, connect
from client_sdk.config import read_policy
from client_sdk.localnet.devnet import MODEL_NAME, Network
from client_sdk.localnet.leak_search import contains_secret
from client_sdk.localnet.netfiles import GuestSpec, demo_model
from client_sdk.presented import fetch_places
from client_sdk.transport import Transport, log_url
from enclave.simulator.rough import of_boot
from tests.client_sdk.test_face import HEAVY, examples, loaded_by
from tests.helpers.commands import command
from tests.helpers.network_files import network_file
from tests.helpers.outages import MortalChain, second_relay
from tests.helpers.places import ROOT
from tests.helpers.waiting import HANG_S

pytestmark = pytest.mark.e2e
UMAY = [sys.executable, "-m", "client_sdk"]
PROMPT = "Tell me a long story about the moon and the sea, please."


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with Network(tmp_path_factory.mktemp("net"), record=True, threads=1) as network:
        network.start()
        yield network


@pytest.fixture(scope="module")
def api(network: Network) -> openai.OpenAI:
    base = network.start_proxy()
    return openai.OpenAI(base_url=base, api_key=network.files.api_token())


def umay(network: Network, *words: str) -> Result:
    where = ["--policy", str(network.files.policy), "--chain", network.chain_url]
    return command(*words, *where)


SHORT = {
    "model": MODEL_NAME,
    "messages": [{"role": "user", "content": "Good evening."}],
    "max_tokens": 4,
}


def client_of(network: Network) -> Client:
    policy = read_policy(network.files.policy)
    return Client(network.relay, policy=policy, chain=network.chain())


NO_END = {"2": -100}
"""The demo model's end token made impossible: it writes until it may not."""


def ask(api: openai.OpenAI, max_tokens: int = 24, **options: Any) -> openai.Stream:
    return api.chat.completions.create(
        model=MODEL_NAME,
        messages=[{"role": "user", "content": PROMPT}],
        max_tokens=max_tokens,
        stream=True,
        **options,
    )


def text_of(stream: openai.Stream) -> str:
    return "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)


def test_both_guests_verify_step_by_step(network: Network) -> None:
    done = umay(network, "client", "verify", "--json", "--url", network.relay)
    assert done.exit_code == 0, done.stderr
    enclaves = json.loads(done.stdout)["enclaves"]
    assert len(enclaves) == 2
    for enclave in enclaves:
        assert enclave["simulated"] and len(enclave["steps"]) == len(PLAN)
        assert {step["status"] for step in enclave["steps"]} == {"passed"}


def test_its_machines_are_rough_and_their_evidence_is_exact(network: Network) -> None:
    """The hosts' buffers are longer than that, and the firmware wrote notes: see `of_boot`."""
    transport = Transport()
    for place in fetch_places(transport, network.relay):
        data = transport.get(f"{place.base}evidence", limit=MAX_EVIDENCE_BYTES)
        evidence = Evidence.from_bytes(data)
        quote = tdx.parse_quote(evidence.quote)
        notes = [e for e in tdx.parse_ccel(evidence.ccel).events if not e.extends]
        form = (quote.version, quote.body_type, quote.qe_auth_data, len(notes))
        of_guests = [of_boot(guest.name, 0) for guest in network.guests]
        assert form in [(r.quote_version, r.body, r.auth_data, r.notes) for r in of_guests]
        assert all(r.padding and r.gpu_padding for r in of_guests)


def test_a_session_through_relay_and_agent(network: Network) -> None:
    policy = dataclasses.replace(read_policy(network.files.policy), challenge="required")
    with Client(network.relay, policy=policy, chain=network.chain()) as umay:
        for _ in range(2):
            body = {"model": MODEL_NAME, "messages": [{"role": "user", "content": PROMPT}]}
            answer = umay.chat({**body, "max_tokens": 4})
            assert answer.text() and answer.receipt is not None
            assert answer.enclave.session is not None
        assert answer.enclave.valid_until == answer.enclave.session.until


def test_a_proxy_that_demands_sessions(network: Network, tmp_path: Path) -> None:
    policy, text = tmp_path / "policy.toml", network.files.policy.read_text()
    policy.write_text(re.sub(r'challenge = "\w+"', 'challenge = "required"', text))
    assert read_policy(policy).challenge == "required"
    where = ["--policy", str(policy), "--chain", network.chain_url, "--url", network.relay]
    key = ["--token-file", str(network.files.token), "--listen", "127.0.0.1:0"]
    network.files.api_token()
    command = [*UMAY, "client", "proxy", *where, *key]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            base = json.loads(process.stdout.readline())["base_url"]
            api = openai.OpenAI(base_url=base, api_key=network.files.api_token())
            assert api.chat.completions.create(**SHORT).choices[0].message.content
            assert text_of(ask(api))
        finally:
            process.kill()


def test_the_report_for_people_says_simulated(network: Network) -> None:
    done = umay(network, "client", "verify", "--url", network.relay)
    assert done.exit_code == 0 and "SIMULATED" in done.stdout
    assert "\x1b" not in done.stdout


def test_the_cheapest_guest_is_chosen(network: Network) -> None:
    chosen = client_of(network).choose()
    cheapest = min(guest.prompt_price for guest in network.guests)
    assert chosen.enclave.price_table["prompt"] == cheapest


def test_the_openai_package_streams_and_the_relay_sees_nothing(
    network: Network, api: openai.OpenAI
) -> None:
    text = text_of(ask(api))
    assert text.strip()
    record = network.files.record.read_bytes()
    assert len(record) > 5000
    assert not contains_secret(record, (PROMPT, text))


def test_the_openai_package_gets_a_whole_answer(api: openai.OpenAI) -> None:
    answer = api.chat.completions.create(
        model=MODEL_NAME, messages=[{"role": "user", "content": "Hello."}], max_tokens=8
    )
    assert answer.choices[0].message.content


FIRST_BYTE = """
import json, sys
from client_sdk import connect
from client_sdk.transport import Transport

def stream(self, url, body, headers, **times):
    print(json.dumps(sorted(sys.modules)))
    raise SystemExit(0)

Transport.stream = stream
with connect() as umay:
    umay.chat("Good evening.")
"""
"""A first prompt that ends where its sealed request would leave, and says what it loaded."""

EXAMPLES = {
    "first_prompt": (0, "CheckedReceipt of evidence "),
    "stream": (0, " tokens, "),
    "verify_a_machine": (0, f" {len(PLAN)} mint            passed"),
    "audit_a_log": (0, "no violation: "),
    "openai_client": (0, ""),
    "when_it_fails": (0, "the question or the set-up is wrong"),
}


def python(network: Network, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A user's program, whose home has this network as its own."""
    (home / ".umay").mkdir()
    shutil.copy(network.files.config, home / ".umay")
    env = {**os.environ, "HOME": str(home)}
    command = [sys.executable, *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=HANG_S, check=False, env=env
    )


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "examples").glob("*.py")))
def test_an_example_runs(network: Network, tmp_path: Path, name: str) -> None:
    done = python(network, tmp_path, str(ROOT / "examples" / f"{name}.py"))
    code, said = EXAMPLES[name]
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout.strip() and said in done.stdout and not done.stderr


def test_the_first_example_of_the_face_runs_as_it_stands(network: Network, tmp_path: Path) -> None:
    done = python(network, tmp_path, "-c", examples()["client_sdk"])
    assert done.returncode == 0 and "CheckedReceipt" in done.stdout, done.stderr


def test_the_five_lines_of_the_readme_run_as_they_stand(network: Network, tmp_path: Path) -> None:
    found = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len([line for line in found[0].splitlines() if line]) == 5
    done = python(network, tmp_path, "-c", found[0])
    assert done.returncode == 0 and "CheckedReceipt" in done.stdout, done.stderr


def test_calls_go_on_without_a_relay_and_without_the_chain_until_the_verification_ends(
    network: Network,
) -> None:
    chain, ahead = MortalChain(network.chain()), [0.0]
    policy = read_policy(network.files.policy)
    with second_relay(network) as (relay, process):
        urls = [relay, network.relay]
        client = Client(urls, policy=policy, chain=chain, clock=lambda: time.time() + ahead[0])
        with client:
            assert client.chat(SHORT).text()
            process.kill()
            process.wait(HANG_S)
            assert client.chat(SHORT).text()
            chain.dead = True
            until = client.choose().enclave.valid_until
            while client._chooser.finder.now() + 60 < until and ahead[0] < 600:
                ahead[0] += 60
                assert client.chat(SHORT).text()
            assert ahead[0] > 0
            ahead[0] = until - time.time() + 7200
            with pytest.raises(Unavailable, match="the chain does not answer"):
                client.chat(SHORT)


def test_a_first_prompt_loads_only_what_the_benchmark_of_imports_counts(
    network: Network, tmp_path: Path
) -> None:
    """So that its figure is the whole cost of imports up to the first sealed byte."""
    done = python(network, tmp_path, "-c", FIRST_BYTE)
    assert done.returncode == 0, done.stderr
    late = set(json.loads(done.stdout)) - loaded_by(imports.FIRST_BYTE)
    ours = {name for name in late if name.startswith(("attestation", "client_sdk", "contracts"))}
    assert not ours and not late & HEAVY.keys()


def signed_places(network: Network, path: Path, **changes: Any) -> Path:
    now = int(time.time())
    places = {"k1": "umay-local", "k3": now - 60, "k4": now + 3600, "k7": [network.relay]}
    replace(path, network_file(1, **{**places, **changes}).to_bytes())
    return path


def test_a_network_file_names_the_relays(network: Network, tmp_path: Path) -> None:
    file = signed_places(network, tmp_path / "places")
    where = ["--network-file", str(file)]
    said = umay(network, "client", "chat", "Hi.", "--max-tokens", "4", *where)
    assert said.exit_code == 0 and "receipt verified" in said.stderr, said.output
    shown = umay(network, "client", "verify", "--json", *where)
    assert shown.exit_code == 0 and len(json.loads(shown.stdout)["enclaves"]) == 2
    with connect(network.files.directory, network_file=file) as client:
        assert client.chat(SHORT).text()
        signed_places(network, file, k4=int(time.time()) - 30)
        with pytest.raises(Refused, match="network file 1"):
            client.places()
    assert umay(network, "client", "verify", *where).exit_code == 4


def test_a_receipt_holds_for_the_exchange(network: Network) -> None:
    body = {"model": MODEL_NAME, "messages": [{"role": "user", "content": "Hi."}]}
    answer = client_of(network).chat({**body, "max_tokens": 4, "stream": True})
    answer.read()
    assert answer.receipt is not None
    prompt, _, completion, _ = answer.receipt.receipt.tokens
    table = answer.enclave.price_table
    expected = prompt * table["prompt"] + completion * table["completion"]
    assert answer.receipt.receipt.amount == expected


def test_a_receipt_is_disclosed_and_checked_by_anybody(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    policy = ["--policy", str(network.files.policy)]
    where = [*policy, "--chain", network.chain_url]

    def run(*words: str, code: int = 0) -> str:
        done = command(*words)
        assert done.exit_code == code, (words, done.output, done.exception)
        return done.output

    run("client", "chat", "Hi.", "--max-tokens", "4", "--receipts", "mine", *where,
        "--url", network.relay)  # fmt: skip
    (kept,) = json.loads(run("client", "receipts", "list", "--json", "--receipts", "mine"))
    mine = ["client", "receipts", "disclose", kept["id"], "--receipts", "mine"]
    run(*mine, "--answer", "--out", "shown")
    run("audit", "prove", "--evidence", kept["evidence"], "--contract", network.contract,
        "--out", "proof", *where)  # fmt: skip
    check = ["client", "receipts", "verify", "shown"]
    assert "verdict: the receipt holds" in run(*check, "--proof", "proof", *policy)
    run(*check, code=6)


def test_the_audit_verifies_every_machine_again(network: Network) -> None:
    done = umay(network, "audit", "run", "--json", "--contract", network.contract)
    assert done.exit_code == 0, done.stdout
    entries = json.loads(done.stdout)["entries"]
    assert [entry["kind"] for entry in entries[:1]] == ["release"]
    assert sum(entry["verdict"] == "verified" for entry in entries) >= 2


def test_an_audit_is_written_sampled_and_resumed(network: Network, tmp_path: Path) -> None:
    page, state = tmp_path / "audit.html", tmp_path / "state"
    run = ["audit", "run", "--json", "--contract", network.contract]
    done = umay(network, *run, "--html", str(page), "--state", str(state))
    assert done.exit_code == 0, done.stdout + done.stderr
    assert "SIMULATED" in page.read_text() and "<script" not in page.read_text()
    again = umay(network, *run, "--state", str(state))
    verified = [e for e in json.loads(again.stdout)["entries"] if e["verdict"] == "verified"]
    assert again.exit_code == 0 and any(entry["report"] is None for entry in verified)
    assert umay(network, *run, "--sample", "1").exit_code == 6


def test_an_enclave_is_proven_by_one_file(network: Network, tmp_path: Path) -> None:
    where = ["--contract", network.contract]
    entries = json.loads(umay(network, "audit", "run", "--json", *where).stdout)["entries"]
    boot = next(entry["boot"] for entry in entries if entry["boot"])
    out, policy = str(tmp_path / "proof"), str(network.files.policy)
    made = umay(network, "audit", "prove", *where, "--boot", boot, "--out", out)
    assert made.exit_code == 0, made.stdout + made.stderr
    check = ["audit", "check-proof", "--policy", policy, out]
    good = command(*check)
    assert good.exit_code == 0 and "the prover's word" in good.stdout, good.stdout
    data = bytearray(Path(out).read_bytes())
    data[len(data) // 2] ^= 1
    Path(out).write_bytes(data)
    assert command(*check).exit_code == 3


def test_one_entry_is_shown(network: Network) -> None:
    where = ["--contract", network.contract]
    for index in ("0", "1"):
        done = umay(network, "audit", "entry", index, *where)
        assert done.exit_code == 0 and "c2sp.org/tlog-proof@v1" in done.stdout, done.stdout
    assert umay(network, "audit", "entry", "9999", *where).exit_code == 2


def test_a_log_is_consistent_with_itself(network: Network) -> None:
    policy, url = str(network.files.policy), log_url(read_policy(network.files.policy).log_origin)
    for options, expected in ((["--policy", policy], 0), ([], 6)):
        done = command("audit", "compare", url, url, *options)
        assert done.exit_code == expected, done.output


def test_an_audit_under_another_key_is_a_violation(network: Network, tmp_path: Path) -> None:
    policy = network.files.policy.read_text()
    key = network._log_public_key().hex()
    other = tmp_path / "policy.toml"
    other.write_text(policy.replace(key, "ab" * 32))
    where = ["--policy", str(other), "--chain", network.chain_url]
    assert command("audit", "run", "--contract", network.contract, *where).exit_code == 1


def test_another_root_is_not_authentic(network: Network, tmp_path: Path) -> None:
    """Exit code 3, at step 2: the same policy with another Intel root."""
    policy = network.files.policy.read_text()
    roots = read_policy(network.files.policy).roots
    other = tmp_path / "policy.toml"
    other.write_text(policy.replace(next(iter(roots.intel)).hex(), "cd" * 32))
    words = ["client", "verify", "--json", "--url", network.relay]
    where = ["--policy", str(other), "--chain", network.chain_url]
    done = command(*words, *where)
    assert done.exit_code == 3
    steps = json.loads(done.stdout)["enclaves"][0]["steps"]
    assert steps[1]["name"] == "cpu-signature" and steps[1]["status"] == "failed"


def test_a_model_with_one_byte_changed_is_refused(network: Network, tmp_path: Path) -> None:
    """Exit code 4, at the model step; the log does not admit it either."""
    model = tmp_path / "model"
    shutil.copytree(demo_model(), model)
    file = model / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-4] ^= 1  # the lowest bit of the last weight
    file.write_bytes(data)
    url = network.add_guest(GuestSpec("mallory", 1, 1, model))
    done = verified_in_time(network, url)
    assert done.exit_code == 4, done.stderr
    steps = json.loads(done.stdout)["enclaves"][0]["steps"]
    failed = [step["name"] for step in steps if step["status"] == "failed"]
    assert failed[0] == "model"
    assert set(failed) <= {"model", "log"}  # never admitted, so there is no proof either


def verified_in_time(network: Network, url: str) -> Result:
    until = time.monotonic() + HANG_S
    while True:
        done = umay(network, "client", "verify", "--json", "--url", url)
        if done.exit_code != 5 or time.monotonic() > until:
            return done
        time.sleep(0.5)


def test_nothing_is_sent_under_a_policy_that_refuses(network: Network) -> None:
    policy = dataclasses.replace(
        read_policy(network.files.policy), models=(("other", b"\x01" * 32),)
    )
    before = network.files.record.stat().st_size
    client = Client(network.relay, policy=policy, chain=network.chain())
    with pytest.raises(Refused, match="unknown-model"):
        client.chat({"model": "other", "messages": []})
    handled = network.files.record.read_bytes()[before:]
    assert b"/ohttp" not in handled


def test_killing_the_chosen_guest_mid_stream_is_named_and_the_other_serves(
    network: Network, api: openai.OpenAI
) -> None:
    """Last in this module but the others: it costs a guest."""
    cheapest = min(network.guests[:2], key=lambda guest: guest.prompt_price)
    got: list[str] = []
    with pytest.raises(openai.APIError, match="truncated"):
        for chunk in ask(api, max_tokens=900, logit_bias=NO_END):
            if not got:
                network.supervisor.kill(f"guest-{cheapest.name}")
            got += [choice.delta.content or "" for choice in chunk.choices]
    assert got
    assert text_of(ask(api)).strip()
    assert client_of(network).choose().enclave.price_table["prompt"] > cheapest.prompt_price


Up = Callable[[Path], subprocess.Popen[str]]


@pytest.fixture
def up() -> Iterator[Up]:
    """Starts `umay up` in a directory; whatever a test does, none stays behind."""
    started: list[subprocess.Popen[str]] = []

    def start(directory: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*UMAY, "up", "--dir", str(directory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell has what it runs in the background ignore SIGINT; a user's does not.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=HANG_S)


def read_to(process: subprocess.Popen[str], start: str) -> None:
    """Reads its lines up to one that starts so."""
    for line in process.stdout:
        if line.startswith(start):
            return
    raise AssertionError(process.stderr.read())


def test_up_that_is_interrupted_while_it_starts_did_not_succeed(tmp_path: Path, up: Up) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        process = up(tmp_path / number.name)
        read_to(process, "starting ")
        process.send_signal(number)
        assert process.wait(HANG_S) == 130
        assert process.stdout.read().endswith("stopping …\n")


def test_up_resumes_and_only_a_guest_may_crash(network: Network, up: Up) -> None:
    """The last one of this module: it stops the network and resumes it as `umay up`."""
    directory, contract, url = network.files.directory, network.contract, network.relay
    before = audited_boots(network)
    network.supervisor.stop()
    assert not children(directory)
    process = up(directory)
    read_to(process, "export OPENAI_API_KEY=")
    assert network.contract == contract
    boots = audited_boots(network)
    assert before < boots and len(boots) == len(before) + 2  # two guests with new keys
    dead = children(directory)["guest-ada"]
    os.kill(dead, signal.SIGKILL)
    lines = iter(process.stdout.readline, "")
    assert any("guest-ada ended with signal SIGKILL" in line for line in lines)
    assert any("starting guest-ada again" in line for line in lines)
    assert any("guest ada serves again" in line for line in lines)
    assert process.poll() is None and "guest-bela" in children(directory)
    until = time.monotonic() + HANG_S
    while not comes_back(url, boots) and time.monotonic() < until:
        time.sleep(0.2)
    assert comes_back(url, boots) and children(directory)["guest-ada"] != dead
    os.kill(children(directory)["relay"], signal.SIGKILL)
    assert process.wait(HANG_S) == 5
    assert "relay ended" in process.stderr.read()
    assert not children(directory)


def audited_boots(network: Network) -> set[str]:
    done = umay(network, "audit", "run", "--json", "--contract", network.contract)
    assert done.exit_code == 0, done.output
    return {entry["boot"] for entry in json.loads(done.stdout)["entries"]} - {""}


def comes_back(url: str, boots: set[str]) -> bool:
    """Whether a boot is ready that was not there when the audit ran."""
    places = fetch_places(Transport(), url)
    return any(place.state == "ready" and place.boot not in boots for place in places)


def children(directory: Path) -> dict[str, int]:
    """The parts of the network in this directory that still run, by name."""
    names = {f"127.0.0.1:{port}": name for name, port in ports_of(directory).items()}
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        listen = words[words.index("--listen") + 1] if "--listen" in words else ""
        inside = any(word.startswith(f"{directory}/") for word in words)
        if listen in names or inside:
            found[names.get(listen, " ".join(words[1:4]))] = int(place.name)
    return found


def ports_of(directory: Path) -> dict[str, int]:
    return json.loads((directory / "ports.json").read_text())
