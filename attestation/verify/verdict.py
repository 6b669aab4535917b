"""What a verification found: every step's result, and the enclave it vouches for.

A Report names every step as passed, failed or not checked, and says what no check can
show. Only `Verifier.verify` makes a VerifiedEnclave; sealing accepts nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import InitVar, dataclass
from typing import Any, Literal

from attestation.errors import VerificationError
from attestation.formats.keys import KeyBundle

Status = Literal["passed", "failed", "not checked"]

CAVEATS = (
    "No check can show that CPU and GPU sit in one machine: Hopper evidence names no CPU.",
    "Physical attacks on memory buses can forge quotes; the vendors do not defend against them.",
)
NVLINK_CAVEAT = (
    "Under Hopper's protected PCIe, what several GPUs send each other over NVLink is not "
    "encrypted: no check can show that nobody listens on these links."
)
"""Of machines with more than one GPU."""


@dataclass(frozen=True)
class Finding:
    """Something an auditor should know; `code` is stable, `text` is for people."""

    step: str
    code: str
    text: str


@dataclass(frozen=True)
class StepResult:
    """One numbered step of the plan.

    `detail` is one sentence for people. The rest says why a step did not pass, and is empty where
    it did: `code`, a stable word for the reason; what was `expected` and what the step `got`
    instead; and `advice`, what to do about it.
    """

    number: int
    name: str
    status: Status
    code: str = ""
    detail: str = ""
    expected: str = ""
    got: str = ""
    advice: str = ""


@dataclass(frozen=True)
class ResultNames:
    """What the steps found by the policy's names; None where its step did not pass.

    `platform` as Evidence spells it, `release` and `shape` (the VM shape whose measurements
    the machine has) by the measurement step, `model` and `engine` by theirs.
    """

    platform: str | None = None
    release: str | None = None
    shape: str | None = None
    model: str | None = None
    engine: str | None = None


@dataclass(frozen=True)
class Report:
    """Every step of one verification, in order. `tcb_issued` (Unix seconds) dates the oldest
    of the vendor's lists that the TCB was judged by; None where it was not judged."""

    steps: tuple[StepResult, ...]
    simulated: bool
    named: ResultNames = ResultNames()
    findings: tuple[Finding, ...] = ()
    caveats: tuple[str, ...] = CAVEATS
    tcb_issued: int | None = None

    @property
    def ok(self) -> bool:
        """Whether every step passed: a step not checked is not a pass."""
        return bool(self.steps) and all(step.status == "passed" for step in self.steps)

    @property
    def failed(self) -> tuple[str, ...]:
        return tuple(step.name for step in self.steps if step.status == "failed")

    @property
    def passed(self) -> int:
        """How many steps passed, out of `len(report.steps)`, which is the length of the plan."""
        return sum(step.status == "passed" for step in self.steps)

    def __str__(self) -> str:
        """Plain text: a table of all steps, the findings, and what no check can show."""
        from attestation.verify.report_text import as_text

        return as_text(self)

    def to_json(self) -> dict[str, Any]:
        """JSON values only, as docs/spec/report.schema.json says."""
        return {
            "ok": self.ok,
            "simulated": self.simulated,
            "named": vars(self.named),
            "steps": [vars(step) for step in self.steps],
            "findings": [vars(finding) for finding in self.findings],
            "caveats": list(self.caveats),
            "tcb_issued": self.tcb_issued,
        }


@dataclass(frozen=True)
class VerifiedSession:
    """A key that the enclave made for one client, and quoted for that client's own nonce.

    `config` is its key configuration (RFC 9458 §3) as it came; `until` (Unix seconds) is when
    the enclave may have forgotten it.
    """

    config: bytes
    until: int


@contextmanager
def reporting(report: Report) -> Iterator[None]:
    """A VerificationError raised inside carries `report`, where it has none of its own."""
    try:
        yield
    except VerificationError as error:
        error.report = error.report or report
        raise


_MINT = object()


@dataclass(frozen=True)
class VerifiedEnclave:
    """An enclave that passed every step, until `valid_until` (Unix seconds).

    Made by Verifier.verify alone. `bundle` holds the keys to seal to, `session` the one that a
    request must be sealed to as well; digests are 32 bytes; engine_config and price_table are
    the parsed JSON whose digests are bound.
    """

    evidence_digest: bytes
    bundle: KeyBundle
    measurement_digest: bytes
    release_name: str
    model_name: str
    engine_config: Mapping[str, Any]
    price_table: Mapping[str, Any]
    valid_until: int
    report: Report
    minted_by: InitVar[object]
    """Never stored, so that `dataclasses.replace` cannot carry it over to other content."""

    session: VerifiedSession | None = None

    def __post_init__(self, minted_by: object) -> None:
        if minted_by is not _MINT:
            raise TypeError("only Verifier.verify makes a VerifiedEnclave")

    @property
    def simulated(self) -> bool:
        return self.report.simulated
