"""The local OpenAI endpoint, with the unmodified `openai` package and by hand."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest

from attestation.errors import Truncated
from client_sdk.openai_transport import SealedTransport
from client_sdk.proxy.door import check_listen
from tests.helpers.fake_enclave import PIECES, FakeClient, FakeEnclave
from tests.helpers.proxies import TOKEN, proxy_of
from tests.helpers.waiting import HANG_S

MESSAGES = [{"role": "user", "content": "Hello?"}]
WHOLE = (
    b'{"id":"c1","object":"chat.completion","created":1,"model":"demo","choices":'
    b'[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"Hi."}}]}'
)


@pytest.fixture(scope="module")
def enclave() -> Iterator[FakeEnclave]:
    fake = FakeEnclave()
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def address(enclave: FakeEnclave) -> Iterator[str]:
    """A proxy in a thread."""
    with proxy_of(FakeClient([enclave])) as url:
        yield url


@pytest.fixture(autouse=True)
def fresh_script(enclave: FakeEnclave) -> None:
    from tests.helpers.fake_enclave import Script

    enclave.script = Script()


def openai_client(address: str, token: str = TOKEN) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key=token)


def sealing_client(enclave: FakeEnclave) -> openai.OpenAI:
    """The package without a proxy: sealed in this process."""
    http = httpx.Client(transport=SealedTransport(FakeClient([enclave])))
    return openai.OpenAI(base_url="https://umay.invalid/v1", api_key="unused", http_client=http)


def test_the_openai_package_streams(address: str) -> None:
    stream = openai_client(address).chat.completions.create(
        model="demo", messages=MESSAGES, stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "0 1 2 3 4 5 6 7 "


def test_the_openai_package_gets_a_whole_answer(address: str, enclave: FakeEnclave) -> None:
    enclave.script.pieces, enclave.script.media_type = [WHOLE], "application/json"
    answer = openai_client(address).chat.completions.create(model="demo", messages=MESSAGES)
    assert answer.choices[0].message.content == "Hi."


def test_a_cut_stream_ends_in_an_error_that_says_truncated(
    address: str, enclave: FakeEnclave
) -> None:
    enclave.script.fault = "connection cut"
    texts = []
    with pytest.raises(openai.APIError, match="truncated"):
        for chunk in openai_client(address).chat.completions.create(
            model="demo", messages=MESSAGES, stream=True
        ):
            texts.append(chunk.choices[0].delta.content)
    assert len(texts) == len(PIECES[:4])


def test_a_cut_answer_is_a_502_that_says_truncated(address: str, enclave: FakeEnclave) -> None:
    enclave.script.fault, enclave.script.media_type = "connection cut", "application/json"
    with pytest.raises(openai.InternalServerError, match="truncated") as caught:
        openai_client(address).chat.completions.create(model="demo", messages=MESSAGES)
    assert caught.value.status_code == 502
    assert len(enclave.script.seen) == 1  # and the package did not ask again


def test_without_a_proxy_the_openai_package_streams(enclave: FakeEnclave) -> None:
    stream = sealing_client(enclave).chat.completions.create(
        model="demo", messages=MESSAGES, stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "0 1 2 3 4 5 6 7 "
    assert b"unused" not in repr(enclave.script.seen).encode()


def test_without_a_proxy_a_cut_answer_is_an_error_and_asked_once(enclave: FakeEnclave) -> None:
    enclave.script.fault = "final chunk missing"
    with pytest.raises(openai.APIConnectionError) as caught:
        for _ in sealing_client(enclave).chat.completions.create(
            model="demo", messages=MESSAGES, stream=True
        ):
            pass
    assert isinstance(caught.value.__cause__, Truncated)
    enclave.script.media_type = "application/json"
    with pytest.raises(openai.InternalServerError, match="truncated"):
        sealing_client(enclave).chat.completions.create(model="demo", messages=MESSAGES)
    assert len(enclave.script.seen) == 2


def test_a_forged_receipt_spoils_a_stream(address: str, enclave: FakeEnclave) -> None:
    enclave.script.fault = "other key"
    with pytest.raises(openai.APIError, match="receipt"):
        for _ in openai_client(address).chat.completions.create(
            model="demo", messages=MESSAGES, stream=True
        ):
            pass


def test_another_token_is_refused(address: str, enclave: FakeEnclave) -> None:
    with pytest.raises(openai.AuthenticationError):
        openai_client(address, "other").chat.completions.create(model="demo", messages=MESSAGES)
    assert not enclave.script.seen


@pytest.mark.parametrize(
    ("header", "value"),
    [("origin", "https://page.example"), ("origin", "null"), ("host", "rebound.example")],
)
def test_browsers_are_kept_out(address: str, enclave: FakeEnclave, header: str, value: str) -> None:
    headers = {"authorization": f"Bearer {TOKEN}", header: value}
    answer = httpx.post(f"{address}/v1/chat/completions", json={}, headers=headers)
    assert answer.status_code == 403
    assert not enclave.script.seen


def test_unknown_paths_are_not_forwarded(address: str, enclave: FakeEnclave) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert httpx.get(f"{address}/v1/files", headers=headers).status_code == 404
    assert not enclave.script.seen


def test_it_listens_on_loopback_only() -> None:
    from attestation.errors import UsageError

    with pytest.raises(UsageError, match="loopback"):
        check_listen("0.0.0.0:0")


def test_when_the_caller_leaves_the_enclave_is_left_too(address: str, enclave: FakeEnclave) -> None:
    script = enclave.script
    script.pieces, script.pause = PIECES * 100, 0.05
    with openai_client(address).chat.completions.create(
        model="demo", messages=MESSAGES, stream=True
    ) as stream:
        next(iter(stream))
    assert script.left.wait(HANG_S)
