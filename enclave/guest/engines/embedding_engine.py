"""The engine that makes embeddings: a BERT encoder in the guest's own process, in float32.

It is made from a model's bytes in memory and opens no file. Nothing of a text stays when its
request has ended. A request is computed in steps of at most STEP_TOKENS tokens, of texts of one
length; the steps of different requests take turns.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TypeVar

import torch

from attestation.errors import UmayError, UsageError
from enclave.guest.engines.base import EngineFailed, EngineInfo, EngineStats, refused
from enclave.guest.engines.bert import BertConfig, BertEncoder
from enclave.guest.engines.embedding import Embedded, EmbedRequest
from enclave.guest.engines.embedding_text import TextEncoder
from enclave.guest.engines.prompt import json_object
from enclave.guest.engines.threads import use_threads
from enclave.guest.engines.turns import Turns
from enclave.guest.engines.weights import tensors
from enclave.guest.engines.worker import Worker
from enclave.guest.model import ModelFiles

ENGINE = "umay-embedding"
ENGINE_VERSION = "1"
"""It is increased whenever the same text could get another vector than before."""

LIBRARIES = ("torch", "tokenizers")
STEP_TOKENS = 512
"""A small model takes about 0.2 s for them on one core."""

MAX_WAITING = 64
STALL_S = 120.0
"""A step takes seconds at most, also where a large model runs on a slow CPU."""

SELF_TEST = "What is attestation?"
SELF_TEST_GAP = 1e-3
"""Of the greatest number of a vector: float32 keeps about seven digits."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class EmbeddingSettings:
    """None for `max_len` stands for the model's own longest text, None for `threads` for the value
    of the environment variable UMAY_TORCH_THREADS, or 1 without it."""

    max_len: int | None = None
    threads: int | None = None
    max_waiting: int = MAX_WAITING


class EmbeddingEngine:
    """An Embedder (see embedding). Raises ParseError for a model that it does not run, UsageError
    for settings that the model does not allow."""

    def __init__(self, model: ModelFiles, *, settings: EmbeddingSettings | None = None) -> None:
        self._settings = settings or EmbeddingSettings()
        self._files = dict(model.files)
        self._config = BertConfig.of(json_object(model.files, "config.json"))
        self._texts = TextEncoder(model.files, vocabulary=self._config.vocab_size)
        self._info = _describe(self._config, model.digest, self._settings)
        self._turns = Turns(self._settings.max_waiting)
        self._worker: Worker | None = None
        self._encoder: BertEncoder | None = None
        self._failure: EngineFailed | None = None
        self._finished = self._cancelled = self._tokens = 0

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def start(self) -> EngineInfo:
        """Loads the model and tests it with one text. Raises EngineFailed."""
        if self._worker is not None:
            raise UsageError("engine: expected a new engine, got one that was started before")
        self._worker = Worker("umay-embedding")
        await self._compute(self._load)
        return self._info

    async def embed(self, request: EmbedRequest, *, client: bytes) -> Embedded:
        """See embedding.Embedder."""
        wide = self._config.hidden_size
        if request.dimensions not in (None, wide):
            text = f"expected {wide}, because this model has no other vectors; leave it out"
            raise refused("dimensions", text)
        self._running()
        self._turns.check(client)  # or all of this is for nothing
        ids = await asyncio.to_thread(self._texts.encode, request, most=self._info.max_len)
        try:
            vectors = await self._vectors(ids, client)
        except asyncio.CancelledError:
            self._cancelled += 1
            raise
        for at, vector in enumerate(vectors):
            if not vector:
                raise refused(request.name(at), "expected a text to which the model gives finite "
                              "numbers, got another one")  # fmt: skip
        self._finished += 1
        return Embedded(tuple(vectors), sum(map(len, ids)))

    def stats(self) -> EngineStats:
        return EngineStats(
            slots=self._info.slots,
            running=self._turns.running,
            waiting=self._turns.waiting,
            finished=self._finished,
            cancelled=self._cancelled,
            tokens=self._tokens,
        )

    def failure(self) -> EngineFailed | None:
        """What stopped it, or that one step lasts too long."""
        if self._failure is None and self._worker and self._worker.busy_s() > STALL_S:
            return EngineFailed(f"engine: one step has taken more than {STALL_S:.0f} s")
        return self._failure

    async def close(self) -> None:
        """Refuses whoever waits, ends the thread and forgets the model's bytes."""
        self._fail(EngineFailed("engine: it was closed"))
        if self._worker is not None:
            await self._worker.close()
        self._encoder = None
        self._files.clear()

    async def _vectors(self, ids: Sequence[Sequence[int]], client: bytes) -> list[bytes]:
        found = [b""] * len(ids)
        with self._turns.place(client) as place:
            for batch in batches([len(text) for text in ids]):
                step = functools.partial(self._step, [ids[at] for at in batch])
                async with self._turns.turn(place):
                    vectors = await self._compute(step)
                for at, vector in zip(batch, vectors, strict=True):
                    found[at] = vector
        return found

    async def _compute(self, action: Callable[[], T]) -> T:
        """On the worker. Raises EngineFailed, and is the end of the engine, for whatever goes
        wrong there: no text of an error leaves that was not written for people."""
        try:
            return await self._running().run(action)
        except Exception as error:
            told = isinstance(error, UmayError)
            text = str(error) if told else f"engine: it was stopped by {type(error).__name__}"
            self._fail(EngineFailed(text))
            raise EngineFailed(text) from None

    def _running(self) -> Worker:
        if self._failure is not None:
            raise self._failure
        if self._worker is None:
            raise EngineFailed("engine: expected a running engine, this one was not started")
        return self._worker

    def _fail(self, failure: EngineFailed) -> None:
        self._failure = self._failure or failure
        self._turns.end(failure)

    # The methods from here on run on the worker thread.

    def _load(self) -> None:
        use_threads(self._settings.threads)
        encoder = BertEncoder(self._config, tensors(self._files))
        request = EmbedRequest(inputs=(SELF_TEST,))
        most = self._config.max_position_embeddings
        ids = torch.tensor(self._texts.encode(request, most=most))
        alone, twice = encoder.vectors(ids), encoder.vectors(ids.repeat(2, 1))
        greatest = float(alone.abs().max())
        gap = float((twice - alone).abs().max())
        if not 0 < greatest < float("inf") or not gap <= SELF_TEST_GAP * greatest:
            raise EngineFailed(
                "engine: the self-test expected one vector for a text, alone and in company, got "
                "others"
            )
        self._encoder = encoder

    def _step(self, ids: Sequence[Sequence[int]]) -> list[bytes]:
        """A vector for each of some texts of one length; empty where it is not finite."""
        if self._encoder is None:
            raise EngineFailed("engine: it was closed")
        found = self._encoder.vectors(torch.tensor(ids))
        self._tokens += found.shape[0] * len(ids[0])
        finite = found.isfinite().all(1).tolist()
        form = f"<{found.shape[1]}f"
        return [
            struct.pack(form, *vector) if good else b""
            for vector, good in zip(found.tolist(), finite, strict=True)
        ]


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The numbers of the texts with these lengths, in steps."""
    order = sorted(range(len(lengths)), key=lambda at: lengths[at])
    for length, found in itertools.groupby(order, key=lambda at: lengths[at]):
        same = list(found)
        width = max(1, STEP_TOKENS // length)
        yield from (same[at : at + width] for at in range(0, len(same), width))


def _describe(config: BertConfig, digest: bytes, settings: EmbeddingSettings) -> EngineInfo:
    most = config.max_position_embeddings
    max_len = settings.max_len or config.max_tokens
    if not 2 < max_len <= most:
        raise UsageError(f"engine: expected max_len from 3 to {most}, got {max_len}")
    return EngineInfo(
        engine=ENGINE,
        version=ENGINE_VERSION,
        libraries=tuple((name, version(name)) for name in LIBRARIES),
        device="cpu",
        dtype="float32",
        quantisation="none",
        flags=(
            ("normalize", config.normalize),
            ("pooling", config.pooling),
            ("step_tokens", STEP_TOKENS),
        ),
        slots=1,
        max_len=max_len,
        model_digest=digest,
        features=frozenset({"embeddings"}),
    )
