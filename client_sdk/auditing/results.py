"""What an audit found: every entry's verdict, problems, findings, and one exit code.

A violation is something that contradicts. What could not be checked is incomplete and never
good. A finding is neither: it is true, and an auditor should know it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from attestation.log.leaf import BOOT, COLLATERAL, NETWORK, RELEASE, RENEW, RETIRE
from attestation.verify.verdict import Report

KINDS = {
    BOOT: "boot",
    RENEW: "renewal",
    RELEASE: "release",
    COLLATERAL: "collateral",
    RETIRE: "retirement",
    NETWORK: "network file",
}
MACHINES = ("boot", "renewal")
Severity = Literal["violation", "incomplete", "finding"]


@dataclass(frozen=True)
class Problem:
    """`code` is stable, `text` for people; `index` the entry it is about, if any."""

    severity: Severity
    code: str
    text: str
    index: int | None = None


@dataclass(frozen=True)
class EntryVerdict:
    """One leaf and what became of it. `boot` and digests in hex, `since` in Unix seconds;
    `measurement` and `model` are what a Registry lists.

    `keys` are SHA-256 of the public keys in its KeyBundle. `now` names what would fail
    today; None where that was not asked. `tcb_issued` as in the report.
    """

    index: int
    kind: str
    boot: str
    runs: str
    verdict: str
    detail: str = ""
    since: int | None = None
    report: Report | None = None
    platform: str = ""
    release: str = ""
    keys: tuple[str, ...] = ()
    measurement: str = ""
    model: str = ""
    now: tuple[str, ...] | None = None
    tcb_issued: int | None = None

    def to_json(self) -> dict[str, Any]:
        shown = dataclasses.asdict(dataclasses.replace(self, report=None))
        return {**shown, "report": self.report.to_json() if self.report else None}


@dataclass
class Audit:
    """The whole audit; `exit_code` as every command ends: 0 good, 1 violation, 6 incomplete.

    `tail` counts entries that the log shows beyond the anchored ones; times in Unix seconds;
    `level` says how the contract's state is known (attestation/trust/anchor.py).
    """

    contract: str
    log_url: str = ""
    size: int = 0
    root: str = ""
    simulated: bool = False
    anchored: int = 0
    read_at: int = 0
    level: str = "reported"
    at: int = 0
    tail: int = 0
    entries: list[EntryVerdict] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    findings: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def exit_code(self) -> int:
        severities = {problem.severity for problem in self.problems}
        return 1 if "violation" in severities else 6 if severities else 0

    @property
    def verdict(self) -> str:
        verified = sum(entry.verdict == "verified" for entry in self.entries)
        return {
            0: f"no violation: {verified} attestation(s) verified again",
            1: "a violation was found",
            6: "incomplete: something could not be checked",
        }[self.exit_code]

    def violation(self, code: str, text: str, index: int | None = None) -> None:
        self.problems.append(Problem("violation", code, text, index))

    def incomplete(self, code: str, text: str, index: int | None = None) -> None:
        self.problems.append(Problem("incomplete", code, text, index))

    def finding(self, code: str, text: str, index: int | None = None) -> None:
        self.findings.append(Problem("finding", code, text, index))

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "contract": self.contract,
            "log": self.log_url,
            "size": self.size,
            "root": self.root,
            "simulated": self.simulated,
            "anchored": self.anchored,
            "read_at": self.read_at,
            "level": self.level,
            "at": self.at,
            "tail": self.tail,
            "verdict": self.verdict,
            "entries": [entry.to_json() for entry in self.entries],
            "problems": [dataclasses.asdict(problem) for problem in self.problems],
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }
