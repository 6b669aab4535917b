"""The relay before two real agents, on loopback."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from attestation import wire
from attestation.errors import UsageError
from client_sdk.localnet.leak_search import contains_secret
from enclave.host.relay import MAX_ROUTES, Relay, recorded
from tests.enclave.test_host_agent import BAD_PATHS
from tests.helpers.host_parts import PIECE, Net, Service, ask
from tests.helpers.waiting import HANG_S, wait_for

SECRET = "a prompt that somebody forgot to seal"


@pytest.fixture
def nets(tmp_path: Path) -> Iterator[tuple[Net, Net]]:
    first, second = Net(tmp_path / "a"), Net(tmp_path / "b")
    second.guest.boot = 200
    first.make_ready()
    second.guest.add_epoch()
    second.look()
    yield first, second
    first.close()
    second.close()


@pytest.fixture
def relay(nets: tuple[Net, Net], tmp_path: Path) -> Iterator[Service]:
    app = Relay(tuple(net.url for net in nets)).app()
    service = Service(recorded(app, tmp_path / "record"))
    yield service
    service.stop()


@pytest.fixture(scope="module")
def passing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, list[str]]]:
    """A relay before something that answers whatever it is asked, and what it was asked."""
    seen: list[str] = []
    behind = Service(upstream({"boots": [{"boot": BOOT, "state": "ready"}]}, seen))
    service = Service(Relay((behind.url,)).app())
    yield service, seen
    service.stop()
    behind.stop()


def boots(relay: Service) -> dict[str, str]:
    listed = json.loads(ask(relay.url, "/umay/").body)["boots"]
    assert all(item["base"] == f"/umay/{item['boot']}/" for item in listed)
    return {item["boot"]: item["state"] for item in listed}


def test_listings_are_merged(relay: Service, nets: tuple[Net, Net]) -> None:
    first, second = nets
    assert boots(relay) == {first.guest.boot_id: "ready", second.guest.boot_id: "pending"}


def test_requests_go_to_the_agent_that_lists_the_boot(
    relay: Service, nets: tuple[Net, Net]
) -> None:
    for net in nets:
        base = f"/umay/{net.guest.boot_id}"
        evidence = ask(relay.url, f"{base}/evidence")
        assert evidence.body == net.guest.epochs[0].submission.evidence
        assert ask(relay.url, f"{base}/ohttp", method="POST", body=b"sealed").body == 3 * PIECE
        assert [seen[3] for seen in net.guest.seen] == [b"sealed"]
    assert ask(relay.url, f"/umay/{nets[0].guest.boot_id}/proof?size=3").status == 200
    assert ask(relay.url, f"/umay/{nets[0].guest.boot_id}/collateral").status == 200


def test_a_boot_that_appears_is_found(relay: Service, nets: tuple[Net, Net]) -> None:
    net = nets[1]
    boots(relay)
    net.guest.restart()
    net.guest.add_epoch()
    net.look()
    wait_for(lambda: ask(relay.url, f"/umay/{net.guest.boot_id}/evidence").status == 200)
    assert set(boots(relay)) == {item.guest.boot_id for item in nets}


def test_what_comes_for_a_boot_that_is_listed_no_more_reaches_it(
    relay: Service, nets: tuple[Net, Net]
) -> None:
    """A guest that drains refuses inside the seal; a 404 from here would say nothing of that."""
    net = nets[0]
    assert net.guest.boot_id in boots(relay)
    net.guest.drains = True
    net.look()
    wait_for(lambda: net.guest.boot_id not in boots(relay))
    path = f"/umay/{net.guest.boot_id}/ohttp"
    assert ask(relay.url, path, method="POST", body=b"sealed").body == 3 * PIECE


def test_routes_are_bounded_and_the_newest_stay() -> None:
    relay = Relay(())
    for number in range(MAX_ROUTES + 10):
        relay._remember({f"{number:032x}": "a"})
    relay._remember({f"{MAX_ROUTES:032x}": "b"})
    assert len(relay._routes) == MAX_ROUTES
    assert relay._routes[f"{MAX_ROUTES:032x}"] == "b"
    assert f"{9:032x}" not in relay._routes and f"{10:032x}" in relay._routes


def test_an_agent_that_is_down_takes_only_itself_away(nets: tuple[Net, Net]) -> None:
    service = Service(Relay(("http://127.0.0.1:1", nets[0].url)).app())
    assert set(boots(service)) == {nets[0].guest.boot_id}
    service.stop()


def upstream(listing: object, seen: list[str]) -> Starlette:
    """Something that is no agent."""

    async def answer(request: Request) -> Response:
        seen.append(request.url.path)
        return JSONResponse(listing)

    return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST", "PUT"])])


BOOT = "ab" * 16
BAD_LISTINGS = {
    "no object": [],
    "no boots": {},
    "boots no list": {"boots": 1},
    "item no object": {"boots": [1]},
    "no state": {"boots": [{"boot": BOOT}]},
    "unknown state": {"boots": [{"boot": BOOT, "state": "best"}]},
    "state no text": {"boots": [{"boot": BOOT, "state": []}]},
    "boot with a path": {"boots": [{"boot": "../../" + BOOT, "state": "ready"}]},
    "boot no text": {"boots": [{"boot": 1, "state": "ready"}]},
    "boot a list": {"boots": [{"boot": [], "state": "ready"}]},
    "too long": {"boots": [], "x": "x" * (wire.MAX_LISTING_BYTES + 1)},
    "deep": {"boots": json.loads("[" * 900 + "]" * 900)},
}


@pytest.mark.parametrize("listing", BAD_LISTINGS.values(), ids=BAD_LISTINGS)
def test_a_bad_listing_is_as_none(listing: object) -> None:
    bad = Service(upstream(listing, []))
    service = Service(Relay((bad.url,)).app())
    assert boots(service) == {}
    service.stop()
    bad.stop()


@pytest.mark.parametrize("path", BAD_PATHS.values(), ids=BAD_PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_nothing_else_goes_on(passing: tuple[Service, list[str]], method: str, path: str) -> None:
    service, seen = passing
    assert boots(service) == {BOOT: "ready"}
    answer = ask(service.url, path.format(boot=BOOT), method=method)
    assert answer.status in (404, 405)
    assert "location" not in answer.headers
    assert set(seen) == {"/umay/"}


def test_what_is_known_goes_on(passing: tuple[Service, list[str]]) -> None:
    service, seen = passing
    assert ask(service.url, f"/umay/{BOOT}/healthz").status == 200
    assert seen.pop() == f"/umay/{BOOT}/healthz"


def test_the_first_named_agent_keeps_a_boot_that_another_claims(nets: tuple[Net, Net]) -> None:
    seen: list[str] = []
    boot = nets[0].guest.boot_id
    thief = Service(upstream({"boots": [{"boot": boot, "state": "ready"}]}, seen))
    service = Service(Relay((nets[0].url, thief.url)).app())
    assert ask(service.url, f"/umay/{boot}/evidence").status == 200
    assert set(seen) == {"/umay/"}
    service.stop()
    thief.stop()


def test_listings_are_asked_for_once_a_second_at_most() -> None:
    seen: list[str] = []
    behind = Service(upstream({"boots": []}, seen))
    service = Service(Relay((behind.url,)).app())
    for number in range(20):
        assert ask(service.url, f"/umay/{number:032x}/evidence").status == 404
    assert len(seen) <= 2
    service.stop()
    behind.stop()


def test_the_record_holds_every_byte_of_both_directions(
    relay: Service, nets: tuple[Net, Net], tmp_path: Path
) -> None:
    base = f"/umay/{nets[0].guest.boot_id}"
    body = bytes(range(256)) * 300
    ask(relay.url, f"{base}/ohttp", method="POST", body=body, x_note="in a header")
    ask(relay.url, "/somewhere?in=the-query")
    ask(relay.url, f"{base}/evidence")
    record = (tmp_path / "record").read_bytes()
    for piece in (body, base.encode(), b"in a header", b"/somewhere in=the-query", PIECE):
        assert piece in record
    assert nets[0].guest.epochs[0].submission.evidence in record
    assert stat.S_IMODE((tmp_path / "record").stat().st_mode) == 0o600


@pytest.mark.parametrize("where", ["body", "path", "header"])
def test_an_unsealed_prompt_is_found_in_the_record(
    relay: Service, nets: tuple[Net, Net], tmp_path: Path, where: str
) -> None:
    """So that the demo's "the relay saw nothing" means something."""
    path = f"/umay/{nets[0].guest.boot_id}/ohttp"
    assert not contains_secret((tmp_path / "record").read_bytes(), (SECRET,))
    if where == "body":
        ask(relay.url, path, method="POST", body=SECRET.encode())
    elif where == "path":
        ask(relay.url, "/" + SECRET.encode().hex())
    else:
        ask(relay.url, "/umay/", x_prompt=SECRET)
    assert contains_secret((tmp_path / "record").read_bytes(), (SECRET,))


def test_a_record_of_others_becomes_the_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "record"
    path.write_bytes(b"before\n")
    path.chmod(0o644)
    recorded(Relay(()).app(), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b"before\n"
    with pytest.raises(UsageError, match="No such file"):
        recorded(Relay(()).app(), tmp_path / "none" / "record")


def test_the_command_serves_and_says_so(nets: tuple[Net, Net], tmp_path: Path) -> None:
    words = ["host", "relay", "--listen", "127.0.0.1:0", "--record", str(tmp_path / "r")]
    for net in nets:
        words += ["--upstream", net.url]
    command = [sys.executable, "-m", "client_sdk", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            url = json.loads(process.stdout.readline())["listening"]
            assert len(json.loads(ask(url, "/umay/").body)["boots"]) == 2
            process.terminate()
            process.wait(HANG_S)
            assert process.stderr.read() == b""
        finally:
            process.kill()
    assert b"/umay/" in (tmp_path / "r").read_bytes()
