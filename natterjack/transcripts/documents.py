"""Transcripts as plain text and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime

from .model import Line, TranscriptGap
from .text import labeled

_MARKUP = re.compile(r"[\\`*_\[\]<>&~|$#!]")
_NOT_HEARD = "[interrupted]"


def clock(seconds: float) -> str:
    """Format seconds as h:mm:ss, rounded down."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _in_order(
    lines: Sequence[Line], gaps: Sequence[TranscriptGap]
) -> Iterator[tuple[str, str, float, str]]:
    """The name, the text, the start and a remark for each line and gap, by start."""
    waiting = list(reversed(gaps))
    for line in lines:
        while waiting and waiting[-1].start <= line.start:
            yield _gap(waiting.pop())
        remark = _NOT_HEARD if any(segment.interrupted for segment in line.segments) else ""
        yield line.name, line.text, line.start, remark
    while waiting:
        yield _gap(waiting.pop())


def _gap(gap: TranscriptGap) -> tuple[str, str, float, str]:
    return gap.speaker, "", gap.start, f"[gap of {gap.end - gap.start:.1f} s: {gap.cause}]"


def to_txt(lines: Sequence[Line], gaps: Sequence[TranscriptGap], times: bool, named: bool) -> str:
    """A line of text for each line and each gap."""
    written = []
    for name, text, start, remark in _in_order(lines, gaps):
        label = f"[{clock(start)}] " if times else ""
        label += f"{name}: " if named else ""
        written.append(labeled(label, f"{text} {remark}".strip(" ")) + "\n")
    return "".join(written)


def escaped(text: str) -> str:
    """`text` as Markdown that shows it unchanged."""

    def escape(match: re.Match[str]) -> str:
        return {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(match[0], f"\\{match[0]}")

    return _MARKUP.sub(escape, text)


def to_md(
    title: str,
    started_at: datetime | None,
    duration: float,
    lines: Sequence[Line],
    gaps: Sequence[TranscriptGap],
) -> str:
    """A heading, and a paragraph for each line and each gap."""
    parts = [f"# {escaped(title)}"]
    if started_at is not None:
        parts.append(f"{started_at:%Y-%m-%d %H:%M:%S} UTC, {clock(duration)}")
    for name, text, start, remark in _in_order(lines, gaps):
        shown = escaped(text) + (f" *{escaped(remark)}*" if remark else "")
        parts.append(labeled(f"**{clock(start)} {escaped(name)}:** ", shown.strip(" ")))
    return "\n\n".join(parts) + "\n"
