"""Entry point of `natterjack`."""

from __future__ import annotations

from natterjack.process.start import run_program


def main() -> int:
    """Run the command and return its exit status."""
    return run_program("natterjack", "natterjack.cli.main")
