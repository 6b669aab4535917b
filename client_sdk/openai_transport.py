"""A transport for the `openai` package: no proxy, the sealing happens in this process.

    http = httpx.Client(transport=SealedTransport(client))
    openai.OpenAI(base_url="https://umay.invalid/v1", api_key="unused", http_client=http)

Only method, path and body are sent, inside the channel; the API key and every other header
stay here. A cut stream raises Truncated; a cut whole answer becomes a 502 that the package
must not retry, since nobody may repeat a request in silence.
"""

from __future__ import annotations

from collections.abc import Iterator

from attestation.process import lacks

try:
    import httpx
except ModuleNotFoundError as error:
    if error.name != "httpx":
        raise
    raise ModuleNotFoundError(lacks("httpx", "openai"), name="httpx") from None

from attestation.arguments import expect
from attestation.errors import UmayError
from attestation.wire import EVENTS
from client_sdk import sse
from client_sdk.answer import Answer
from client_sdk.client import Client
from client_sdk.failures import HIDDEN_HEADERS, error_json, status_of


class SealedTransport(httpx.BaseTransport):
    """Sends what OpenAI clients send to the cheapest enclave that verifies."""

    def __init__(self, client: Client) -> None:
        """Raises UsageError for anything but a Client."""
        expect("client", client, Client, what="a Client (client_sdk.connect makes one)")
        self._client = client

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Raises nothing of Umay's for a whole answer; see the module's first lines."""
        try:
            answer = self._client.request(request.method, request.url.path, request.read())
            headers = [pair for pair in answer.headers if pair[0] not in HIDDEN_HEADERS]
            if (answer.header(b"content-type") or b"").startswith(EVENTS.encode()):
                return httpx.Response(answer.status, headers=headers, stream=_Stream(answer))
            return httpx.Response(answer.status, headers=headers, content=answer.read())
        except UmayError as error:
            status, retry = status_of(error)
            return httpx.Response(status, headers=retry, json=error_json(error))


class _Stream(httpx.SyncByteStream):
    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        yield from sse.done_last(self._answer)

    def close(self) -> None:
        self._answer.close()
