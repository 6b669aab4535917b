"""Hypothesis profiles: short in `make test`, FUZZ_MINUTES per parser in `make fuzz`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

SLOW = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)
settings.register_profile("short", max_examples=150, deadline=None, suppress_health_check=SLOW)
MINUTES = float(os.environ.get("FUZZ_MINUTES", "2"))
settings.register_profile(
    "fuzz", max_examples=int(MINUTES * 20_000), deadline=None, suppress_health_check=SLOW
)
settings.load_profile("short")
