"""Sealed exchanges: streams, receipts, truncation, failing over; against a scripted enclave."""

from __future__ import annotations

from typing import Any

import pytest

from attestation import wire
from attestation.channel import bhttp
from attestation.errors import (
    ChannelError,
    NotAuthentic,
    NotForUs,
    Replayed,
    Truncated,
    UmayError,
    Unavailable,
    VerificationError,
)
from client_sdk import sse
from client_sdk.transport import Transport, check_url
from tests.helpers.fake_enclave import REFUSED, FakeClient, FakeEnclave

BODY = {"model": "demo", "messages": [{"role": "user", "content": "Hello?"}], "stream": True}
ANSWER = "0 1 2 3 4 5 6 7 "


def test_an_answer_streams_and_its_receipt_is_checked(ada: FakeEnclave) -> None:
    answer = FakeClient([ada]).chat(BODY)
    assert answer.status == 200 and answer.receipt is None
    assert "".join(sse.deltas(answer)) == ANSWER
    assert answer.receipt is not None
    assert answer.receipt.receipt.tokens == (3, 0, 8, 0)
    assert ada.script.seen[0].path == "/v1/chat/completions"
    assert b"Hello?" in ada.script.seen[0].content


def test_one_verification_serves_many_requests(ada: FakeEnclave) -> None:
    client = FakeClient([ada])
    for _ in range(3):
        client.chat(BODY).read()
    assert len(client.verifications) == 1


@pytest.mark.parametrize(
    ("fault", "error", "code"),
    [
        ("no receipt", ChannelError, "receipt"),
        ("other key", NotAuthentic, "bad-signature"),
        ("other evidence", NotAuthentic, "other-evidence"),
        ("other request", NotAuthentic, "other-request"),
        ("other response", NotAuthentic, "other-response"),
        ("other amount", NotAuthentic, "other-amount"),
        ("connection cut", Truncated, "truncated"),
        ("final chunk missing", Truncated, "truncated"),
    ],
)
def test_a_spoilt_answer_is_an_error(
    ada: FakeEnclave, fault: str, error: type[UmayError], code: str
) -> None:
    ada.script.fault = fault
    with pytest.raises(error, match=code) as caught:
        FakeClient([ada]).chat(BODY).read()
    if isinstance(caught.value, VerificationError):
        assert caught.value.report is not None


def test_the_receipt_of_another_answer_is_refused(
    ada: FakeEnclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where question and answer are the same, word for word: its salts are others."""
    given: list[bhttp.Fields] = []
    trailers = FakeEnclave.trailers

    def first(self: FakeEnclave, *args: Any) -> bhttp.Fields:
        given.append(trailers(self, *args))
        return given[0]

    monkeypatch.setattr(FakeEnclave, "trailers", first)
    client = FakeClient([ada])
    client.chat(BODY).read()
    with pytest.raises(NotAuthentic) as caught:
        client.chat(BODY).read()
    assert (caught.value.step, caught.value.code) == ("receipt", "other-request")


def test_a_cut_answer_is_never_repeated_but_the_next_request_goes_elsewhere(
    ada: FakeEnclave, bela: FakeEnclave
) -> None:
    client = FakeClient([ada, bela])
    ada.script.fault = "connection cut"
    with pytest.raises(Truncated):
        client.chat(BODY).read()
    assert len(ada.script.seen) == 1 and not bela.script.seen
    client.chat(BODY).read()
    assert len(bela.script.seen) == 1
    assert client.verifications == ["aa" * 16, "bb" * 16]


def test_a_refusal_outside_the_seal_is_not_believed_but_the_next_question_goes_elsewhere(
    ada: FakeEnclave, bela: FakeEnclave
) -> None:
    """A relay could say it of a request that has been executed."""
    client = FakeClient([ada, bela])
    ada.script.unsealed = REFUSED
    with pytest.raises(NotForUs) as caught:
        client.chat(BODY)
    assert client.verifications == ["aa" * 16]
    assert (ada.script.opened, caught.value.may_have_run) == (1, 1) and not bela.script.seen
    assert client.chat(BODY).read().endswith(b"[DONE]\n\n") and bela.script.seen


def test_an_enclave_with_new_keys_is_verified_anew_for_the_next_question(
    ada: FakeEnclave,
) -> None:
    client = FakeClient([ada])
    client.chat(BODY).read()
    ada.renew()
    with pytest.raises(NotForUs):
        client.chat(BODY)
    assert client.chat(BODY).read() and len(client.verifications) == 2


def test_a_refusal_by_the_only_enclave_is_not_for_us(ada: FakeEnclave) -> None:
    ada.script.unsealed = REFUSED
    with pytest.raises(NotForUs, match="holds no key") as caught:
        FakeClient([ada]).chat(BODY)
    assert caught.value.code == "not-for-us" and "/ohttp: " in str(caught.value)


NOT_THE_ENCLAVE = {
    "a relay's 502": (502, "", b""),
    "a proxy's page": (502, "text/html", b"<h1>Bad Gateway</h1>"),
    "a captive portal": (200, "text/html", b"<form>"),
    "a refusal that is JSON": (400, "application/json", wire.REFUSED),
    "another problem": (400, wire.PROBLEM, b'{"title":"too many requests"}'),
    "the refusal and more": (400, wire.PROBLEM, wire.REFUSED + b" " * 80),
    "the refusal under another status": (404, wire.PROBLEM, wire.REFUSED),
    "sealed, says its head, but not chunked": (200, wire.OHTTP_RESPONSE, b"\0" * 64),
}


@pytest.mark.parametrize("unsealed", NOT_THE_ENCLAVE.values(), ids=NOT_THE_ENCLAVE)
def test_what_the_enclave_did_not_say_is_unavailable_and_never_repeated(
    ada: FakeEnclave, bela: FakeEnclave, unsealed: tuple[int, str, bytes]
) -> None:
    """A relay that rewrites the status of an answer does not make a machine run it again."""
    client = FakeClient([ada, bela])
    ada.script.unsealed = unsealed
    with pytest.raises(Unavailable, match=f"ohttp: expected a sealed .* {unsealed[0]}") as caught:
        client.chat(BODY)
    assert (ada.script.opened, caught.value.may_have_run) == (1, 1) and not bela.script.opened
    assert client.chat(BODY).read().endswith(b"[DONE]\n\n") and bela.script.seen
    assert client.verifications == ["aa" * 16, "bb" * 16]


def test_a_replay_is_named_and_never_repeated(ada: FakeEnclave, bela: FakeEnclave) -> None:
    ada.script.unsealed = (400, wire.PROBLEM, wire.REPLAYED)
    with pytest.raises(Replayed) as caught:
        FakeClient([ada, bela]).chat(BODY)
    assert caught.value.exit_code == 4 and ada.script.opened == 1 and not bela.script.opened


def test_a_dead_enclave_is_left_for_the_next(ada: FakeEnclave, bela: FakeEnclave) -> None:
    client = FakeClient([ada, bela])
    ada.close()
    assert client.chat(BODY).read()
    assert bela.script.seen


def test_when_all_are_dead_the_caller_hears_so(ada: FakeEnclave) -> None:
    ada.close()
    with pytest.raises(Unavailable):
        FakeClient([ada]).chat(BODY)


def test_an_inner_error_needs_no_receipt(ada: FakeEnclave) -> None:
    ada.script.status, ada.script.fault = 400, "no receipt"
    answer = FakeClient([ada]).chat(BODY)
    assert answer.status == 400 and answer.read()


def test_after_the_verification_ends_nothing_is_sealed(ada: FakeEnclave) -> None:
    client = FakeClient([ada])
    client._chooser.finder._clock = lambda: float(ada.verified.valid_until + 1)
    with pytest.raises(UmayError, match="expired"):
        client.chat(BODY)
    assert not ada.script.seen


@pytest.mark.parametrize("url", ["http://example.org/umay/", "ftp://127.0.0.1/", "127.0.0.1:1"])
def test_plain_http_is_for_loopback_only(url: str) -> None:
    with pytest.raises(UmayError):
        check_url(url)


def test_what_is_no_200_is_unavailable(ada: FakeEnclave) -> None:
    with pytest.raises(Unavailable, match="HTTP 200"):
        Transport().post(f"{ada.chosen.place.base}ohttp", b"x", limit=4)


def test_urls_are_asked_for_as_they_are() -> None:
    """A listing ends in a slash; without it servers redirect, which is not followed."""
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    paths = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(307 if len(paths) > 1 else 200)
            self.send_header("location", "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/umay/"
        assert Transport().get(url) == b""
        with pytest.raises(Unavailable, match="307"):
            Transport().get(url)
        server.shutdown()
    assert paths == ["/umay/", "/umay/"]
