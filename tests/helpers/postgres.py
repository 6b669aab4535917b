"""A PostgreSQL server of the test's own: on a socket in its own directory, killed at will."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

PROGRAMS = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
INITDB = next((str(p / "initdb") for p in PROGRAMS if (p / "initdb").exists()), None)
INITDB = INITDB or shutil.which("initdb")

needs_postgres = pytest.mark.skipif(INITDB is None, reason="no PostgreSQL server installed")


class Cluster:
    """`start`, `kill` (no shutdown: what was not on disk is lost), `start` again."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="umay-pg-"))
        self.user = None if os.geteuid() else _somebody()
        if self.user:
            shutil.chown(self.directory, self.user)
        self.run("initdb", "-D", self.data, "-A", "trust", "-U", "umay", "--no-locale")
        self.start()

    @property
    def data(self) -> str:
        return str(self.directory / "data")

    def conninfo(self, database: str = "postgres") -> str:
        return f"host={self.directory} user=umay dbname={database}"

    def run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(Path(str(INITDB)).with_name(program)), *arguments],
            check=True,
            capture_output=True,
            user=self.user,
            cwd="/",
        )

    def start(self) -> None:
        options = f"-k {self.directory} -c listen_addresses= -c shared_buffers=16MB"
        log = str(self.directory / "server.log")
        self.run("pg_ctl", "-D", self.data, "-w", "-t", "60", "-l", log, "-o", options, "start")

    def kill(self) -> None:
        self.run("pg_ctl", "-D", self.data, "-w", "-m", "immediate", "stop")

    def create(self, name: str) -> str:
        """A new database's connection string."""
        self.run("createdb", "-h", str(self.directory), "-U", "umay", name)
        return self.conninfo(name)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.directory)


def _somebody() -> str:
    """PostgreSQL refuses to run as root."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
