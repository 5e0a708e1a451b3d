"""Finding the programs that pip installs: scripts of this environment, else of PATH."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path


def find_script(name: str) -> Path | None:
    """The script `name` beside the running Python, or one on PATH, or None."""
    script = Path(sysconfig.get_path("scripts")) / name
    found = script if script.exists() else shutil.which(name)
    return Path(found) if found else None
