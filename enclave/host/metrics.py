"""The agent's own metrics, and what it reads in pages of metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from attestation.errors import ParseError
from enclave.host.registrar import GuestStatus

MAX_PAGE_BYTES = 64 << 10
"""Of a guest: its page has some 6 KiB."""

MAX_VALUE = 2.0**53


def of_agent(status: GuestStatus) -> bytes:
    """What the agent knows of its guest, as a page."""
    registry = CollectorRegistry()
    for name, text, value in (
        ("answering", "1 while the guest answers the agent.", status.answering),
        ("ready", "1 while the guest's current evidence is anchored.", status.ready),
    ):
        Gauge(f"umay_agent_guest_{name}", text, registry=registry).set(value)
    text = "Pieces of evidence of this boot by what became of them."
    entries = Gauge("umay_agent_log_entries", text, ["state"], registry=registry)
    anchored = [entry.anchored for entry in status.entries.values()]
    entries.labels("anchored").set(sum(anchored))
    entries.labels("logged").set(len(anchored) - sum(anchored))
    entries.labels("refused").set(len(status.refused))
    return generate_latest(registry)


@dataclass(frozen=True)
class Page:
    """The samples of a page: values by the name, and labels by the name, each in its order."""

    values: Mapping[str, tuple[tuple[Mapping[str, str], float], ...]]

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Page:
        """Raises ParseError for what Prometheus does not read, and for a number that is none."""
        values: dict[str, tuple[tuple[Mapping[str, str], float], ...]] = {}
        try:
            for family in text_string_to_metric_families(data.decode()):
                for sample in family.samples:
                    if not math.isfinite(sample.value) or abs(sample.value) > MAX_VALUE:
                        raise ValueError
                    found = values.get(sample.name, ())
                    values[sample.name] = (*found, (sample.labels, sample.value))
        except (
            ValueError,
            ArithmeticError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ):
            raise ParseError(
                f"{where}: expected metrics in the text format of Prometheus, got other bytes"
            ) from None
        return cls(values)

    def value(self, name: str) -> float:
        """Of a metric without labels; 0 where there is none."""
        return next((value for _, value in self.values.get(name, ())), 0.0)

    def by(self, name: str, label: str) -> dict[str, float]:
        """The values of a metric by one label."""
        samples = self.values.get(name, ())
        return {labels[label]: value for labels, value in samples if label in labels}

    def label(self, name: str, label: str) -> str:
        """Of the first sample that has it; empty where there is none."""
        samples = self.values.get(name, ())
        return next((labels[label] for labels, _ in samples if label in labels), "")


__all__ = ["MAX_PAGE_BYTES", "Page", "of_agent"]
