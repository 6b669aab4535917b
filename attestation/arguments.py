"""Arguments of the public face: one of a wrong type is refused with a sentence.

The sentence names the argument, what was expected and the type that came. It never shows
the value, which may be a prompt or a key.
"""

from __future__ import annotations

from attestation.errors import UsageError


def expect(name: str, value: object, *kinds: type, what: str | None = None) -> None:
    """Raises UsageError unless `value` is an instance of one of `kinds`.

    `what` says in words what was expected; without it the kinds' names do. True and False
    are no numbers here.
    """
    if isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool)):
        return
    wanted = what or " or ".join(kind.__name__ for kind in kinds)
    raise UsageError(f"{name}: expected {wanted}, got {type(value).__name__}")
