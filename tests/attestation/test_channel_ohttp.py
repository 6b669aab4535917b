"""Oblivious HTTP beside RFC 9458 and the chunked draft, and every attack by name."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.channel import exchange, hpke, kem
from attestation.channel.chunks import ChunkedReader
from attestation.channel.client import ClientRequest
from attestation.channel.kem import X25519_ID, X_WING_ID
from attestation.channel.key_config import (
    ALGORITHMS,
    MAX_ALGORITHMS,
    KeyConfig,
    choose,
    encode_key_list,
    parse_key_list,
)
from attestation.channel.protocol import (
    LABEL_CHUNKED_RESPONSE,
    LABEL_RESPONSE,
    MAX_CHUNK_BYTES,
)
from attestation.channel.replay import ReplayGuard, entry_of
from attestation.channel.server import KeyRing, ServerRequest
from attestation.channel.suite import PREFERENCES, Suite
from attestation.errors import (
    ChannelError,
    NotForUs,
    ParseError,
    Refused,
    Replayed,
    Truncated,
    UmayError,
    UsageError,
)
from tests.helpers.channel_vectors import load, unhex

RING = KeyRing()
CONFIGS = {
    (kem_id, aead_id): [
        KeyConfig(c.key_id, kem_id, c.public, ((1, aead_id),)).to_bytes()
        for c in RING.open_epoch([kem_id]).configs
    ]
    for kem_id, aead_id in PREFERENCES
}
FORMS = [True, False]
CONFIG = CONFIGS[X25519_ID, 2]


def client(*, chunked: bool = True, configs: list[bytes] = CONFIG) -> ClientRequest:
    return ClientRequest(configs, pq="preferred", chunked=chunked)


def exchanged(*, chunked: bool = True) -> tuple[ClientRequest, ServerRequest]:
    request, incoming = client(chunked=chunked), RING.request(chunked=chunked)
    incoming.open(request.seal(b"question"))
    return request, incoming


def response_wire(incoming: ServerRequest, *parts: bytes) -> list[bytes]:
    writer = incoming.response()
    return [*(writer.write(part) for part in parts), writer.finish()]


# The published examples.


def install(vector: dict, private: bytes) -> KeyRing:
    config = KeyConfig.from_bytes(bytes.fromhex(vector["key_config"]))
    ring = KeyRing()
    key = kem.X25519Key(private)
    epoch = ring.install({config.key_id: key}, algorithms=config.algorithms)
    assert epoch.configs == (config,)
    assert config.to_bytes().hex() == vector["key_config"]
    return ring


def as_published(vector: dict, *, chunked: bool) -> ClientRequest:
    """The vector's client: AES-128-GCM is what it chose among what we would rank first."""
    config = KeyConfig.from_bytes(bytes.fromhex(vector["key_config"]))
    only = KeyConfig(config.key_id, config.kem_id, config.public, ((1, 1),))
    return ClientRequest(
        [only.to_bytes()], pq="preferred", chunked=chunked, ephemeral=bytes.fromhex(vector["skE"])
    )


def test_rfc9458_example() -> None:
    vector = load("rfc9458")
    private, plain, sealed = unhex(vector, "skR", "request", "encapsulated_request")
    request = as_published(vector, chunked=False)
    assert request.seal(plain) == sealed
    incoming = install(vector, private).request(chunked=False)
    assert incoming.open(sealed) == plain
    assert request._exchange.context.export(LABEL_RESPONSE, 16).hex() == vector["export"]
    response, published = unhex(vector, "response", "encapsulated_response")
    assert request.response().open(published) == response


def test_chunked_draft_example() -> None:
    vector = load("chunked-ohttp-draft-08")
    private, plain, sealed = unhex(vector, "skR", "request", "encapsulated_request")
    request = as_published(vector, chunked=True)
    writer = request.writer()
    first = vector["request_chunks"][0]
    assert writer.write(plain[:first]) + writer.write(plain[first:]) + writer.finish() == sealed
    incoming = install(vector, private).request(chunked=True)
    assert incoming.push(sealed) == [plain[:first], plain[first:]]
    assert incoming.finish() == b""
    assert request._exchange.context.export(LABEL_CHUNKED_RESPONSE, 16).hex() == vector["export"]
    response, published = unhex(vector, "response", "encapsulated_response")
    opener = request.response()
    assert opener.push(published) == [response[:1], response[1:]]
    assert opener.finish() == b""


def test_chunked_draft_response_is_sealed_as_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    vector = load("chunked-ohttp-draft-08")
    private, sealed, nonce, response = unhex(
        vector, "skR", "encapsulated_request", "response_nonce", "response"
    )
    monkeypatch.setattr(exchange, "new_response_nonce", lambda suite: nonce)
    incoming = install(vector, private).request(chunked=True)
    incoming.open(sealed)
    wire = b"".join(response_wire(incoming, response[:1], response[1:]))
    assert wire.hex() == vector["encapsulated_response"]


# Both forms, all suites.


@pytest.mark.parametrize("chunked", FORMS)
@pytest.mark.parametrize("suite", PREFERENCES)
def test_every_suite_in_both_forms(suite: tuple[int, int], chunked: bool) -> None:
    request = client(chunked=chunked, configs=CONFIGS[suite])
    incoming = RING.request(chunked=chunked)
    message = bytes(range(256)) * 200
    assert incoming.open(request.seal(message)) == message
    assert incoming.suite == request.suite == Suite(*suite)
    wire = b"".join(response_wire(incoming, b"answer", message, b"end"))
    assert request.response().open(wire) == b"answer" + message + b"end"
    assert request.export(b"salt", 32) == incoming.export(b"salt", 32)
    assert request.export(b"salt", 32) != request.export(b"other", 32)
    assert request.response_media_type == incoming.response_media_type


@pytest.mark.parametrize(
    ("chunked", "sent", "answered"),
    [
        (True, "message/ohttp-chunked-req", "message/ohttp-chunked-res"),
        (False, "message/ohttp-req", "message/ohttp-res"),
    ],
)
def test_the_media_types_of_both_forms(chunked: bool, sent: str, answered: str) -> None:
    request, incoming = exchanged(chunked=chunked)
    assert request.media_type == sent
    assert request.response_media_type == incoming.response_media_type == answered


@given(st.binary(max_size=50_000), st.lists(st.integers(0, 50_100), max_size=8), st.booleans())
def test_any_message_in_any_pieces(message: bytes, cuts: list[int], chunked: bool) -> None:
    wire = client(chunked=chunked).seal(message)
    edges = [0, *sorted(cuts), len(wire)]
    incoming = RING.request(chunked=chunked)
    opened = [
        part for i in range(len(edges) - 1) for part in incoming.push(wire[edges[i] : edges[i + 1]])
    ]
    assert b"".join(opened) + incoming.finish() == message


def test_response_byte_by_byte() -> None:
    request, incoming = exchanged()
    opener = request.response()
    opened = []
    for byte in b"".join(response_wire(incoming, b"one", b"two")):
        opened += opener.push(bytes([byte]))
    assert (opened, opener.finish()) == ([b"one", b"two"], b"")


def test_no_sealed_chunk_is_longer_than_allowed() -> None:
    request, incoming = exchanged()
    chunks = request.response().push(b"".join(response_wire(incoming, bytes(40_000))))
    assert [len(chunk) for chunk in chunks] == [MAX_CHUNK_BYTES, MAX_CHUNK_BYTES, 7232]


def test_final_chunk_with_a_payload_is_accepted() -> None:
    request = client()
    head = request.writer()._head
    sealed = request._exchange.context.seal(b"all of it", b"final")
    assert RING.request(chunked=True).open(head + b"\0" + sealed) == b"all of it"


def test_empty_messages() -> None:
    for chunked in FORMS:
        request, incoming = client(chunked=chunked), RING.request(chunked=chunked)
        assert incoming.open(request.seal(b"")) == b""
        assert request.response().open(b"".join(response_wire(incoming, b""))) == b""


# What a relay may try with a request.


def request_parts(*messages: bytes) -> tuple[bytes, list[bytes], bytes]:
    """Header with encapsulated key, the sealed chunks with their lengths, the final one."""
    writer = client().writer()
    chunks = [writer.write(message) for message in messages]
    head_bytes = exchange.HEADER_BYTES + kem.enc_bytes(X25519_ID)
    return chunks[0][:head_bytes], [chunks[0][head_bytes:], *chunks[1:]], writer.finish()


def refuses(wire: bytes, error: type[UmayError], *, chunked: bool = True) -> None:
    """Refused for its own sake: the replay table is empty unless replay is the point."""
    if error is not Replayed:
        for held in RING._held.values():
            held.guard._seen.clear()
    with pytest.raises(error) as caught:
        RING.request(chunked=chunked).open(wire)
    assert isinstance(caught.value, ChannelError)
    assert isinstance(caught.value, Replayed) == (error is Replayed)


def test_truncated_at_every_byte() -> None:
    head, chunks, final = request_parts(b"one", b"two", b"three")
    wire = head + b"".join(chunks) + final
    for end in range(len(wire)):
        refuses(wire[:end], Truncated)


def test_truncated_at_each_chunk_boundary() -> None:
    head, chunks, final = request_parts(b"one", b"two", b"three")
    for kept in range(len(chunks) + 1):
        refuses(head + b"".join(chunks[:kept]), Truncated)
        if kept < len(chunks):
            refuses(head + b"".join(chunks[:kept]) + final, ChannelError)


def test_plain_request_truncated_at_every_byte() -> None:
    wire = client(chunked=False).seal(b"whole")
    for end in range(len(wire)):
        refuses(wire[:end], ChannelError, chunked=False)


def test_swapped_repeated_or_missing_chunks() -> None:
    head, (one, two, three), final = request_parts(b"one", b"two", b"six")
    for chunks in ([two, one, three], [one, one, two, three], [one, three], [two, three], [one]):
        refuses(head + b"".join(chunks) + final, ChannelError)


def test_chunk_passed_off_as_final() -> None:
    head, (one, two), _ = request_parts(b"one", b"two")
    refuses(head + one + b"\0" + two[1:], ChannelError)


def test_final_chunk_passed_off_as_another() -> None:
    head, (one,), final = request_parts(b"one")
    refuses(head + one + b"\x10" + final[1:] + final, ChannelError)


def test_data_after_the_final_chunk() -> None:
    head, (one,), final = request_parts(b"one")
    for extra in (b"\0", final, one, bytes(MAX_CHUNK_BYTES)):
        refuses(head + one + final + extra, ChannelError)


def test_chunks_of_two_requests_mixed() -> None:
    head, (one,), final = request_parts(b"one")
    _, (other,), other_final = request_parts(b"one")
    refuses(head + other + final, ChannelError)
    refuses(head + one + other_final, ChannelError)


@given(st.data(), st.booleans())
def test_any_changed_bit_is_refused(data: st.DataObject, chunked: bool) -> None:
    wire = bytearray(client(chunked=chunked).seal(b"question"))
    wire[data.draw(st.integers(0, len(wire) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    refuses(bytes(wire), ChannelError, chunked=chunked)


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_refused(data: bytes, chunked: bool) -> None:
    refuses(data, ChannelError, chunked=chunked)
    head = exchange.header(KeyConfig.from_bytes(CONFIG[0]).key_id, Suite(X25519_ID, 2))
    refuses(head + data, ChannelError, chunked=chunked)


def test_wrong_key_id() -> None:
    wire = client().seal(b"question")
    refuses(b"\xff" + wire[1:], NotForUs)
    other = CONFIGS[X25519_ID, 3][0][0]  # another living X25519 key
    refuses(bytes([other]) + wire[1:], ChannelError)


@pytest.mark.parametrize(
    ("offset", "value"),
    [(1, X_WING_ID), (1, 0x10), (3, 2), (5, 1), (5, 3), (5, 0xFFFF)],
    ids=["other kem", "unknown kem", "other kdf", "aes-128", "chacha", "export only"],
)
def test_wrong_algorithm(offset: int, value: int) -> None:
    wire = client().seal(b"question")
    refuses(wire[:offset] + value.to_bytes(2, "big") + wire[offset + 2 :], ChannelError)


def test_algorithm_that_was_not_offered() -> None:
    ring = KeyRing()
    (config,) = ring.install({9: kem.X25519Key.generate()}, algorithms=((1, 2),)).configs
    forced = KeyConfig(9, config.kem_id, config.public, ((1, 3),)).to_bytes()
    with pytest.raises(ChannelError, match="expected algorithms that key id"):
        ring.request(chunked=True).open(client(configs=[forced]).seal(b"question"))


def test_plain_request_as_chunked_and_the_reverse() -> None:
    refuses(client(chunked=False).seal(b"q" * 60), ChannelError, chunked=True)
    refuses(client(chunked=True).seal(b"q"), ChannelError, chunked=False)


def test_low_order_point() -> None:
    wire = client().seal(b"question")
    refuses(wire[:7] + bytes(32) + wire[39:], ChannelError)


@pytest.mark.parametrize("length", ["01", "0f", "8000401100", "bfffffff", "ffffffffffffffff"])
def test_chunk_length_out_of_bounds(length: str) -> None:
    head, _, _ = request_parts(b"one")
    refuses(head + bytes.fromhex(length) + bytes(40), ChannelError)


def test_chunk_length_longer_than_it_need_be() -> None:
    head, (one,), final = request_parts(b"one")
    refuses(head + b"\x40" + one + final, ChannelError)
    refuses(head + one + b"\x40" + final, ChannelError)


def test_chunk_of_one_byte_too_many() -> None:
    request = client()
    head = request.writer()._head
    sealed = request._exchange.context.seal(bytes(MAX_CHUNK_BYTES + 1))
    refuses(head + bytes.fromhex("8000") + len(sealed).to_bytes(2, "big") + sealed, ChannelError)


def test_final_chunk_of_one_byte_too_many() -> None:
    request = client()
    head = request.writer()._head
    sealed = request._exchange.context.seal(bytes(MAX_CHUNK_BYTES + 1), b"final")
    with pytest.raises(ChannelError, match="final chunk"):
        RING.request(chunked=True).push(head + b"\0" + sealed)


def test_request_longer_than_the_limit() -> None:
    for chunked in FORMS:
        at_limit, above = (client(chunked=chunked).seal(bytes(n)) for n in (1000, 1001))
        assert RING.request(chunked=chunked, limit=1000).open(at_limit) == bytes(1000)
        with pytest.raises(ChannelError, match="within the limit, got a longer one"):
            RING.request(chunked=chunked, limit=1000).open(above)


def test_endless_empty_chunks_are_bounded() -> None:
    request = client()
    head = request.writer()._head
    empty = b"".join(b"\x10" + request._exchange.context.seal(b"") for _ in range(1200))
    with pytest.raises(ChannelError, match="within the limit, got a longer one"):
        RING.request(chunked=True, limit=1000).push(head + empty)


# Replay.


@pytest.mark.parametrize("chunked", FORMS)
def test_replay_is_refused(chunked: bool) -> None:
    wire = client(chunked=chunked).seal(b"question")
    RING.request(chunked=chunked).open(wire)
    refuses(wire, Replayed, chunked=chunked)


def test_replay_is_refused_before_anything_is_released() -> None:
    wire = client().seal(b"question")
    RING.request(chunked=True).open(wire)
    with pytest.raises(Replayed):
        RING.request(chunked=True).push(wire[:-17])


def test_cut_request_counts_once_its_first_chunk_has_authenticated() -> None:
    wire = client().seal(b"question")
    RING.request(chunked=True).push(wire[:-17])
    refuses(wire, Replayed)


def test_request_that_does_not_authenticate_takes_no_room() -> None:
    ring = KeyRing(replay_capacity=2)
    epoch = ring.open_epoch([X25519_ID])
    configs = [config.to_bytes() for config in epoch.configs]
    wire = client(configs=configs).seal(b"question")
    for position in (20, 45, 60):
        bad = bytearray(wire)
        bad[position] ^= 1
        with pytest.raises(ChannelError):
            ring.request(chunked=True).open(bytes(bad))
    assert len(epoch.guard) == 0
    assert ring.request(chunked=True).open(wire) == b"question"


def test_only_one_of_many_at_once_gets_in() -> None:
    guard = ReplayGuard(100)

    def attempt(_: int) -> bool:
        try:
            guard.reserve(b"same", now=0)
        except Replayed:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(200))) == 1


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_replay_table_without_room_is_refused(capacity: int) -> None:
    with pytest.raises(UsageError, match="room for at least 1 entry"):
        KeyRing(replay_capacity=capacity).open_epoch([X25519_ID])


def test_how_much_room_there_is_by_default() -> None:
    assert repr(ReplayGuard()) == "<ReplayGuard 0 of 2097152>"
    ring = KeyRing()
    assert repr(ring.open_epoch([X25519_ID]).guard) == "<ReplayGuard 0 of 2097152>"
    assert ring.sessions.room == 65536


def test_a_replay_table_with_room_for_one() -> None:
    guard = ReplayGuard(1)
    guard.reserve(b"one", now=0)
    assert guard.has(b"one") and not guard.has(b"two")
    with pytest.raises(ChannelError, match="full"):
        guard.reserve(b"two", now=0)


def test_an_entry_of_the_replay_table_is_16_bytes_of_a_hash() -> None:
    assert entry_of(b"enc") == hashlib.sha256(b"enc").digest()[:16]


def test_table_asks_for_rotation_at_80_percent_and_refuses_when_full() -> None:
    guard = ReplayGuard(10)
    for number in range(10):
        assert guard.wants_rotation == (number >= 8)
        guard.reserve(bytes([number]), now=0)
    with pytest.raises(ChannelError, match="full"):
        guard.reserve(b"new", now=0)
    with pytest.raises(Replayed):
        guard.reserve(b"\0", now=0)


# What a relay may try with a response.


def test_response_truncated_at_every_byte() -> None:
    for chunked in FORMS:
        request, incoming = exchanged(chunked=chunked)
        wire = b"".join(response_wire(incoming, b"one", b"two"))
        for end in range(len(wire)):
            request._opened = False
            with pytest.raises(Truncated if chunked else ChannelError):
                request.response().open(wire[:end])


@pytest.mark.parametrize(
    ("chunked", "words"), [(True, "ends without one"), (False, "at least 16 more bytes")]
)
def test_response_that_ends_with_its_nonce(chunked: bool, words: str) -> None:
    request, incoming = exchanged(chunked=chunked)
    wire = b"".join(response_wire(incoming, b"one"))
    with pytest.raises(Truncated, match=words):
        request.response().open(wire[:32])


def test_response_chunks_swapped_repeated_dropped_or_added() -> None:
    request, incoming = exchanged()
    first, two, three, final = response_wire(incoming, b"one", b"two", b"six")
    for parts in (
        [first, three, two, final],
        [first, two, two, three, final],
        [first, three, final],
        [first, final],
        [first, two, three, final, b"\0"],
        [first, two, three, final, three],
        [first, two, b"\0", three[1:]],
    ):
        request._opened = False
        with pytest.raises(ChannelError):
            request.response().open(b"".join(parts))


def test_response_to_another_request() -> None:
    _, incoming = exchanged()
    other, _ = exchanged()
    with pytest.raises(ChannelError):
        other.response().open(b"".join(response_wire(incoming, b"answer")))


def test_what_authenticated_is_released_before_the_cut_is_known() -> None:
    request, incoming = exchanged()
    opener = request.response()
    assert opener.push(b"".join(response_wire(incoming, b"half")[:1])) == [b"half"]
    with pytest.raises(Truncated):
        opener.finish()


def test_reader_stays_broken_after_an_error() -> None:
    request, incoming = exchanged()
    first, two, final = response_wire(incoming, b"one", b"two")
    opener = request.response()
    opener.push(first)
    with pytest.raises(ChannelError):
        opener.push(final[:0] + b"\x12" + bytes(18))
    for again in (lambda: opener.push(two), opener.finish):
        with pytest.raises(UsageError):
            again()


def test_request_stays_broken_after_an_error() -> None:
    incoming = RING.request(chunked=True)
    with pytest.raises(NotForUs):
        incoming.push(b"\xff" * 7)
    for again in (lambda: incoming.push(b""), incoming.finish, incoming.response):
        with pytest.raises(UsageError):
            again()


def test_response_key_labels_are_not_exported() -> None:
    request, incoming = exchanged()
    for end in (request, incoming):
        for label in (LABEL_RESPONSE, LABEL_CHUNKED_RESPONSE):
            with pytest.raises(UsageError):
                end.export(label, 16)


def test_order_of_use() -> None:
    request, incoming = client(), RING.request(chunked=True)
    with pytest.raises(UsageError):
        request.response()
    wire = request.seal(b"question")
    with pytest.raises(UsageError):
        request.seal(b"again")
    request.response()
    with pytest.raises(UsageError, match="opened once"):
        request.response()
    incoming.push(wire)
    for early in (
        incoming.response,
        lambda: incoming.export(b"x", 1),
        lambda: incoming.suite,
        lambda: incoming.key_id,
        lambda: incoming.sender,
    ):
        with pytest.raises(UsageError):
            early()
    incoming.finish()
    assert incoming.key_id == request.key_id
    with pytest.raises(UsageError, match="no push after finish"):
        incoming.push(b"")
    writer = incoming.response()
    writer.finish()
    for late in (writer.finish, lambda: writer.write(b"x"), incoming.finish):
        with pytest.raises(UsageError):
            late()


# Keys.


def test_retired_keys_are_gone_and_others_stay() -> None:
    ring = KeyRing()
    old, new = ring.open_epoch(), ring.open_epoch()
    ids = [config.key_id for epoch in (old, new) for config in epoch.configs]
    assert len(set(ids)) == 4
    old_wire, new_wire = (
        ClientRequest([c.to_bytes() for c in epoch.configs], pq="required").seal(b"q")
        for epoch in (old, new)
    )
    ring.retire(old)
    ring.retire(old)
    with pytest.raises(NotForUs):
        ring.request(chunked=True).open(old_wire)
    assert ring.request(chunked=True).open(new_wire) == b"q"


def test_retiring_twice_spares_a_new_key_of_the_same_id() -> None:
    ring = KeyRing()
    old = ring.install({5: kem.X25519Key.generate()})
    with pytest.raises(UsageError):
        ring.install({5: kem.X25519Key.generate()})
    ring.retire(old)
    ring.install({5: kem.X25519Key.generate()})
    ring.retire(old)
    assert ring.find(5)


def test_an_epoch_without_keys_or_of_an_unknown_kem() -> None:
    ring = KeyRing()
    with pytest.raises(UsageError, match="expected new key ids"):
        ring.install({})
    with pytest.raises(UsageError, match="expected new key ids"):
        ring.open_epoch([])
    with pytest.raises(UsageError, match="KEM: expected 0x0020 or 0x647a, got 0x0010"):
        ring.open_epoch([0x0010])


def test_key_ids_come_round() -> None:
    ring = KeyRing()
    for _ in range(300):
        ring.retire(ring.open_epoch([X25519_ID]))


algorithm = st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))


@given(
    st.integers(0, 255),
    st.sampled_from([X25519_ID, X_WING_ID]),
    st.lists(algorithm, min_size=1, max_size=MAX_ALGORITHMS).map(tuple),
    st.data(),
)
def test_key_configurations_come_back(
    key_id: int, kem_id: int, algorithms: tuple, data: st.DataObject
) -> None:
    size = kem.public_bytes(kem_id)
    config = KeyConfig(
        key_id, kem_id, data.draw(st.binary(min_size=32, max_size=32)) * (size // 32), algorithms
    )
    encoded = config.to_bytes()
    assert KeyConfig.from_bytes(encoded) == config
    assert parse_key_list(encode_key_list([config, config])) == (config, config)
    for wrong in (encoded[:-1], encoded + b"\0", encoded[:-4]):
        with pytest.raises(ParseError):
            KeyConfig.from_bytes(wrong)


@given(st.binary(max_size=100))
def test_any_bytes_as_keys_parse_or_raise_ours(data: bytes) -> None:
    for parse in (KeyConfig.from_bytes, parse_key_list):
        try:
            parse(data)
        except ParseError:
            pass


def test_unknown_kem_in_a_list_is_skipped_but_not_alone() -> None:
    unknown = b"\7\0\x10" + bytes(65) + b"\0\4\0\1\0\1"
    known = KeyConfig.from_bytes(CONFIG[0])
    data = len(unknown).to_bytes(2, "big") + unknown + encode_key_list([known])
    assert parse_key_list(data) == (known,)
    with pytest.raises(ParseError):
        KeyConfig.from_bytes(unknown)
    with pytest.raises(ParseError):
        parse_key_list(data[:-1])


def test_list_of_too_many_configurations_is_refused() -> None:
    with pytest.raises(ParseError):
        parse_key_list(encode_key_list([KeyConfig.from_bytes(CONFIG[0])] * 65))


def test_one_configuration_per_algorithm() -> None:
    config = KeyConfig(3, X25519_ID, bytes(32))
    split = config.one_per_algorithm()
    assert [part.algorithms for part in split] == [(pair,) for pair in ALGORITHMS]


def test_our_preference_is_x_wing_and_aes_256_first() -> None:
    kems, aeads = (0x647A, 0x0020), (0x0002, 0x0003, 0x0001)
    assert list(PREFERENCES) == [(kem_id, aead_id) for kem_id in kems for aead_id in aeads]


def test_choice_follows_our_preference_not_the_servers_order() -> None:
    configs = [KeyConfig.from_bytes(CONFIGS[suite][0]) for suite in reversed(PREFERENCES)]
    for suite in PREFERENCES:
        assert choose(configs, pq="preferred")[1] == Suite(*suite)
        configs.pop()


def test_post_quantum_floor() -> None:
    classical = [KeyConfig.from_bytes(CONFIG[0])]
    assert not choose(classical, pq="preferred")[1].post_quantum
    for configs, pq, code in (
        (classical, "required", "pq-required"),
        ([], "preferred", "no-common-suite"),
    ):
        with pytest.raises(Refused) as caught:
            choose(configs, pq=pq)
        assert (caught.value.step, caught.value.code) == ("channel", code)
    with pytest.raises(UsageError):
        choose(classical, pq="optional")


def test_unverified_keys_cannot_pass_for_an_enclave() -> None:
    with pytest.raises(AttributeError):
        ClientRequest.to(CONFIG, pq="preferred", now=0)  # type: ignore[arg-type]


def test_no_secret_in_a_repr() -> None:
    request, incoming = exchanged()
    secret = request._exchange.context.exporter_secret
    shown = repr(RING) + repr(request._exchange) + repr(incoming._agreed)
    assert secret.hex() not in shown
    assert repr(secret) not in shown


def test_reader_accepts_the_longest_chunk() -> None:
    request = client()
    context = request._exchange.context
    sealed = context.seal(bytes(MAX_CHUNK_BYTES))
    messages = hpke.Sequence(context.messages.aead, context.messages.base_nonce)
    reader = ChunkedReader(messages, limit=1 << 20)
    assert reader.push(b"\x80\0" + len(sealed).to_bytes(2, "big") + sealed) == [
        bytes(MAX_CHUNK_BYTES)
    ]


def test_a_configuration_too_short_to_name_its_kem() -> None:
    assert parse_key_list(b"\0\3\x01\x12\x34") == ()
    for part in (b"\x01", b"\x01\x12"):
        with pytest.raises(ParseError):
            parse_key_list(len(part).to_bytes(2) + part)


@pytest.mark.parametrize(
    ("key_id", "kem_id", "size", "count", "words"),
    [
        (-1, X25519_ID, 32, 1, "key id: expected 0 to 255"),
        (256, X25519_ID, 32, 1, "key id: expected 0 to 255"),
        (1, 0x10, 32, 1, "KEM: expected"),
        (1, X25519_ID, 31, 1, "public key: expected 32 bytes"),
        (1, X25519_ID, 32, 0, "algorithms: expected 1 to 32"),
        (1, X25519_ID, 32, 33, "algorithms: expected 1 to 32"),
    ],
)
def test_parts_that_make_no_key_configuration(
    key_id: int, kem_id: int, size: int, count: int, words: str
) -> None:
    with pytest.raises(ParseError, match=words):
        KeyConfig(key_id, kem_id, bytes(size), ((1, 1),) * count)


@pytest.mark.parametrize(("key_id", "count"), [(0, 1), (255, 32)])
def test_a_key_configuration_at_its_limits(key_id: int, count: int) -> None:
    config = KeyConfig(key_id, X25519_ID, bytes(32), ((1, 1),) * count)
    assert parse_key_list(encode_key_list([config] * 64)) == (config,) * 64


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        (None, "at least 3 bytes, got 2"),
        (b"", "up to its end"),
        (bytes(32), "up to its end"),
        (bytes(33), "up to its end"),
        (bytes(34), "algorithms: expected 1 to 32"),
        (bytes(32) + b"\0\2\0\1", "multiple of 4"),
        (bytes(32) + b"\0\5\0\1\0\1\0", "multiple of 4"),
    ],
)
def test_bytes_that_are_no_key_configuration(tail: bytes | None, words: str) -> None:
    with pytest.raises(ParseError, match=words):
        KeyConfig.from_bytes(b"\1\0" if tail is None else b"\1\0\x20" + tail)


def test_a_key_list_that_ends_within_a_configuration() -> None:
    whole = encode_key_list([KeyConfig(1, X25519_ID, bytes(32))])
    for cut in (whole[:1], whole[:2], whole[:-1]):
        with pytest.raises(ParseError, match="it ends within one"):
            parse_key_list(cut)
