"""Trains the demo model in enclave/guest/demo_model, on the CPU, in about three minutes.

The same seed, the same build of torch and the same CPU give the same bytes. Another CPU may round
differently, and then the model digest is another. So the committed files are the model, and this
script shows how they were made.

    python scripts/train_demo_model.py enclave/guest/demo_model
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path

import demo_corpus
import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

SEED = 20260917
VOCABULARY = 1024
CONTEXT = 1024
BATCH_TOKENS = 4096
STEPS = 480
PEAK_RATE = 4e-3
WARMUP = 30
CONVERSATIONS = 24_000
SPECIAL = ("<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
PAD, BEGIN, END = 0, 1, 2
OPENING_TOKENS = 4
OPENING_WEIGHT = 5.0
"""The first tokens of an answer decide which answer it is; the others only recite it."""

CHAT_TEMPLATE = (
    "<|begin|>"
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{ raise_exception('role must be system, user or assistant') }}"
    "{%- endif -%}"
    "{{ '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)


def render(system: str | None, turns: demo_corpus.Conversation) -> list[tuple[str, bool]]:
    """The pieces of the conversation, each with whether the model learns to write it."""
    template = ImmutableSandboxedEnvironment().from_string(CHAT_TEMPLATE)
    messages = [{"role": "system", "content": system}] if system else []
    pieces: list[tuple[str, bool]] = []
    done = ""
    for question, answer in turns:
        messages.append({"role": "user", "content": question})
        asked = template.render(messages=messages, add_generation_prompt=True)
        messages.append({"role": "assistant", "content": answer})
        whole = template.render(messages=messages)
        pieces += [(asked[len(done) :], False), (whole[len(asked) :], True)]
        done = whole
    return pieces


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE. Every string of bytes has tokens, so no text is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


Example = tuple[list[int], list[float]]


def examples(tokenizer: Tokenizer) -> list[Example]:
    """Pairs of token ids and weights. The weight of a token is 0 where the assistant does not
    speak."""
    made = []
    for system, turns in demo_corpus.conversations(SEED + 1, CONVERSATIONS):
        ids: list[int] = []
        counts: list[float] = []
        for text, learnt in render(system, turns):
            piece = tokenizer.encode(text, add_special_tokens=False).ids
            ids += piece
            opening = min(OPENING_TOKENS, len(piece))
            spoken = [OPENING_WEIGHT] * opening + [1.0] * (len(piece) - opening)
            counts += spoken if learnt else [0.0] * len(piece)
        made.append((ids[:CONTEXT], counts[:CONTEXT]))
    return made


def batches(made: list[Example], rng: random.Random):
    """Batches of about BATCH_TOKENS tokens in rows of similar lengths. They never end."""
    while True:
        order = sorted(rng.sample(range(len(made)), len(made)), key=lambda i: len(made[i][0]) // 16)
        groups: list[list[int]] = [[]]
        for index in order:
            if (len(groups[-1]) + 1) * len(made[index][0]) > BATCH_TOKENS:
                groups.append([])
            groups[-1].append(index)
        rng.shuffle(groups)
        for group in groups:
            yield pad([made[index] for index in group])


def pad(rows: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(ids) for ids, _ in rows)
    inputs = torch.tensor([ids + [PAD] * (longest - len(ids)) for ids, _ in rows])
    counts = torch.tensor([mark + [0.0] * (longest - len(mark)) for _, mark in rows])
    return inputs, counts


def new_model() -> LlamaForCausalLM:
    torch.manual_seed(SEED)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            rope_theta=10000.0,
            tie_word_embeddings=True,
            bos_token_id=BEGIN,
            eos_token_id=END,
            pad_token_id=PAD,
        )
    )


def rate(step: int) -> float:
    if step < WARMUP:
        return PEAK_RATE * (step + 1) / WARMUP
    return PEAK_RATE * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / STEPS)))


def train(model: LlamaForCausalLM, made: list[Example]) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    source = batches(made, random.Random(SEED + 2))  # noqa: S311
    began = time.monotonic()
    model.train()
    for step in range(STEPS):
        inputs, counts = next(source)
        # Rows are padded on the right and causal: padding is never seen by a token that counts.
        logits = model(input_ids=inputs, use_cache=False).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), inputs[:, 1:].flatten(), reduction="none"
        )
        counts = counts[:, 1:].flatten()
        loss = (losses * counts).sum() / counts.sum()
        for group in optimiser.param_groups:
            group["lr"] = rate(step)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 0 or step == STEPS - 1:
            told = f"step {step} loss {loss.item():.3f} {time.monotonic() - began:.0f} s\n"
            sys.stdout.write(told)
            sys.stdout.flush()


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, directory: Path) -> None:
    """Writes the six files of the model, and nothing else."""
    directory.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        bos_token_id=BEGIN, eos_token_id=END, pad_token_id=PAD, do_sample=False
    )
    model.to(torch.bfloat16).save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)
    (directory / "tokenizer.json").write_text(tokenizer.to_str())
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "bos_token": "<|begin|>",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    texts = ["".join(text for text, _ in render(*made))
             for made in demo_corpus.conversations(SEED, 3000)]  # fmt: skip
    tokenizer = train_tokenizer(texts)
    model = new_model()
    sys.stdout.write(f"{sum(p.numel() for p in model.parameters())} parameters\n")
    train(model, examples(tokenizer))
    save(model, tokenizer, options.directory)


if __name__ == "__main__":
    main()
