"""The proxy's HTTP as RFC 9110 and RFC 9112 say, its models, and the price of one request."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import UsageError
from client_sdk.pricing import too_dear
from client_sdk.proxy.models import Models, read_aliases
from client_sdk.proxy.prices import cap_of
from client_sdk.proxy.refusal import Refusal
from tests.client_sdk.test_client_proxy import WHOLE
from tests.helpers.fake_enclave import POLICY, FakeClient, FakeEnclave, Script
from tests.helpers.proxies import BEARER, TOKEN, Wire, proxy_of, wire_to

CHAT = "/v1/chat/completions"
BODY = b'{"model":"demo"}'
ALIASES = {"gpt-4o": "demo", "two": "org/other"}


@pytest.fixture(scope="module")
def enclave() -> Iterator[FakeEnclave]:
    fake = FakeEnclave()
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def address(enclave: FakeEnclave) -> Iterator[str]:
    """Of a proxy under a policy with two models, of which the enclave runs one."""
    client = FakeClient([enclave])
    client.policy = dataclasses.replace(
        POLICY, models=(*POLICY.models, ("org/other", b"\x55" * 32))
    )
    with proxy_of(client, aliases=ALIASES) as url:
        yield url


@pytest.fixture
def wire(address: str) -> Iterator[Wire]:
    with wire_to(address) as wire:
        yield wire


@pytest.fixture(autouse=True)
def whole(enclave: FakeEnclave) -> None:
    enclave.script = Script(pieces=[WHOLE + b"   "], media_type="application/json")


def line(method: str, target: str, host: str = "localhost") -> str:
    return f"{method} {target} HTTP/1.1\nHost: {host}\nAuthorization: Bearer {TOKEN}"


def post(address: str, body: bytes = BODY, **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{address}{CHAT}", content=body, headers={**BEARER, **names}, timeout=None)


def error(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    return found


# RFC 9110 and RFC 9112


@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/models", "/v1/models/org/other"])
def test_head_is_get_without_its_content(wire: Wire, enclave: FakeEnclave, path: str) -> None:
    got, head = wire.ask(line("GET", path)), wire.ask(line("HEAD", path), method="HEAD")
    assert (got.status, head.status) == (200, 200)
    assert head.content == b"" and head.getheader("content-length") == str(len(got.content))
    assert enclave.script.seen == []


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("HEAD", CHAT, "POST"),
        ("GET", "/v1/completions", "POST"),
        ("OPTIONS", CHAT, "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/v1/models/demo", "GET, HEAD"),
        ("PUT", "/healthz", "GET, HEAD"),
        ("POST", "/", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_405_with_those_that_are_right(
    wire: Wire, enclave: FakeEnclave, method: str, path: str, allow: str
) -> None:
    answer = wire.ask(line(method, path), method=method)
    assert (answer.status, answer.getheader("allow")) == (405, allow)
    if method != "HEAD":
        told = json.loads(answer.content)["error"]
        assert told["code"] == "method_not_allowed" and allow in told["message"]
    assert enclave.script.seen == []


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (f"http://127.0.0.1:1{CHAT}", "127.0.0.1:1"),
        (f"HTTP://LOCALHOST{CHAT}?x=1", "localhost"),
        (f"http://[::1]{CHAT}", "evil.example"),
    ],
)
def test_a_target_in_absolute_form_is_the_same_resource(
    wire: Wire, enclave: FakeEnclave, target: str, host: str
) -> None:
    assert wire.ask(line("POST", target, host), BODY).status == 200
    assert [request.path for request in enclave.script.seen] == [CHAT]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (f"http://evil.example{CHAT}", 403),
        (f"http://localhost@evil.example{CHAT}", 403),
        (f"http://{CHAT}", 403),
        (f"https://localhost{CHAT}", 404),
        (f"http://localhost/{CHAT}", 404),
        ("http://localhost", 405),
    ],
)
def test_a_target_that_names_another_host_is_refused_whatever_the_host_field_says(
    wire: Wire, enclave: FakeEnclave, target: str, status: int
) -> None:
    assert wire.ask(line("POST", target), BODY).status == status
    assert enclave.script.seen == []


def test_one_connection_carries_many_requests_and_refusals(wire: Wire) -> None:
    """One that were closed could not be asked again."""
    statuses = [
        wire.ask(f"POST {CHAT} HTTP/1.1\nHost: localhost", BODY).status,
        wire.ask(line("POST", CHAT), BODY).status,
        wire.ask(line("POST", CHAT, "evil.example"), BODY).status,
        wire.ask(line("GET", "/v1/nothing")).status,
        wire.ask(line("POST", CHAT), b"no JSON").status,
        wire.ask(line("POST", CHAT), BODY).status,
    ]
    assert statuses == [401, 200, 403, 404, 400, 200]


def test_a_refused_key_says_how_to_give_one(address: str) -> None:
    answer = httpx.post(f"{address}{CHAT}", content=BODY)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("/v1/messages", "Anthropic's Messages API"),
        ("/v1/messages/count_tokens", "Anthropic's Messages API"),
        ("/v1/responses", "OpenAI's Responses API"),
    ],
)
def test_an_api_that_the_engine_lacks_is_refused_by_name(
    address: str, enclave: FakeEnclave, path: str, what: str
) -> None:
    answer = httpx.post(f"{address}{path}", json={"model": "demo"}, headers=BEARER)
    assert answer.status_code == 404 and what in error(answer)["message"]
    if "messages" in path:
        assert (answer.json()["type"], error(answer)["type"]) == ("error", "not_found_error")
    else:
        assert error(answer)["code"] == "unsupported_api"
    assert enclave.script.seen == []


# Answers


def test_the_padding_of_a_json_body_ends_here(address: str) -> None:
    answer = post(address)
    assert answer.content == WHOLE and answer.headers["content-length"] == str(len(WHOLE))


def test_nobody_repeats_what_a_machine_failed_at(address: str, enclave: FakeEnclave) -> None:
    enclave.script.status = 500
    assert post(address).headers["x-should-retry"] == "false"
    enclave.script.status = 400
    assert "x-should-retry" not in post(address).headers


def test_an_error_of_the_enclave_passes_with_its_param(address: str, enclave: FakeEnclave) -> None:
    told = {"error": {"message": "m", "type": "t", "param": "temperature", "code": "c"}}
    enclave.script.status, enclave.script.pieces = 400, [json.dumps(told).encode()]
    assert post(address).json() == told


def test_a_retry_repeats_the_key_of_the_program(address: str, enclave: FakeEnclave) -> None:
    post(address, idempotency_key="k" * 20)
    assert (b"idempotency-key", b"k" * 20) in enclave.script.seen[0].headers
    assert post(address, idempotency_key="short").status_code == 400


# Models


def test_models_are_the_policys_and_the_aliases(address: str, enclave: FakeEnclave) -> None:
    api = openai.OpenAI(base_url=f"{address}/v1", api_key=TOKEN)
    assert [model.id for model in api.models.list()] == ["demo", "org/other", "gpt-4o", "two"]
    assert api.models.retrieve("gpt-4o").model_dump()["root"] == "demo"
    with pytest.raises(openai.NotFoundError) as caught:
        api.models.retrieve("gpt-5")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert enclave.script.seen == []


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/demo"])
def test_models_need_the_token_too(address: str, path: str) -> None:
    assert httpx.get(f"{address}{path}").status_code == 401


def test_an_alias_is_replaced_and_no_other_byte(address: str, enclave: FakeEnclave) -> None:
    body = '{ "temperature":1.0e0, "model" : "gpt\\u002d4o" , "user":"é\u2028", "x":{"model":"a"}}'
    assert post(address, body.encode()).status_code == 200
    sealed = enclave.script.seen[0].content
    assert sealed.decode() == body.replace('"gpt\\u002d4o"', '"demo"')


@pytest.mark.parametrize("name", ["gpt-4", "Demo", "", "\ud800", "x" * 500])
def test_an_unknown_model_is_named_and_nothing_is_sent(
    address: str, enclave: FakeEnclave, name: str
) -> None:
    answer = post(address, json.dumps({"model": name}).encode())
    told = error(answer)
    assert (answer.status_code, told["code"], told["param"]) == (404, "model_not_found", "model")
    assert "demo, org/other, gpt-4o, two" in told["message"] and len(told["message"]) < 250
    assert (name[:80] if name.isascii() else "got ''") in told["message"]
    assert enclave.script.seen == []


BAD_BODIES = {
    "no JSON": (b"model=demo", "invalid_json", None),
    "empty": (b"", "invalid_json", None),
    "no object": (b'["model"]', "invalid_json", None),
    "open": (b'{"model":"demo"', "invalid_json", None),
    "more after it": (b'{"model":"demo"}{}', "invalid_json", None),
    "a comma too many": (b'{"model":"demo",}', "invalid_json", None),
    "a name that is no text": (b'{1:2,"model":"demo"}', "invalid_json", None),
    "no UTF-8": (b'{"model":"demo","x":"\xff"}', "invalid_json", None),
    "too deep": (b'{"model":"demo","x":' + b"[" * 200_000, "invalid_json", None),
    "no model": (b"{}", "invalid_value", "model"),
    "two models": (b'{"model":"demo","model":"demo"}', "invalid_value", "model"),
    "a model that is a list": (b'{"model":["demo"]}', "invalid_value", "model"),
}


@pytest.mark.parametrize(("body", "code", "param"), BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_body_without_one_model_is_refused_here(
    address: str, enclave: FakeEnclave, body: bytes, code: str, param: str | None
) -> None:
    answer = post(address, body)
    told = error(answer)
    assert (answer.status_code, told["code"], told["param"]) == (400, code, param)
    assert enclave.script.seen == []


PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=9)
JSON_VALUES = PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(st.text(max_size=5), PLAIN)
KNOWN = Models(["demo"], {"gpt": "demo"})


@given(
    st.dictionaries(st.text(max_size=9), JSON_VALUES, max_size=3),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_whatever_else_a_body_says_only_the_alias_changes(
    others: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    def written(model: str) -> bytes:
        text = json.dumps({**others, "model": model}, indent=indent, ensure_ascii=ascii_only)
        return text.encode()

    assert KNOWN.sealed(written("gpt")) == written("demo")
    assert KNOWN.sealed(written("demo")) == written("demo")


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,model1 ', max_size=40).map(str.encode))
def test_arbitrary_bodies_are_read_or_refused(content: bytes) -> None:
    try:
        KNOWN.sealed(content)
    except Refusal:
        return
    assert json.loads(content)["model"] == "demo"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["gpt-4o"], "NAME=MODEL such as gpt-4o=demo, got gpt-4o"),
        (["=demo"], "NAME=MODEL"),
        (["gpt-4o="], "NAME=MODEL"),
        (["a=demo", "a=demo"], "a is taken"),
        (["demo=demo"], "demo is taken"),
        (["a=b"], r"a model of the policy \(demo\)"),
    ],
)
def test_a_wrong_alias_is_a_matter_of_usage(values: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_aliases(values, ["demo"])


def test_an_alias_may_hold_an_equals_sign_in_no_name() -> None:
    assert read_aliases(["a=demo", "b=demo"], ["demo"]) == {"a": "demo", "b": "demo"}


# Prices; the enclave asks 1 and 2 nano coins


@pytest.mark.parametrize("cap", ["1 2", "5 2.5"])
def test_a_price_within_the_cap_is_paid(address: str, enclave: FakeEnclave, cap: str) -> None:
    assert post(address, umay_max_price=cap).status_code == 200
    assert len(enclave.script.seen) == 1


@pytest.mark.parametrize("cap", ["0 2", "1 1.5"])
def test_a_price_above_the_cap_is_402_and_nothing_is_sealed(
    address: str, enclave: FakeEnclave, cap: str
) -> None:
    answer = post(address, umay_max_price=cap)
    assert (answer.status_code, error(answer)["code"]) == (402, "too-dear")
    assert "nano coins per prompt token" in error(answer)["message"]
    assert answer.headers["x-should-retry"] == "false" and enclave.script.opened == 0


@pytest.mark.parametrize("cap", ["", "1", "1,2", "-1 2", "1 2 3", "01 2", "nan 1", "1e3 1", "1  2"])
def test_a_cap_that_is_not_two_numbers_is_refused(
    address: str, enclave: FakeEnclave, cap: str
) -> None:
    answer = post(address, umay_max_price=cap)
    assert (answer.status_code, error(answer)["code"]) == (400, "invalid_value")
    assert "nano coins" in error(answer)["message"] and enclave.script.seen == []


def test_a_table_without_prices_is_too_dear_for_any_cap() -> None:
    assert too_dear({}, (1e18, 1e18)) is not None and too_dear({}, None) is None
    assert cap_of({}) is None
