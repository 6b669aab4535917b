"""Which web pages may ask guest, agent, relay, log and proxy for what, over real HTTP.

A browser hands an answer to a page only where the answer says that it may, and sends what is no
simple request only after a preflight that allows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from attestation import wire
from client_sdk.proxy import app as proxy
from enclave.host.relay import Relay
from tests.helpers.fake_enclave import FakeClient
from tests.helpers.guest_room import Room, room
from tests.helpers.host_parts import Answer, Net, ask
from tests.helpers.respelt import RESPELT, respelt

PAGE = "https://page.example"
READS = (
    "evidence", "epochs", "ohttp-keys", "config/engine", "config/price", "config/host", "healthz",
)  # fmt: skip
AGENT_READS = ("collateral", "proof?size=3")
LOG_READS = (
    "checkpoint", "checkpoint/1", "tile/0/000.p/1", "tile/entries/000.p/1", "submission/0",
    f"evidence/sha256/{'00' * 32}", "proof?index=0&size=1", "consistency?first=1&second=1",
    "cosigned",
)  # fmt: skip


@dataclass
class Servers:
    net: Net
    guest: Room
    relay: str
    proxy: str

    def below(self, part: str) -> tuple[str, str]:
        """URL and base path of a boot at guest, agent or relay."""
        if part == "guest":
            return f"http://127.0.0.1:{self.guest.port}", wire.base(self.guest.boot)
        url = self.net.url if part == "agent" else self.relay
        return url, wire.base(self.net.guest.boot_id)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    net = Net(tmp_path_factory.mktemp("cors") / "log")
    net.make_ready()
    relay = net.service(Relay((net.url,)).app())
    local = net.service(proxy.create_app(FakeClient([]), token="t" * 32))
    with room() as guest:
        yield Servers(net, guest, relay.url, local.url)
    net.close()


def cors(answer: Answer) -> dict[str, str]:
    return {k: v for k, v in answer.headers.items() if k.startswith("access-control")}


def preflight(url: str, path: str, method: str) -> Answer:
    asked = {"access_control_request_method": method, "origin": PAGE}
    return ask(url, path, method="OPTIONS", **asked, access_control_request_headers="incremental")


def check_shared(url: str, path: str, method: str) -> None:
    """Allowed for any page, without credentials, and the preflight can be kept."""
    answer = ask(url, path, method=method, body=b"x" if method == "POST" else None, origin=PAGE)
    assert cors(answer) == {"access-control-allow-origin": "*"}, answer
    allowed = preflight(url, path, method)
    assert (allowed.status, allowed.body) == (204, b"")
    assert cors(allowed) == {
        "access-control-allow-origin": "*",
        "access-control-allow-methods": method,
        "access-control-allow-headers": "content-type, incremental",
        "access-control-max-age": "7200",
    }


def check_closed(url: str, path: str, method: str, **headers: str) -> None:
    """No answer and no preflight says that a page may."""
    answer = ask(url, path, method=method, origin=PAGE, **headers)
    assert not cors(answer), (path, answer)
    refused = preflight(url, path, method)
    assert not cors(refused) and refused.status >= 400, (path, refused)


@pytest.mark.parametrize("part", ["guest", "agent", "relay"])
@pytest.mark.parametrize("path", READS)
def test_any_page_may_read_what_is_public(servers: Servers, part: str, path: str) -> None:
    url, base = servers.below(part)
    check_shared(url, base + path, "GET")


@pytest.mark.parametrize("part", ["agent", "relay"])
@pytest.mark.parametrize("path", AGENT_READS)
def test_any_page_may_read_what_agents_add(servers: Servers, part: str, path: str) -> None:
    url, base = servers.below(part)
    check_shared(url, base + path, "GET")


@pytest.mark.parametrize("part", ["guest", "agent", "relay"])
def test_any_page_may_list_ask_for_a_session_and_seal(servers: Servers, part: str) -> None:
    url, base = servers.below(part)
    check_shared(url, wire.LISTING, "GET")
    for path in ("session", "ohttp"):
        check_shared(url, base + path, "POST")


@pytest.mark.parametrize("part", ["guest", "agent", "relay"])
def test_what_is_not_there_can_be_seen_not_to_be(servers: Servers, part: str) -> None:
    url, base = servers.below(part)
    answer = ask(url, f"{base}evidence/{'00' * 32}", origin=PAGE)
    assert (answer.status, cors(answer)) == (404, {"access-control-allow-origin": "*"})


@pytest.mark.parametrize("part", ["guest", "agent", "relay"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "retire"), ("GET", "metrics"), ("POST", "evidence"), ("GET", "ohttp"),
        ("GET", "session"), ("DELETE", "evidence"), ("PUT", "ohttp"), ("GET", ""),
        ("GET", "%65vidence"), ("GET", "admin"),
    ],
)  # fmt: skip
def test_no_page_may_do_anything_else(servers: Servers, part: str, method: str, path: str) -> None:
    url, base = servers.below(part)
    check_closed(url, base + path, method)


@pytest.mark.parametrize("part", ["guest", "agent", "relay"])
@pytest.mark.parametrize("spelling", RESPELT)
def test_no_page_asks_by_another_spelling(servers: Servers, part: str, spelling: str) -> None:
    url, base = servers.below(part)
    for method, path in (("GET", "evidence"), ("POST", "retire"), ("GET", "metrics")):
        answer = ask(url, respelt(spelling, base + path), method=method, origin=PAGE)
        assert (answer.status, cors(answer), "location" in answer.headers) == (404, {}, False)
        check_closed(url, respelt(spelling, base + path), method)


@pytest.mark.parametrize("spelling", RESPELT)
def test_a_log_answers_to_no_other_spelling(servers: Servers, spelling: str) -> None:
    url, _, below = servers.net.log.rpartition("/")
    for method, path in (("GET", "checkpoint"), ("POST", "submit"), ("POST", "retire")):
        answer = ask(url, respelt(spelling, f"/{below}/{path}"), method=method)
        assert (answer.status, "location" in answer.headers) == (404, False)


@pytest.mark.parametrize("spelling", RESPELT)
def test_the_proxy_answers_to_no_other_spelling(servers: Servers, spelling: str) -> None:
    for path in (*proxy.PATHS, "/healthz"):
        for method in ("GET", "POST"):
            asked = respelt(spelling, path)
            answer = ask(servers.proxy, asked, method=method, authorization="Bearer " + "t" * 32)
            assert (answer.status, "location" in answer.headers) == (404, False)


@pytest.mark.parametrize("path", LOG_READS)
def test_any_page_may_read_a_log(servers: Servers, path: str) -> None:
    url, _, below = servers.net.log.rpartition("/")
    check_shared(url, f"/{below}/{path}", "GET")


@pytest.mark.parametrize("path", ["submit", "release", "retire"])
def test_no_page_writes_to_a_log(servers: Servers, path: str) -> None:
    url, _, below = servers.net.log.rpartition("/")
    check_closed(url, f"/{below}/{path}", "POST")
    check_closed(url, f"/{path}", "POST")
    check_closed(url, "/checkpoint", "GET")


@pytest.mark.parametrize("path", ["/beacon", "/anchored", "/collateral", "/status"])
def test_no_page_reads_the_feed(servers: Servers, path: str) -> None:
    check_closed(servers.net.feed, path, "GET", **servers.net.bearer)


def test_no_page_retires_a_guest(servers: Servers) -> None:
    check_closed(servers.net.feed, "/retire", "POST", **servers.net.bearer)


@pytest.mark.parametrize("path", [*proxy.PATHS, "/healthz"])
def test_no_page_uses_the_proxy(servers: Servers, path: str) -> None:
    for method in ("GET", "POST"):
        check_closed(servers.proxy, path, method, authorization="Bearer " + "t" * 32)


@pytest.mark.parametrize(
    "headers", [{}, {"origin": PAGE}, {"access_control_request_method": "GET"}]
)
def test_an_options_request_that_is_no_preflight_is_not_answered_as_one(
    servers: Servers, headers: dict[str, str]
) -> None:
    url, base = servers.below("agent")
    answer = ask(url, f"{base}evidence", method="OPTIONS", **headers)
    assert answer.status in (404, 405) and not cors(answer)


def test_a_preflight_for_another_method_is_refused(servers: Servers) -> None:
    for part in ("guest", "agent", "relay"):
        url, base = servers.below(part)
        for path, method in (("evidence", "DELETE"), ("ohttp", "GET"), ("session", "PUT")):
            assert not cors(preflight(url, base + path, method))
