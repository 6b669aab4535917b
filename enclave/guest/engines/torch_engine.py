"""The engine in the guest's own process: torch, the model classes of transformers, and our slots.

It is made from a model's bytes in memory and opens no file. One worker thread owns the model and
the scheduler. The event loop gives it requests through an inbox with a lock, and gets the pieces
back through one queue for each answer. An answer has at most `max_len` tokens, so the context
limits the length of these queues. No code of a model runs, only the architectures that are named
here, from the installed library.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import replace

import torch

from attestation.errors import UmayError, Unavailable, UsageError
from enclave.guest.engines.base import (
    Answer,
    ContextOverflow,
    Delta,
    EngineFailed,
    EngineInfo,
    EngineStats,
    FieldRefused,
    GenerateRequest,
    QueueFull,
    refused,
)
from enclave.guest.engines.fair_queue import Names
from enclave.guest.engines.generation import read_generation
from enclave.guest.engines.grammar import Grammars
from enclave.guest.engines.kv_cache import SlotCache
from enclave.guest.engines.loading import (
    SELF_TEST_TOKENS,
    check_room,
    load_model,
    self_test,
)
from enclave.guest.engines.logprobs import scorer
from enclave.guest.engines.prompt import PromptEncoder, json_object
from enclave.guest.engines.sampling import Sampler, Sampling
from enclave.guest.engines.slots import Counters, Job, Scheduler
from enclave.guest.engines.text import Detokenizer, StopFilter
from enclave.guest.engines.threads import use_threads
from enclave.guest.engines.torch_settings import DTYPES, TorchSettings, describe
from enclave.guest.model import ModelFiles

SELF_TEST_PROMPT = "What is attestation? " * 12

STALL_S = 120.0
"""One step of the scheduler takes seconds at most, also where a large model runs on a CPU."""

JOIN_S = 5.0
"""For the worker to end. One that hangs in a device ends with the process."""


_Piece = Delta | Unavailable | FieldRefused
"""What an answer's queue holds: an error is the last one."""


class TorchEngine:
    """An Engine (see base) that uses the slot scheduler."""

    def __init__(self, model: ModelFiles, *, settings: TorchSettings | None = None) -> None:
        self._settings = settings or TorchSettings()
        self._files: dict[str, bytearray] = dict(model.files)
        self._config = json_object(model.files, "config.json")
        generation = json_object(model.files, "generation_config.json", optional=True)
        self._encoder = PromptEncoder(model.files)
        self._info = describe(self._config, model.digest, self._settings)
        self._generation = read_generation(generation, self._config)
        self._encoder.check_vocabulary(self._config["vocab_size"])
        self._grammars = Grammars(
            self._encoder.tokenizer_json,
            vocabulary=self._config["vocab_size"],
            generation=self._generation,
        )
        self._wake = threading.Condition()
        self._inbox: list[Job] = []
        self._outbox: list[tuple[_Answer, _Piece]] = []
        self._live: dict[_Answer, None] = {}
        self._names = Names()
        self._state = "new"
        self._failure: EngineFailed | None = None
        self._step_began: float | None = None
        self._counters = Counters()
        self._thread: threading.Thread | None = None

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def start(self) -> EngineInfo:
        """Loads the model, tests the engine with one short greedy answer, and starts to serve.
        Raises EngineFailed."""
        if self._state != "new":
            raise UsageError("engine: expected a new engine, got one that was started before")
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        self._state = "starting"
        self._thread = threading.Thread(
            target=self._work, args=(loop, ready), name="umay-engine", daemon=True
        )
        self._thread.start()
        await ready
        if self._state != "starting":
            raise EngineFailed("engine: expected to start, but it was closed while it started")
        self._state = "running"
        return self._info

    async def prepare(self, request: GenerateRequest) -> GenerateRequest:
        """The same request with its token ids and grammar; see base.Engine."""
        self._displaced(request.cache_salt)  # or all of this is for nothing
        ids = await asyncio.to_thread(self._encode, request)
        grammar = None
        if request.schema is not None:
            grammar = await self._grammars.compile(request.schema, request.cache_salt)
        return replace(request, token_ids=tuple(ids), grammar=grammar)

    def generate(self, request: GenerateRequest) -> Answer:
        """Puts the request into the queue; see base.Engine. `aclose()` of the answer cancels it."""
        answer = _Answer(self, request.cache_salt)
        displaced = self._displaced(answer.name)
        job = answer.job = self._job(request, answer)
        job.name = answer.name
        if displaced is not None:
            displaced.displace()
        self._live[answer] = None
        with self._wake:
            self._inbox.append(job)
            self._wake.notify()
        return answer

    def stats(self) -> EngineStats:
        live, slots = len(self._live), self._settings.slots
        return EngineStats(
            slots=slots,
            running=min(live, slots),
            waiting=max(0, live - slots),
            finished=self._counters.finished,
            cancelled=self._counters.cancelled,
            tokens=self._counters.tokens,
        )

    def failure(self) -> EngineFailed | None:
        """What stopped the worker, or that one step of it lasts too long."""
        began = self._step_began
        if self._failure is None and began is not None and time.monotonic() > began + STALL_S:
            return EngineFailed(f"engine: one step has taken more than {STALL_S:.0f} s")
        return self._failure

    async def close(self) -> None:
        """Cancels every answer, ends the thread and forgets the model's bytes."""
        with self._wake:
            self._state = "closed"
            self._wake.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, JOIN_S)
        self._grammars.close()
        self._files.clear()

    def _displaced(self, name: bytes) -> _Answer | None:
        """The waiting answer that makes room for one of this name, where there is none. Raises
        EngineFailed, QueueFull."""
        if self._state != "running":
            raise EngineFailed("engine: expected a running engine, this one does not run")
        if len(self._live) < self._settings.slots + self._settings.max_waiting:
            return None
        waiting = [one for one in self._live if one.job and not one.job.turn]
        return self._names.to_displace(waiting, name)

    def _job(self, request: GenerateRequest, answer: _Answer) -> Job:
        """The request as token ids and settings. Raises UsageError."""
        prompt = self._encode(request) if request.token_ids is None else list(request.token_ids)
        source = "prompt" if request.messages is None else "messages"
        if not prompt:
            raise refused(source, "expected at least one token, got none")
        room = self._info.max_len - len(prompt)
        wanted = request.max_tokens or self._generation.most(len(prompt), room)
        if room < max(1, wanted):
            raise ContextOverflow(
                f"{source}: expected prompt and answer within {self._info.max_len} tokens, "
                f"got a prompt of {len(prompt)} and an answer of at most {max(1, wanted)}",
                param=source,
            )
        if any(token >= self._config["vocab_size"] for token in request.logit_bias):
            raise refused(
                "logit_bias",
                "expected token ids of this model's vocabulary, got one that is not in it",
            )
        if request.schema is not None and request.grammar is None:
            raise UsageError("request: expected a schema that `prepare` compiled, got one as text")
        sampler = Sampler(
            Sampling.of(request, self._generation.defaults),
            seed=request.seed,
            logit_bias=request.logit_bias,
            device=torch.device(self._settings.device),
            rules=self._generation.rules,
            prompt=prompt,
            choice=request.choice,
        )
        return Job(
            prompt=prompt,
            max_tokens=wanted,
            sampler=sampler,
            text=Detokenizer(self._encoder.decode),
            stops=StopFilter(request.stop),
            tell=lambda delta: self._outbox.append((answer, delta)),
            score=scorer(request.logprobs, self._encoder.spell),
            grammar=request.grammar.deep_copy() if request.grammar is not None else None,
        )

    def _encode(self, request: GenerateRequest) -> list[int]:
        most = self._info.max_len
        if request.messages is not None:
            return self._encoder.encode_chat(request.messages, max_tokens=most)
        return self._encoder.encode_text(request.prompt or "", max_tokens=most)

    # The methods from here on run on the worker thread.

    def _work(self, loop: asyncio.AbstractEventLoop, ready: asyncio.Future[None]) -> None:
        """Loads the model, reports that it is ready, and then works until the engine is closed. No
        traceback leaves this thread, because it could contain a prompt."""
        try:
            scheduler = self._load()
            loop.call_soon_threadsafe(_settle, ready, None)
            while self._take(scheduler):
                self._step_began = time.monotonic()
                scheduler.step()
                self._step_began = None
                self._deliver(loop)
            self._deliver(loop)
        except BaseException as error:  # a panic of a library in Rust is no Exception
            if isinstance(error, UmayError):  # its message was written for people
                failure = EngineFailed(str(error))
            else:
                failure = EngineFailed(f"engine: it was stopped by {type(error).__name__}")
            with contextlib.suppress(RuntimeError):  # the loop may be gone
                loop.call_soon_threadsafe(_settle, ready, failure)
                loop.call_soon_threadsafe(self._fail, failure)

    def _load(self) -> Scheduler:
        settings = self._settings
        use_threads(settings.threads)
        device, dtype = torch.device(settings.device), DTYPES[self._info.dtype]
        max_len = self._info.max_len
        prompt = self._encoder.encode_text(SELF_TEST_PROMPT, max_tokens=1024)
        prompt = prompt[: max(1, max_len - SELF_TEST_TOKENS)]
        model, expected = load_model(self._config, self._files, dtype=dtype, device=device,
                                     max_len=max_len, prompt=prompt)  # fmt: skip
        check_room(self._info.kv_bytes, device)
        cache = SlotCache(model.kept, slots=settings.slots, max_len=max_len,
                          dtype=dtype, device=device)  # fmt: skip
        scheduler = Scheduler(
            model,
            cache,
            max_len=max_len,
            stop_ids=self._generation.stop_ids,
            prefill_piece=settings.prefill_piece,
            prefill_beside=settings.beside,
            deterministic=settings.deterministic,
            names=self._names,
        )
        self_test(scheduler, expected, self._encoder.decode)
        self._counters = scheduler.counters = Counters()
        return scheduler

    def _take(self, scheduler: Scheduler) -> bool:
        """Gives new jobs to the scheduler, and waits while there are none. False if the engine was
        closed."""
        with self._wake:
            while self._state != "closed" and not self._inbox and scheduler.idle:
                self._wake.wait()
            for job in self._inbox:
                scheduler.add(job)
            self._inbox.clear()
            closed = self._state == "closed"
        if closed:
            for job in scheduler.jobs():
                job.cancelled = True
            scheduler.step()
        return not closed

    def _deliver(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._outbox:
            pieces, self._outbox = self._outbox, []
            loop.call_soon_threadsafe(_hand_out, pieces)

    # The methods from here on run on the thread of the event loop.

    def _fail(self, failure: EngineFailed) -> None:
        self._state, self._failure = "failed", failure
        for answer in list(self._live):
            answer.put(failure)

    def _forget(self, answer: _Answer) -> None:
        self._live.pop(answer, None)

    def _cancel(self, answer: _Answer) -> None:
        self._forget(answer)
        if answer.job is not None:
            answer.job.cancelled = True
        with self._wake:
            self._wake.notify()


class _Answer:
    """The iterator over one answer's Deltas."""

    def __init__(self, engine: TorchEngine, name: bytes) -> None:
        self._engine, self.name = engine, name
        self._queue: asyncio.Queue[_Piece] = asyncio.Queue()
        self._done = False
        self.job: Job | None = None

    def __aiter__(self) -> _Answer:
        return self

    async def __anext__(self) -> Delta:
        if self._done:
            raise StopAsyncIteration
        piece = await self._queue.get()
        if not isinstance(piece, Delta):
            self._done = True
            raise piece
        self._done = piece.finish_reason is not None
        return piece

    def put(self, piece: _Piece) -> None:
        """Takes a piece from the worker. The last piece makes room for the next request."""
        if not isinstance(piece, Delta) or piece.finish_reason is not None:
            self._engine._forget(self)
        if isinstance(piece, Delta) and piece.finish_reason not in (None, "cancelled"):
            self._engine._names.finished(self.name)
        self._queue.put_nowait(piece)

    def displace(self) -> None:
        """Ends it before it began: its place is needed for another client."""
        self._engine._cancel(self)
        self.put(QueueFull("engine: expected fewer requests of one client; try again later"))

    async def aclose(self) -> None:
        """Cancels the answer. It may be called at any time and repeatedly."""
        if not self._done:
            self._done = True
            self._engine._cancel(self)


def _hand_out(pieces: list[tuple[_Answer, _Piece]]) -> None:
    for answer, delta in pieces:
        answer.put(delta)


def _settle(ready: asyncio.Future[None], failure: EngineFailed | None) -> None:
    if ready.done():
        return
    if failure is None:
        ready.set_result(None)
    else:
        ready.set_exception(failure)
