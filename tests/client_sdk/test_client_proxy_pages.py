"""Web pages at the proxy: which may ask, and the page that it shows itself."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser

import httpx
import pytest

from attestation.errors import UsageError
from attestation.verify.verdict import CAVEATS
from client_sdk.proxy.models import Models
from client_sdk.proxy.origins import read_origins
from client_sdk.proxy.page import HEADERS, page
from tests.helpers.fake_enclave import FakeClient, FakeEnclave, Script
from tests.helpers.proxies import BEARER, TOKEN, proxy_of

ALLOWED, APP, OTHER = "http://localhost:3000", "app://obsidian.md", "https://page.example"
CHAT = "/v1/chat/completions"
FOREIGN = (OTHER, "null", "http://localhost:3001", "https://localhost:3000", f"{ALLOWED}/")


@pytest.fixture(scope="module")
def enclave() -> Iterator[FakeEnclave]:
    fake = FakeEnclave()
    fake.script = Script(pieces=[b"{}"], media_type="application/json")
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def client(enclave: FakeEnclave) -> FakeClient:
    return FakeClient([enclave])


@pytest.fixture(scope="module")
def address(client: FakeClient) -> Iterator[str]:
    with proxy_of(client, origins=read_origins([ALLOWED, APP])) as url:
        yield url


def ask(address: str, **headers: str) -> httpx.Response:
    return httpx.post(f"{address}{CHAT}", content=b'{"model":"demo"}', headers=headers)


def preflight(address: str, path: str = CHAT, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    asked = {"access-control-request-method": "POST", **named}
    return httpx.options(f"{address}{path}", headers=asked)


def cors(answer: httpx.Response) -> dict[str, str]:
    return {k: v for k, v in answer.headers.items() if k.startswith("access-control")}


# Origins


@pytest.mark.parametrize("origin", [ALLOWED, APP])
def test_an_allowed_page_asks_with_the_token(address: str, origin: str) -> None:
    answer = ask(address, origin=origin, **{"sec-fetch-site": "cross-site"}, **BEARER)
    assert answer.status_code == 200 and answer.headers["vary"] == "Origin"
    assert cors(answer) == {
        "access-control-allow-origin": origin,
        "access-control-expose-headers": "retry-after, x-should-retry",
    }


def test_an_allowed_page_without_the_token_reads_why(address: str) -> None:
    answer = ask(address, origin=ALLOWED)
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == ALLOWED


def test_an_allowed_page_asks_after_its_preflight(address: str) -> None:
    names = "authorization,content-type,x-stainless-os"
    answer = preflight(
        address,
        origin=ALLOWED,
        access_control_request_headers=names,
        access_control_request_private_network="true",
    )
    assert (answer.status_code, answer.content) == (204, b"")
    assert cors(answer) == {
        "access-control-allow-origin": ALLOWED,
        "access-control-allow-methods": "GET, HEAD, POST",
        "access-control-allow-headers": names,
        "access-control-allow-private-network": "true",
        "access-control-expose-headers": "retry-after, x-should-retry",
        "access-control-max-age": "7200",
    }


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/", "/healthz"])
def test_no_other_page_is_told_anything(address: str, origin: str, path: str) -> None:
    answer = preflight(address, path, origin=origin, access_control_request_headers="x")
    assert answer.status_code == 405 and not cors(answer)
    got = httpx.get(f"{address}{path}", headers={"origin": origin, **BEARER})
    assert not cors(got)


@pytest.mark.parametrize("origin", FOREIGN)
def test_no_other_page_asks_even_with_the_token(
    address: str, enclave: FakeEnclave, origin: str
) -> None:
    before = len(enclave.script.seen)
    answer = ask(address, origin=origin, **BEARER)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "browser")
    assert len(enclave.script.seen) == before


def test_two_origins_are_nobodys(address: str) -> None:
    headers = [("origin", ALLOWED), ("origin", OTHER), *BEARER.items()]
    answer = httpx.post(f"{address}{CHAT}", content=b"{}", headers=headers)
    assert answer.status_code == 403


def test_a_page_under_a_name_of_its_own_is_refused_though_its_origin_is_allowed(
    address: str,
) -> None:
    answer = ask(address, origin=ALLOWED, host="rebound.example", **BEARER)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong-host")


def test_field_names_that_are_none_are_not_allowed(address: str) -> None:
    answer = preflight(address, origin=ALLOWED, access_control_request_headers="a: b\tc")
    assert answer.status_code == 204 and "access-control-allow-headers" not in answer.headers


@pytest.mark.parametrize(
    "origin",
    [
        "*", "null", "", "localhost", "http://", "http://localhost/", "HTTP://localhost",
        "http://Localhost", "http://*.example", "http://a,http://b", "http://a b", "http://u@a",
        "http://localhost:0", "http://localhost:080", "http://localhost:80",
        "https://page.example:443", "file://",
    ],
)  # fmt: skip
def test_only_one_exact_origin_can_be_allowed(origin: str) -> None:
    with pytest.raises(UsageError, match="--allow-origin"):
        read_origins([origin])


def test_origins_of_pages_and_of_desktop_apps() -> None:
    good = {ALLOWED, APP, OTHER, "http://[::1]:8080", "http://127.0.0.1:8080", "tauri://localhost"}
    assert read_origins(good) == good


# The page at /


class Seen(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_says_how_to_use_it_and_which_machine_is_verified(
    address: str, client: FakeClient, enclave: FakeEnclave
) -> None:
    ask(address, **BEARER)
    before = list(client.verifications)
    answer = httpx.get(f"{address}/", headers={"sec-fetch-site": "none"})
    seen = Seen(answer.text)
    assert (
        answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    )
    assert f"OPENAI_BASE_URL={address}/v1" in seen.text and "demo" in seen.text
    assert enclave.boot.hex() in seen.text and "1 of 1" in seen.text
    assert "1 nano coins per prompt token, 2 per completion token" in seen.text
    assert all(caveat in seen.text for caveat in CAVEATS)
    assert TOKEN not in answer.text and "script" not in seen.tags
    assert client.verifications == before


def test_the_page_loads_nothing_and_is_in_no_frame(address: str) -> None:
    answer = httpx.get(f"{address}/")
    assert HEADERS.items() <= dict(answer.headers).items()
    seen = Seen(answer.text)
    assert not {"src", "href", "onclick", "style", "action"} & seen.attributes
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy


def test_the_page_is_of_this_machine_alone(address: str) -> None:
    assert httpx.get(f"{address}/", headers={"host": "rebound.example"}).status_code == 403


def test_the_page_before_any_verification_and_with_hostile_names() -> None:
    models = Models(["<b>demo"], {"<script>": "<b>demo"})
    text = page(base="http://x/v1", models=models, machines=(), simulated=True)
    seen = Seen(text)
    assert not {"script", "b"} & set(seen.tags) and "alias of <b>demo" in seen.text
    assert "SIMULATED" in seen.text and "None now" in seen.text
    plain = page(base="http://x/v1", models=models, machines=(), simulated=False)
    assert "SIMULATED" not in plain
