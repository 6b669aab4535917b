"""Makes an embedding model's directory from one in the format of sentence-transformers.

That format is a BERT encoder, a pooling, and perhaps a normalisation, each with its own files.
What they amount to is written into config.json. A setting that would change a vector, and that the
engine does not know, refuses the import. The weights stay in float32, so the same source gives the
same digest on every machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attestation.errors import ParseError, UsageError
from attestation.files import unusable
from attestation.formats.json import decode, object_of
from attestation.formats.model import model_digest
from attestation.model_folder import MAX_MODEL, MAX_SMALL_FILE, read_manifest
from enclave.guest.engines import bert
from enclave.guest.engines.weights import tensors
from enclave.guest.model import read_model
from enclave.importer import weights
from enclave.importer.folder import check_room, made, write, write_json
from enclave.importer.gguf_file import Floats
from enclave.importer.timing import measure_embeddings

DTYPE = "float32"
MODULES = ("Transformer", "Pooling", "Normalize")
POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
UNUSED_WEIGHTS = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}
"""Of BertModel: a buffer, and a layer that sentence-transformers does not use either."""

HARMLESS = frozenset({
    "_name_or_path", "attention_probs_dropout_prob", "classifier_dropout", "gradient_checkpointing",
    "hidden_dropout_prob", "initializer_range", "pad_token_id", "torch_dtype", "dtype",
    "transformers_version", "use_cache",
})  # fmt: skip
"""Of config.json: what a forward pass in evaluation mode does not read."""

Tell = Callable[[str], None]


def make(
    source: Path, out: Path, *, dtype: str | None, threads: int | None, tell: Tell
) -> dict[str, Any]:
    """What was made, as `importing.make` says it. Raises ParseError for a model that cannot be
    imported, UsageError for a dtype other than float32, Unavailable for a full disk, and
    EngineFailed."""
    if dtype not in (None, DTYPE):
        raise UsageError(f"dtype: expected {DTYPE} for an embedding model, got {dtype}")
    with made(out) as fresh:
        config = config_of(source)
        write_json(fresh / "config.json", config)
        tell("writing the tokenizer")
        write(fresh / "tokenizer.json", tokenizer_of(_read(source / "tokenizer.json")))
        tell("writing the weights")
        _write_weights(fresh / "model.safetensors", source, bert.BertConfig.of(config))
        tell(f"timing {DTYPE}")
        timing = measure_embeddings(read_model(fresh), threads=threads)
        tell(str(timing))
        digest = model_digest(read_manifest(fresh)).hex()
    done = {"directory": str(out), "model_digest": digest, "engine": "embedding"}
    return done | {"dtype": DTYPE, "tokens_per_s": {DTYPE: [timing.alone, timing.together]}}


def config_of(source: Path) -> dict[str, Any]:
    """The config.json that the engine reads. Raises ParseError, UsageError."""
    kinds = _modules(source)
    config = _object(source / "config.json")
    if absent := [name for name in _SIZES if name not in config]:
        raise ParseError(f"{source / 'config.json'}: {absent[0]}: expected a value, found none")
    sizes = {name: config.pop(name) for name in _SIZES}
    fixed = {"position_embedding_type": "absolute"} | {
        name: config.pop(name) for name in bert.FIXED if name in config
    }
    if unknown := sorted(config.keys() - HARMLESS):
        raise _unknown(source / "config.json", unknown[0])
    ours = {
        "pooling": _pooling(source / kinds["Pooling"] / "config.json", sizes["hidden_size"]),
        "normalize": "Normalize" in kinds,
        "max_tokens": _longest(source, sizes["max_position_embeddings"]),
    }
    return {**fixed, **sizes, **ours, "dtype": DTYPE}


_OURS = {"pooling", "normalize", "max_tokens"}
_SIZES = [name for name in bert.BertConfig.__dataclass_fields__ if name not in _OURS]


def tokenizer_of(data: bytes | bytearray) -> str:
    """The tokenizer.json, which neither cuts nor fills up. Raises ParseError."""
    name = "tokenizer.json"
    tokenizer = object_of(decode(bytes(data), what=name), what=name)
    return json.dumps(tokenizer | {"truncation": None, "padding": None}, ensure_ascii=False)


def _modules(source: Path) -> dict[str, str]:
    """By its kind, the folder of each part."""
    path = source / "modules.json"
    found = decode(bytes(_read(path)), what=str(path))
    try:
        kinds = {str(part["type"]).rsplit(".", 1)[-1]: str(part["path"]) for part in found}
    except (TypeError, KeyError):
        raise ParseError(f"{path}: expected a list of parts with type and path") from None
    if tuple(kinds) not in (MODULES, MODULES[:2]) or len(kinds) != len(found):
        raise ParseError(
            f"{path}: expected the parts {', '.join(MODULES)} (or without the last), got others"
        )
    if kinds["Transformer"] or not _plain(kinds["Pooling"]):
        raise ParseError(f"{path}: expected the encoder here and the pooling in a folder beside it")
    return kinds


def _plain(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def _pooling(path: Path, width: object) -> str:
    settings = _object(path)
    modes = {name: settings.pop(name) for name in list(settings) if name.startswith("pooling_mode")}
    if settings.pop("word_embedding_dimension", width) != width:
        raise ParseError(f"{path}: word_embedding_dimension: expected {width}, got another number")
    if settings.pop("include_prompt", True) is not True or settings:
        raise _unknown(path, min(settings, default="include_prompt"))
    chosen = [name for name, value in modes.items() if value is not False]
    if len(chosen) != 1 or modes[chosen[0]] is not True or chosen[0] not in POOLINGS:
        raise ParseError(f"{path}: expected exactly one of {', '.join(POOLINGS)}, got others")
    return POOLINGS[chosen[0]]


def _longest(source: Path, context: object) -> Any:
    """Tokens of a text; also checks what would change it before it is read."""
    path = source / "sentence_bert_config.json"
    settings = _object(path) if path.exists() else {}
    longest = settings.pop("max_seq_length", None)
    if settings.pop("do_lower_case", False) is not False or settings:
        raise _unknown(path, min(settings, default="do_lower_case"))
    path = source / "config_sentence_transformers.json"
    if path.exists() and _object(path).get("default_prompt_name") is not None:
        raise _unknown(path, "default_prompt_name")
    return context if longest is None else longest


def _write_weights(path: Path, source: Path, config: bert.BertConfig) -> None:
    data = _read(source / "model.safetensors", MAX_MODEL)
    found = tensors({"model.safetensors": data})
    expected = bert.shapes(config)
    if other := sorted(found.keys() - UNUSED_WEIGHTS ^ expected.keys()):
        got = "an unknown one" if other[0] in found else "none"
        raise ParseError(f"weights: {other[0]}: expected exactly the tensors of BERT, got {got}")

    def values(name: str) -> Floats:
        return found[name].float().numpy()

    check_room(path.parent, weights.size_of(expected.values(), "F32"))
    weights.write(path, dict(sorted(expected.items())), values, kind="F32")


def _unknown(path: Path, name: str) -> ParseError:
    return ParseError(
        f"{path}: {name}: expected only settings that this import understands, got this one; the "
        "model would compute something else without it"
    )


def _object(path: Path) -> dict[str, Any]:
    return dict(object_of(decode(bytes(_read(path)), what=str(path)), what=str(path)))


def _read(path: Path, most: int = MAX_SMALL_FILE) -> bytearray:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise ParseError(f"{path}: expected at most {most} bytes, got {size}")
            data = bytearray(size)
            return data[: file.readinto(data)]
    except OSError as error:
        raise unusable(path, error) from None
