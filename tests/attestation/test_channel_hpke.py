"""HPKE beside RFC 9180, the X-Wing draft, the library's own HPKE, and pyhpke."""

from __future__ import annotations

import pyhpke
import pytest
from cryptography.hazmat.primitives import hpke as library
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from attestation.channel import hpke, kem
from attestation.channel.server import KeyRing
from attestation.channel.suite import PREFERENCES, Suite
from attestation.errors import ChannelError, UsageError
from tests.helpers.channel_vectors import load, unhex

RFC9180 = load("rfc9180")["vectors"]
LIBRARY_KEM = {kem.X25519_ID: library.KEM.X25519, kem.X_WING_ID: library.KEM.MLKEM768_X25519}
LIBRARY_AEAD = {
    1: library.AEAD.AES_128_GCM,
    2: library.AEAD.AES_256_GCM,
    3: library.AEAD.CHACHA20_POLY1305,
}
LOW_ORDER = [
    bytes(32),
    b"\1" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


def new_key(kem_id: int) -> kem.PrivateKey:
    return kem.XWingKey.generate() if kem_id == kem.X_WING_ID else kem.X25519Key.generate()


def pair(kem_id: int, aead_id: int, info: bytes = b"info") -> tuple[hpke.Context, hpke.Context]:
    key = new_key(kem_id)
    enc, sender = hpke.setup_sender(kem_id=kem_id, aead_id=aead_id, public=key.public, info=info)
    return sender, hpke.setup_receiver(key, aead_id=aead_id, enc=enc, info=info)


@pytest.mark.parametrize("vector", RFC9180, ids=lambda v: v["name"])
def test_rfc9180_vectors(vector: dict) -> None:
    sk_e, pk_e, sk_r, info, pt = unhex(vector, "skEm", "pkEm", "skRm", "info", "pt")
    key = kem.X25519Key(sk_r)
    aead_id = vector["aead_id"]
    enc, sender = hpke.setup_sender(
        kem_id=vector["kem_id"], aead_id=aead_id, public=key.public, info=info, ephemeral=sk_e
    )
    receiver = hpke.setup_receiver(key, aead_id=aead_id, enc=enc, info=info)
    assert (enc, key.public.hex()) == (pk_e, vector["pkRm"])
    assert key.decapsulate(enc).hex() == vector["shared_secret"]
    assert sender.exporter_secret.hex() == vector["exporter_secret"]
    published = {entry["seq"]: unhex(entry, "aad", "ct") for entry in vector["encryptions"]}
    for sequence in range(257):
        aad, expected = published.get(sequence, (b"", None))
        sealed = sender.seal(pt, aad)
        assert expected in (None, sealed)
        assert receiver.open(sealed, aad) == pt
    for entry in vector["exports"]:
        context, value = unhex(entry, "context", "value")
        assert sender.export(context, 32) == receiver.export(context, 32) == value


@pytest.mark.parametrize("vector", load("rfc9180")["psk_vectors"], ids=lambda v: v["name"])
def test_rfc9180_vectors_of_psk_mode(vector: dict) -> None:
    sk_e, pk_e, sk_r, info, pt = unhex(vector, "skEm", "pkEm", "skRm", "info", "pt")
    key, psk = kem.X25519Key(sk_r), hpke.Psk(*unhex(vector, "psk", "psk_id"))
    aead_id = vector["aead_id"]
    enc, sender = hpke.setup_sender(
        kem_id=32, aead_id=aead_id, public=key.public, info=info, psk=psk, ephemeral=sk_e
    )
    receiver = hpke.setup_receiver(key, aead_id=aead_id, enc=enc, info=info, psk=psk)
    assert (enc, key.public.hex()) == (pk_e, vector["pkRm"])
    published = {entry["seq"]: unhex(entry, "aad", "ct") for entry in vector["encryptions"]}
    for sequence in range(257):
        aad, expected = published.get(sequence, (b"", None))
        sealed = sender.seal(pt, aad)
        assert expected in (None, sealed)
        assert receiver.open(sealed, aad) == pt
    for entry in vector["exports"]:
        context, value = unhex(entry, "context", "value")
        assert sender.export(context, 32) == receiver.export(context, 32) == value


def test_xwing_vector() -> None:
    vector = load("xwing")
    seed, ct, ss = unhex(vector, "seed", "ct", "ss")
    key = kem.XWingKey(seed)
    assert key.public.hex().startswith(vector["public_begins"])
    assert key.public.hex().endswith(vector["public_ends"])
    assert key.decapsulate(ct) == ss


def library_private(kem_id: int, key: object) -> object:
    if kem_id == kem.X25519_ID:
        return key._key
    return library.MLKEM768X25519PrivateKey(key._mlkem, key._x25519)


def library_public(kem_id: int, public: bytes) -> object:
    if kem_id == kem.X25519_ID:
        return X25519PublicKey.from_public_bytes(public)
    return library.MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(public[:1184]),
        X25519PublicKey.from_public_bytes(public[1184:]),
    )


@pytest.mark.parametrize(("kem_id", "aead_id"), PREFERENCES)
def test_interoperates_with_the_library_both_ways(kem_id: int, aead_id: int) -> None:
    suite = library.Suite(LIBRARY_KEM[kem_id], library.KDF.HKDF_SHA256, LIBRARY_AEAD[aead_id])
    key = new_key(kem_id)
    enc, sender = hpke.setup_sender(kem_id=kem_id, aead_id=aead_id, public=key.public, info=b"info")
    assert suite.decrypt(enc + sender.seal(b"to them"), library_private(kem_id, key), b"info") == (
        b"to them"
    )
    theirs = suite.encrypt(b"from them", library_public(kem_id, key.public), b"info")
    size = kem.enc_bytes(kem_id)
    receiver = hpke.setup_receiver(key, aead_id=aead_id, enc=theirs[:size], info=b"info")
    assert receiver.open(theirs[size:]) == b"from them"


@pytest.mark.parametrize("aead_id", [1, 2, 3])
def test_interoperates_with_pyhpke_over_many_messages_and_exports(aead_id: int) -> None:
    suite = pyhpke.CipherSuite.new(
        pyhpke.KEMId.DHKEM_X25519_HKDF_SHA256, pyhpke.KDFId.HKDF_SHA256, pyhpke.AEADId(aead_id)
    )
    key = kem.X25519Key.generate()
    their_key = pyhpke.KEMKey.from_pyca_cryptography_key(key._key)
    enc, sender = hpke.setup_sender(
        kem_id=kem.X25519_ID, aead_id=aead_id, public=key.public, info=b"info"
    )
    recipient = suite.create_recipient_context(enc, their_key, info=b"info")
    for aad in (b"", b"final", b"x" * 100):
        assert recipient.open(sender.seal(b"message", aad), aad=aad) == b"message"
    assert recipient.export(b"label", 48) == sender.export(b"label", 48)


@pytest.mark.parametrize("aead_id", [1, 2, 3])
def test_psk_mode_interoperates_with_pyhpke_both_ways(aead_id: int) -> None:
    suite = pyhpke.CipherSuite.new(
        pyhpke.KEMId.DHKEM_X25519_HKDF_SHA256, pyhpke.KDFId.HKDF_SHA256, pyhpke.AEADId(aead_id)
    )
    key, psk = kem.X25519Key.generate(), hpke.Psk(b"k" * 32, b"id")
    theirs = {"psk": psk.key, "psk_id": psk.id}
    enc, sender = hpke.setup_sender(
        kem_id=kem.X25519_ID, aead_id=aead_id, public=key.public, info=b"info", psk=psk
    )
    their_key = pyhpke.KEMKey.from_pyca_cryptography_key(key._key)
    recipient = suite.create_recipient_context(enc, their_key, info=b"info", **theirs)
    assert recipient.open(sender.seal(b"to them")) == b"to them"
    assert recipient.export(b"label", 48) == sender.export(b"label", 48)

    public = pyhpke.KEMKey.from_pyca_cryptography_key(key._key.public_key())
    enc, their_sender = suite.create_sender_context(public, info=b"info", **theirs)
    receiver = hpke.setup_receiver(key, aead_id=aead_id, enc=enc, info=b"info", psk=psk)
    assert receiver.open(their_sender.seal(b"from them")) == b"from them"


@pytest.mark.parametrize("kem_id", [kem.X25519_ID, kem.X_WING_ID])
@pytest.mark.parametrize("other", [None, hpke.Psk(b"l" * 32, b"id"), hpke.Psk(b"k" * 32, b"other")])
def test_another_psk_or_none_opens_nothing(kem_id: int, other: hpke.Psk | None) -> None:
    key, psk = new_key(kem_id), hpke.Psk(b"k" * 32, b"id")
    enc, sender = hpke.setup_sender(kem_id=kem_id, aead_id=2, public=key.public, info=b"", psk=psk)
    receiver = hpke.setup_receiver(key, aead_id=2, enc=enc, info=b"", psk=other)
    with pytest.raises(ChannelError):
        receiver.open(sender.seal(b"m"))


@pytest.mark.parametrize(("key", "name"), [(b"k" * 31, b"id"), (b"k" * 32, b"")])
def test_a_short_psk_and_one_without_an_id_are_refused(key: bytes, name: bytes) -> None:
    with pytest.raises(UsageError, match="PSK: expected a key of at least 32 bytes and an id"):
        hpke.Psk(key, name)


@pytest.mark.parametrize("point", LOW_ORDER, ids=range(len(LOW_ORDER)))
@pytest.mark.parametrize("kem_id", [kem.X25519_ID, kem.X_WING_ID])
def test_low_order_point_is_refused_at_both_ends(kem_id: int, point: bytes) -> None:
    key = new_key(kem_id)
    with pytest.raises(ChannelError):
        key.decapsulate(bytes(kem.enc_bytes(kem_id) - 32) + point)
    with pytest.raises(ChannelError):
        kem.encapsulate(kem_id, key.public[:-32] + point)


@pytest.mark.parametrize(
    ("kem_id", "enc", "public"),
    [
        (kem.X25519_ID, "X25519: expected a usable", "X25519: expected a usable"),
        (kem.X_WING_ID, "encapsulated key of 1120 bytes", "public key of 1216 bytes"),
    ],
)
@pytest.mark.parametrize("change", [-1, 1])
def test_encapsulated_or_public_key_of_another_length_is_refused(
    kem_id: int, enc: str, public: str, change: int
) -> None:
    key = new_key(kem_id)
    with pytest.raises(ChannelError, match=enc):
        key.decapsulate(bytes(kem.enc_bytes(kem_id) + change))
    with pytest.raises(ChannelError, match=public):
        kem.encapsulate(kem_id, bytes(len(key.public) + change))


def test_public_key_that_is_no_mlkem_key_is_refused() -> None:
    with pytest.raises(ChannelError):
        kem.encapsulate(kem.X_WING_ID, b"\xff" * 1216)


@pytest.mark.parametrize(("kem_id", "aead_id"), PREFERENCES)
def test_message_out_of_turn_repeated_or_under_other_data_is_refused(
    kem_id: int, aead_id: int
) -> None:
    sender, receiver = pair(kem_id, aead_id)
    first, second = sender.seal(b"one"), sender.seal(b"two", b"final")
    for wrong, aad in ((second, b"final"), (first, b"final"), (first[:-1], b""), (b"", b"")):
        with pytest.raises(ChannelError):
            receiver.open(wrong, aad)
    assert receiver.open(first) == b"one"
    with pytest.raises(ChannelError):
        receiver.open(first)
    assert receiver.open(second, b"final") == b"two"


def test_other_info_other_key_other_aead_do_not_open() -> None:
    key, other = kem.X25519Key.generate(), kem.X25519Key.generate()
    enc, sender = hpke.setup_sender(
        kem_id=kem.X25519_ID, aead_id=2, public=key.public, info=b"info"
    )
    sealed = sender.seal(b"m")
    for receiver in (
        hpke.setup_receiver(key, aead_id=2, enc=enc, info=b"other"),
        hpke.setup_receiver(other, aead_id=2, enc=enc, info=b"info"),
        hpke.setup_receiver(key, aead_id=3, enc=enc, info=b"info"),
    ):
        with pytest.raises(ChannelError):
            receiver.open(sealed)


def test_nonces_run_out_before_they_repeat() -> None:
    sender, receiver = pair(kem.X25519_ID, 2)
    sender.messages.number = receiver.messages.number = 2**32 - 1
    sealed = sender.seal(b"last")
    assert receiver.open(sealed) == b"last"
    for again in (lambda: sender.seal(b"one more"), lambda: receiver.open(sealed)):
        with pytest.raises(ChannelError, match="at most 4294967296 messages"):
            again()


def test_no_secret_in_a_repr() -> None:
    key = kem.X25519Key(b"\x42" * 32)
    _, sender = hpke.setup_sender(kem_id=kem.X25519_ID, aead_id=2, public=key.public, info=b"")
    shown = repr(sender) + repr(key) + repr(kem.XWingKey(b"\x42" * 32))
    shown += repr(hpke.Psk(b"\x42" * 32, b"id"))
    for secret in (sender.exporter_secret, sender.messages.base_nonce, b"\x42" * 32):
        assert secret.hex() not in shown
        assert repr(secret) not in shown


@pytest.mark.parametrize("numbers", [(0x10, 2, 1), (0x20, 0xFFFF, 1), (0x20, 2, 2)])
def test_suite_that_is_not_ours_is_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError):
        Suite(*numbers)


def test_keys_are_fresh() -> None:
    assert kem.XWingKey.generate().public != kem.XWingKey.generate().public


def test_a_kem_that_is_not_known() -> None:
    with pytest.raises(ChannelError, match="expected 0x0020 or 0x647a, got 0x0010"):
        kem.encapsulate(0x10, bytes(65))
    for size in (kem.public_bytes, kem.enc_bytes):
        with pytest.raises(ChannelError, match="expected 0x0020 or 0x647a, got 0x0010"):
            size(0x10)


def test_an_aead_that_is_not_known() -> None:
    key = kem.X25519Key.generate()
    for make in (
        lambda: hpke.cipher(4, bytes(32)),
        lambda: hpke.setup_receiver(key, aead_id=4, enc=key.public, info=b""),
    ):
        with pytest.raises(ChannelError, match="AEAD: expected one of our suites, got 0x0004"):
            make()


def test_a_key_ring_whose_ids_are_all_in_use() -> None:
    ring = KeyRing()
    private = kem.X25519Key.generate()
    ring.install(dict.fromkeys(range(256), private))
    with pytest.raises(UsageError, match="every one is in use"):
        ring.open_epoch([kem.X25519_ID])


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_private_key_of_another_length(size: int) -> None:
    for make in (kem.X25519Key, kem.XWingKey):
        with pytest.raises(ChannelError, match="of 32 bytes"):
            make(bytes(size))
