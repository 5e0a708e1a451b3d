"""Which sources are muted, kept on the disk, so that a restart does not make a room live again."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from ..spool.disk import sync

log = logging.getLogger(__name__)

_FOLDER = "muted"


class Mutes:
    """The muted sources of one agent: an empty file for each, in `muted` in its spool or, without
    one, in systemd's state directory. Without either, they are not kept."""

    def __init__(self, spool: Path | None, tenant: str, agent: str) -> None:
        given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
        directory = spool or (Path(given) if given else None)
        self._directory = directory and directory / _FOLDER
        self._prefix = f"{tenant}.{agent}."

    def restored(self, source: str) -> bool:
        """Whether a source was muted when the agent ended, which is logged."""
        path = self._path(source)
        if path is None or not path.exists():
            return False
        log.warning(
            "%s is muted, as before this start: nothing of it is published until `natterjack edges "
            "unmute`, or a start without the file %s", source, path,
        )  # fmt: skip
        return True

    def keep(self, sources: Sequence[str], *, muted: bool) -> str:
        """Keep that sources are muted, or no longer. Blocks for as long as the disk takes. Returns
        what prevents it, in words; empty if nothing does."""
        for source in sources:
            path = self._path(source)
            if path is None:
                return "only until it ends, as it has no spool" if muted else ""
            try:
                if muted:
                    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    path.touch(mode=0o600)
                else:
                    path.unlink(missing_ok=True)
                with contextlib.suppress(FileNotFoundError):
                    sync([path.parent])
            except OSError as error:
                then = "is live" if muted else "is muted"
                problem = f"after its next start {source} {then} again: {path}: {error.strerror}"
                log.error("%s", problem)
                return problem
        return ""

    def _path(self, source: str) -> Path | None:
        return self._directory and self._directory / (self._prefix + source)
