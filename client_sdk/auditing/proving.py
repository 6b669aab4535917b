"""Making a proof file of one enclave, and checking one without a network.

A check is as of the enclave's own time, with the collateral in the file. It says of every
statement whether it was checked here or rests on the prover's word. What the chain said is
the prover's word at whatever level it was read, unless the checker brings a chain to compare
it with: lite servers' answers in a file, which prove it, or an endpoint.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from attestation.errors import Incomplete, LogError, VerificationError
from attestation.formats.dates import stamp
from attestation.log.leaf import Leaf
from attestation.log.note import Note
from attestation.log.proof import Proof
from attestation.trust.anchor import Anchor, BlockRef, Level
from attestation.trust.policy import Policy
from attestation.verify.session_step import on_record
from attestation.verify.verdict import Report
from attestation.verify.verifier import Verifier
from attestation.verify.witness_step import check_witnesses
from client_sdk.auditing.machines import bundle_of, time_of
from client_sdk.auditing.proof_file import EnclaveProof
from client_sdk.auditing.results import MACHINES
from client_sdk.auditing.single import AuditedEntry
from client_sdk.chain_reader import ChainReader
from contracts.chain import ReadOnlyChain

HERE, WORD, NOT_SHOWN = "checked here", "the prover's word", "not shown"
ENDPOINT = "the word of the endpoint you chose"


@dataclass(frozen=True)
class Statement:
    """What the file says, and what that rests on."""

    text: str
    rests_on: str


@dataclass(frozen=True)
class CheckedProof:
    """`at` is the time as of which it holds (Unix seconds); `problems` what contradicts."""

    report: Report
    at: int
    index: int
    boot: str
    problems: tuple[str, ...]
    statements: tuple[Statement, ...]

    @property
    def exit_code(self) -> int:
        if self.problems or self.report.failed:
            return 1
        return 0 if self.report.ok else 6

    @property
    def verdict(self) -> str:
        return {
            0: "the proof holds as of its own time, as far as what it rests on is true",
            1: "does not hold",
            6: "incomplete: something could not be checked",
        }[self.exit_code]

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.exit_code == 0,
            "verdict": self.verdict,
            "at": self.at,
            "index": self.index,
            "boot": self.boot,
            "simulated": self.report.simulated,
            "problems": list(self.problems),
            "statements": [vars(statement) for statement in self.statements],
            "report": self.report.to_json(),
        }


def prove(single: AuditedEntry) -> EnclaveProof:
    """Of an entry that was verified. Raises LogError where it does not hold, Incomplete where
    something could not be checked."""
    audit, entry = single.audit, single.entry
    if audit.exit_code == 1:
        raise LogError(f"entry {single.index}: {audit.problems[0].text}")
    if audit.problems or entry is None or (entry.kind in MACHINES and entry.report is None):
        text = audit.problems[0].text if audit.problems else "not verified"
        raise Incomplete(f"entry {single.index}: {text}")
    if entry.kind not in MACHINES:
        raise LogError(f"entry {single.index}: expected a boot or renewal, got a {entry.kind}")
    machines = single.machines
    presented = machines.presented(single.index, single.data)
    return EnclaveProof(
        proof=single.proof,
        anchor=dataclasses.replace(machines.anchor, seqno=0, registry=None),  # not in a file
        beacon=machines.chain.block(bundle_of(presented).beacon[0]),
        evidence=presented.evidence,
        engine_config=presented.engine_config,
        price_table=presented.price_table,
        host_config=presented.host_config,
        collateral=presented.collateral.to_bytes(),
    )


def check(file: EnclaveProof, policy: Policy, chain: ReadOnlyChain | None = None) -> CheckedProof:
    """`chain`, where given, says what the file may say of it. Raises ParseError where a part is
    not of its format, Unavailable where the chain has no answer."""
    presented, parsed = file.presented(), Proof.from_bytes(file.proof)
    bundle = bundle_of(presented)
    at = time_of(file.beacon, bundle)
    told, problems = _compared(file, chain, policy)
    level = told.level
    anchor = dataclasses.replace(
        file.anchor, level=level, seqno=told.seqno, registry=told.registry
    ).as_of(at)
    beacon = dataclasses.replace(file.beacon, level=level)
    # Of another time: see also _unwitnessed.
    judge = Verifier(dataclasses.replace(on_record(policy), witnesses=None))
    report = judge.examine(presented, anchor=anchor, beacon=beacon, now=at)
    problems += _unwitnessed(file, parsed, policy)
    leaf = Leaf.from_bytes(parsed.extra or b"")
    if presented.collateral.manifest_digest() != leaf.collateral_digest:
        problems.append("the file's collateral is not the one that the log entry names")
    if not file.beacon.utime <= file.anchor.read_at >= file.anchor.time:
        problems.append("the contract was read before its anchor or before the beacon block")
    return CheckedProof(
        report=report,
        at=at,
        index=parsed.index,
        boot=bundle.boot_id.hex(),
        problems=tuple(problems),
        statements=_statements(
            file if chain is None else _as_read(file, told, beacon),
            parsed.index,
            at,
            HERE if report.ok else NOT_SHOWN,
            _rests(chain, level, problems),
        ),
    )


def _as_read(file: EnclaveProof, told: Anchor, beacon: BlockRef) -> EnclaveProof:
    """With the time and level of our own reading: nobody can check when its maker read."""
    anchor = dataclasses.replace(file.anchor, read_at=told.read_at, level=told.level)
    return dataclasses.replace(file, anchor=anchor, beacon=beacon)


def _unwitnessed(file: EnclaveProof, proof: Proof, policy: Policy) -> list[str]:
    """Why the policy's witnesses do not vouch for the checkpoint, when the contract was read."""
    if policy.witnesses is None:
        return []
    note = Note.from_bytes(proof.checkpoint)
    try:
        check_witnesses(note, policy.witnesses, now=file.anchor.read_at)
    except VerificationError as error:
        return [str(error)]
    return []


_OF_THE_READING = ("address", "read_at", "level", "seqno", "registry")
"""Fields of an Anchor that each reading has of its own; it was read at the file's address."""


def _compared(
    file: EnclaveProof, chain: ReadOnlyChain | None, policy: Policy
) -> tuple[Anchor, list[str]]:
    """What the chain says, with the policy's Registry, and where the file says other things."""
    if chain is None:
        return dataclasses.replace(file.anchor, level="reported"), []
    reader = ChainReader(chain, policy)
    told = dataclasses.replace(reader.anchor_of(file.anchor.address), network=file.anchor.network)
    block = chain.block(file.beacon.seqno)
    problems = []
    now = {name: getattr(told, name) for name in _OF_THE_READING}
    if told != dataclasses.replace(file.anchor, **now):
        problems.append(
            f"the contract's state is another: anchor {told.sequence} of {told.size} entries"
        )
    if block != dataclasses.replace(file.beacon, level=block.level):
        problems.append(
            f"the file's block {block.seqno} is not the chain's, {block.root_hash.hex()}"
        )
    return told, problems


def _rests(chain: ReadOnlyChain | None, level: Level, problems: list[str]) -> str:
    if chain is None:
        return WORD
    if problems:
        return NOT_SHOWN
    return HERE if level == "proven" else ENDPOINT


def _statements(
    file: EnclaveProof, index: int, at: int, here: str, word: str
) -> tuple[Statement, ...]:
    anchor, beacon = file.anchor, file.beacon
    read = f"read at {stamp(anchor.read_at)} ({anchor.level})"
    return (
        Statement(
            "the CPU and the GPUs are genuine by their vendors' roots, and the policy accepts them",
            here,
        ),
        Statement(f"collateral and certificates were valid at {stamp(at)}", here),
        Statement(
            f"the log signed a tree of {anchor.size} entries, and this is entry {index}", here
        ),
        Statement(
            f"contract {anchor.address} on {anchor.network} was not forked and held this tree's "
            f"root as anchor {anchor.sequence} of {stamp(anchor.time)}; {read}",
            word,
        ),
        Statement(
            f"block {beacon.seqno} of {stamp(beacon.utime)} is on the chain and has the hash that "
            f"the hardware signed ({beacon.level})",
            word,
        ),
    )
