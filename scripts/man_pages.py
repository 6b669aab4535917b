"""Writes one manual page for each command of `umay`.

`python -m scripts.man_pages [DIRECTORY]` writes them into DIRECTORY, or into build/docs/man/man1.
The date in the pages is that of the environment variable SOURCE_DATE_EPOCH, or today without it.
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
    """The same command with all its subcommands loaded and with its whole short help. The generator
    does not load commands by their names, and it cuts a short help after 45 characters."""
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
