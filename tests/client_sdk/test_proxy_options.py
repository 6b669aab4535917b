"""`umay --https-proxy … --ca-bundle …`, and the variables in their place."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.places import ROOT
from tests.helpers.raw_server import ConnectProxy, answer, authority, head_of, serving


def umay(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    argv = [sys.executable, "-m", "client_sdk", *words]
    return subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)


def portal(connection: socket.socket) -> None:
    head_of(connection)
    connection.sendall(answer(b"<html><title>Hotel</title>"))


@pytest.mark.parametrize("by", ["options", "environment"])
def test_a_command_goes_through_the_proxy_that_was_named(tmp_path: Path, by: str) -> None:
    bundle, tls = authority(tmp_path, "log.example")
    command = ("audit", "compare", "https://log.example", str(tmp_path))
    with serving(portal, tls=tls) as log, serving(tunnel := ConnectProxy(log.port)) as proxy:
        address = f"http://ada:wonder@127.0.0.1:{proxy.port}"
        if by == "options":
            done = umay("--https-proxy", address, "--ca-bundle", str(bundle), *command)
        else:
            done = umay(*command, UMAY_HTTPS_PROXY=address, UMAY_CA_BUNDLE=str(bundle))
    assert tunnel.asked[0].startswith(b"CONNECT log.example:443 ")
    told = done.stdout + done.stderr
    assert done.returncode == 6 and "Hotel" in told and "wonder" not in told


@pytest.mark.parametrize("option", ["--https-proxy", "--ca-bundle"])
def test_a_wrong_option_is_a_matter_of_usage(option: str) -> None:
    done = umay(option, "nonsense", "audit", "compare", "https://log.example", ".")
    assert done.returncode == 2 and "nonsense" in done.stderr and "Traceback" not in done.stderr
