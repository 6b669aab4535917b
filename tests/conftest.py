"""The hypothesis profile of `make test`: short. Long searches are `make fuzz`'s."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

SLOW = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)
settings.register_profile("short", max_examples=150, deadline=None, suppress_health_check=SLOW)
settings.load_profile("short")
