"""What `umay up` and `umay demo` need beyond the client, asked before anything starts."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution, requires

from attestation.errors import UsageError

EXTRAS = ("guest", "log", "host", "proxy")
"""Of setup.cfg: one network's parts run all of them."""

_BY_EXTRA = re.compile(r"""([A-Za-z0-9._-]+)[^;]*;.*extra == ["'](\w+)["']""")


def check(command: str) -> None:
    """Raises UsageError with every extra that is not installed."""
    lacking = [extra for extra in EXTRAS if not all(map(_installed, _packages(extra)))]
    if lacking:
        several = len(lacking) > 1
        words = " and ".join([", ".join(lacking[:-1]), lacking[-1]] if several else lacking)
        raise UsageError(
            f"`{command}` needs the extra{'s' if several else ''} {words}: in your checkout run "
            f"`make dev`, or pip install -c constraints.txt '.[{','.join(lacking)}]'"
        )


def _packages(extra: str) -> list[str]:
    found = (_BY_EXTRA.match(line) for line in requires("umay") or ())
    return [match[1] for match in found if match and match[2] == extra]


def _installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True
