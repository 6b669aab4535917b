"""Makes a model's directory from a GGUF file, whole or not at all.

The weights are dequantised once, into bfloat16. config.json names the dtype in which the engine
computes; it is one of the model's files, so the model's digest covers it. With a given `dtype`, the
same file gives the same digest on every machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attestation.errors import UsageError
from attestation.formats.json import decode
from attestation.formats.model import model_digest
from attestation.model_folder import read_manifest
from enclave.guest.model import read_model
from enclave.importer import sentences, tokens, weights
from enclave.importer.architectures import config_of, restored, tensors_of
from enclave.importer.fields import Fields
from enclave.importer.folder import check_room, made, write, write_json
from enclave.importer.gguf_file import Floats, Gguf, read
from enclave.importer.timing import Timing, measure

DTYPES = ("float32", "bfloat16")
STEPS = 10
"""Lines of progress while the weights are written."""

Tell = Callable[[str], None]


def import_model(
    source: Path, out: Path, *, dtype: str | None, threads: int | None, tell: Tell
) -> dict[str, Any]:
    """Reads `source`, a GGUF file or the directory of an embedding model, and makes `out` of it;
    see `make` and `sentences.make`. Raises UsageError where `out` exists, before anything is
    read."""
    if dtype not in (None, *DTYPES):
        raise UsageError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype}")
    if os.path.lexists(out):
        raise UsageError(f"{out}: expected a name that is free, found something there")
    tell(f"reading {source}")
    if source.is_dir():
        return sentences.make(source, out, dtype=dtype, threads=threads, tell=tell)
    return make(read(source), out, dtype=dtype, threads=threads, tell=tell)


def make(
    file: Gguf, out: Path, *, dtype: str | None, threads: int | None, tell: Tell
) -> dict[str, Any]:
    """What was made: directory, model digest in hex, engine, dtype, and timings in tokens/s.

    `dtype` None stands for the faster one on this machine. Raises ParseError for a model that
    cannot be imported, Unavailable for a full disk, and EngineFailed where the engine cannot run
    what came out; then nothing is left behind.
    """
    with made(out) as fresh:
        ends = _write_files(fresh, file, tell)
        timings = _timings(fresh, dtype, ends, threads, tell)
        chosen = min(timings, key=lambda timing: timing.cost).dtype
        _name_dtype(fresh, chosen)
        digest = model_digest(read_manifest(fresh)).hex()
    rates = {timing.dtype: [timing.alone, timing.together] for timing in timings}
    done = {"directory": str(out), "model_digest": digest, "engine": "torch"}
    return done | {"dtype": chosen, "tokens_per_s": rates}


def _write_files(folder: Path, file: Gguf, tell: Tell) -> tuple[int, ...]:
    """Every file of the model; the ids of its end tokens."""
    fields = Fields(file.metadata)
    config = config_of(file, fields)
    names = tokens.names_of(fields, config["vocab_size"])
    ids = {f"{name}_id": number for name, (number, _) in names.items() if name != "unk_token"}
    tell("writing the tokenizer")
    tokenizer = tokens.tokenizer_of(fields)
    template = tokens.template_of(fields)
    fields.finish("tokenizer.")
    write_json(folder / "config.json", config | ids | {"dtype": DTYPES[-1]})
    write_json(folder / "generation_config.json", ids | {"do_sample": False})
    context = config["max_position_embeddings"]
    write_json(folder / "tokenizer_config.json", tokens.tokenizer_config(names, context))
    write(folder / "tokenizer.json", tokenizer.to_str())
    if template is not None:
        write(folder / "chat_template.jinja", template)
    _write_weights(folder / "model.safetensors", file, config, tell)
    return (ids["eos_token_id"],)


def _write_weights(path: Path, file: Gguf, config: dict[str, Any], tell: Tell) -> None:
    found = tensors_of(file, config)
    shapes = {name: found[name][1].shape for name in sorted(found)}
    check_room(path.parent, weights.size_of(shapes.values()))
    done = 0

    def values(name: str) -> Floats:
        nonlocal done
        done += 1
        if done % max(1, len(shapes) // STEPS) == 0:
            tell(f"writing the weights: {done} of {len(shapes)} tensors")
        place, tensor = found[name]
        return restored(place, tensor.values(), config)

    weights.write(path, shapes, values)


def _timings(
    folder: Path, dtype: str | None, ends: tuple[int, ...], threads: int | None, tell: Tell
) -> list[Timing]:
    """One for each dtype that may be chosen. Whatever the engine cannot load ends the import."""
    files = read_model(folder)
    timings = []
    for name in DTYPES if dtype is None else (dtype,):
        tell(f"timing {name}")
        timings.append(measure(files, name, end_ids=ends, threads=threads))
        tell(str(timings[-1]))
    return timings


def _name_dtype(folder: Path, dtype: str) -> None:
    path = folder / "config.json"
    write_json(path, decode(path.read_bytes(), what=str(path)) | {"dtype": dtype})
