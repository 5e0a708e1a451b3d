"""Adding subcommands to an argument parser."""

from __future__ import annotations

import argparse


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: str
) -> argparse.ArgumentParser:
    """Add a subcommand whose description is the sentence made from its help text `about`."""
    return commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
