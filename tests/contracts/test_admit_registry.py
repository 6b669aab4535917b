"""A log that asks the Registry: what it allows is admitted, at that moment and no longer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from attestation.errors import NotAuthentic, Refused, Unavailable
from attestation.formats.digests import sha256
from attestation.trust.registry import GUEST, MODEL, RegistrySnapshot
from contracts import node, registry
from contracts.codec import LogState
from contracts.deploy import put
from contracts.localnet.process import LocalChain
from contracts.logservice.admit import RegistryReader
from contracts.reader import read_anchor
from contracts.registry import read_registry
from contracts.wallet import Wallet

pytestmark = pytest.mark.skipif(not node.installed(), reason="contracts/localnet not installed")

MANIFEST = b'{"name": "first"}'
MEASUREMENT, MODEL_DIGEST = b"\1" * 32, b"\2" * 32
NOTICE = 600


class Place:
    def __init__(self, local: LocalChain) -> None:
        self.local, self.chain = local, local.client()
        self.wallet = Wallet(self.chain, SigningKey.generate())
        local.faucet(self.wallet.address, 10**15)

    def registry(self, notice: int) -> RegistryReader:
        genesis = registry.genesis(owner=self.wallet.address, notice=notice)
        return RegistryReader(self.chain, put(self.chain, self.wallet, "registry", genesis)[0])

    def tell(self, to: RegistryReader, body: object) -> None:
        self.wallet.transfer(to.address, 10**9, body)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with LocalChain.start(tmp_path_factory.mktemp("chain")) as local:
        yield Place(local)


def test_what_is_in_force_is_admitted_and_what_is_not_is_named(place: Place) -> None:
    allowed = place.registry(NOTICE)
    with pytest.raises(Refused, match="unlisted"):
        allowed.check_machine(MEASUREMENT, MODEL_DIGEST)
    place.tell(allowed, registry.propose(GUEST, sha256(MANIFEST), {MEASUREMENT: 1}))
    place.tell(allowed, registry.propose(MODEL, bytes(32), {MODEL_DIGEST: 1}))
    with pytest.raises(Refused, match="pending"):  # its notice has not passed
        allowed.check_machine(MEASUREMENT, MODEL_DIGEST)
    place.local.advance(NOTICE + 60)
    allowed.check_machine(MEASUREMENT, MODEL_DIGEST)
    with pytest.raises(Refused, match="unlisted"):
        allowed.check_machine(MEASUREMENT, MEASUREMENT)  # a release is no model
    with pytest.raises(Refused, match="unlisted"):
        allowed.check_machine(MODEL_DIGEST, MODEL_DIGEST)
    place.tell(allowed, registry.revoke(sha256(MANIFEST), 2))
    with pytest.raises(Refused, match="revoked"):
        allowed.check_machine(MEASUREMENT, MODEL_DIGEST)


def test_a_release_is_logged_once_it_is_proposed(place: Place) -> None:
    allowed = place.registry(NOTICE + 1)
    with pytest.raises(Refused, match="unlisted"):
        allowed.check_release(MANIFEST)
    place.tell(allowed, registry.propose(GUEST, sha256(MANIFEST), {MEASUREMENT: 1}))
    allowed.check_release(MANIFEST)
    with pytest.raises(Refused, match="unlisted"):
        allowed.check_release(MANIFEST + b" ")


def test_anchor_and_registry_are_read_at_one_block(place: Place) -> None:
    allowed = place.registry(NOTICE + 3)
    log_key = SigningKey.generate().verify_key.encode()
    genesis = LogState.genesis(origin="127.0.0.1:9/log", log_key=log_key, size=1, root=b"\7" * 32)
    log, _ = put(place.chain, place.wallet, "attestation_log", genesis.to_cell())
    place.tell(allowed, registry.propose(GUEST, sha256(MANIFEST), {MEASUREMENT: 4}))
    anchor = read_anchor(place.chain, network="n", address=log, registry=allowed.address)
    found = anchor.registry
    assert isinstance(found, RegistrySnapshot)
    assert (anchor.size, anchor.seqno) == (1, found.seqno)
    assert found.read_at == anchor.read_at and found.seqno > 0
    (entry,) = found.listing(GUEST, MEASUREMENT)
    with pytest.raises(Refused, match="pending"):
        found.check(GUEST, MEASUREMENT, source="both")
    assert found.as_of(entry.active_from).check(GUEST, MEASUREMENT, source="both") == entry
    place.tell(allowed, registry.revoke(sha256(MANIFEST), 3))
    with pytest.raises(Refused, match=r"reason 3 \(leaked key\)"):
        read_registry(place.chain, address=allowed.address).check(GUEST, MEASUREMENT, source="file")


def test_where_no_registry_can_be_read_nothing_is_admitted(place: Place, tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        RegistryReader(place.chain, "0:" + "11" * 32).check_machine(MEASUREMENT, MODEL_DIGEST)
    place.registry(NOTICE + 2)  # the wallet has code from its first transfer on
    with pytest.raises(NotAuthentic):
        RegistryReader(place.chain, place.wallet.address).check_release(MANIFEST)
