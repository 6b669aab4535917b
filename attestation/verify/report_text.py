"""A report as plain text, for logs and exceptions: no colour, lines of at most WIDTH columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from attestation.verify.verdict import Report, StepResult

WIDTH = 100
SIMULATED = "SIMULATED: these machines prove nothing. A simulator made their keys and roots."


def as_text(report: Report) -> str:
    """One line for each step of the plan, and under a step that failed what to do."""
    names = max((len(step.name) for step in report.steps), default=0)
    lines = [line for step in report.steps for line in _step(step, names)]
    lines.append(counted(report))
    if report.simulated:
        lines.append(SIMULATED)
    for finding in report.findings:
        lines += _wrapped("finding: ", f"{finding.text} [{finding.step}/{finding.code}]")
    for caveat in report.caveats:
        lines += _wrapped("note: ", caveat)
    return "\n".join(lines)


def counted(report: Report) -> str:
    """How many of the plan's steps passed, in words."""
    failed = len(report.failed)
    text = f"{report.passed} of {len(report.steps)} steps passed"
    if failed:
        text += f", {failed} failed"
    if unchecked := len(report.steps) - report.passed - failed:
        text += f", {unchecked} not checked"
    return text


def told(step: StepResult) -> str:
    """What a step found, with the reason's code where it failed."""
    return f"[{step.code}] {step.detail}" if step.status == "failed" else step.detail


def _step(step: StepResult, names: int) -> Iterator[str]:
    head = f"{step.number:>2} {step.name:<{names}}  {step.status:<11}  "
    yield from _wrapped(head, told(step))
    if step.status == "failed" and step.advice:
        yield from _wrapped(" " * len(head), f"What to do: {step.advice}")


def _wrapped(head: str, text: str) -> list[str]:
    """What a host says must not steer the terminal that it is shown on."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    lines = textwrap.wrap(plain, WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
    return lines or [head.rstrip()]
