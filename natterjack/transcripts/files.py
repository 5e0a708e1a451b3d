"""Transcripts as files: the formats, and names that every file system accepts."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from pathlib import Path

from .transcript import Transcript

FORMATS = ("txt", "srt", "vtt", "md", "json")
_RESERVED = re.compile(r"(?i)con|prn|aux|nul|(com|lpt)[0-9]")
"""Names that are devices on Windows, also with an extension."""
_TEMPORARY, _PART = ".natterjack-", ".part"
_LEFT_S = 3600.0


def encode(transcript: Transcript, form: str) -> str:
    """A transcript in one of FORMATS."""
    text = {
        "txt": transcript.to_txt,
        "srt": transcript.to_srt,
        "vtt": transcript.to_vtt,
        "md": transcript.to_md,
        "json": transcript.to_json,
    }[form]()
    return text if text.endswith("\n") or not text else f"{text}\n"


def file_name(token: str, *, folds_case: bool = False) -> str:
    """A file name for a tenant or a conversation, without an extension, that no other one has.

    Names that have a special meaning somewhere get a `%`, which no token contains. With
    `folds_case`, the file system does not tell capital letters from small ones: then so do names
    with capital letters, and the number that says which they are.
    """
    name = token
    if name.startswith("-"):
        name = f"%{name}"
    if _RESERVED.fullmatch(token):
        name += "%"
    capitals = sum(char.isupper() << n for n, char in enumerate(token))
    return f"{name}%{capitals:x}" if folds_case and capitals else name


def folds_case(directory: Path) -> bool:
    """Whether a directory does not tell capital letters from small ones. Raises: OSError."""
    probe = directory / f"{_TEMPORARY}{secrets.token_hex(8)}{_PART}"
    probe.touch(exist_ok=False)
    try:
        return probe.with_suffix(_PART.upper()).exists()
    finally:
        probe.unlink()


def remove_leftovers(directory: Path) -> None:
    """Remove what a killed process has left of the files that it was writing, an hour ago or more.
    Raises: OSError."""
    for left in directory.glob(f"{_TEMPORARY}*{_PART}"):
        if time.time() - left.stat().st_mtime > _LEFT_S:
            left.unlink(missing_ok=True)


def save(text: str, path: Path) -> bool:
    """Write a file as a whole, or not at all. Return False if it has the same text already.

    Raises: OSError.
    """
    content = text.encode()
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == content:
            return False
    temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}{_PART}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return True
