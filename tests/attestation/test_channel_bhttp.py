"""Binary HTTP beside RFC 9292's examples, every bad message by name, and any bytes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.channel import bhttp, padding, varint
from attestation.channel.bhttp import (
    Content,
    Fields,
    Informational,
    Request,
    Response,
    ResponseHead,
    Trailers,
)
from attestation.channel.messages import MAX_FIELD_BYTES, MAX_FIELDS
from attestation.errors import ParseError, Truncated, UmayError, UsageError
from tests.helpers.channel_vectors import load, unhex

RFC9292 = load("rfc9292")
KNOWN, OPEN = unhex(RFC9292, "known_request", "indeterminate_request")
OPEN_RESPONSE, KNOWN_RESPONSE = unhex(RFC9292, "indeterminate_response", "known_response")
HELLO = Request(
    "GET",
    "/hello.txt",
    (
        (b"user-agent", b"curl/7.16.3 libcurl/7.16.3 OpenSSL/0.9.7l zlib/1.2.3"),
        (b"host", b"www.example.com"),
        (b"accept-language", b"en, mi"),
    ),
)

names = st.from_regex(rb"[a-z0-9!#$%&'*+.^_`|~-]{1,20}", fullmatch=True)
values = st.from_regex(
    rb"([\x21-\x7e\x80-\xff]([\t -~\x80-\xff]{0,30}[\x21-\x7e])?)?", fullmatch=True
)
fields = st.lists(st.tuples(names, values), max_size=5).map(tuple)
requests = st.builds(
    Request,
    method=st.sampled_from(["GET", "POST", "OPTIONS"]),
    path=st.from_regex(r"/[!-~]{0,40}", fullmatch=True),
    headers=fields,
    content=st.binary(max_size=300),
    trailers=fields,
    scheme=st.sampled_from(["https", "http"]),
    authority=st.from_regex(r"[!-~]{0,30}", fullmatch=True),
)
informational = st.builds(Informational, st.integers(102, 199) | st.just(100), fields)
responses = st.builds(
    Response,
    status=st.integers(200, 599),
    headers=fields,
    content=st.binary(max_size=300),
    trailers=fields,
    informational=st.lists(informational, max_size=3).map(tuple),
)


def test_rfc9292_known_length_request() -> None:
    assert bhttp.decode_request(KNOWN) == HELLO
    assert bhttp.encode_request(HELLO) == KNOWN


def test_rfc9292_indeterminate_request_with_padding() -> None:
    assert bhttp.decode_request(OPEN) == HELLO
    assert bhttp.encode_request(HELLO, indeterminate=True) == OPEN[:-10]


def test_rfc9292_indeterminate_response_with_informational() -> None:
    response = bhttp.decode_response(OPEN_RESPONSE)
    assert [part.status for part in response.informational] == [102, 103]
    assert response.informational[0].headers == ((b"running", b'"sleep 15"'),)
    assert response.content == b"Hello World! My content includes a trailing CRLF.\r\n"
    assert response.header(b"content-length") == b"51"
    assert bhttp.encode_response(response, indeterminate=True) == OPEN_RESPONSE


def test_rfc9292_known_length_response_with_trailer() -> None:
    response = bhttp.decode_response(KNOWN_RESPONSE)
    assert response == Response(
        200, (), b"This content contains CRLF.\r\n", ((b"trailer", b"text"),)
    )
    assert bhttp.encode_response(response) == KNOWN_RESPONSE


@pytest.mark.parametrize("cut", [1, 2])
def test_empty_sections_at_the_end_may_be_left_out(cut: int) -> None:
    assert bhttp.decode_request(KNOWN[:-cut]) == HELLO
    assert bhttp.decode_request(OPEN[: -10 - cut]) == HELLO
    assert bhttp.decode_response(bytes.fromhex("0140c8")) == Response(200)


@pytest.mark.parametrize("message", [KNOWN, OPEN[:-10]], ids=["known", "indeterminate"])
def test_request_cut_anywhere_else_is_truncated(message: bytes) -> None:
    head = len("\0\3GET\5https\0\n/hello.txt")
    for end in range(len(message) - 2):
        if end == head:  # control data alone is a whole message, RFC 9292 §3.8
            assert bhttp.decode_request(message[:end]).headers == ()
            continue
        with pytest.raises(Truncated):
            bhttp.decode_request(message[:end])


def test_streamed_content_without_its_end_is_truncated() -> None:
    encoder = bhttp.ResponseEncoder()
    streamed = encoder.head(200) + encoder.content(b"half an ans")
    with pytest.raises(Truncated):
        bhttp.decode_response(streamed)


@given(requests, st.booleans(), st.integers(0, 50))
def test_requests_come_back(request: Request, indeterminate: bool, zeros: int) -> None:
    encoded = bhttp.encode_request(request, indeterminate=indeterminate)
    assert bhttp.decode_request(encoded + bytes(zeros)) == request


@given(responses, st.booleans(), st.integers(0, 50))
def test_responses_come_back(response: Response, indeterminate: bool, zeros: int) -> None:
    encoded = bhttp.encode_response(response, indeterminate=indeterminate)
    assert bhttp.decode_response(encoded + bytes(zeros)) == response


@given(responses, st.lists(st.integers(0, 400), max_size=6))
def test_pieces_decode_like_the_whole(response: Response, cuts: list[int]) -> None:
    encoded = bhttp.encode_response(response, indeterminate=True)
    edges = [0, *sorted(cuts), len(encoded)]
    decoder = bhttp.response_decoder()
    events = [e for a, b in itertools.pairwise(edges) for e in decoder.push(encoded[a:b])]
    events += decoder.finish()
    assert b"".join(e.data for e in events if isinstance(e, Content)) == response.content
    assert events[-1] == Trailers(response.trailers)
    assert ResponseHead(response.status, response.headers) in events


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise_ours(data: bytes) -> None:
    for decode in (bhttp.decode_request, bhttp.decode_response):
        try:
            decode(data)
        except UmayError:
            pass


@given(st.sampled_from([KNOWN, OPEN, OPEN_RESPONSE, KNOWN_RESPONSE]), st.data())
def test_changed_messages_decode_or_raise_ours(message: bytes, data: st.DataObject) -> None:
    changed = bytearray(message)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    for decode, encode in (
        (bhttp.decode_request, bhttp.encode_request),
        (bhttp.decode_response, bhttp.encode_response),
    ):
        try:
            message = decode(bytes(changed))
        except UmayError:
            continue
        assert decode(encode(message)) == message


@given(st.integers(0, (1 << 62) - 1))
def test_integers_come_back(value: int) -> None:
    encoded = varint.encode(value)
    assert varint.decode(encoded) == value
    assert varint.size(encoded[0]) == len(encoded)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (63, "3f"),
        (64, "4040"),
        (16383, "7fff"),
        (16384, "80004000"),
        ((1 << 30) - 1, "bfffffff"),
        (1 << 30, "c000000040000000"),
        ((1 << 62) - 1, "ffffffffffffffff"),
    ],
)
def test_integers_at_the_edges_of_their_forms(value: int, encoded: str) -> None:
    assert varint.encode(value).hex() == encoded
    assert varint.decode(bytes.fromhex(encoded)) == value


@pytest.mark.parametrize("value", [-1, 1 << 62])
def test_integer_that_has_no_form_is_refused(value: int) -> None:
    with pytest.raises(ParseError):
        varint.encode(value)


@pytest.mark.parametrize("long", ["4025", "80000025", "c000000000000025", "80003fff"])
def test_integer_longer_than_it_need_be_is_refused(long: str) -> None:
    with pytest.raises(ParseError):
        varint.decode(bytes.fromhex(long))


@pytest.mark.parametrize("part", ["", "40", "800000", "0000", "404000"])
def test_bytes_that_are_not_exactly_one_integer(part: str) -> None:
    with pytest.raises(ParseError, match="expected a whole one"):
        varint.decode(bytes.fromhex(part))


def lp(data: bytes) -> bytes:
    return varint.encode(len(data)) + data


def raw(
    method: bytes = b"GET",
    path: bytes = b"/x",
    line: bytes = b"",
    tail: bytes = b"\0\0",
    framing: bytes = b"\0",
) -> bytes:
    return framing + lp(method) + lp(b"https") + lp(b"") + lp(path) + lp(line) + tail


def field(name: bytes, value: bytes) -> bytes:
    return lp(name) + lp(value)


BAD_REQUESTS = {
    "response framing": raw(framing=b"\1"),
    "unknown framing": raw(framing=b"\4"),
    "framing in two bytes": raw(framing=b"\x40\0"),
    "method with a space": raw(method=b"GE T"),
    "method empty": raw(method=b""),
    "path empty": raw(path=b""),
    "path with a space": raw(path=b"/a b"),
    "path beyond ASCII": raw(path="/é".encode()),
    "path without a slash": raw(path=b"x"),
    "path with a line break": raw(path=b"/x\r\nhost: y"),
    "path too long": raw(path=b"/" + b"a" * 8192),
    "pseudo-field": raw(line=field(b":method", b"POST")),
    "upper-case name": raw(line=field(b"Accept", b"*/*")),
    "name with a space": raw(line=field(b"a b", b"c")),
    "name empty": raw(line=field(b"", b"c")),
    "value with a line break": raw(line=field(b"a", b"b\r\nc: d")),
    "value with a zero": raw(line=field(b"a", b"b\0c")),
    "value with a leading space": raw(line=field(b"a", b" b")),
    "value with a trailing tab": raw(line=field(b"a", b"b\t")),
    "name of a trailing line break": raw(line=field(b"a\n", b"b")),
    "value of a trailing line break": raw(line=field(b"a", b"b\n")),
    "field line beyond its section": raw(line=lp(b"a") + b"\x05b"),
    "field line without a value": raw(line=lp(b"a")),
    "length of a field in two bytes": raw(line=b"\x40\x01a" + lp(b"b")),
    "too many fields": raw(line=field(b"a", b"b") * (MAX_FIELDS + 1)),
    "field section too long": raw(line=field(b"a", b"b" * (MAX_FIELD_BYTES + 1))),
    "content longer than any limit": raw(tail=b"\xbf\xff\xff\xff"),
    "padding not zero": raw(tail=b"\0\0\0\1"),
    "trailers after padding": raw(tail=b"\0\0" + field(b"a", b"b")),
}


@pytest.mark.parametrize("message", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_bad_request_is_refused(message: bytes) -> None:
    with pytest.raises(ParseError):
        bhttp.decode_request(message)


@pytest.mark.parametrize("status", [0, 99, 101, 600, 16383])
def test_status_that_none_is_refused(status: int) -> None:
    with pytest.raises(ParseError):
        bhttp.decode_response(b"\1" + varint.encode(status) + b"\0\0\0")


@pytest.mark.parametrize("status", [101, 103, 199])
def test_switching_protocols_is_no_informational_response(status: int) -> None:
    message = b"\1" + varint.encode(status) + b"\0" + varint.encode(200)
    if status != 101:
        assert bhttp.decode_response(message).status == 200
        return
    with pytest.raises(ParseError):
        bhttp.decode_response(message)


HINT = varint.encode(103) + b"\0"


def test_too_many_informational_responses_are_refused() -> None:
    response = bhttp.decode_response(b"\1" + HINT * 8 + varint.encode(200))
    assert response.informational == (Informational(103),) * 8
    with pytest.raises(ParseError, match="final status"):
        bhttp.decode_response(b"\1" + HINT * 9 + varint.encode(200))


@pytest.mark.parametrize("hints", [HINT[:-1], HINT, (HINT * 9)[:-1]])
def test_informational_response_alone_is_truncated(hints: bytes) -> None:
    with pytest.raises(Truncated):
        bhttp.decode_response(b"\1" + hints)


def test_message_longer_than_the_limit_is_refused() -> None:
    assert bhttp.decode_request(KNOWN, limit=len(KNOWN)) == HELLO
    with pytest.raises(ParseError):
        bhttp.decode_request(KNOWN, limit=len(KNOWN) - 1)


@pytest.mark.parametrize(
    "bad",
    [
        Request("GE T", "/"),
        Request("GET", "/é"),
        Request("GET", "/", ((b"A", b"b"),)),
        Request("GET", "/", ((b"a", b"b\r\n"),)),
        Request("GET", "/", ((b"a", b"b"),) * (MAX_FIELDS + 1)),
        Request("GET", "/", ((b"a", b"b" * (MAX_FIELD_BYTES + 1)),)),
    ],
    ids=["method", "path", "name", "value", "count", "size"],
)
def test_encoder_refuses_what_the_decoder_would(bad: Request) -> None:
    with pytest.raises(ParseError):
        bhttp.encode_request(bad)


@pytest.mark.parametrize("status", [99, 100, 102, 199, 600])
def test_encoder_ends_with_a_final_status(status: int) -> None:
    with pytest.raises(ParseError):
        bhttp.encode_response(Response(status))
    with pytest.raises(ParseError):
        bhttp.ResponseEncoder().head(status)


@pytest.mark.parametrize("status", [99, 101, 200])
def test_encoder_gives_no_other_status_before_it(status: int) -> None:
    with pytest.raises(ParseError):
        bhttp.encode_response(Response(200, informational=(Informational(status),)))
    with pytest.raises(ParseError):
        bhttp.ResponseEncoder().informational(status)


def test_decoder_stays_broken_after_an_error() -> None:
    decoder = bhttp.request_decoder()
    with pytest.raises(ParseError):
        decoder.push(b"\7")
    for again in (lambda: decoder.push(KNOWN), decoder.finish):
        with pytest.raises(UsageError):
            again()


def streamed(parts: list[bytes], trailers: Fields) -> bytes:
    encoder = bhttp.ResponseEncoder()
    head = encoder.informational(102) + encoder.head(200, ((b"content-type", b"text/plain"),))
    return head + b"".join(map(encoder.content, parts)) + encoder.finish(trailers)


@given(st.lists(st.binary(max_size=100), max_size=5), fields)
def test_streamed_response_decodes(parts: list[bytes], trailers: Fields) -> None:
    response = bhttp.decode_response(streamed(parts, trailers))
    assert response.content == b"".join(parts)
    assert response.trailers == trailers
    assert [part.status for part in response.informational] == [102]


def test_framing_is_written_once() -> None:
    encoder = bhttp.ResponseEncoder()
    parts = [encoder.informational(status) for status in (102, 103)]
    message = b"".join(parts) + encoder.head(200) + encoder.finish()
    assert [part.status for part in bhttp.decode_response(message).informational] == [102, 103]


def test_encoder_keeps_its_order() -> None:
    encoder = bhttp.ResponseEncoder()
    with pytest.raises(UsageError):
        encoder.content(b"before the head")
    encoder.head(200)
    with pytest.raises(UsageError):
        encoder.head(200)
    with pytest.raises(UsageError):
        encoder.informational(103)
    encoder.finish()
    for again in (lambda: encoder.content(b"more"), encoder.finish):
        with pytest.raises(UsageError):
            again()


@given(st.integers(0, 1 << 24))
def test_request_buckets(length: int) -> None:
    bucket = padding.request_bucket(length)
    assert length <= bucket
    assert bucket <= max(1024, 2 * length)
    assert padding.request_bucket(bucket) == bucket
    if length > padding.PADME_FROM_BYTES:
        assert bucket <= length * 1.12


@pytest.mark.parametrize(
    ("length", "bucket"),
    [
        (0, 1024),
        (1024, 1024),
        (1025, 2048),
        (32_769, 65_536),
        (65_536, 65_536),
        (65_537, 67_584),
        (1_000_000, 1_015_808),
    ],
)
def test_request_buckets_at_their_edges(length: int, bucket: int) -> None:
    """Under 64 KiB a power of two; above, Padmé keeps the five or six top bits."""
    assert padding.request_bucket(length) == bucket


def test_padding_is_read_over_and_bounded() -> None:
    padded = padding.pad_request(KNOWN, limit=1 << 20)
    assert len(padded) == 1024
    assert bhttp.decode_request(padded) == HELLO
    assert len(padding.pad_request(KNOWN, limit=500)) == 500
    assert padding.pad_request(KNOWN, limit=len(KNOWN)) == KNOWN
    with pytest.raises(ParseError):
        padding.pad_request(KNOWN, limit=len(KNOWN) - 1)


@given(st.integers(0, 5000))
def test_sse_comment_fills_the_bucket(length: int) -> None:
    comment = padding.sse_comment(length)
    assert (length + len(comment)) % 512 == 0
    assert comment == b"" or (comment[:1] == b":" and comment.endswith(b"\n\n"))
    assert comment.count(b"\n") <= 2


@pytest.mark.parametrize(
    ("length", "comment"),
    [(0, 0), (1, 511), (509, 3), (510, 514), (511, 513), (512, 0), (513, 511)],
)
def test_sse_comments_at_their_edges(length: int, comment: int) -> None:
    """The shortest is three bytes, so that a smaller gap takes a bucket more."""
    assert len(padding.sse_comment(length)) == comment


@pytest.mark.parametrize("indeterminate", [False, True])
def test_sections_and_control_data_at_their_limits(indeterminate: bool) -> None:
    for request in (
        Request("GET", "/", ((b"a", b"b"),) * 128),
        Request("GET", "/", ((b"a", b"b" * 65535),)),
        Request("A" * 8192, "/"),
    ):
        encoded = bhttp.encode_request(request, indeterminate=indeterminate)
        assert bhttp.decode_request(encoded) == request
    response = Response(599)
    assert bhttp.decode_response(bhttp.encode_response(response)) == response


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Request("A" * 8193, "/"), "control data"),
        (Request("GET", "/", scheme="a" * 8193), "control data"),
        (Request("GET", "/", scheme="1s"), "scheme"),
        (Request("GET", "/", authority="a b"), "authority"),
        (Request("GET", "/", ((b"a", b"b" * 65536),)), "at most 65536 bytes"),
    ],
)
def test_encoder_says_what_is_wrong_with_a_request(bad: Request, words: str) -> None:
    with pytest.raises(ParseError, match=words):
        bhttp.encode_request(bad)


def test_too_many_fields_are_refused_in_an_open_section() -> None:
    with pytest.raises(ParseError, match="at most 128 fields"):
        bhttp.decode_request(raw(framing=b"\2")[:-3] + field(b"a", b"b") * 129 + b"\0\0\0")


LONG = [varint.encode(n) for n in (8193, 66561, 65537, 65536)]
OPEN_HEAD = raw(framing=b"\2")[:-3]


@pytest.mark.parametrize(
    ("begun", "words"),
    [
        (b"\0" + LONG[0], "control data: expected at most 8192 bytes, got 8193"),
        (raw()[:-3] + LONG[1], "field section: expected at most 66560 bytes, got 66561"),
        (OPEN_HEAD + LONG[2], "field section: expected at most 65536 bytes, got 65537"),
        (OPEN_HEAD + lp(b"a") + LONG[3], "field section: expected at most 65535 bytes, got 65536"),
        (raw()[:-2] + varint.encode(1 << 30), "content: expected no more bytes than the limit"),
    ],
    ids=["control data", "section", "name", "value", "content"],
)
def test_a_length_above_its_limit_is_refused_before_its_bytes_come(
    begun: bytes, words: str
) -> None:
    decoder = bhttp.request_decoder()
    with pytest.raises(ParseError, match=words):
        decoder.push(begun)


def test_content_may_fill_the_message_up_to_its_limit() -> None:
    message = raw()[:-2] + lp(b"content")
    assert bhttp.decode_request(message, limit=len(message)).content == b"content"
    with pytest.raises(ParseError, match="content"):
        bhttp.decode_request(message[:-1], limit=len(message) - 1)


@pytest.mark.parametrize("late", [b"\1", bytes(600) + b"\1"])
def test_padding_that_comes_later_must_be_zero_too(late: bytes) -> None:
    decoder = bhttp.request_decoder()
    decoder.push(KNOWN + b"\0")
    decoder.push(b"\0")
    with pytest.raises(ParseError, match="padding"):
        decoder.push(late)


def test_padding_is_not_kept() -> None:
    decoder = bhttp.request_decoder()
    decoder.push(KNOWN + bytes(1000))
    assert not decoder._buffer


@pytest.mark.parametrize("indeterminate", [False, True])
def test_each_event_comes_with_its_last_byte(indeterminate: bool) -> None:
    trailers = ((b"e", b"f"),)
    response = Response(200, ((b"a", b"b"),), b"cd", trailers, (Informational(103),))
    decoder, came = bhttp.response_decoder(), []
    for byte in bhttp.encode_response(response, indeterminate=indeterminate):
        came.append(decoder.push(bytes([byte])))
    assert [event for events in came for event in events] == [
        Informational(103),
        ResponseHead(200, response.headers),
        Content(b"c"),
        Content(b"d"),
        Trailers(trailers),
    ]
    assert came[-1] == [Trailers(trailers)]
    assert decoder.finish() == []
