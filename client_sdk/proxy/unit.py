"""A unit for systemd's user manager that runs the proxy from login to logout.

    umay client proxy --token-file ~/.umay/token --unit > ~/.config/systemd/user/umay-proxy.service
    systemctl --user enable --now umay-proxy

It hardens only by what needs no namespaces, which many systems deny to users.
"""

from __future__ import annotations

from collections.abc import Sequence

_TEXT = """\
# Written by `umay client proxy --unit`.
[Unit]
Description=Umay's OpenAI endpoint for the programs of this user

[Service]
ExecStart={command}
Restart=on-failure
RestartPreventExitStatus=2 3 4
LimitCORE=0
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
SystemCallArchitectures=native

[Install]
WantedBy=default.target
"""


def unit(command: Sequence[str]) -> str:
    """The file's text, for a command whose first word is an absolute path."""
    return _TEXT.format(command=" ".join(map(_quoted, command)))


def _quoted(word: str) -> str:
    """One word of ExecStart= (systemd.service(5), command lines): its quotes, backslashes, dollar
    and percent signs stand for themselves."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("$", "$$").replace("%", "%%").replace("\n", "\\n") + '"'
