"""Entry point of `natterjack-edge`, which names the extra to install if one is missing."""

from __future__ import annotations

from natterjack.process.run import requires_extra


def main() -> int:
    """Run the program, whose modules need the `edge` extra. Returns its exit code."""
    with requires_extra("natterjack-edge", "edge"):
        from .__main__ import main as run
    return run()
