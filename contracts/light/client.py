"""Accounts and blocks that are proven by validators' signatures, whoever delivers the answers.

The trusted key block is kept in a file and only moves forward. A transport fetches bytes and is
not trusted: everything it returns is proven from that block, or refused.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from attestation.errors import NotAuthentic, ParseError, Refused, UsageError
from attestation.files import read_trusted, replace
from attestation.formats.json import decode
from attestation.trust.anchor import BlockRef
from contracts.light.accounts import ProvenAccount, read_account
from contracts.light.back import check_back
from contracts.light.blocks import MASTERCHAIN, WHOLE_SHARD, BlockId, read_block_header
from contracts.light.cells import STEP
from contracts.light.links import walk

MAX_ANSWERS = 256
"""Most partial proofs between the trusted block and the head; a year of key blocks needs fewer."""


MAX_PROVEN = 1024
"""Number of proven blocks that are remembered, because the head is requested often."""


class Transport(Protocol):
    """A liteserver's answers, in its own bytes. Raises Unavailable."""

    def masterchain_head(self) -> BlockId:
        """The last block of liteServer.getMasterchainInfo."""

    def block_proof(self, known: BlockId, target: BlockId) -> bytes:
        """liteServer.getBlockProof: a liteServer.partialBlockProof."""

    def header(self, seqno: int) -> bytes:
        """liteServer.lookupBlock in the masterchain: a liteServer.blockHeader."""

    def account(self, block: BlockId, address: str) -> bytes:
        """liteServer.getAccountState at this block: a liteServer.accountState."""


class TrustedStore(Protocol):
    """Keeps the key block that every proof of a reader starts from."""

    def read(self) -> BlockId: ...

    def move(self, block: BlockId) -> None:
        """Start from this proven key block from now on, if it is later than the kept one."""


class MemoryStore:
    """A TrustedStore in memory, for one run."""

    def __init__(self, block: BlockId) -> None:
        self._block = block

    def read(self) -> BlockId:
        return self._block

    def move(self, block: BlockId) -> None:
        if block.seqno > self._block.seqno:
            self._block = block


@dataclass(frozen=True)
class TrustedBlock:
    """A TrustedStore in a file; `move` replaces the key block by a later one, never by an older."""

    path: Path

    def read(self) -> BlockId:
        """Raises UsageError if there is no file or it has other content."""
        data = read_trusted(self.path)
        if data is None:
            raise UsageError(
                f"{self.path}: expected a file with a trusted key block, but there is no such "
                "file; "
                "pin a key block first"
            )
        try:
            raw = decode(data, what=str(self.path))
            root, file_hash = bytes.fromhex(raw["root_hash"]), bytes.fromhex(raw["file_hash"])
            seqno = raw["seqno"]
        except (ParseError, ValueError, KeyError, TypeError) as error:
            text = (
                f"{self.path}: no trusted block ({type(error).__name__}): remove it to begin anew"
            )
            raise UsageError(text) from None
        if type(seqno) is not int or seqno < 0 or (len(root), len(file_hash)) != (32, 32):
            raise UsageError(f"{self.path}: expected seqno and two hashes: remove it to begin anew")
        return BlockId(MASTERCHAIN, WHOLE_SHARD, seqno, root, file_hash)

    def pin(self, block: BlockId) -> None:
        """Write it, whole or not at all. Raises UsageError or Unavailable where that cannot be."""
        content = {
            "seqno": block.seqno,
            "root_hash": block.root_hash.hex(),
            "file_hash": block.file_hash.hex(),
        }
        replace(self.path, json.dumps(content).encode())

    def move(self, block: BlockId) -> None:
        if block.seqno > self.read().seqno:
            self.pin(block)


@dataclass(frozen=True)
class LightClient:
    """Reads at the level `proven`; `max_age_s` bounds the age of the head it accepts."""

    transport: Transport
    trusted: TrustedStore
    max_age_s: int = 600
    proven: OrderedDict[BlockId, None] = field(default_factory=OrderedDict, repr=False)

    def head(self) -> BlockId:
        """The masterchain's head, proven; the trusted block moves to the last key block.

        Like every method here it raises Unavailable if no server answers, and ParseError,
        NotAuthentic or Refused if an answer is malformed, not proven or not acceptable.
        """
        head = self.transport.masterchain_head()
        trusted = self.trusted.read()
        if head.seqno < trusted.seqno:
            text = (
                f"head: expected block {trusted.seqno}, the trusted one, or a later one, got block "
                f"{head.seqno}; ask another server"
            )
            raise Refused(STEP, "behind", text)
        self.prove(head)
        return head

    def block(self, seqno: int) -> BlockRef:
        """The proven masterchain block with this number, before or after the trusted block."""
        block, header = read_block_header(self.transport.header(seqno))
        if block.seqno != seqno:
            text = f"header: expected block {seqno}, got {block.seqno}"
            raise NotAuthentic(STEP, "other-block", text)
        self.prove(block)
        return BlockRef(seqno, block.root_hash, header.utime, "proven")

    def accounts(self, addresses: tuple[str, ...], *, now: int) -> tuple[ProvenAccount, ...]:
        """The accounts at one proven head that is recent enough. `now` is in Unix seconds."""
        head = self.head()
        answers = [(address, self.transport.account(head, address)) for address in addresses]
        return tuple(
            read_account(head, answer, address, now=now, max_age_s=self.max_age_s)
            for address, answer in answers
        )

    def account(self, address: str, *, now: int) -> ProvenAccount:
        """One account, as `accounts` reads it."""
        return self.accounts((address,), now=now)[0]

    def prove(self, target: BlockId) -> None:
        """Check that `target` is a block of the trusted block's chain. A proven block is
        remembered."""
        if target in self.proven:
            return
        self._prove(target)
        self.proven[target] = None
        while len(self.proven) > MAX_PROVEN:
            self.proven.popitem(last=False)

    def _prove(self, target: BlockId) -> None:
        at = self.trusted.read()
        for _ in range(MAX_ANSWERS):
            if at == target:
                return
            answer = self.transport.block_proof(at, target)
            if target.seqno <= at.seqno:
                return check_back(at, target, answer)
            reached = walk(at, answer)
            self.trusted.move(reached.key_block)
            if reached.head == target:
                return
            if reached.key_block == at:
                text = (
                    f"proofs: expected proofs that lead to {target}, but they end at block "
                    f"{reached.head.seqno}"
                )
                raise NotAuthentic(STEP, "no-way", text)
            at = reached.key_block
        text = f"proofs: expected to reach {target} with at most {MAX_ANSWERS} answers, did not"
        raise NotAuthentic(STEP, "no-way", text)
