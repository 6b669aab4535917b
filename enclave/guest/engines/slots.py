"""The slot scheduler: it advances many answers with one batched step.

There is a fixed number of slots, one for each answer (see kv_cache). A prompt is prefilled alone,
in pieces. Between two pieces all live answers advance by one token together. A slot is set to zero
when its answer ends.

Everything here runs on one thread and does not use asyncio.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from enclave.guest.engines.base import (
    SCHEMA_FIELD,
    Delta,
    FieldRefused,
    FinishReason,
    TokenLogprob,
    Usage,
    refused,
)
from enclave.guest.engines.decoder import Decoder
from enclave.guest.engines.fair_queue import UNNAMED, FairQueue, Names
from enclave.guest.engines.grammar import complete, only_allowed
from enclave.guest.engines.graphs import Graphs, Step
from enclave.guest.engines.kv_cache import SlotCache
from enclave.guest.engines.sampling import Sampler, choose
from enclave.guest.engines.text import Detokenizer, StopFilter

if TYPE_CHECKING:
    from llguidance import LLMatcher

OVERFLOW = (
    "expected a text for which this model computes finite numbers, got one with which it does not"
)

BUCKET = 64
"""Positions in a bucket. Attention reads whole buckets, so that few different shapes occur."""


@dataclass(eq=False)
class Job:
    """One answer that is being written. `tell` receives its Deltas, on the scheduler's thread; a
    refusal instead of the last one where its `grammar` cannot go on."""

    prompt: list[int] = field(repr=False)
    max_tokens: int
    sampler: Sampler
    text: Detokenizer
    stops: StopFilter
    tell: Callable[[Delta | FieldRefused], None]
    score: Callable[[torch.Tensor, int], TokenLogprob] | None = None
    scores: list[TokenLogprob] = field(default_factory=list, repr=False)
    grammar: LLMatcher | None = field(default=None, repr=False)
    filled: int = 0
    written: int = 0
    last: int = 0
    untold: list[int] = field(default_factory=list, repr=False)
    cancelled: bool = False
    turn: int = 0
    name: bytes = field(default=UNNAMED, repr=False)

    @property
    def prefilled(self) -> bool:
        return self.filled >= len(self.prompt)

    @property
    def usage(self) -> Usage:
        return Usage(prompt=len(self.prompt), cached=0, completion=self.written)


@dataclass
class Counters:
    """Numbers since the start: answers finished, answers cancelled, tokens written."""

    finished: int = 0
    cancelled: int = 0
    tokens: int = 0


class Scheduler:
    """Gives slots to jobs and advances them. `step` does one unit of work."""

    def __init__(
        self,
        model: Decoder,
        cache: SlotCache,
        *,
        max_len: int,
        stop_ids: frozenset[int],
        prefill_piece: int,
        prefill_beside: int,
        deterministic: bool,
        names: Names,
    ) -> None:
        self._model = model
        self._cache = cache
        self._max_len = max_len
        self.stop_ids = stop_ids
        self._piece, self._beside = prefill_piece, prefill_beside
        self._deterministic = deterministic
        self.device = cache.device
        self._recorded = self.device.type == "cuda"
        self._step: Step = Graphs(self._decoded) if self._recorded else self._decoded
        self._slots: list[Job | None] = [None] * cache.slots
        self._names = names
        self._waiting = FairQueue[Job](len(self._slots), names)
        self._admitted = 0
        self.counters = Counters()

    @property
    def running(self) -> int:
        return sum(job is not None for job in self._slots)

    @property
    def idle(self) -> bool:
        return not self._waiting and not self.running

    def add(self, job: Job) -> None:
        self._waiting.add(job)

    def jobs(self) -> list[Job]:
        """All jobs that wait or run."""
        return [job for job in self._slots if job is not None] + list(self._waiting)

    @torch.inference_mode()
    def step(self) -> None:
        """Frees the slots of cancelled jobs, gives free slots to waiting jobs, prefills some
        pieces, and then advances all live rows by one token."""
        self._drop_cancelled()
        self._admit()
        room = self._room()
        while room > 0 and (filling := self._next_to_fill()) is not None:
            length = self._prefill(*filling, most=room)
            room -= self._piece if self._deterministic else max(self._beside, length)
        live = [at for at, job in self._held() if job.prefilled]
        if live:
            self._decode(live)

    def _room(self) -> int:
        """How many tokens of prompts this step reads. While answers are written it is little for
        each prompt, so that a long one does not keep the answers waiting."""
        filling = sum(not job.prefilled for _, job in self._held())
        if self._deterministic or filling == self.running:
            return self._piece
        return min(self._piece, self._beside * filling)

    def _next_to_fill(self) -> tuple[int, Job] | None:
        """Of the jobs whose prompt is not completely in its slot, one of the client that holds the
        fewest slots, and of that client's the earliest."""
        filling = [(at, job) for at, job in self._held() if not job.prefilled]
        if not filling:
            return None
        held = self._names.held([job for _, job in self._held()])
        return min(filling, key=lambda one: (held[self._names.client(one[1].name)], one[1].turn))

    def _held(self) -> list[tuple[int, Job]]:
        return [(at, job) for at, job in enumerate(self._slots) if job is not None]

    def _drop_cancelled(self) -> None:
        for job in [job for job in self._waiting if job.cancelled]:
            self._waiting.remove(job)
            self._end(job, "cancelled", "")
        for at, job in self._held():
            if job.cancelled:
                self._free(at)
                self._end(job, "cancelled", "")

    def _admit(self) -> None:
        for at in [at for at, held in enumerate(self._slots) if held is None]:
            job = self._waiting.take([job for _, job in self._held()]) if self._waiting else None
            if job is None:  # who may not have this slot may not have another one either
                return
            self._slots[at] = job
            self._admitted += 1
            job.turn = self._admitted

    def _free(self, at: int) -> None:
        self._slots[at] = None
        self._cache.wipe(at)

    def _prefill(self, at: int, job: Job, *, most: int) -> int:
        """Prefills one piece of one prompt and returns its length. The last piece gives the first
        token of the answer."""
        begin = job.filled
        piece = self._piece if self._deterministic else min(self._piece, most)
        end = min(begin + piece, len(job.prompt))
        positions = torch.arange(begin, end, device=self.device)[None]
        ids = torch.tensor([job.prompt[begin:end]], device=self.device)
        logits = self._forward(ids, positions, first=at, length=end)
        job.filled = end
        if job.prefilled:
            self._choose([(0, at, job)], logits)
        return end - begin

    def _decode(self, live: list[int]) -> None:
        """Writes one token for every live row, in one pass over the first rows of the cache."""
        width = self._width(live[-1] + 1)
        # A row that is free or is still being filled computes at its next position too. What it
        # writes there is overwritten before anything reads it.
        places = [self._position(job) for job in self._slots[:width]]
        tokens = [job.last if job and job.prefilled else 0 for job in self._slots[:width]]
        inputs = torch.tensor([tokens, places], device=self.device)
        logits = self._step(inputs, self._reach(max(places[at] for at in live)))
        self._choose([(at, at, job) for at, job in self._held() if at in live], logits)

    def _choose(self, rows: list[tuple[int, int, Job]], logits: torch.Tensor) -> None:
        """Writes a token for each (row of the logits, slot, job)."""
        some = logits[[row for row, _, _ in rows]] if len(rows) < len(logits) else logits
        held = [(at, job.grammar) for at, (_, _, job) in enumerate(rows) if job.grammar is not None]
        allowed = only_allowed(some, held) if held else some
        tokens = choose([job.sampler for _, _, job in rows], allowed)
        finite = some.amax(1).isfinite().tolist()
        for (_, at, job), token, row, good in zip(rows, tokens, some, finite, strict=True):
            if job.grammar is not None and job.grammar.is_error():
                limits = (
                    "expected a schema with simple steps, got a step beyond this engine's limits"
                )
                self._refuse(at, job, refused(SCHEMA_FIELD, limits))
            elif not good:
                self._refuse(at, job, refused("prompt", OVERFLOW))
            else:
                self._advance(at, job, token, row)

    def _position(self, job: Job | None) -> int:
        """The position of the row's next token."""
        if job is None:
            return 0
        return job.filled + job.written - 1 if job.prefilled else job.filled

    def _width(self, rows: int) -> int:
        """How many rows a step computes: all of them in deterministic mode, and a power of two
        where each number would be a recording of its own."""
        if self._deterministic:
            return len(self._slots)
        return min(len(self._slots), 1 << (rows - 1).bit_length()) if self._recorded else rows

    def _reach(self, last: int) -> int:
        """How many positions attention reads: all of them in deterministic mode, and otherwise
        whole buckets, which grow by doubling where steps are recorded."""
        if self._deterministic:
            return self._max_len
        buckets = last // BUCKET + 1
        whole = 1 << (buckets - 1).bit_length() if self._recorded else buckets
        return min(self._max_len, whole * BUCKET)

    def _decoded(self, inputs: torch.Tensor, length: int) -> torch.Tensor:
        """The logits of one step of the first rows, whose tokens and positions are `inputs`."""
        return self._forward(inputs[0, :, None], inputs[1, :, None], first=0, length=length)

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, *, first: int,
                 length: int) -> torch.Tensor:  # fmt: skip
        """The logits [rows, vocabulary] of the last token of each row. The rows are the slots from
        `first` on; each token sees the positions up to its own, of those below `length`."""
        unseen = torch.arange(length, device=self.device) > positions[:, :, None]
        mask = torch.zeros(unseen.shape, dtype=self._cache.dtype, device=self.device)
        mask.masked_fill_(unseen, -math.inf)
        self._cache.aim(first, positions, length)
        return self._model(ids, positions, mask[:, None], self._cache)

    def _advance(self, at: int, job: Job, token: int, logits: torch.Tensor) -> None:
        """Counts one chosen token, and tells the text that became certain with it. `logits` are the
        model's own for it."""
        job.last = token
        job.written += 1
        job.untold.append(token)
        self.counters.tokens += 1
        if job.score is not None and token not in self.stop_ids:
            job.scores.append(job.score(logits, token))
        if token in self.stop_ids:
            self._finish(at, job, "stop", job.stops.push(job.text.finish()) + job.stops.finish())
            return
        text = job.stops.push(job.text.push(token))
        whole = job.grammar is not None and complete(job.grammar, token)
        full = len(job.prompt) + job.written >= self._max_len
        if job.stops.stopped:
            self._finish(at, job, "stop", text)
        elif whole or job.written >= job.max_tokens or full:
            rest = job.stops.push(job.text.finish()) + job.stops.finish()
            reason: FinishReason = "stop" if whole or job.stops.stopped else "length"
            self._finish(at, job, reason, text + rest)
        elif text:
            job.tell(self._take(job, text))

    def _finish(self, at: int, job: Job, reason: FinishReason, text: str) -> None:
        self._free(at)
        self._end(job, reason, text)

    def _refuse(self, at: int, job: Job, error: FieldRefused) -> None:
        self._free(at)
        self.counters.cancelled += 1
        job.tell(error)

    def _end(self, job: Job, reason: FinishReason, text: str) -> None:
        if reason == "cancelled":
            self.counters.cancelled += 1
        else:
            self.counters.finished += 1
        job.tell(replace(self._take(job, text), finish_reason=reason, usage=job.usage))

    def _take(self, job: Job, text: str) -> Delta:
        told = Delta(text, tuple(job.untold), logprobs=tuple(job.scores))
        job.untold, job.scores = [], []
        return told
