"""Entry point of `natterjack-worker`."""

from __future__ import annotations

from natterjack.process.start import run_program


def main() -> int:
    """Run the program and return its exit status."""
    return run_program("natterjack-worker", "worker.__main__", "worker")
