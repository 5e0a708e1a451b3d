"""How many examples a property-based test tries: few and always the same, or a long search."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

SEARCH = int(os.environ.get("TEST_SEARCH", "0"))
"""If set, multiplies the examples, which are then new ones in each run."""


def tried(count: int) -> int:
    """How many of `count` examples are tried: a third unless TEST_SEARCH is set."""
    return count * SEARCH if SEARCH else -(-count // 3)


def examples(count: int) -> settings:
    """`count` examples with TEST_SEARCH=1. Without it, a third, the same in each run."""
    return settings(
        max_examples=tried(count),
        derandomize=not SEARCH,
        database=None,
        deadline=None,  # a busy machine is no fault of the code
        suppress_health_check=[HealthCheck.too_slow],
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        print_blob=True,
    )


def by_default() -> None:
    """Let property-based tests without settings of their own try 100 examples in this way."""
    settings.register_profile("suite", examples(100))
    settings.load_profile("suite")
