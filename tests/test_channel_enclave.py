"""Sealing to a verified enclave, and to nothing else."""

from __future__ import annotations

import pytest

from attestation.channel.ohttp import ClientRequest, KeyRing
from attestation.errors import Refused
from attestation.keys import KeyBundle
from attestation.verdict import _MINT, Report, VerifiedEnclave

RING = KeyRing()
NOW = 1_800_000_000
REPORT = Report(steps=(), simulated=True)


@pytest.fixture(scope="module")
def enclave() -> VerifiedEnclave:
    """What a verifier mints, naming the ring's keys; the minting itself is tested elsewhere."""
    bundle = KeyBundle(
        boot_id=bytes(16),
        key_configs=tuple(config.to_bytes() for config in RING.open_epoch().configs),
        receipt_key=bytes(32),
        model_digest=bytes(32),
        engine_digest=bytes(32),
        gpu_count=0,
        not_before=NOW - 60,
        not_after=NOW + 3600,
        network="umay-test",
        beacon=(1, bytes(32)),
        price_digest=bytes(32),
        host_config_digest=bytes(32),
    )
    return VerifiedEnclave(
        evidence_digest=bytes(32),
        bundle=bundle,
        measurement_digest=bytes(32),
        release_name="r1",
        model_name="demo",
        engine_config={},
        price_table={},
        valid_until=NOW + 600,
        report=REPORT,
        minted_by=_MINT,
    )


def test_sealed_to_a_verified_enclave(enclave: VerifiedEnclave) -> None:
    request = ClientRequest.to(enclave, pq="required", now=NOW)
    assert request.suite.post_quantum
    assert RING.request(chunked=True).open(request.seal(b"question")) == b"question"


@pytest.mark.parametrize("when", ["before", "after"])
def test_verification_that_does_not_hold_now(enclave: VerifiedEnclave, when: str) -> None:
    now = enclave.bundle.not_before - 1 if when == "before" else enclave.valid_until + 1
    with pytest.raises(Refused) as caught:
        ClientRequest.to(enclave, pq="preferred", now=now)
    assert (caught.value.step, caught.value.code) == ("freshness", "expired")


def test_key_bundle_alone_is_not_enough(enclave: VerifiedEnclave) -> None:
    with pytest.raises(AttributeError):
        ClientRequest.to(enclave.bundle, pq="preferred", now=NOW)  # type: ignore[arg-type]
