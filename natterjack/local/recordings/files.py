"""Recordings to transcribe, and the files into which their transcripts go."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from natterjack.errors import UsageError
from natterjack.transcripts.files import FORMATS

from .. import program

_SKIPPED = {f".{name}" for name in FORMATS}
"""Files of a folder that are not examined, because they are transcripts."""

_AT_ONCE = 200
"""Files that one process examines."""
_NAMED = 3
"""Files that are named if they are not recordings."""


@dataclass(frozen=True)
class Recording:
    """A file that can be transcribed."""

    path: Path
    seconds: float | None = None
    """Its length, which may be an estimate."""
    tracks: int = 1
    """Number of its audio tracks, of which one is transcribed."""
    folder: Path | None = None
    """The folder that was named in its place."""
    outputs: Mapping[str, Path] = field(default_factory=dict)
    """Where the transcript goes, by format; empty for standard output."""

    title: str | None = None

    @property
    def name(self) -> str:
        """A name for people."""
        if self.title is not None:
            return self.title
        return str(self.path if self.folder is None else self.path.relative_to(self.folder))


@dataclass(frozen=True)
class Found:
    """The recordings to transcribe, and the files that cannot be transcribed."""

    recordings: list[Recording]
    problems: list[str]
    """Why files that were named cannot be transcribed."""
    others: list[Path]
    """Files in folders that are not recordings."""

    def others_text(self) -> str:
        """The first ones of `others`, for people."""
        names = ", ".join(map(str, self.others[:_NAMED]))
        more = len(self.others) - _NAMED
        return f"{names} and {more} more" if more > 0 else names


async def check(path: Path) -> None:
    """Raises: UsageError if a file cannot be transcribed."""
    for problem in (await examine([path])).problems:
        raise UsageError(problem)


async def examine(paths: Sequence[Path], track: int | None = None) -> Found:
    """Return the recordings among files and in folders. Nothing is started but the examination.

    Raises: UsageError if it does not work.
    """
    named: dict[Path, Path | None] = {}
    """The folder of each file that was not named itself."""
    for path in paths:
        if path.is_dir():
            named |= {file: path for file in _files(path) if file not in named}
        else:
            named[path] = None
    recordings, problems, others = [], [], []
    answers: list[dict[str, Any]] = []
    files = list(named)
    for first in range(0, len(files), _AT_ONCE):
        answers += await _probe(files[first : first + _AT_ONCE], track)
    for (path, folder), answer in zip(named.items(), answers, strict=True):
        if "error" not in answer:
            recordings.append(
                Recording(path, answer["seconds"], answer["tracks"] if track is None else 1, folder)
            )
        elif folder is None or _needs_decoder(answer["error"]):
            problems.append(answer["error"])
        else:
            others.append(path)
    return Found(recordings, problems, others)


def _needs_decoder(error: str) -> bool:
    """Whether a file of a folder is a recording, but cannot be decoded here."""
    return "natterjack[media]" in error and "is decoded by" in error


def _files(folder: Path) -> list[Path]:
    """The files of a folder and its folders that may be recordings, in order."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() not in _SKIPPED
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


async def _probe(paths: list[Path], track: int | None) -> list[dict[str, Any]]:
    """Return what `natterjack-edge probe` says about files."""
    arguments = [] if track is None else ["--track", str(track)]
    process = await asyncio.create_subprocess_exec(
        *program.command("natterjack-edge"), "probe", *arguments, "--", *map(os.fsencode, paths),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    answers = [json.loads(line) for line in out.splitlines()]
    if len(answers) < len(paths):
        reason = errors.decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
        raise UsageError(f"the files cannot be examined: {reason[0]}")
    return answers


def with_outputs(
    recordings: Sequence[Recording], directory: Path | None, formats: Iterable[str]
) -> list[Recording]:
    """Return the recordings with the files for their transcripts: in `directory`, in the same
    folders as below the folder that was named, or beside the recordings.

    `talk.mp4` becomes `talk.txt`, or `talk.mp4.txt` if another recording would have the same.
    Raises: UsageError if two recordings have the same name nevertheless.
    """

    def base(recording: Recording) -> Path:
        if directory is None:
            return recording.path
        return directory / (recording.name if recording.folder else recording.path.name)

    formats = list(formats)
    stems = Counter(base(recording).with_suffix("") for recording in recordings)
    paths = {base(recording) for recording in recordings}
    found: list[Recording] = []
    taken: dict[Path, Path] = {}
    for recording in recordings:
        whole = base(recording)
        alone = stems[whole.with_suffix("")] == 1 and not any(
            whole.with_suffix(f".{name}") in paths for name in formats
        )
        stem = whole.stem if alone else whole.name
        outputs = {name: whole.with_name(f"{stem}.{name}") for name in formats}
        for path in outputs.values():
            if (other := taken.setdefault(path, recording.path)) != recording.path:
                raise UsageError(f"{other} and {recording.path} would both become {path}")
        found.append(replace(recording, outputs=outputs))
    return found


def check_writable(recordings: Iterable[Recording]) -> None:
    """Raises: UsageError if a folder for transcripts cannot be written to."""
    for folder in {path.parent for each in recordings for path in each.outputs.values()}:
        there = folder.absolute()
        while not there.exists() and there != there.parent:
            there = there.parent
        if not there.is_dir():
            raise UsageError(f"{there} is not a folder; name another one with -o")
        if not os.access(there, os.W_OK | os.X_OK):
            raise UsageError(f"{there} cannot be written to; name another folder with -o")
