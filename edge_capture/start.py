"""Entry point of `natterjack-edge`: says which extra is missing, where one is."""

from __future__ import annotations

from natterjack.process.run import requires_extra


def main() -> int:
    """As the program's own, which needs more than `natterjack` does."""
    with requires_extra("natterjack-edge", "edge"):
        from .__main__ import main as run
    return run()
