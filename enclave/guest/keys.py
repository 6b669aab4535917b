"""Keys of one boot, and the claims that evidence is about.

Private keys are in this process's memory alone: the receipt key for the boot, the KEM
keys in the channel's key ring for their epoch. Nothing writes them anywhere.
"""

from __future__ import annotations

import itertools
import secrets
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.channel.server import Epoch
from attestation.formats import receipt_cose
from attestation.formats.digests import engine_digest, host_config_digest, price_digest
from attestation.formats.evidence import (
    Evidence,
    fresh_published,
    gpu_evidence_digest,
    gpu_nonce,
    report_data_binding,
)
from attestation.formats.keys import KeyBundle, bundle_digest
from attestation.formats.platform import TDX
from attestation.formats.receipt import Receipt, SignedReceipt
from attestation.formats.retirement import Retirement
from attestation.formats.session import sign_gone
from attestation.platforms.tdx.eventlog import check_replay
from attestation.platforms.tdx.quote import parse_quote
from enclave.guest.config import HostConfig
from enclave.guest.feed import Beacon
from enclave.guest.gpu import Gpus, attest
from enclave.guest.platforms.tsm import Platform


class BootKeys:
    """A new boot id (16 bytes) and receipt key; signs receipts in one sequence."""

    def __init__(self) -> None:
        self.boot_id = secrets.token_bytes(16)
        self._key = Ed25519PrivateKey.generate()
        self._sequence = itertools.count(1)

    @property
    def receipt_key(self) -> bytes:
        """32 bytes, public."""
        return self._key.public_key().public_bytes_raw()

    def next_sequence(self) -> int:
        return next(self._sequence)

    def sign(self, receipt: Receipt) -> SignedReceipt:
        return receipt.sign(self._key)

    def sign_cose(self, receipt: SignedReceipt) -> bytes:
        """The second signature, for verifiers that know COSE (64 bytes)."""
        return receipt_cose.sign(receipt.body, self._key)

    def retire(self, bundle_digest: bytes) -> Retirement:
        """The word that this boot's keys are gone; its caller sees to it that they are."""
        return Retirement.sign(self._key, self.boot_id, bundle_digest)

    def session_gone(self, evidence: bytes, clear: bytes) -> bytes:
        """The word that a request to a session that has ended was not executed."""
        return sign_gone(self._key, evidence, clear)

    def __repr__(self) -> str:
        return f"<BootKeys of {self.boot_id.hex()}, secret>"


@dataclass(frozen=True)
class Configs:
    """The three served configs, as the bytes whose hashes are bound."""

    engine: bytes
    price: bytes
    host: bytes


@dataclass(frozen=True)
class Prover:
    """Makes Evidence for keys: GPUs first, then the quote that names their reports."""

    platform: Platform
    gpus: Gpus
    boot: BootKeys = field(repr=False)
    config: HostConfig
    configs: Configs
    model_digest: bytes

    def bundle(self, keys: Epoch, beacon: Beacon, *, not_before: int, not_after: int) -> KeyBundle:
        return KeyBundle(
            boot_id=self.boot.boot_id,
            key_configs=tuple(config.to_bytes() for config in keys.configs),
            receipt_key=self.boot.receipt_key,
            model_digest=self.model_digest,
            engine_digest=engine_digest(self.configs.engine),
            gpu_count=self.config.gpus,
            not_before=not_before,
            not_after=not_after,
            network=self.config.network,
            beacon=(beacon.seqno, beacon.root_hash),
            payee=self.config.payee,
            price_digest=price_digest(self.configs.price),
            host_config_digest=host_config_digest(self.configs.host),
        )

    def prove(self, bundle: KeyBundle, *, now: int) -> Evidence:
        """`now` is Unix seconds, for the GPUs' certificates.

        Raises what `attest` raises; NotAuthentic("measurement", …) where the quote is not
        explained by our own logs, as when something else extended RTMR3.
        """
        b = bundle_digest(bundle.to_bytes())
        devices = attest(
            self.gpus,
            nonce=gpu_nonce(b),
            count=self.config.gpus,
            roots=self.platform.roots,
            now=now,
        )
        half = report_data_binding(b, gpu_evidence_digest(devices))
        quoted = self.platform.quote(half + fresh_published(bundle.beacon[1]))
        check_replay(parse_quote(quoted.quote), quoted.ccel, quoted.rtmr3_events)
        return Evidence(
            platform=TDX.name,
            bundle=bundle.to_bytes(),
            quote=quoted.quote,
            ccel=quoted.ccel,
            rtmr3_events=quoted.rtmr3_events,
            devices=devices,
        )
