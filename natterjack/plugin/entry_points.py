"""The entry-point group in which packages register their providers."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

GROUP = "natterjack.providers"


@cache
def available() -> dict[str, EntryPoint]:
    """Return the entry points of all installed providers by name, without importing any.

    The result is cached for the life of the process, because finding entry points reads the
    metadata of every installed package.
    """
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda p: p.name)}
