"""The verification plan: from Evidence to an enclave worth sealing to.

 1 parse           Evidence strictly; every byte accounted for
 2 cpu-signature   quote signature, QE binding, chain to a pinned root
 3 cpu-attributes  debug off, other attribute bits, allow-lists, config fields zero
 4 cpu-tcb         TCB status, advisories, revocation, collateral age at `now`
 5 measurement     event logs replay; host config; registers belong to a release
 6 binding         REPORT_DATA[0:32] from KeyBundle and devices
 7 freshness       REPORT_DATA[32:64]; beacon block and its age; validity; session
 8 gpu             every device: chain, signature, nonce, RIM, revocation; their number
 9 model           digest accepted
10 engine          engine config and price table are those bound; config accepted
11 registry        the pinned Registry, at the anchor's block, allows release and model
12 log             leaf recomputed, in the anchored tree; anchor pinned, fresh, not forked
13 witness         enough domains cosigned the anchored checkpoint, not long ago
14 mint            VerifiedEnclave, until the earliest expiry

Pure: time, roots (through the policy), collateral, proof, Anchor (with the Registry) and
BlockRef are arguments. `verify` stops at the first failure; `examine` runs all it can and never
yields a key; `admit` is what a log does before it appends.
"""

from __future__ import annotations

from collections.abc import Callable

from attestation.arguments import expect
from attestation.errors import (
    NotAuthentic,
    NotChecked,
    ParseError,
    Refused,
    VerificationError,
)
from attestation.log.leaf import Leaf
from attestation.trust.anchor import Anchor, BlockRef
from attestation.trust.policy import Policy
from attestation.trust.registry import RegistrySnapshot
from attestation.verify import log_step, registry_step, steps, witness_step
from attestation.verify.advice import advice
from attestation.verify.case import Case, OpenedSession
from attestation.verify.memory import VerificationMemory, question
from attestation.verify.presented import Presented
from attestation.verify.session_step import on_record
from attestation.verify.verdict import (
    _MINT,
    CAVEATS,
    NVLINK_CAVEAT,
    Report,
    StepResult,
    VerifiedEnclave,
)
from attestation.verify.wording import expected_and_got

__all__ = ["OpenedSession", "Presented", "Verifier"]

PLAN: tuple[tuple[str, Callable[[Case], str]], ...] = (
    ("parse", steps.parse),
    ("cpu-signature", steps.cpu_signature),
    ("cpu-attributes", steps.cpu_attributes),
    ("cpu-tcb", steps.cpu_tcb),
    ("measurement", steps.measurement),
    ("binding", steps.binding),
    ("freshness", steps.freshness),
    ("gpu", steps.gpu),
    ("model", steps.model),
    ("engine", steps.engine),
    ("registry", registry_step.registry),
    ("log", log_step.log),
    ("witness", witness_step.witness),
    ("mint", steps.validity),
)
_BEFORE_LOG = 11


class Verifier:
    """Judges Evidence under one policy. One serves many threads.

    It remembers what it accepted, by a digest of every argument but `now`: nothing a step
    looks at changes before `valid_until`, so a repeated question has the same answer.
    """

    def __init__(self, policy: Policy, *, remember: int = 64) -> None:
        expect("policy", policy, Policy)
        expect("remember", remember, int, what="how many verdicts to remember")
        self.policy = policy
        self._memory = VerificationMemory(remember)

    def verify(
        self, presented: Presented, *, anchor: Anchor, beacon: BlockRef, now: int
    ) -> VerifiedEnclave:
        """The enclave, once every step has passed at `now` (Unix seconds).

        Raises VerificationError of the first step that does not pass, with the Report so far:
        NotChecked where that step had nothing to run on.
        """
        _expect(presented, anchor, beacon, now)
        asked = question(presented, anchor, beacon)
        known = self._memory.recall(asked, now)
        return known or self._memory.keep(asked, now, self._verify(presented, anchor, beacon, now))

    def _verify(
        self, presented: Presented, anchor: Anchor, beacon: BlockRef, now: int
    ) -> VerifiedEnclave:
        case = self._case(presented, anchor=anchor, beacon=beacon, now=now)
        results, error = _run(case, len(PLAN), stop=True)
        report = _report(case, results)
        if error is not None:
            error.report = report
            raise error
        return VerifiedEnclave(
            evidence_digest=case.evidence_digest,
            bundle=case.bundle,
            measurement_digest=case.measurement_digest,
            release_name=case.release.name,
            model_name=case.model_name,
            engine_config=case.engine_config,
            price_table=case.price_table,
            valid_until=case.valid_until,
            report=report,
            minted_by=_MINT,
            session=case.verified_session,
        )

    def examine(
        self, presented: Presented, *, anchor: Anchor | None, beacon: BlockRef | None, now: int
    ) -> Report:
        """Every step that can be run, whatever failed before it. Never raises for bad
        evidence, never yields a key."""
        _expect(presented, anchor, beacon, now, open_ends=True)
        case = self._case(presented, anchor=anchor, beacon=beacon, now=now)
        results, _ = _run(case, len(PLAN), stop=False)
        return _report(case, results)

    def admit(
        self,
        presented: Presented,
        *,
        beacon: BlockRef,
        now: int,
        kind: int,
        release: int | None,
        previous: int | None,
        registry: RegistrySnapshot | None = None,
    ) -> Leaf:
        """The log leaf of evidence that passes every step before the log's. `registry` is what the
        log read itself, where its policy names one. Raises VerificationError."""
        expect("beacon", beacon, BlockRef)
        expect("registry", registry, RegistrySnapshot, type(None), what="RegistrySnapshot or None")
        _expect(presented, None, beacon, now, open_ends=True)
        case = self._case(presented, anchor=None, beacon=beacon, now=now)
        case.policy = on_record(case.policy)
        case.registry = registry
        results, error = _run(case, _BEFORE_LOG, stop=True)
        if error is not None:
            error.report = _report(case, results)
            raise error
        return case.leaf(kind=kind, release=release, previous=previous)

    def _case(
        self, presented: Presented, *, anchor: Anchor | None, beacon: BlockRef | None, now: int
    ) -> Case:
        return Case(
            evidence_bytes=presented.evidence,
            engine_bytes=presented.engine_config,
            price_bytes=presented.price_table,
            host_bytes=presented.host_config,
            collateral=presented.collateral,
            proof=presented.proof,
            session=presented.session,
            anchor=anchor,
            beacon=beacon,
            registry=anchor.registry if anchor else None,
            policy=self.policy,
            now=now,
        )


def _expect(
    presented: object, anchor: object, beacon: object, now: object, *, open_ends: bool = False
) -> None:
    """Raises UsageError for a wrong type; `open_ends`: anchor and beacon may be None."""
    none = (type(None),) if open_ends else ()
    expect("presented", presented, Presented)
    expect("anchor", anchor, Anchor, *none, what="Anchor")
    expect("beacon", beacon, BlockRef, *none, what="BlockRef")
    expect("now", now, int, what="Unix seconds as a whole number")


def _run(
    case: Case, count: int, *, stop: bool
) -> tuple[list[StepResult], VerificationError | None]:
    results: list[StepResult] = []
    first: VerificationError | None = None
    for number, (name, step) in enumerate(PLAN[:count], 1):
        if first is not None and (stop or name == "mint"):
            break
        result, error = _one(case, number, name, step)
        results.append(result)
        first = first or error
    return results, first


def _one(
    case: Case, number: int, name: str, step: Callable[[Case], str]
) -> tuple[StepResult, VerificationError | None]:
    try:
        detail = step(case)
    except NotChecked as missing:
        missing.step = name
        return _stopped(number, name, missing), missing
    except ParseError as malformed:
        error = NotAuthentic(name, malformed.code, str(malformed))
        return _stopped(number, name, error), error
    except VerificationError as failure:
        return _stopped(number, name, failure), failure
    case.passed.add(name)
    return StepResult(number, name, "passed", "", detail), None


def _stopped(number: int, name: str, error: VerificationError) -> StepResult:
    """The result of a step that did not pass, with what to do about it."""
    expected, got = expected_and_got(error.message)
    return StepResult(
        number,
        name,
        "not checked" if isinstance(error, NotChecked) else "failed",
        error.code,
        error.message,
        expected,
        got,
        advice(name, error.code, refused=isinstance(error, Refused)),
    )


def not_begun(why: VerificationError, *, simulated: bool) -> Report:
    """The report of a verification that had nothing to begin with: no step was checked."""
    missing = NotChecked(f"expected an anchor and a beacon block of the chain, got an error: {why}")
    return Report(tuple(_not_run(0, missing)), simulated=simulated)


def _not_run(done: int, why: NotChecked) -> list[StepResult]:
    """The results of all steps after the first `done`."""
    return [_stopped(number, name, why) for number, (name, _) in enumerate(PLAN, 1)][done:]


def _report(case: Case, results: list[StepResult]) -> Report:
    before = next((step.name for step in results if step.status != "passed"), "")
    why = NotChecked(f"expected the step {before} to have passed; it has not")
    rest = _not_run(len(results), why)
    several = "parse" in case.passed and len(case.evidence.devices) > 1
    return Report(
        steps=(*results, *rest),
        simulated=case.policy.roots.simulated,
        named=case.named,
        findings=tuple(case.findings),
        caveats=(*CAVEATS, NVLINK_CAVEAT) if several else CAVEATS,
        tcb_issued=case.tcb_issued,
    )
