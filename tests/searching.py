"""How many examples a property-based test tries: few and always the same, or a long search."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

SEARCH = int(os.environ.get("TEST_SEARCH", "0"))
"""Multiplies the examples, which are then new ones in each run."""


def examples(count: int) -> settings:
    """`count` examples, the same in each run unless TEST_SEARCH is set."""
    return settings(
        max_examples=count * max(1, SEARCH),
        derandomize=not SEARCH,
        database=None,
        deadline=None,  # a busy machine is no fault of the code
        suppress_health_check=[HealthCheck.too_slow],
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        print_blob=True,
    )
