"""The platforms that Evidence can come from: one row for every format that names one.

What a platform's quote means is `attestation.platforms`' matter; here stands only what the
bytes of Evidence, digests and log leaves say of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

WITH_GPUS = 16
"""Added to a leaf's platform where the machine has GPUs."""


@dataclass(frozen=True)
class PlatformFormat:
    """`name` as Evidence and policies spell it, `title` for people, `leaf_code` as in a log leaf.

    `registers` are what `measurement_digest` covers, 48 bytes each, in its order;
    `launch_fields` what the host sets at launch, each with its size in bytes.
    """

    name: str
    title: str
    leaf_code: int
    registers: tuple[str, ...]
    launch_fields: tuple[tuple[str, int], ...]


TDX = PlatformFormat(
    name="tdx",
    title="TDX",
    leaf_code=1,
    # RTMR3 holds the host config; it is checked by replay.
    registers=("MRTD", "RTMR0", "RTMR1", "RTMR2"),
    launch_fields=(("MRCONFIGID", 48), ("MROWNER", 48), ("MROWNERCONFIG", 48)),
)
SNP = PlatformFormat(
    name="snp",
    title="SEV-SNP",
    leaf_code=2,
    registers=("MEASUREMENT",),
    # As an ID block sets them.
    launch_fields=(
        ("FAMILY_ID", 16),
        ("IMAGE_ID", 16),
        ("ID_KEY_DIGEST", 48),
        ("AUTHOR_KEY_DIGEST", 48),
    ),
)
PLATFORMS = MappingProxyType({row.name: row for row in (TDX, SNP)})

LEAF_PLATFORMS = MappingProxyType(
    {row.leaf_code: row.title for row in PLATFORMS.values()}
    | {row.leaf_code + WITH_GPUS: f"{row.title} with GPUs" for row in PLATFORMS.values()}
)
"""What a leaf of a machine may name, for people."""
