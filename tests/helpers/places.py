"""Where things lie: the checkout, the vectors, and real hardware evidence beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
VECTORS = TESTS / "vectors"

EVIDENCE = Path(os.environ.get("UMAY_EVIDENCE", ROOT.parent / "shared" / "evidence"))
"""Never committed. Tests that need it skip where it is absent, and say so."""

CAPTURED = EVIDENCE.parent / "evidence_captured"
