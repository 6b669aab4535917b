"""Whether a network file may take the place of the one that a client has.

From a version that is trusted to the next: no version is skipped, and each is signed by enough of
the keys of the version before and of its own, so that keys can be replaced and nobody can replace
them alone. Pure: the time, the anchor and the proof are arguments.
"""

from __future__ import annotations

from attestation.errors import NotAuthentic, ParseError, Refused
from attestation.formats.dates import dated
from attestation.formats.network_file import STEP, NetworkFile
from attestation.log import proof as log_proof
from attestation.log.leaf import NETWORK, Leaf, document_leaf
from attestation.trust.anchor import Anchor
from attestation.trust.policy import Policy
from attestation.verify.log_step import check_anchor
from attestation.verify.reading import MAX_CLOCK_SKEW_S


def check_own(file: NetworkFile, *, network: str) -> None:
    """A file stands for itself: its own keys signed it, and it is of this network.

    Raises NotAuthentic("network", "bad-signature") or Refused("network", "pin-conflict").
    """
    if file.network != network:
        text = (
            f"network file {file.version}: expected the network {network!r} (policy [network] id)"
        )
        raise Refused(STEP, "pin-conflict", f"{text}, got {file.network!r}")
    file.check_signed(file.keys, file.required, "its own keys")


def check_next(kept: NetworkFile, file: NetworkFile) -> None:
    """`file` is what `kept` allows to follow: itself, or the next version.

    Raises Refused("network", "rollback" or "gap"), and what `check_own` raises.
    """
    check_own(file, network=kept.network)
    if file.version < kept.version or (file.version == kept.version and file.body != kept.body):
        text = f"expected version {kept.version}, which is kept, or the next one, got "
        what = "another file of that version" if file.version == kept.version else file.version
        raise Refused(STEP, "rollback", f"network file: {text}{what}")
    if file.version > kept.version + 1:
        text = f"network file: expected version {kept.version + 1}, got {file.version}"
        raise Refused(STEP, "gap", f"{text}; each version is signed by the one before it")
    file.check_signed(kept.keys, kept.required, f"the keys of version {kept.version}")


def check_dates(file: NetworkFile, *, now: int) -> None:
    """`now` in Unix seconds. Raises Refused("network", "expired")."""
    if not file.issued - MAX_CLOCK_SKEW_S <= now < file.expires:
        text = f"it counts from {dated(file.issued)} to {dated(file.expires)}, now is {dated(now)}"
        raise Refused(STEP, "expired", f"network file {file.version}: {text}; give URLs instead")


def check_logged(
    file: NetworkFile, proof: bytes, *, anchor: Anchor, policy: Policy, now: int
) -> None:
    """The log of the policy has this file's leaf in the anchored tree.

    `anchor` was read by this party, `now` is in Unix seconds. Raises Refused("log", …) for an
    anchor that the policy does not accept, NotAuthentic("network", "not-logged").
    """
    check_anchor(anchor, policy=policy, now=now)
    try:
        data, head = log_proof.verify_proof(proof, origin=policy.log_origin, log_key=policy.log_key)
        leaf = Leaf.from_bytes(data)
    except (NotAuthentic, ParseError) as error:
        raise not_logged(file, str(error)) from None
    if leaf != document_leaf(NETWORK, file.to_bytes()):
        raise not_logged(file, "the leaf is of another document")
    if (head.size, head.root) != (anchor.size, anchor.root):
        raise not_logged(file, f"the proof is not to the anchored tree of size {anchor.size}")


def not_logged(file: NetworkFile, why: str) -> NotAuthentic:
    """The error for a file that the log is not shown to have."""
    text = f"network file {file.version}: expected a proof that the log has it: {why}"
    return NotAuthentic(STEP, "not-logged", text)
