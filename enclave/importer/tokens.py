"""The tokenizer and the chat template of a GGUF file, in the formats of tokenizers and
transformers.

Byte-level BPE only (`gpt2` in GGUF's words). The pre-tokenizer that the file names says how a text
is split before BPE; a name that is not known here is refused, because it would give other tokens.
"""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers as split
from tokenizers.processors import TemplateProcessing

from attestation.errors import ParseError
from enclave.importer.fields import Fields

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Of llama.cpp's token types."""

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""For a file that has ChatML's tokens and no template."""

KEYS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
PRE = "tokenizer.ggml."


def splitters() -> dict[str, split.PreTokenizer]:
    """By `tokenizer.ggml.pre`."""
    byte_level = split.ByteLevel(add_prefix_space=False, use_regex=True)
    plain = split.ByteLevel(add_prefix_space=False, use_regex=False)
    return {
        "gpt-2": byte_level,
        "smollm": split.Sequence([split.Digits(individual_digits=True), byte_level]),
        "qwen2": split.Sequence([split.Split(Regex(QWEN2), "isolated"), plain]),
    }


def tokenizer_of(fields: Fields) -> Tokenizer:
    """Raises ParseError for tokens or settings that are not those of a byte-level BPE."""
    _check_settings(fields)
    words, kinds = fields.texts(f"{PRE}tokens"), fields.integers(f"{PRE}token_type")
    if len(words) != len(kinds) or len(set(words)) != len(words):
        raise ParseError(f"GGUF: {PRE}tokens: expected each once and with a type, got others")
    if unknown := set(kinds) - {NORMAL, CONTROL, USER_DEFINED, UNUSED}:
        raise ParseError(f"GGUF: {PRE}token_type: expected 1, 3, 4 or 5, got {min(unknown)}")
    tokenizer = _bpe(words, fields.texts(f"{PRE}merges"))
    name = fields.text(f"{PRE}pre", "gpt-2")
    known = splitters()
    if name not in known:
        raise ParseError(f"GGUF: {PRE}pre: expected one of {', '.join(known)}, got {name!r}")
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = known[name]
    tokenizer.decoder = decoders.ByteLevel()
    for word, kind in zip(words, kinds, strict=True):
        if kind == CONTROL:
            tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False)])
        elif kind == USER_DEFINED:
            tokenizer.add_tokens([AddedToken(word, normalized=False)])
    if fields.flag(f"{PRE}add_bos_token"):
        _begin(tokenizer, words, fields.integer(f"{PRE}bos_token_id", 0))
    return tokenizer


def names_of(fields: Fields, size: int) -> dict[str, tuple[int, str]]:
    """Id and text of bos_token, eos_token, unk_token and pad_token, as far as the file names
    them. Raises ParseError for an id that is no token's."""
    words = fields.texts(f"{PRE}tokens")
    found = {}
    for name, key in KEYS.items():
        number = fields.identifier(f"{PRE}{key}")
        if number is None:
            continue
        if number >= size:
            raise ParseError(f"GGUF: {PRE}{key}: expected a token's id below {size}, got {number}")
        found[name] = (number, words[number])
    if "eos_token" not in found:
        raise ParseError(f"GGUF: {PRE}eos_token_id: expected the token that ends answers, got none")
    return found


def template_of(fields: Fields) -> str | None:
    """The file's own chat template, else ChatML's where its tokens are there."""
    if fields.has("tokenizer.chat_template"):
        return fields.text("tokenizer.chat_template")
    chatml = {"<|im_start|>", "<|im_end|>"} <= set(fields.texts(f"{PRE}tokens"))
    return CHATML if chatml else None


def tokenizer_config(names: dict[str, tuple[int, str]], context: int) -> dict[str, Any]:
    """The tokenizer_config.json."""
    words = {name: word for name, (_, word) in names.items()}
    settings = {"clean_up_tokenization_spaces": False, "model_max_length": context}
    return {"tokenizer_class": "PreTrainedTokenizerFast", **settings, **words}


def _check_settings(fields: Fields) -> None:
    model = fields.text(f"{PRE}model")
    if model != "gpt2":
        raise ParseError(f"GGUF: {PRE}model: expected gpt2 (byte-level BPE), got {model!r}")
    for key in ("add_space_prefix", "add_eos_token"):
        if fields.flag(f"{PRE}{key}"):
            raise ParseError(f"GGUF: {PRE}{key}: expected false, got true")


def _bpe(words: list[str], merges: list[str]) -> Tokenizer:
    if not all(merge.count(" ") == 1 for merge in merges):
        raise ParseError(f"GGUF: {PRE}merges: expected two parts each, got another number")
    pairs = [(first, second) for first, second in (merge.split(" ") for merge in merges)]
    vocabulary = {word: number for number, word in enumerate(words)}
    try:
        return Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    except Exception as error:  # the Rust side raises bare Exception
        raise ParseError(
            f"GGUF: {PRE}merges: expected merges of known tokens, got others "
            f"({type(error).__name__})"
        ) from None


def _begin(tokenizer: Tokenizer, words: list[str], number: int) -> None:
    """Every prompt begins with this token."""
    if number >= len(words):
        raise ParseError(f"GGUF: {PRE}bos_token_id: expected a token's id, got {number}")
    word = words[number]
    tokenizer.post_processor = TemplateProcessing(
        single=[word, "$A"], pair=[word, "$A", "$B"], special_tokens=[(word, number)]
    )
