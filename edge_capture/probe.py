"""`natterjack-edge probe`: whether files can be transcribed, and how long they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import SourceError
from .sources.decoded import DecodedSource, open_file


async def probe_files(paths: Sequence[Path], track: int | None) -> int:
    """Print a line of JSON about each file. Returns the exit status, 2 if one cannot be read."""
    readable = True
    for path in paths:
        found = await _probe(path, track)
        readable &= "error" not in found
        print(json.dumps(found), flush=True)
    return 0 if readable else 2


async def _probe(path: Path, track: int | None) -> dict[str, Any]:
    try:
        source = await open_file(path, None, 80, track or 1)  # so that others are no warning
    except SourceError as error:
        return {"path": str(path), "error": str(error)}
    try:
        return {
            "path": str(path),
            "seconds": source.seconds,
            "sample_rate": source.format.sample_rate,
            "channels": source.format.channels,
            "tracks": len(source.media.tracks) if isinstance(source, DecodedSource) else 1,
        }
    finally:
        source.close()
