"""The engine's decoding on one GPU beside transformers: `make bench-gpu`, within eight minutes.

Random models of 1 and 8 billion parameters, with 1, 32 and 128 streams: tokens per second, time to
the first token, the part of the memory's bandwidth that the steps use, and the copies between host
and device in one step. The bandwidth is what a plain copy on the same device reaches. What the time
does not suffice for is told as null.

    python -m benchmarks._gpu [cuda|cpu]     cpu runs it with a tiny model, to see that it works
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks._models import continuous, generate
from enclave.guest.engines.decoder import Decoder
from enclave.guest.engines.fair_queue import Names
from enclave.guest.engines.kv_cache import SlotCache
from enclave.guest.engines.sampling import Sampler, Sampling
from enclave.guest.engines.slots import Job, Scheduler
from enclave.guest.engines.text import Detokenizer, StopFilter

LIMIT_S = 460.0
PROMPT, TOKENS, MAX_LEN = 128, 128, 512
STREAMS = (1, 32, 128)
COMMON = {"max_position_embeddings": 4096, "vocab_size": 128_256, "num_key_value_heads": 8,
          "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}}  # fmt: skip
MODELS = {
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "head_dim": 64, "tie_word_embeddings": True},
    "8B": {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "head_dim": 128, "tie_word_embeddings": False},
}  # fmt: skip
TINY = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 2, "vocab_size": 4096,
        "num_attention_heads": 8, "head_dim": 32, "tie_word_embeddings": True}  # fmt: skip


def main() -> int:
    device = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cuda")
    ends = time.monotonic() + LIMIT_S
    torch.set_grad_enabled(False)
    models = MODELS if device.type == "cuda" else {"tiny": TINY}
    for name, sizes in models.items():
        for figure in _figures(name, LlamaConfig(**COMMON | sizes), device, ends):
            print(json.dumps({"device": _name(device), **figure}), flush=True)
    return 0


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _figures(name: str, settings: LlamaConfig, device: torch.device,
             ends: float) -> Iterator[dict[str, Any]]:  # fmt: skip
    torch.manual_seed(1)
    torch.set_default_device(device)
    counts = STREAMS if device.type == "cuda" else (1, 3)
    library = AutoModelForCausalLM.from_config(settings, dtype=torch.bfloat16).eval()
    torch.set_default_device("cpu")
    peers = {
        (peer, streams): _peer(library, peer, streams, ends)
        for streams in counts
        for peer in ("generate", "continuous_batching")
    }
    rotary, weights = library.model.rotary_emb, dict(library.state_dict())
    del library
    size = sum(value.nbytes for name, value in weights.items() if "embed_tokens" not in name)
    model = Decoder(settings, weights, rotary, max_len=MAX_LEN)
    bandwidth = _bandwidth(device)
    for streams in counts:
        found = _ours(model, streams, ends)
        yield {"bench": f"gpu.{name}.streams_{streams}", "n": 1, **found} | {
            "roofline": found["steps_s"] and round(found["steps_s"] * size / bandwidth, 3),
            "generate_tokens_s": peers["generate", streams],
            "continuous_batching_tokens_s": peers["continuous_batching", streams],
        }


def _ours(model: Decoder, streams: int, ends: float) -> dict[str, Any]:
    """The second of two rounds; the first one records the steps' shapes."""
    cache = SlotCache(model.kept, slots=streams, max_len=MAX_LEN, dtype=torch.bfloat16,
                      device=model.device)  # fmt: skip
    scheduler = Scheduler(model, cache, max_len=MAX_LEN, stop_ids=frozenset(), prefill_piece=512,
                          prefill_beside=256, deterministic=False, names=Names())  # fmt: skip
    nothing = {"tokens_s": None, "first_token_ms": None, "steps_s": None, "crossings": None}
    for _ in range(2):
        if time.monotonic() > ends:
            return nothing
        began = time.monotonic()
        firsts = _add(scheduler, streams)
        while any(at == 0.0 for at in firsts):
            scheduler.step()
        filled = time.monotonic()
        steps = 0
        while not scheduler.idle:
            scheduler.step()
            steps += 1
        taken = time.monotonic() - began
    return {
        "tokens_s": round(streams * TOKENS / taken, 1),
        "first_token_ms": round(median(at - began for at in firsts) * 1000, 1),
        "steps_s": round(steps / (began + taken - filled), 1),
        "crossings": _crossings(scheduler, streams),
    }


def _add(scheduler: Scheduler, streams: int) -> list[float]:
    """The times of the first tokens, 0.0 until there is one."""
    firsts = [0.0] * streams

    def teller(at: int) -> Callable[[Any], None]:
        def tell(_: Any) -> None:
            firsts[at] = firsts[at] or time.monotonic()

        return tell

    for at in range(streams):
        prompt = [3 + (number * 7 + at) % 4000 for number in range(PROMPT)]
        sampler = Sampler(Sampling(), seed=0, logit_bias={}, device=scheduler.device)
        text = Detokenizer(lambda ids: "a" * len(ids))
        scheduler.add(Job(prompt, TOKENS, sampler, text, StopFilter(()), teller(at)))
    return firsts


def _crossings(scheduler: Scheduler, streams: int) -> float | None:
    """Copies between host and device in one step."""
    if scheduler.device.type != "cuda":
        return None
    firsts = _add(scheduler, streams)
    while any(at == 0.0 for at in firsts):
        scheduler.step()
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(10):
            scheduler.step()
    events = profile.events() or []
    copies = [e for e in events if e.name.startswith(("Memcpy HtoD", "Memcpy DtoH"))]
    while not scheduler.idle:
        scheduler.step()
    return len(copies) / 10


def _peer(library: Any, kind: str, streams: int, ends: float) -> float | None:
    ids = [3 + number * 7 % 4000 for number in range(PROMPT)]
    best = None
    for _ in range(2):
        if time.monotonic() > ends - LIMIT_S / 3:
            return best
        began = time.monotonic()
        try:
            if kind == "generate":
                generate(library, [ids] * streams, TOKENS)
            else:
                continuous(library, [ids] * streams, TOKENS, batch_tokens=2048)
        except Exception as error:  # a peer that does not run here is told, and is no figure
            sys.stderr.write(f"{kind}, {streams} streams: {type(error).__name__}\n")
            return None
        best = round(streams * TOKENS / (time.monotonic() - began), 1)
    return best


def _bandwidth(device: torch.device) -> float:
    """Bytes per second that a copy reads and writes."""
    size = 1 << 31 if device.type == "cuda" else 1 << 26
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    taken = []
    for _ in range(5):
        _wait(device)
        began = time.monotonic()
        target.copy_(source)
        _wait(device)
        taken.append(time.monotonic() - began)
    return 2 * size / min(taken)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main())
