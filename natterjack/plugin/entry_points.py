"""The entry-point groups in which packages register their providers and their voices."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

GROUP = "natterjack.providers"
VOICES_GROUP = "natterjack.voices"


@cache
def available(group: str = GROUP) -> dict[str, EntryPoint]:
    """Return the entry points of all installed providers of a group by name, without importing any.

    The result is cached for the life of the process, because finding entry points reads the
    metadata of every installed package.
    """
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda p: p.name)}
