"""Adding subcommands to an argument parser."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: str
) -> argparse.ArgumentParser:
    """Add a subcommand whose description is the sentence made from its help text `about`."""
    return commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")


def path(text: str) -> Path:
    """The type of a path as an argument. An empty one would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)
