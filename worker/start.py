"""Entry point of `natterjack-worker`: says which extra is missing, where one is."""

from __future__ import annotations

from natterjack.programs import needing_extra


def main() -> None:
    """As the program's own, which needs more than `natterjack` does."""
    with needing_extra("natterjack-worker", "worker"):
        from .__main__ import main as run
    run()
