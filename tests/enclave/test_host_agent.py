"""The agent over real HTTP on loopback, before a scripted guest, a real log, a small chain."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from attestation import wire
from attestation.errors import ParseError, Refused, Unavailable
from attestation.formats import cbor
from attestation.formats.collateral import Collateral
from attestation.formats.evidence import evidence_digest
from attestation.log.leaf import Leaf
from attestation.log.proof import verify_proof
from attestation.log.submission import Submission
from enclave.host import agent
from enclave.host.collateral import from_file, from_simulator
from enclave.host.forward import Forwarder
from enclave.host.retry import Retries
from tests.contracts.test_log_server import COLLATERAL, ORIGIN, PUBLIC, leaf_of
from tests.helpers.host_parts import PIECE, Net, ask, other_bytes
from tests.helpers.waiting import HANG_S, wait_for


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    net = Net(tmp_path / "log")
    yield net
    net.close()


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """A ready one for tests that change nothing."""
    net = Net(tmp_path_factory.mktemp("still") / "log")
    net.make_ready()
    yield net
    net.close()


def listing(net: Net) -> list[dict[str, str]]:
    return json.loads(ask(net.url, "/umay/").body)["boots"]


def get(net: Net, path: str) -> bytes:
    answer = ask(net.url, f"/umay/{net.guest.boot_id}/{path}")
    assert answer.status == 200, (path, answer)
    return answer.body


def status_of(net: Net, path: str, method: str = "GET", body: bytes | None = None) -> int:
    return ask(net.url, f"/umay/{net.guest.boot_id}/{path}", method=method, body=body).status


# From the guest to the log to the chain


def test_the_listing_says_pending_until_the_current_evidence_is_anchored(net: Net) -> None:
    assert listing(net) == []
    epoch = net.guest.add_epoch()
    net.look()
    pending = {"boot": net.guest.boot_id, "state": "pending", "base": f"/umay/{net.guest.boot_id}/"}
    assert listing(net) == [pending]
    assert cbor.decode(ask(net.feed, "/anchored").body) == []
    net.chain.size = net.store.size
    net.look()
    assert cbor.decode(ask(net.feed, "/anchored").body) == [epoch.digest]
    assert listing(net)[0]["state"] == "pending"  # the guest has not begun to use it
    epoch.state = "current"
    net.look()
    assert listing(net) == [{**pending, "state": "ready"}]


def test_a_leaf_beyond_the_anchored_size_is_not_anchored(net: Net) -> None:
    net.guest.add_epoch()
    net.chain.size = 1  # the leaf's index is 1
    net.look()
    net.look()
    assert cbor.decode(ask(net.feed, "/anchored").body) == []


def test_the_submission_holds_what_the_guest_serves(net: Net) -> None:
    epoch = net.make_ready()
    assert net.submitted == [epoch.submission]
    assert net.submitted[0].kind == 1 and net.submitted[0].release is None


def test_a_renewal_names_the_leaf_before_it(net: Net) -> None:
    first = net.make_ready()
    net.guest.add_epoch(renews=first)
    net.look()
    assert [(item.kind, item.previous) for item in net.submitted] == [(1, None), (2, 1)]


def test_an_agent_that_starts_later_finds_its_guest_in_the_log(net: Net) -> None:
    """The evidence that the living one renews is gone from the guest."""
    second = net.guest.add_epoch(renews=net.make_ready())
    net.look()
    net.guest.epochs = [second]
    second.state = "current"
    size = net.chain.size = net.store.size
    net.start_agent()
    net.look()
    net.look()
    assert net.registrar.status.entry is not None
    assert (net.registrar.status.entry.index, net.store.size) == (3, size)
    assert listing(net)[0]["state"] == "ready"


def test_the_proof_is_of_the_evidence_that_is_served(net: Net) -> None:
    net.make_ready()
    net.guest.add_epoch(renews=net.guest.epochs[0])
    net.look()
    size = net.store.size
    leaf, head = verify_proof(get(net, f"proof?size={size}"), origin=ORIGIN, log_key=PUBLIC)
    assert head.size == size
    assert Leaf.from_bytes(leaf).evidence_digest == evidence_digest(get(net, "evidence"))
    assert get(net, f"proof?size={size}")  # kept


def test_a_proof_is_asked_for_again_once_it_is_a_minute_old(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    net.make_ready()
    path = f"proof?size={net.store.size}"
    now, asked, found = [0.0], [], [b"first", b"second", None, b"third"]

    async def answer(self: Forwarder, url: str, *, limit: int) -> bytes | None:
        asked.append(url)
        return found[len(asked) - 1]

    monkeypatch.setattr(agent, "_now", lambda: now[0])
    monkeypatch.setattr(Forwarder, "get", answer)
    for moment, body, times in (
        (0.0, b"first", 1),
        (agent.PROOF_SECONDS, b"first", 1),
        (agent.PROOF_SECONDS + 1, b"second", 2),
        (agent.PROOF_SECONDS * 3, b"second", 3),  # the log is away
        (agent.PROOF_SECONDS * 3, b"third", 4),
    ):
        now[0] = moment
        assert (get(net, path), len(asked)) == (body, times)


GARBAGE_SIZES = {
    "none": "",
    "empty": "?size=",
    "negative": "?size=-1",
    "signed": "?size=+3",
    "fraction": "?size=3.0",
    "leading zero": "?size=03",
    "encoded digit": "?size=%33",
    "encoded other digit": "?size=%d9%a3",
    "line end": "?size=3%0a",
    "twice": "?size=3&size=3",
    "something else too": "?size=3&a=1",
    "other name": "?Size=3",
    "endless": "?size=" + "9" * 40,
    "zero": "?size=0",
    "the leaf not within": "?size=1",
}


@pytest.mark.parametrize("query", GARBAGE_SIZES.values(), ids=GARBAGE_SIZES)
def test_no_proof_to_a_garbage_size(still: Net, query: str) -> None:
    assert status_of(still, "proof?size=3") == 200
    assert status_of(still, f"proof{query}") == 404


def test_no_proof_beyond_the_log(still: Net) -> None:
    assert status_of(still, "proof?size=999") == 502


def test_where_the_log_holds_other_bytes_its_copy_is_served(net: Net) -> None:
    """Somebody else logged the same keys first, with another spelling of the quote."""
    epoch = net.guest.add_epoch()
    first = other_bytes(epoch.submission, b"the same statement, other bytes")
    answer = ask(net.log, "/log/submit", method="POST", body=first.to_bytes())
    assert answer.status == 200
    net.look()
    net.chain.size = net.store.size
    net.look()
    epoch.state = "current"
    net.look()
    assert listing(net)[0]["state"] == "ready"
    assert get(net, "evidence") == first.evidence
    assert get(net, f"evidence/{evidence_digest(first.evidence).hex()}") == first.evidence
    assert get(net, f"evidence/{epoch.digest.hex()}") == epoch.submission.evidence
    leaf, _ = verify_proof(get(net, "proof?size=3"), origin=ORIGIN, log_key=PUBLIC)
    assert Leaf.from_bytes(leaf).evidence_digest == evidence_digest(first.evidence)
    assert cbor.decode(ask(net.feed, "/anchored").body) == [epoch.digest]


def test_a_refusal_is_told_once_kept_in_sight_and_not_repeated_hotly(net: Net) -> None:
    def refuse(_: Submission) -> Leaf:
        raise Refused("model", "unknown-model", "no accepted model\n\x1b[31m")

    net.admit = refuse
    epoch = net.guest.add_epoch()
    for _ in range(10):
        net.look()
    assert len(net.submitted) == 1
    told = [line for line in net.told if "refused" in line]
    assert len(told) == 1 and "[unknown-model]" in told[0] and "\x1b" not in told[0]
    status = json.loads(ask(net.feed, "/status", **net.bearer).body)
    assert status["refused"] == {epoch.digest.hex(): "model/unknown-model"}
    assert listing(net)[0]["state"] == "pending"
    net.admit = leaf_of
    net.look(after=60)
    assert json.loads(ask(net.feed, "/status", **net.bearer).body)["refused"] == {}
    assert net.store.size == 3


def test_one_refused_evidence_does_not_hold_up_the_next(net: Net) -> None:
    refused = net.guest.add_epoch()

    def refuse(submitted: Submission) -> Leaf:
        if submitted.evidence == refused.submission.evidence:
            raise Refused("freshness", "beacon-too-old", "too late")
        return leaf_of(submitted)

    net.admit = refuse
    good = net.guest.add_epoch()
    net.look()
    assert set(net.registrar.status.entries) == {good.digest}


def test_a_busy_log_is_asked_again(net: Net) -> None:
    def busy(_: Submission) -> Leaf:
        raise Unavailable("no policy yet")

    net.admit = busy
    net.guest.add_epoch()
    net.look()
    net.admit = leaf_of
    net.look()
    assert net.store.size == 3


def test_a_log_that_answers_with_other_keys_is_not_followed(net: Net) -> None:
    epoch = net.guest.add_epoch()
    other = replace(leaf_of(epoch.submission), bundle_digest=b"\1" * 32)
    net.admit = lambda _: other
    net.look()
    assert not net.registrar.status.entries
    assert any("other keys" in line for line in net.told)


def test_a_guest_that_serves_other_evidence_than_it_lists_is_not_logged(net: Net) -> None:
    epoch = net.guest.add_epoch()
    epoch.__class__ = type("Lying", (type(epoch),), {"digest": b"\1" * 32})
    net.look()
    assert net.submitted == []


def test_a_restarted_guest_replaces_its_old_boot(net: Net) -> None:
    net.make_ready()
    old = net.base
    net.guest.restart()
    net.guest.add_epoch()
    net.look()
    states = [(item["boot"], item["state"]) for item in listing(net)]
    assert states == [(net.guest.boot_id, "pending")]
    assert ask(net.url, urlsplit(old).path + "evidence").status == 404
    assert cbor.decode(ask(net.feed, "/anchored").body) == []


def test_a_guest_that_drains_is_not_listed_and_what_comes_reaches_it(net: Net) -> None:
    """It refuses by itself, inside the seal."""
    net.make_ready()
    net.guest.drains = True
    net.look()
    assert listing(net) == []
    assert any("takes no more requests" in line for line in net.told)
    sealed = ask(net.url, f"/umay/{net.guest.boot_id}/ohttp", method="POST", body=b"x")
    assert sealed.body == 3 * PIECE
    net.guest.drains = False
    net.look(after=10)
    assert listing(net)[0]["state"] == "ready"


def test_a_guest_that_is_down_is_not_listed_and_comes_back(net: Net) -> None:
    net.make_ready()
    net.guest_service.stop()
    net.look()
    assert listing(net) == []
    assert status_of(net, "evidence") == 502
    answer = ask(net.url, f"/umay/{net.guest.boot_id}/ohttp", method="POST", body=b"x")
    assert (answer.status, answer.body) == (502, b"")
    net.guest_service = net.service(net.guest.app(), port=net.guest_service.port)
    net.look(after=10)
    assert listing(net)[0]["state"] == "ready"
    assert any("works again" in line for line in net.told)


def test_collateral_is_fetched_anew_each_hour_and_kept_when_that_fails(net: Net) -> None:
    net.make_ready()
    other = Collateral({"intel/tcb_info": b"{1}"})
    net.collateral = lambda: other
    net.look(after=60)
    assert get(net, "collateral") == COLLATERAL.to_bytes()
    net.look(after=3600)
    assert get(net, "collateral") == ask(net.feed, "/collateral").body == other.to_bytes()

    def fail() -> Collateral:
        raise Unavailable("vendors are down")

    net.collateral = fail
    net.look(after=3700)
    assert get(net, "collateral") == other.to_bytes()


def test_nothing_is_submitted_without_collateral(net: Net) -> None:
    def fail() -> Collateral:
        raise Unavailable("vendors are down")

    net.collateral = fail
    net.guest.add_epoch()
    net.look()
    assert net.submitted == [] and status_of(net, "collateral") == 503
    net.collateral = lambda: COLLATERAL
    net.look(after=10)
    assert len(net.submitted) == 1


def test_the_chain_is_not_read_once_all_is_anchored(net: Net) -> None:
    net.make_ready()
    before = net.chain.reads
    net.look()
    assert net.chain.reads == before


def test_the_beacon_is_the_newest_block(still: Net) -> None:
    beacon = cbor.decode(ask(still.feed, "/beacon").body)
    assert beacon == {0: 7, 1: b"\6" * 32, 2: 1_790_000_000}


def test_the_feed_and_the_public_address_are_apart(still: Net) -> None:
    assert ask(still.feed, "/umay/").status == 404
    for path in ("/beacon", "/anchored", "/collateral", "/status"):
        assert ask(still.url, path).status == 404


# What passes to the guest, and how

FORWARDED = ("epochs", "config/engine", "config/price", "config/host", "evidence")


@pytest.mark.parametrize("path", [*FORWARDED, "ohttp-keys", "healthz", "evidence/" + "0" * 64])
def test_known_routes_reach_the_guest(still: Net, path: str) -> None:
    assert status_of(still, path) == (404 if "000" in path else 200)


BAD_PATHS = {
    "traversal": "/umay/{boot}/../../admin",
    "traversal within": "/umay/{boot}/config/../evidence",
    "encoded traversal": "/umay/{boot}/%2e%2e/%2e%2e/admin",
    "twice encoded traversal": "/umay/{boot}/%252e%252e/admin",
    "encoded slash": "/umay/{boot}/config%2fengine",
    "encoded letter": "/umay/{boot}/%65vidence",
    "double slash": "/umay/{boot}//evidence",
    "slash at the end": "/umay/{boot}/evidence/",
    "semicolon": "/umay/{boot}/evidence;x",
    "question mark encoded": "/umay/{boot}/evidence%3fx",
    "line end encoded": "/umay/{boot}/evidence%0a",
    "zero byte": "/umay/{boot}/evidence%00",
    "backslash": "/umay/{boot}/..\\admin",
    "query": "/umay/{boot}/evidence?x=1",
    "unknown route": "/umay/{boot}/admin",
    "metrics": "/umay/{boot}/metrics",
    "other config": "/umay/{boot}/config/secret",
    "upper-case digest": "/umay/{boot}/evidence/" + "A" * 64,
    "short digest": "/umay/{boot}/evidence/" + "a" * 63,
    "unknown boot": "/umay/" + "f" * 32 + "/evidence",
    "no boot": "/umay/evidence",
    "boot in upper case": "/umay/" + "A" * 32 + "/evidence",
    "no slash": "/umay",
    "root": "/",
    "absolute form": "http://127.0.0.1:1/umay/{boot}/evidence",
}


@pytest.mark.parametrize("path", BAD_PATHS.values(), ids=BAD_PATHS)
def test_other_paths_end_here(still: Net, path: str) -> None:
    before = list(still.guest.seen)
    answer = ask(still.url, path.format(boot=still.guest.boot_id))
    assert answer.status == 404
    assert "location" not in answer.headers
    assert still.guest.seen == before


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"])
@pytest.mark.parametrize("path", ["ohttp", "evidence", "0" * 32])
def test_other_methods_end_here(still: Net, method: str, path: str) -> None:
    before = list(still.guest.seen)
    assert status_of(still, path, method) in (404, 405)
    assert still.guest.seen == before


@pytest.mark.parametrize(("method", "path"), [("GET", "ohttp"), ("POST", "evidence")])
def test_routes_have_one_method(still: Net, method: str, path: str) -> None:
    assert status_of(still, path, method) == 404


def test_nothing_names_the_client_to_the_guest(net: Net) -> None:
    net.make_ready()
    told = {
        "authorization": "Bearer sk-1",
        "cookie": "a=b",
        "user_agent": "a browser",
        "x_forwarded_for": "192.0.2.1",
        "forwarded": "for=192.0.2.1",
        "accept_language": "tr",
        "te": "trailers",
        "connection": "x-hop",
        "x_hop": "1",
        "content_type": "message/ohttp-chunked-req",
        "incremental": "?1",
    }
    path = f"/umay/{net.guest.boot_id}/ohttp"
    answer = ask(net.url, path, method="POST", body=b"sealed", **told)
    assert answer.body == 3 * PIECE
    _, _, headers, body = net.guest.seen[0]
    assert body == b"sealed"
    own = {"host", "accept", "accept-encoding", "user-agent", "content-length"}
    assert set(headers) == own | {"content-type", "incremental"}
    assert headers["user-agent"] == "umay" and headers["accept-encoding"] == "identity"
    assert headers["content-type"] == "message/ohttp-chunked-req"


def test_only_known_headers_come_back(still: Net) -> None:
    answer = ask(still.url, f"/umay/{still.guest.boot_id}/ohttp", method="POST", body=b"x")
    own = {"date", "transfer-encoding", "access-control-allow-origin"}
    assert set(answer.headers) == own | {"content-type", "incremental"}
    assert set(ask(still.url, f"/umay/{still.guest.boot_id}/healthz").headers) <= {
        "content-type",
        *own,
    }


def test_when_to_try_again_comes_back(net: Net) -> None:
    net.make_ready()
    net.guest.mode = "full"
    answer = ask(net.url, f"/umay/{net.guest.boot_id}/ohttp", method="POST", body=b"x")
    assert (answer.status, answer.headers["retry-after"]) == (503, "7")
    assert "x-guest" not in answer.headers


def test_a_body_over_the_limit_is_refused(net: Net) -> None:
    net.make_ready()
    assert status_of(net, "session", "POST", bytes(34)) == 200
    assert status_of(net, "session", "POST", bytes(35)) == 413
    assert len(net.guest.seen) == 1


def test_a_sealed_body_is_bounded_while_it_comes(net: Net) -> None:
    """Chunked, so that no length announces it."""
    net.make_ready()
    connection = http.client.HTTPConnection(urlsplit(net.url).netloc, timeout=HANG_S)
    parts = (bytes(1 << 20) for _ in range(wire.MAX_SEALED_BYTES // (1 << 20) + 2))
    try:
        connection.request("POST", f"/umay/{net.guest.boot_id}/ohttp", parts, encode_chunked=True)
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # it had answered and closed while we were still sending
    finally:
        connection.close()
    assert net.guest.seen == []


# Streams


def opened(net: Net) -> socket.socket:
    """A sealed request sent, the answer not yet read."""
    place = urlsplit(net.url)
    connection = socket.create_connection((place.hostname, place.port), timeout=HANG_S)
    head = f"POST /umay/{net.guest.boot_id}/ohttp HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n"
    connection.sendall(head.encode() + b"x")
    return connection


def read_until(connection: socket.socket, wanted: bytes) -> bytes:
    data = b""
    while wanted not in data:
        part = connection.recv(4096)
        assert part, data
        data += part
    return data


def test_pieces_pass_as_they_come(net: Net) -> None:
    net.make_ready()
    net.guest.mode = "silent"
    with opened(net) as connection:
        assert read_until(connection, PIECE).count(PIECE) == 1


def test_a_client_that_leaves_mid_stream_ends_the_request_upstream(net: Net) -> None:
    """Though the guest says nothing meanwhile."""
    net.make_ready()
    net.guest.mode = "silent"
    with opened(net) as connection:
        read_until(connection, PIECE)
        assert not net.guest.left.is_set()
    assert net.guest.left.wait(HANG_S)


def test_a_client_that_leaves_before_the_answer_ends_the_request_upstream(net: Net) -> None:
    net.make_ready()
    net.guest.mode = "no head"
    with opened(net):
        assert net.guest.arrived.wait(HANG_S)
        assert not net.guest.left.is_set()
    assert net.guest.left.wait(HANG_S)


def test_a_client_that_leaves_within_its_own_body_leaves_nothing_behind(net: Net) -> None:
    net.make_ready()
    place = urlsplit(net.url)
    with socket.create_connection((place.hostname, place.port)) as connection:
        head = f"POST /umay/{net.guest.boot_id}/ohttp HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n"
        connection.sendall(head.encode() + b"\r\nhalf")
        time.sleep(0.1)
    assert status_of(net, "evidence") == 200
    assert net.guest.seen == []


@pytest.mark.parametrize("mode", ["die", "die at length"])
def test_a_guest_that_dies_mid_stream_cuts_the_answer(net: Net, mode: str) -> None:
    net.make_ready()
    net.guest.mode = mode
    with pytest.raises(http.client.IncompleteRead) as cut:
        ask(net.url, f"/umay/{net.guest.boot_id}/ohttp", method="POST", body=b"x")
    assert cut.value.partial == PIECE


# Parts


def test_pauses_grow_within_bounds_and_differ() -> None:
    now = [0.0]
    retries = Retries(clock=lambda: now[0])
    assert retries.due("a")
    pauses = []
    for _ in range(12):
        retries.failed("a", first=1, longest=30)
        start = now[0]
        while not retries.due("a"):
            now[0] += 0.05
        pauses.append(now[0] - start)
    assert 0.7 < pauses[0] < 1.35 and 22 < pauses[-1] < 38
    assert len({round(pause, 1) for pause in pauses[8:]}) > 1
    retries.failed("a", first=1, longest=30)
    retries.done("a")
    assert retries.due("a")


def test_collateral_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "collateral"
    with pytest.raises(Unavailable):
        from_file(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ParseError):
        from_file(path)
    path.write_bytes(COLLATERAL.to_bytes())
    assert from_file(path) == COLLATERAL
    with pytest.raises(Unavailable):
        from_simulator(tmp_path / "no socket")


def agent_command(net: Net, tmp_path: Path, **changes: str) -> list[str]:
    (tmp_path / "collateral").write_bytes(COLLATERAL.to_bytes())
    options = {
        "listen": "127.0.0.1:0",
        "feed-listen": "127.0.0.1:0",
        "guest": net.guest_service.url,
        "log": net.log,
        "chain": "http://127.0.0.1:1",
        "contract": "-1:" + "ab" * 32,
        "collateral": str(tmp_path / "collateral"),
        "token-file": str(tmp_path / "feed.token"),
        **changes,
    }
    flags = [word for name, value in options.items() for word in (f"--{name}", value)]
    return [sys.executable, "-m", "client_sdk", "host", "agent", *flags]


def test_sigterm_ends_the_agent_with_a_stream_open(net: Net, tmp_path: Path) -> None:
    net.guest.add_epoch()
    net.guest.mode = "silent"
    pipe = subprocess.PIPE
    command = agent_command(net, tmp_path)
    with subprocess.Popen(command, stdout=pipe, stderr=pipe) as process:
        try:
            ready = json.loads(process.stdout.readline())
            wait_for(lambda: ask(ready["listening"], "/umay/").body != b'{"boots":[]}')
            assert ask(ready["feed"], "/anchored").status == 200
            net.url = ready["listening"]
            with opened(net) as connection:
                read_until(connection, PIECE)
                process.send_signal(signal.SIGTERM)
                assert process.wait(HANG_S) == 0
                assert connection.recv(4096) == b""  # cut, not ended properly
            errors = process.stderr.read().decode()
            assert "Traceback" not in errors and not re.search(r"POST|ohttp", errors)
        finally:
            process.kill()


def test_the_agent_s_exit_codes(net: Net, tmp_path: Path) -> None:
    taken = net.url.removeprefix("http://")
    for changes, code in (
        ({"listen": "nowhere"}, 2),
        ({"simulator": "x"}, 2),
        ({"chain": "x"}, 2),
        ({"listen": taken}, 5),
    ):
        done = subprocess.run(
            agent_command(net, tmp_path, **changes),
            capture_output=True,
            timeout=HANG_S,
            check=False,
        )
        assert done.returncode == code, (changes, done.stderr)
        assert b"Traceback" not in done.stderr


# Retiring


def test_nobody_retires_a_guest_through_its_public_address(still: Net) -> None:
    for path in ("retire", "retire/", "epochs/retire"):
        assert status_of(still, path, "POST", b"") == 404
    assert not [seen for seen in still.guest.seen if "retire" in seen[1]]


def test_a_guest_without_an_entry_cannot_retire(net: Net) -> None:
    answer = ask(net.feed, "/retire", method="POST", **net.bearer)
    assert (
        answer.status == 503 and "not in the log yet" in json.loads(answer.body)["error"]["message"]
    )
