"""The `openai` package and httpx over our transports, sync and async: their own exceptions,
timeouts, retries, cancellation."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from attestation.errors import Truncated, Unavailable, UsageError
from client_sdk.openai_transport import AsyncSealedTransport, SealedTransport
from tests.helpers.fake_enclave import PIECES, FakeAsyncClient, FakeClient, FakeEnclave
from tests.helpers.raw_server import head_of, serving
from tests.helpers.waiting import HANG_S

MESSAGES: Any = [{"role": "user", "content": "Hello?"}]
WHOLE = (
    b'{"id":"c1","object":"chat.completion","created":1,"model":"demo","choices":'
    b'[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"Hi."}}]}'
)


class Api:
    """Questions by openai.OpenAI over a Client."""

    def __init__(self, enclaves: list[FakeEnclave], **options: Any) -> None:
        self.umay = FakeClient(enclaves)
        self._api = self.umay.openai(**options)

    def whole(self, **options: Any) -> Any:
        create = self._api.chat.completions.with_raw_response.create
        return create(model="demo", messages=MESSAGES, **options)

    def stream(self, **options: Any) -> str:
        create = self._api.chat.completions.create
        chunks = create(model="demo", messages=MESSAGES, stream=True, **options)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    def leave(self) -> None:
        create = self._api.chat.completions.create
        with create(model="demo", messages=MESSAGES, stream=True) as chunks:
            next(iter(chunks))

    def close(self) -> None:
        self._api.close()
        self.umay.close()


class AsyncApi:
    """The same by openai.AsyncOpenAI over an AsyncClient."""

    def __init__(self, enclaves: list[FakeEnclave], **options: Any) -> None:
        self._runner = asyncio.Runner()
        self.umay = FakeAsyncClient(enclaves)
        self._api = self.umay.async_openai(**options)

    def whole(self, **options: Any) -> Any:
        create = self._api.chat.completions.with_raw_response.create
        return self._runner.run(create(model="demo", messages=MESSAGES, **options))

    def stream(self, **options: Any) -> str:
        return self._runner.run(self._stream(**options))

    async def _stream(self, **options: Any) -> str:
        create = self._api.chat.completions.create
        chunks = await create(model="demo", messages=MESSAGES, stream=True, **options)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

    def leave(self) -> None:
        """As a task that is cancelled in the middle of a stream."""

        async def leave() -> None:
            begun = asyncio.Event()

            async def reads() -> None:
                create = self._api.chat.completions.create
                async for _ in await create(model="demo", messages=MESSAGES, stream=True):
                    begun.set()

            task = asyncio.create_task(reads())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        self._runner.run(leave())

    def close(self) -> None:
        async def close() -> None:
            await self._api.close()
            await self.umay.close()

        self._runner.run(close())
        self._runner.close()


Make = Callable[..., Api | AsyncApi]


@pytest.fixture(params=[Api, AsyncApi])
def api(request: pytest.FixtureRequest) -> Iterator[Make]:
    made: list[Api | AsyncApi] = []

    def make(*enclaves: FakeEnclave, **options: Any) -> Api | AsyncApi:
        made.append(request.param(list(enclaves), **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def ada(ada: FakeEnclave) -> FakeEnclave:
    ada.script.media_type, ada.script.pieces = "application/json", [WHOLE]
    return ada


def streaming(enclave: FakeEnclave) -> None:
    from tests.helpers.fake_enclave import Script

    enclave.script = Script()


def test_a_whole_answer_and_its_receipt_by_id(api: Make, ada: FakeEnclave) -> None:
    made = api(ada)
    answer = made.whole()
    assert answer.parse().choices[0].message.content == "Hi."
    assert made.umay.receipts[answer.headers["umay-receipt-id"]].receipt.tokens == (3, 0, 8, 0)


def test_an_idempotency_key_of_the_callers_goes_inside(api: Make, ada: FakeEnclave) -> None:
    api(ada).whole(extra_headers={"Idempotency-Key": "0123456789abcdef", "x-other": "stays"})
    headers = dict(ada.script.seen[0].headers)
    assert headers == {
        b"content-type": b"application/json",
        b"idempotency-key": b"0123456789abcdef",
    }


def test_a_stream(api: Make, ada: FakeEnclave) -> None:
    streaming(ada)
    assert api(ada).stream() == "0 1 2 3 4 5 6 7 "


def test_a_stream_that_is_left_ends_the_work(api: Make, ada: FakeEnclave) -> None:
    streaming(ada)
    ada.script.pieces, ada.script.pause = PIECES * 200, 0.02
    api(ada).leave()
    assert ada.script.left.wait(HANG_S)


def test_a_cut_stream_is_a_connection_error_of_openai_and_asked_once(
    api: Make, ada: FakeEnclave
) -> None:
    streaming(ada)
    ada.script.fault = "connection cut"
    with pytest.raises(openai.APIConnectionError) as caught:
        api(ada).stream()
    cause = caught.value.__cause__
    assert isinstance(cause, Truncated) and isinstance(cause, httpx.RemoteProtocolError)
    assert cause.may_have_run == 1 == len(ada.script.seen)


def test_a_stream_that_stops_is_a_timeout_of_openai_and_asked_once(
    api: Make, ada: FakeEnclave
) -> None:
    streaming(ada)
    ada.script.pieces, ada.script.pause = PIECES * 9, 3.0
    with pytest.raises(openai.APITimeoutError) as caught:
        api(ada).stream(timeout=httpx.Timeout(60, read=0.3))
    assert isinstance(caught.value.__cause__, httpx.ReadTimeout | Truncated)
    assert len(ada.script.seen) == 1


def test_what_fails_after_it_was_sent_is_not_tried_again(api: Make, ada: FakeEnclave) -> None:
    ada.script.unsealed = (503, "text/html", b"<h1>busy</h1>")
    with pytest.raises(openai.InternalServerError) as caught:
        api(ada).whole()
    assert caught.value.status_code == 502 and ada.script.opened == 1
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_an_answer_that_is_late_is_a_504_and_not_tried_again(api: Make, ada: FakeEnclave) -> None:
    heads: list[bytes] = []

    def silent(connection: socket.socket) -> None:
        heads.append(head_of(connection))
        time.sleep(60)

    with serving(silent) as server:
        ada.move(server.url().rstrip("/"))
        with pytest.raises(openai.InternalServerError) as caught:
            api(ada).whole(timeout=httpx.Timeout(0.2))
    assert caught.value.status_code == 504 and len(heads) == 1


def test_an_enclave_that_failed_is_not_asked_again_by_openai(api: Make, ada: FakeEnclave) -> None:
    ada.script.status, ada.script.fault = 500, "no receipt"
    ada.script.pieces = [b'{"error":{"code":"internal"}}']
    with pytest.raises(openai.InternalServerError) as caught:
        api(ada).whole()
    assert caught.value.status_code == 500 and len(ada.script.seen) == 1


def test_a_full_enclave_is_openais_rate_limit(api: Make, ada: FakeEnclave) -> None:
    ada.script.status, ada.script.fault, ada.script.retry_after = 429, "no receipt", "7"
    with pytest.raises(openai.RateLimitError) as caught:
        api(ada, max_retries=0).whole()
    assert caught.value.response.headers["retry-after"] == "7"


def test_where_all_are_full_openai_is_told_when_to_ask(api: Make, ada: FakeEnclave) -> None:
    ada.script.status, ada.script.fault, ada.script.retry_after = 429, "no receipt", "7"
    made = api(ada, max_retries=0)
    with pytest.raises(openai.RateLimitError):
        made.whole()
    with pytest.raises(openai.InternalServerError) as caught:
        made.whole()
    assert caught.value.status_code == 503 and len(ada.script.seen) == 1
    assert 0 < int(caught.value.response.headers["retry-after"]) <= 7
    assert caught.value.response.headers["x-should-retry"] == "true"


def test_what_was_never_sent_is_a_connection_error(api: Make, ada: FakeEnclave) -> None:
    ada.close()
    with pytest.raises(openai.APIConnectionError) as caught:
        api(ada, max_retries=0).whole()
    cause = caught.value.__cause__
    assert isinstance(cause, Unavailable) and isinstance(cause, httpx.ConnectError)
    assert cause.may_have_run == 0 and not isinstance(caught.value, openai.APITimeoutError)


@pytest.mark.parametrize("phase", ["connect", "pool"])
def test_a_timeout_before_anything_is_sent_is_openais(
    api: Make, ada: FakeEnclave, phase: str
) -> None:
    made = api(ada, max_retries=0)
    made.umay._chooser.finder.pause = 0.2 if phase == "pool" else 0.0
    with pytest.raises(openai.APITimeoutError) as caught:
        made.whole(timeout=httpx.Timeout(60, **{phase: 1e-6}))
    assert isinstance(caught.value.__cause__, httpx.ConnectTimeout) and not ada.script.seen


def test_a_model_that_the_policy_does_not_name_is_the_enclaves_to_refuse(
    api: Make, ada: FakeEnclave
) -> None:
    ada.script.status, ada.script.fault = 404, "no receipt"
    ada.script.pieces = [b'{"error":{"code":"model_not_found"}}']
    with pytest.raises(openai.NotFoundError):
        api(ada).whole()


def test_httpx_alone(ada: FakeEnclave) -> None:
    body = json.dumps({"model": "demo", "messages": MESSAGES}).encode()
    with httpx.Client(transport=SealedTransport(FakeClient([ada]))) as http:
        answer = http.post("https://umay.invalid/v1/chat/completions", content=body)
    assert answer.status_code == 200 and answer.content == WHOLE
    with pytest.raises(UsageError, match="client: expected an AsyncClient"):
        AsyncSealedTransport(FakeClient([ada]))  # type: ignore[arg-type]


def test_fifty_at_once(api: Make, ada: FakeEnclave) -> None:
    made = api(ada)
    if isinstance(made, AsyncApi):
        streaming(ada)

        async def many() -> list[str]:
            return list(await asyncio.gather(*(made._stream() for _ in range(50))))

        assert made._runner.run(many()) == ["0 1 2 3 4 5 6 7 "] * 50
    else:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda _: made.whole().parse(), range(50)))
        assert {answer.choices[0].message.content for answer in answers} == {"Hi."}
    assert len(made.umay.verifications) == 1 and len(made.umay.receipts) == 50
