"""Entry point of `natterjack-worker`: says which extra is missing, where one is."""

from __future__ import annotations

from natterjack.process.run import requires_extra


def main() -> None:
    """As the program's own, which needs more than `natterjack` does."""
    with requires_extra("natterjack-worker", "worker"):
        from .__main__ import main as run
    run()
