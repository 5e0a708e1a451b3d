"""Subtitles: when each is shown, and the formats SubRip and WebVTT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from natterjack.process.terminal import start as start_of
from natterjack.process.terminal import width

from .cutting import LINE_CELLS, MAX_SECONDS, Token, joined, rows, split, tokens
from .model import Line
from .text import labeled

CHARACTERS_PER_SECOND = 17.0
"""How fast subtitles are read; a wide character counts as two."""
_MIN_MS, _MAX_MS = 1000, round(MAX_SECONDS * 1000)
LATE_MS = 1500
"""How much later than it is spoken a subtitle may appear, so that the one before can be read."""
_LABEL_CELLS = 20
_ARROW = "→"
"""In place of the `-->` that separates the times of a subtitle."""


class Cue(NamedTuple):
    """One subtitle."""

    start_ms: int
    end_ms: int
    rows: tuple[tuple[str, str], ...]
    """At most two: the speaker and the text, with the label that is shown."""


class _Draft(NamedTuple):
    name: str
    label: str
    """Shown before the text, if a label is needed."""
    tokens: Sequence[Token]

    @property
    def start_ms(self) -> int:
        return round(self.tokens[0].start * 1000)

    @property
    def end_ms(self) -> int:
        return round(max(token.end for token in self.tokens) * 1000)

    @property
    def labeled(self) -> str:
        return self.label + joined(self.tokens)


def cues(lines: Sequence[Line], named: bool, characters_per_second: float) -> list[Cue]:
    """The subtitles of a transcript, in order and without overlap. With `named`, the speaker is
    shown where it changes; else dashes tell two speakers in one subtitle apart."""
    drafts: list[_Draft] = []
    for line in lines:
        label = f"{start_of(line.name, _LABEL_CELLS - 2)}: " if named else "- "
        label = labeled(label, "", direction_of=line.text)
        parts = split(tokens(line), width(label) if named else 0)
        drafts += [_Draft(line.name, label, part) for part in parts]
    drafts.sort(key=lambda draft: draft.start_ms)
    shown: list[tuple[_Draft, ...]] = []
    before = ""
    for draft in drafts:
        cells = width(draft.label) if named and draft.name != before else 0
        for part in split(draft.tokens, cells):
            again = draft._replace(tokens=part)
            if shown and _dialogue(shown[-1], again):
                shown[-1] = (*shown[-1], again)
            else:
                shown.append((again,))
        before = draft.name
    return _timed(shown, named, characters_per_second)


def _dialogue(shown: tuple[_Draft, ...], draft: _Draft) -> bool:
    """Whether a draft goes below the one before it, which would be shown for too short a time."""
    first = shown[0]
    return (
        len(shown) == 1
        and first.name != draft.name
        and draft.start_ms - first.start_ms < _MIN_MS
        and max(first.end_ms, draft.end_ms) - first.start_ms <= _MAX_MS
        and all(width(d.labeled) <= LINE_CELLS for d in (first, draft))
    )


def _timed(
    shown: Sequence[tuple[_Draft, ...]], named: bool, characters_per_second: float
) -> list[Cue]:
    found: list[Cue] = []
    free, before = 0, ""
    for n, drafts in enumerate(shown):
        text = _rows(drafts, named, before)
        before = drafts[-1].name
        start = max(free, drafts[0].start_ms)
        reading = round(sum(width(row) for _, row in text) / characters_per_second * 1000)
        end = max(start + max(_MIN_MS, reading), max(draft.end_ms for draft in drafts))
        if n + 1 < len(shown):
            latest = min(start + reading, shown[n + 1][0].start_ms + LATE_MS)
            end = min(end, max(start + _MIN_MS, shown[n + 1][0].start_ms, latest))
        free = min(end, start + _MAX_MS)
        found.append(Cue(start, free, text))
    return found


def _rows(drafts: tuple[_Draft, ...], named: bool, before: str) -> tuple[tuple[str, str], ...]:
    if len(drafts) > 1:
        return tuple((draft.name, draft.labeled) for draft in drafts)
    (draft,) = drafts
    label = draft.label if named and draft.name != before else ""
    return tuple((draft.name, row) for row in rows(draft.tokens, label))


def _clock(ms: int, point: str) -> str:
    seconds = ms // 1000
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{ms % 1000:03}"


def to_srt(cues: Sequence[Cue]) -> str:
    """The subtitles in the format SubRip."""
    return "\n".join(
        f"{number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n"
        + "".join(f"{row.replace('-->', _ARROW)}\n" for _, row in cue.rows)
        for number, cue in enumerate(cues, 1)
    )


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def to_vtt(cues: Sequence[Cue]) -> str:
    """The subtitles in the format WebVTT."""
    parts = ["WEBVTT\n"]
    for cue in cues:
        names = {name for name, _ in cue.rows}
        texts = [_escaped(row) for _, row in cue.rows]
        if len(names) == 1:
            text = f"<v {_escaped(cue.rows[0][0])}>{chr(10).join(texts)}</v>"
        else:
            text = "\n".join(
                f"<v {_escaped(name)}>{row}</v>"
                for (name, _), row in zip(cue.rows, texts, strict=True)
            )
        parts.append(f"{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n{text}\n")
    return "\n".join(parts)
