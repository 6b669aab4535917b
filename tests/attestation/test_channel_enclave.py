"""Sealing to a verified enclave, and to nothing else."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.channel.client import ClientRequest
from attestation.channel.server import KeyRing
from attestation.errors import Refused
from attestation.verify.verdict import VerifiedEnclave
from tests.helpers.fake_enclave import verified

RING = KeyRing()


@pytest.fixture(scope="module")
def enclave() -> VerifiedEnclave:
    return verified(RING.open_epoch().configs, Ed25519PrivateKey.generate(), bytes(16))


def test_sealed_to_a_verified_enclave(enclave: VerifiedEnclave) -> None:
    request = ClientRequest.to(enclave, pq="required", now=enclave.bundle.not_before)
    assert request.suite.post_quantum
    assert RING.request(chunked=True).open(request.seal(b"question")) == b"question"


def test_a_verification_holds_to_its_last_second(enclave: VerifiedEnclave) -> None:
    for now in (enclave.bundle.not_before, enclave.valid_until):
        assert ClientRequest.to(enclave, pq="required", now=now).suite.post_quantum


@pytest.mark.parametrize("when", ["before", "after"])
def test_verification_that_does_not_hold_now(enclave: VerifiedEnclave, when: str) -> None:
    now = enclave.bundle.not_before - 1 if when == "before" else enclave.valid_until + 1
    with pytest.raises(Refused) as caught:
        ClientRequest.to(enclave, pq="preferred", now=now)
    assert (caught.value.step, caught.value.code) == ("freshness", "expired")


def test_key_bundle_alone_is_not_enough(enclave: VerifiedEnclave) -> None:
    with pytest.raises(AttributeError):
        ClientRequest.to(enclave.bundle, pq="preferred", now=enclave.bundle.not_before)  # type: ignore[arg-type]
