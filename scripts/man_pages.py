"""Writes one man page for each command of `umay` into a directory, build/docs/man/man1 by default.

`python -m scripts.man_pages [DIRECTORY]`. The date in the pages is that of SOURCE_DATE_EPOCH, where
that variable is set, else today's.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import click
from click_man.core import write_man_pages

from client_sdk.cli import umay
from scripts.rooms import ROOT

DIRECTORY = ROOT / "build" / "docs" / "man" / "man1"


def loaded(command: click.Command) -> click.Command:
    """The same command with all its subcommands in it and with its whole short help: the generator
    loads no command by name, and cuts what it finds after 45 characters."""
    command.short_help = command.get_short_help_str(limit=200)
    if not isinstance(command, click.Group):
        return command
    context = click.Context(command)
    found = {name: command.get_command(context, name) for name in command.list_commands(context)}
    known = {name: loaded(child) for name, child in found.items() if child is not None}
    return click.Group(
        command.name, known, params=command.params, help=command.help, short_help=command.short_help
    )


def main() -> int:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)
    write_man_pages("umay", loaded(umay), version=version("umay"), target_dir=str(directory))
    return 0


if __name__ == "__main__":
    sys.exit(main())
