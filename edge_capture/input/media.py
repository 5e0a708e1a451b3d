"""Files that need a decoder: the decoder's command lines, and the parsing of its messages.

The decoder is a process that writes a WAV file of 16-bit samples to a pipe: the program `ffmpeg`,
or else `av_decoder.py` beside this file, which uses PyAV. Because it is a process of its own, a
file that makes it crash or run without end does no harm to the sessions of this process.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

FORMATS = (
    "aac", "ac3", "aiff", "amr", "amrnb", "amrwb", "ape", "asf", "au", "avi", "caf", "dts", "eac3",
    "flac", "flv", "gsm", "loas", "matroska", "mov", "mp3", "mpc", "mpc8", "mpeg", "mpegts", "mxf",
    "nut", "ogg", "rm", "tak", "tta", "w64", "wav", "webm", "wv", "xwma",
)  # fmt: skip
"""The demuxers that may be used. Others read playlists, which name files that nobody has given."""
FILL_S = 0.1
"""The audio of a file may begin late or have holes by its timestamps. From this length on, they are
filled with silence, so that what follows keeps its time."""


class Track(NamedTuple):
    """One audio track of a file."""

    codec: str
    language: str | None = None


class Media(NamedTuple):
    """The contents of a file."""

    tracks: tuple[Track, ...]
    """Its audio tracks."""
    seconds: float | None
    """Its length, which may be an estimate; None if it is unknown."""


class Ffmpeg:
    """The program `ffmpeg`."""

    name = "ffmpeg"

    def __init__(self, program: str) -> None:
        self._program = program

    def _command(self, path: Path, level: str, *output: str) -> list[str]:
        return [
            self._program, "-nostdin", "-hide_banner", "-nostats", "-v", level,
            "-protocol_whitelist", "file", "-format_whitelist", ",".join(FORMATS),
            "-i", f"file:{path}", *output,
        ]  # fmt: skip

    def probe_command(self, path: Path) -> list[str]:
        """The command that says what a file holds."""
        return self._command(path, "info")

    def decode_command(self, path: Path, track: int) -> list[str]:
        """The command that writes an audio track, numbered from 1, to standard output."""
        return self._command(
            path, "error", "-map", f"0:a:{track - 1}", "-af", "aresample=async=1:first_pts=0",
            "-map_metadata", "-1", "-c:a", "pcm_s16le", "-f", "wav", "pipe:1",
        )  # fmt: skip

    def parse(self, out: str, errors: str) -> Media | str:
        """Return what `probe_command` says, or why the file cannot be read."""
        if not re.search(r"^Input #0, ", errors, re.MULTILINE):
            return problem(errors)
        tracks = tuple(
            Track(found["codec"], found["language"] if found["language"] != "und" else None)
            for found in _STREAM.finditer(errors)
        )
        length = _DURATION.search(errors)
        if length is None:
            return Media(tracks, None)
        hours, minutes, seconds = map(float, length.groups())
        return Media(tracks, hours * 3600 + minutes * 60 + seconds)


class PyAv:
    """PyAV, in a process of its own."""

    name = "PyAV"

    def _command(self, *arguments: str) -> list[str]:
        # -P keeps the folder of the program off the import path.
        program = str(Path(__file__).with_name("av_decoder.py"))
        return [sys.executable, "-P", program, ",".join(FORMATS), *arguments]

    def probe_command(self, path: Path) -> list[str]:
        """The command that says what a file holds."""
        return self._command("probe", str(path))

    def decode_command(self, path: Path, track: int) -> list[str]:
        """The command that writes an audio track, numbered from 1, to standard output."""
        return self._command("decode", str(track), str(FILL_S), str(path))

    def parse(self, out: str, errors: str) -> Media | str:
        """Return what `probe_command` says, or why the file cannot be read."""
        try:
            found = json.loads(out)
        except ValueError:
            return problem(errors)
        return Media(tuple(Track(*track) for track in found["tracks"]), found["seconds"])


Decoder = Ffmpeg | PyAv


def find_decoder() -> Decoder | None:
    """Return the decoder of this machine. An `ffmpeg` that is there is kept up to date with the
    system, and starts faster."""
    if (program := shutil.which("ffmpeg")) is not None:
        return Ffmpeg(program)
    return PyAv() if importlib.util.find_spec("av") is not None else None


# ffmpeg indents a stream by two blanks, and text from the file itself by more.
_STREAM = re.compile(
    r"^  Stream #0:\d+(?:\[0x[0-9a-f]+\])?(?:\((?P<language>\w+)\))?: Audio: (?P<codec>[\w-]+)",
    re.MULTILINE,
)
_DURATION = re.compile(r"^  Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)", re.MULTILINE)
_ADDRESS = re.compile(r"^(\[[^]]*\]\s*)+")
_SAID_BEFORE = re.compile(r"^(Error opening input(?: files)?: |file:.*: (?=[^:]+$))")
_UNTOLD = ("At least one output file", "Error opening input file", "Conversion failed")
"""Starts of the lines that ffmpeg adds to the reason of a failure. They are not shown."""


def problem(errors: str) -> str:
    """Return the reason for a failure, in one line, from what a decoder wrote to standard error."""
    lines = []
    for line in errors.splitlines():
        text = _ADDRESS.sub("", line.strip())
        text = _SAID_BEFORE.sub("", text).rstrip(".")
        if text and not text.startswith(_UNTOLD) and text not in lines:
            lines.append(text)
    return "; ".join(lines[-2:]) or "it gives no reason"


def tracks_text(tracks: Sequence[Track]) -> str:
    """Describe the tracks of a file, with the numbers that choose them."""
    words = (
        f"{number} ({track.codec}{f', {track.language}' if track.language else ''})"
        for number, track in enumerate(tracks, 1)
    )
    return ", ".join(words)
