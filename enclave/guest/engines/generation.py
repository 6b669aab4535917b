"""What a model's generation_config.json asks for: applied, without effect, or refused by name.

Every key is in one of the three tables here. An unknown key is refused at load, because it could
change tokens. Defaults are used where a request says nothing; rules hold for every answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attestation.errors import ParseError
from enclave.guest.engines.base import MOST_COUNT
from enclave.guest.engines.fields import same
from enclave.guest.engines.sampling import Rules, Sampling

FILE = "generation_config.json"

NUMBERS: Mapping[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "top_p": (1e-6, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
}
"""Keys that are applied, with the least and the greatest value."""

COUNTS = ("top_k", "min_new_tokens", "max_new_tokens", "max_length")
TOKENS = ("suppress_tokens", "begin_suppress_tokens", "eos_token_id")

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "min_length": (0,),
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "num_return_sequences": (1,),
    "diversity_penalty": (0.0, 0),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0, 1),
    "typical_p": (1.0, 1),
    "epsilon_cutoff": (0.0, 0),
    "eta_cutoff": (0.0, 0),
    "top_h": (),
    "guidance_scale": (1.0, 1),
    "penalty_alpha": (0.0, 0),
    "dola_layers": (),
    "token_healing": (False,),
    "remove_invalid_values": (False,),
    "bad_words_ids": ([],),
    "force_words_ids": ([],),
    "constraints": ([],),
    "sequence_bias": ({}, []),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (),
    "watermarking_config": (),
    "stop_strings": ([],),
    "max_time": (),
    "use_mtp": (False,),
    "cache_implementation": ("dynamic", "static", "offloaded", "offloaded_static"),
    "cache_config": ({},),
}
"""Keys that would change tokens, and that this engine does not apply, with the values that change
none. The caches named here hold the same keys and values as ours."""

UNSET: Mapping[str, tuple[Any, ...]] = {
    "do_sample": (False,),
    "temperature": (1.0,),
    "top_p": (1.0,),
    "top_k": (0, 50),
    "min_p": (0.0,),
    "repetition_penalty": (1.0,),
    "min_new_tokens": (0,),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
}
"""Values of applied keys that are the same as their absence (50 is what transformers writes)."""

WITHOUT_EFFECT = frozenset({
    "transformers_version", "_from_model_config", "bos_token_id", "pad_token_id",
    "decoder_start_token_id", "use_cache", "renormalize_logits", "length_penalty",
    "early_stopping", "low_memory", "return_dict_in_generate", "output_attentions",
    "output_hidden_states", "output_scores", "output_logits", "compile_config",
    "disable_compile", "continuous_batching_config", "prefill_chunk_size", "max_cache_len",
    "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind",
    "target_lookbehind", "assistant_ensemble_weight", "prompt_lookup_num_tokens",
    "max_matching_ngram_size", "speculation_type",
})  # fmt: skip
"""Keys about speed and about what `generate` returns, and those that only beams or a second model
use: they change no token of a decoder that writes one answer."""


@dataclass(frozen=True)
class Generation:
    """`max_new_tokens` and `max_length` (with the prompt) bound answers whose request has no limit
    of its own; `stop_ids` end an answer."""

    defaults: Sampling
    rules: Rules
    stop_ids: frozenset[int]
    max_new_tokens: int | None
    max_length: int | None

    def most(self, prompt: int, room: int) -> int:
        """The most tokens of an answer to a prompt of this many tokens, by default."""
        if self.max_new_tokens is not None:
            return min(room, self.max_new_tokens)
        return room if self.max_length is None else min(room, max(1, self.max_length - prompt))


def read_generation(found: Mapping[str, Any], config: Mapping[str, Any]) -> Generation:
    """`found` is the content of generation_config.json, `config` that of config.json.

    Raises ParseError, which names the key.
    """
    _check_config(config, found)
    values = {key: value for key, value in found.items() if value is not None}
    for key, value in values.items():
        _check(key, value, FILE)
    vocabulary = int(config["vocab_size"])
    tokens = {key: _tokens(values.get(key), key, vocabulary) for key in TOKENS}
    stop_ids = {*tokens["eos_token_id"]}
    stop_ids.update(_tokens(config.get("eos_token_id"), "eos_token_id", vocabulary))
    rules = Rules(
        suppress=tokens["suppress_tokens"],
        begin_suppress=tokens["begin_suppress_tokens"],
        min_new_tokens=values.get("min_new_tokens", 0),
        stop_ids=tuple(sorted(stop_ids)),
    )
    if len({*rules.suppress, *rules.begin_suppress, *stop_ids}) >= vocabulary:
        raise ParseError(
            f"{FILE}: suppress_tokens: expected to leave one token at least, left none"
        )
    return Generation(
        defaults=_defaults(values),
        rules=rules,
        stop_ids=frozenset(stop_ids),
        max_new_tokens=values.get("max_new_tokens"),
        max_length=values.get("max_length"),
    )


def _defaults(values: Mapping[str, Any]) -> Sampling:
    """Greedy unless the model says `do_sample`; then the model's own temperature, top_p, top_k and
    min_p. A penalty for repetition holds in both cases."""
    penalty = float(values.get("repetition_penalty", 1.0))
    if values.get("do_sample") is not True:
        return Sampling(repetition_penalty=penalty)
    return Sampling(
        temperature=float(values.get("temperature", 1.0)),
        top_p=float(values.get("top_p", 1.0)),
        top_k=values.get("top_k", 0),
        min_p=float(values.get("min_p", 0.0)),
        repetition_penalty=penalty,
    )


def _check(key: str, value: Any, file: str) -> None:
    if key in NUMBERS:
        low, high = NUMBERS[key]
        if type(value) not in (int, float) or not low <= value <= high:
            raise ParseError(
                f"{file}: {key}: expected a number from {low} to {high}, got {value!r:.40}"
            )
    elif key in COUNTS:
        least = 0 if key in ("top_k", "min_new_tokens") else 1
        if type(value) is not int or not least <= value <= MOST_COUNT:
            raise ParseError(
                f"{file}: {key}: expected an integer from {least} to {MOST_COUNT}, "
                f"got {value!r:.40}"
            )
    elif key == "do_sample":
        if type(value) is not bool:
            raise ParseError(f"{file}: do_sample: expected true or false, got {value!r:.40}")
    elif key in NEUTRAL:
        if not any(same(value, neutral) for neutral in NEUTRAL[key]):
            raise ParseError(
                f"{file}: {key}: expected no such key, or a value that changes no token, got "
                f"{value!r:.40}; this engine does not apply it"
            )
    elif key not in WITHOUT_EFFECT and key not in TOKENS:
        raise ParseError(
            f"{file}: {key:.80}: expected a key that this engine knows, got this one; it could "
            "change tokens"
        )


def _check_config(config: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """config.json may repeat these settings, as old versions of transformers wrote them. What it
    says then must be without effect, or stand in generation_config.json too."""
    applied = {*NUMBERS, *COUNTS, "do_sample", "suppress_tokens", "begin_suppress_tokens"}
    for key in sorted((applied | NEUTRAL.keys()) & config.keys()):
        if config[key] is not None and not same(config[key], found.get(key)):
            if any(same(config[key], neutral) for neutral in _unset(key)):
                continue
            raise ParseError(
                f"config.json: {key}: expected it in {FILE} too and with the same value, got "
                f"{config[key]!r:.40} here"
            )


def _unset(key: str) -> tuple[Any, ...]:
    """The values of a key that are the same as its absence."""
    return NEUTRAL.get(key, UNSET.get(key, ()))


def _tokens(value: Any, key: str, vocabulary: int) -> tuple[int, ...]:
    found = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(token) is int and 0 <= token < vocabulary for token in found):
        raise ParseError(f"{FILE}: {key}: expected token ids below {vocabulary}, got another value")
    return tuple(dict.fromkeys(found))
