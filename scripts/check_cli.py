"""Compares the help texts in docs/cli.md with the help that the commands print.

`python -m scripts.check_cli --write` writes the real help into the page. The script walks the
command tree, so a new command cannot be forgotten.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click
from click.testing import CliRunner

from client_sdk.cli import umay
from scripts.rooms import ROOT

PAGE = ROOT / "docs" / "cli.md"
BEGIN, END = "<!-- help:begin -->\n", "<!-- help:end -->"
WIDTH = 78
"""The width of click's help on a terminal with 80 columns."""


def commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that is not hidden: its words and the command. Parents come first."""
    yield from _below((), umay, click.Context(umay, info_name="umay"))


def _below(
    words: tuple[str, ...], command: click.Command, context: click.Context
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                inside = click.Context(child, info_name=name, parent=context)
                yield from _below((*words, name), child, inside)


def help_of(words: tuple[str, ...]) -> str:
    """What `umay WORDS --help` prints on a terminal with 80 columns."""
    run = CliRunner().invoke(
        umay, [*words, "--help"], prog_name="umay", terminal_width=WIDTH, catch_exceptions=False
    )
    if run.exit_code:
        raise ValueError(f"umay {' '.join(words)} --help ended with exit code {run.exit_code}")
    return run.stdout.rstrip()


def real_help() -> str:
    """The generated part of the page: a list of all commands with links, then the help of each."""
    found = [words for words, _ in commands()]
    names = [" ".join(("umay", *words)) for words in found]
    index = "".join(f"- [`{name}`](#{name.replace(' ', '-')})\n" for name in names)
    parts = (
        f"### {name}\n\n```\n$ {name} --help\n{help_of(words)}\n```\n"
        for name, words in zip(names, found, strict=True)
    )
    return index + "\n" + "\n".join(parts)


def main() -> int:
    before, rest = PAGE.read_text().split(BEGIN)
    written, after = rest.split(END)
    real = real_help()
    if "--write" in sys.argv:
        PAGE.write_text(before + BEGIN + real + END + after)
        return 0
    if written != real:
        sys.stderr.write(
            "docs/cli.md: expected the help that the commands print now, got an older one; "
            "run: python -m scripts.check_cli --write\n"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
