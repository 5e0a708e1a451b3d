"""The entry-point group that provider plugins register in."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

GROUP = "natterjack.providers"


@cache
def available() -> dict[str, EntryPoint]:
    """The entry points of all installed providers, by name. Imports none of them.

    Looked up once per process, because it reads the metadata of every installed package.
    """
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda p: p.name)}
