"""What a guest counts for its host, and the text in which Prometheus reads it.

The host must not learn more of one request from here than it sees on the wire: no tenant, no
address, no text and no length stands here, neither as a label nor as a value. Tokens are counted in
whole blocks, and the rest of an answer is a block by chance. A time is the upper bound of its
bucket. Whether a request was answered, or refused for what it says, is one outcome.
"""

from __future__ import annotations

import secrets
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from enclave.guest.engines.base import Answer, Delta

BLOCK = 1024
"""Tokens that are counted together: a prompt of a page or two is one or none."""

FIRST_TOKEN_S = (0.1, 0.4, 1.6, 6.4, 25.6)
BETWEEN_TOKENS_S = (0.005, 0.02, 0.08, 0.32, 1.28)
"""Upper bounds in seconds, each four times the one before: from the time that an answer takes, its
number of tokens is known to a factor of four."""

OUTCOMES = (
    "answered", "full", "failed", "limited", "refused", "replayed", "session_expired", "busy",
)  # fmt: skip
"""How a sealed request ended; docs/spec/metrics.md says what each stands for."""

FAILED, FULL, DRAINING = 500, 429, 503
"""Statuses inside the seal that tell of the machine and not of the request."""


class Histogram:
    """Counts by bucket. What is observed is known as the upper bound of its bucket alone."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1

    @property
    def sum(self) -> float:
        """Of upper bounds; the last bucket has none, and counts with twice the greatest."""
        bounds = (*self.bounds, 2 * self.bounds[-1])
        return sum(bound * count for bound, count in zip(bounds, self.counts, strict=True))


class Blocks:
    """A number of tokens, in whole blocks. It is right on average, however small the parts are."""

    def __init__(self) -> None:
        self.tokens = 0

    def add(self, tokens: int) -> None:
        whole, rest = divmod(tokens, BLOCK)
        self.tokens += BLOCK * (whole + (secrets.randbelow(BLOCK) < rest))


@dataclass
class Metrics:
    """The counters of one boot. They belong to the thread of the event loop."""

    requests: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    prompt: Blocks = field(default_factory=Blocks)
    completion: Blocks = field(default_factory=Blocks)
    first_token: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKEN_S))
    between_tokens: Histogram = field(default_factory=lambda: Histogram(BETWEEN_TOKENS_S))

    def ended(self, outcome: str) -> None:
        """A request ended so, one of OUTCOMES."""
        self.requests[outcome] += 1

    def answered(self, status: int, *, draining: bool) -> None:
        """A request gets an answer with this status, inside the seal; a guest that drains begins no
        other ones."""
        if draining and status == DRAINING:
            self.ended("busy")
        else:
            self.ended("full" if status == FULL else "failed" if status >= FAILED else "answered")

    def watched(self, answer: Answer, *, began: float, clock: Callable[[], float]) -> Answer:
        """The same answer. It is counted when it is closed: once, also where it was cut."""
        return _Watched(answer, self, began, clock)


class _Watched:
    """`began` is when the request was read, in the seconds of `clock`."""

    def __init__(
        self, answer: Answer, metrics: Metrics, began: float, clock: Callable[[], float]
    ) -> None:
        self._answer, self._metrics, self._began, self._clock = answer, metrics, began, clock
        self._first = self._last = 0.0
        self._prompt = 0
        self._written: dict[int, int] = {}
        self._counted = False

    def __aiter__(self) -> _Watched:
        return self

    async def __anext__(self) -> Delta:
        delta = await self._answer.__anext__()
        self._note(delta)
        return delta

    async def aclose(self) -> None:
        self._count()
        await self._answer.aclose()

    def _note(self, delta: Delta) -> None:
        self._last = self._clock()
        self._first = self._first or self._last
        written = self._written.get(delta.index, 0) + len(delta.token_ids)
        if delta.usage is not None:
            self._prompt, written = delta.usage.prompt, delta.usage.completion
        self._written[delta.index] = written

    def _count(self) -> None:
        if self._counted or not self._written:
            return
        self._counted = True
        metrics, longest = self._metrics, max(self._written.values())
        metrics.prompt.add(self._prompt)
        metrics.completion.add(sum(self._written.values()))
        metrics.first_token.observe(self._first - self._began)
        if longest > 1:
            metrics.between_tokens.observe((self._last - self._first) / (longest - 1))


# The text format of Prometheus, version 0.0.4

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Family:
    """One metric. `kind` is a type of Prometheus, `samples` are (what follows the name, labels,
    value)."""

    name: str
    kind: str
    help: str
    samples: tuple[tuple[str, Labels, float], ...]

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        for suffix, labels, value in self.samples:
            inner = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
            yield f"{self.name}{suffix}{'{' + inner + '}' if inner else ''} {value}"


def single(name: str, kind: str, text: str, value: float) -> Family:
    return Family(name, kind, text, (("", {}, value),))


def labelled(name: str, kind: str, text: str, label: str, values: Mapping[str, float]) -> Family:
    """One sample for each value of one label."""
    return Family(name, kind, text, tuple(("", {label: at}, of) for at, of in values.items()))


def histogram(name: str, text: str, found: Histogram) -> Family:
    samples: list[tuple[str, Labels, float]] = []
    total = 0
    for bound, count in zip((*map(str, found.bounds), "+Inf"), found.counts, strict=True):
        total += count
        samples.append(("_bucket", {"le": bound}, total))
    samples += [("_sum", {}, round(found.sum, 6)), ("_count", {}, total)]
    return Family(name, "histogram", text, tuple(samples))


def page(families: Sequence[Family]) -> bytes:
    return "".join(f"{line}\n" for family in families for line in family.lines()).encode()


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
