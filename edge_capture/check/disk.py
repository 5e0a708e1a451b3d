"""The check of the spool's directory."""

from __future__ import annotations

import shutil
from pathlib import Path

from natterjack.doctor.finding import Finding, failed, one_line, warning
from natterjack.doctor.machine import GIB, existing, space

from ..settings import SpoolSettings


def spool(settings: SpoolSettings) -> list[Finding]:
    """Whether the spool can be written, has room, and what is in it."""
    if settings.spool is None:
        cure = "set EDGE_SPOOL, or audio that the broker has not stored is lost with the agent"
        return [warning("disk", "there is no spool", cure)]
    found = space("disk", str(settings.spool))
    if found.state == "failed":
        return [found]
    folder = existing(settings.spool)
    try:
        used, waiting, damaged = _contents(settings.spool)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        cure = "give the directory to the user that the agent runs as, and mode 0700"
        return [failed("disk", f"{settings.spool}: {one_line(error)}", cure)]
    findings = [found]
    if free + used < settings.spool_bytes:
        text = f"{found.found}, less than the {settings.spool_bytes / GIB:.1f} GiB of the spool"
        cure = "free some space, or lower EDGE_SPOOL_BYTES: a full disk drops the oldest audio"
        findings = [warning("disk", text, cure)]
    if damaged:
        text = f"{damaged} damaged sessions are kept in {settings.spool}"
        findings.append(warning("spool", text, "copy the folders damaged-* away and remove them"))
    elif waiting:
        text = f"{waiting} sessions in {settings.spool}, {used / 2**20:.1f} MiB"
        findings.append(Finding("spool", "ok", text))
    return findings


def _contents(directory: Path) -> tuple[int, int, int]:
    """The bytes in a spool, and how many sessions it has, whole and damaged. Raises: OSError."""
    used = waiting = damaged = 0
    if not directory.exists():
        return 0, 0, 0
    for entry in directory.iterdir():
        if not entry.is_dir():
            continue
        if entry.name.startswith("damaged-"):
            damaged += 1
        elif (entry / "session.json").exists():
            waiting += 1
        used += sum(file.stat().st_size for file in entry.glob("*.seg*"))
    return used, waiting, damaged
