"""Entry point of `natterjack-worker`: names the extra to install if a module is missing."""

from __future__ import annotations

from natterjack.process.run import requires_extra


def main() -> None:
    """Run the program, which needs more packages than `natterjack` alone."""
    with requires_extra("natterjack-worker", "worker"):
        from .__main__ import main as run
    run()
