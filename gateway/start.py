"""Entry point of `natterjack-gateway`."""

from __future__ import annotations

from natterjack.process.start import run_program


def main() -> int:
    """Run the program and return its exit status."""
    return run_program("natterjack-gateway", "gateway.__main__", "gateway")
