"""A tiny embedding model: a BERT of weights from a seed, and a tokenizer of letters."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from enclave.guest.engines.bert import FIXED, BertConfig, shapes
from enclave.guest.engines.embedding_engine import EmbeddingEngine, EmbeddingSettings
from enclave.guest.model import ModelFiles, read_model
from enclave.importer import weights
from enclave.importer.gguf_file import Floats

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [*string.ascii_lowercase, *string.digits, "é", "?", ".", "[", "]"]
WORDS = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), "hello", "world"]
CLS, SEP = WORDS.index("[CLS]"), WORDS.index("[SEP]")
MAX_TOKENS, WIDTH = 24, 16


def config(**changed: Any) -> dict[str, Any]:
    """The config.json; None leaves a key out."""
    values: dict[str, Any] = {
        **FIXED,
        "vocab_size": len(WORDS),
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 24,
        "max_position_embeddings": 32,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pooling": "mean",
        "normalize": True,
        "max_tokens": MAX_TOKENS,
    }
    values |= changed
    return {key: value for key, value in values.items() if value is not None}


def tokenizer() -> Tokenizer:
    """As that of a BERT without capitals."""
    numbers = {word: number for number, word in enumerate(WORDS)}
    made = Tokenizer(models.WordPiece(vocab=numbers, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens([AddedToken(word, special=True) for word in SPECIAL])
    made.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    return made


def arrays(of: BertConfig | None = None) -> dict[str, Floats]:
    """By the names that transformers' BertModel has."""
    draw = np.random.default_rng(11)
    found = shapes(of or BertConfig.of(config()))
    return {name: draw.normal(0, 0.3, shape).astype(np.float32) for name, shape in found.items()}


def write(folder: Path, **changed: Any) -> Path:
    """The model as an import leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = config(**changed)
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").write_text(tokenizer().to_str())
    values = arrays(BertConfig.of(settings))
    sizes = {name: value.shape for name, value in values.items()}
    (folder / "model.safetensors").unlink(missing_ok=True)
    weights.write(folder / "model.safetensors", sizes, values.__getitem__, kind="F32")
    return folder


def source(folder: Path) -> Path:
    """The same in the format of sentence-transformers, with what its models have besides."""
    write(folder)
    ours = ("pooling", "normalize", "max_tokens", "dtype")
    settings = {name: value for name, value in config().items() if name not in ours}
    more = {"_name_or_path": "toy", "hidden_dropout_prob": 0.1, "transformers_version": "4.8.2"}
    parts = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, path) in enumerate(parts)
    ]
    pooling = {
        "word_embedding_dimension": WIDTH,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
    }
    cutting = tokenizer()
    cutting.enable_truncation(8)
    cutting.enable_padding(length=8)
    files = {
        "config.json": json.dumps(settings | more),
        "modules.json": json.dumps(modules),
        "sentence_bert_config.json": json.dumps(
            {"max_seq_length": MAX_TOKENS, "do_lower_case": False}
        ),
        "config_sentence_transformers.json": json.dumps({"__version__": {}}),
        "1_Pooling/config.json": json.dumps(pooling),
        "tokenizer.json": cutting.to_str(),
        "README.md": "A toy.",
    }
    (folder / "1_Pooling").mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def files(folder: Path, **changed: Any) -> ModelFiles:
    return read_model(write(folder, **changed))


def engine(folder: Path, settings: EmbeddingSettings | None = None) -> EmbeddingEngine:
    """Not started."""
    return EmbeddingEngine(files(folder), settings=settings)
