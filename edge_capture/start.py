"""Entry point of `natterjack-edge`."""

from __future__ import annotations

from natterjack.process.start import run_program


def main() -> int:
    """Run the program and return its exit status."""
    return run_program("natterjack-edge", "edge_capture.__main__", "edge")
