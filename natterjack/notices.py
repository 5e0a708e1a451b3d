"""Notices: the codes with which an edge says what becomes of its input.

They go with the audio, in the header `Audio-Note`: `code` begins at the chunk, `code:end` ended
before it. A worker makes a `notice` event of each. Codes of later releases, and of other edges, are
passed on as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

CODE_PATTERN = r"[a-z_]{1,32}"
MAX_NOTES = 3
"""How many codes a chunk can have. Older workers ignore a header with more of them."""
NOTE_PATTERN = rf"{CODE_PATTERN}(:end)?(,{CODE_PATTERN}(:end)?){{0,{MAX_NOTES - 1}}}"
_NOTE = re.compile(NOTE_PATTERN)
_END = ":end"

BUSY, SUSPENDED, DEVICE_LOST, DEVICE_FALLBACK = (
    "busy",
    "suspended",
    "device_lost",
    "device_fallback",
)
DROPPED, RESUMED, MUTED = "dropped", "resumed", "muted"
GAP_CAUSES = (BUSY, SUSPENDED, DEVICE_LOST, DROPPED, RESUMED, MUTED)
"""Why an edge lost audio, or left it out, by the Audio-Note of the next chunk: its machine was too
busy; its machine was suspended; the microphone was away; the oldest audio that waited for NATS was
dropped; no edge ran; somebody muted it."""
_INSTANT = (BUSY, SUSPENDED, DROPPED, RESUMED)
"""Causes of gaps that are noted when the gap is over, and never begin."""
UNNAMED_GAP = "edge"
"""The cause of a gap of the edge whose cause is unknown."""

CODES: Mapping[str, tuple[str, str]] = {
    "input_dead": ("the input has zeros only", "the input has audio again"),
    "input_low": ("the input is silent but for noise", "the input is loud enough again"),
    "input_clipping": ("the input is clipped", "the input is no longer clipped"),
    "input_offset": ("the input has a constant offset", "the input has no offset any more"),
    "input_phase": ("channels cancel each other", "channels no longer cancel each other"),
    "input_channel": ("one channel only has audio", "more than one channel has audio again"),
    "input_encoding": ("the input is noise, or encoded", "the input is no longer noise"),
    "input_invalid": ("samples are not numbers", "all samples are numbers again"),
    "input_scale": ("samples are in another scale", "samples are in the usual scale again"),
    DEVICE_LOST: ("the microphone is away", "the microphone is back"),
    "device_found": ("a microphone was found", "the microphone that was found is away"),
    DEVICE_FALLBACK: ("another microphone is used", "the first microphone is used again"),
    MUTED: ("the input is muted", "the input is no longer muted"),
    BUSY: ("the edge is too busy to record", "audio was lost: the edge was too busy"),
    SUSPENDED: ("the edge is suspended", "audio was lost: the edge was suspended"),
    DROPPED: ("the edge drops old audio", "audio was dropped: NATS was away for too long"),
    RESUMED: ("the edge was started again", "audio was lost: no edge ran"),
}
"""Descriptions of each known code, for people: one for when it begins, one for when it has
ended."""
OTHER = "other"
"""The metric label of all codes that are not known."""


class Note(NamedTuple):
    """One code of a chunk's Audio-Note."""

    code: str
    ended: bool = False
    """Whether the condition ended before the chunk; else it begins at the chunk."""

    def __str__(self) -> str:
        return self.code + _END if self.ended else self.code


def checked_note(text: str) -> str:
    """The value of an Audio-Note header; empty if it is malformed, as the audio is still valid."""
    return text if _NOTE.fullmatch(text) else ""


def parse_notes(text: str) -> tuple[Note, ...]:
    """Return the codes of an Audio-Note, in order. `text` is checked, or empty."""
    parts = text.split(",") if text else ()
    return tuple(Note(part.removesuffix(_END), part.endswith(_END)) for part in parts)


def join_notes(notes: Iterable[Note]) -> str:
    """Return the value of an Audio-Note header; empty if there are no notes."""
    return ",".join(map(str, notes))


def merge_notes(earlier: Sequence[Note], later: Sequence[Note]) -> list[Note]:
    """Return what is left of the notes of two chunks if the second one has those of both.

    A condition that begins and ends between them, or the other way round, has not changed. A cause
    of a gap before the first chunk is none of one before the second.
    """
    merged = [note for note in earlier if note.code not in _INSTANT]
    for note in later:
        opposite = Note(note.code, not note.ended)
        if opposite in merged and note.code not in GAP_CAUSES:
            merged.remove(opposite)
        elif note not in merged:
            merged.append(note)
    return merged


def spread_notes(notes: Sequence[Note], own: Sequence[Note]) -> tuple[list[Note], list[Note]]:
    """Return the notes for a chunk, and those that the next one has to take.

    `notes` are waiting, `own` belong to this chunk. A cause of a gap goes first, as it is about
    this chunk.
    """
    merged = merge_notes(notes, own)
    gaps = [note for note in own if note.ended and note.code in GAP_CAUSES]
    ordered = gaps + [note for note in merged if note not in gaps]
    return ordered[:MAX_NOTES], ordered[MAX_NOTES:]


def holding(codes: Iterable[str], notes: Iterable[Note]) -> list[str]:
    """Return the codes of the conditions that hold after `notes`, given those before."""
    held = dict.fromkeys(codes)
    for note in notes:
        held.pop(note.code, None)
        if not note.ended:
            held[note.code] = None
    return list(held)


def changes(notes: Sequence[Note]) -> list[Note]:
    """Return the notes of a chunk that change something, each once: a condition that has ended
    before the chunk and begins with it goes on."""
    found: list[Note] = []
    for note in notes:
        if note not in found and Note(note.code, not note.ended) not in notes:
            found.append(note)
    return found


def gap_note(cause: str) -> str:
    """The note of the chunk that follows a gap with this cause."""
    return cause + _END


def gap_cause(note: str) -> str:
    """The cause of the gap before a chunk with this note, or UNNAMED_GAP."""
    ended = (each.code for each in parse_notes(note) if each.ended)
    return next((code for code in ended if code in GAP_CAUSES), UNNAMED_GAP)


def label(code: str) -> str:
    """The metric label of a code: itself if it is known, else OTHER."""
    return code if code in CODES else OTHER


def text_of(code: str, *, ended: bool) -> str:
    """Describe a code for people. An unknown code stands for itself."""
    known = CODES.get(code)
    if known is None:
        return f"{code.replace('_', ' ')} ended" if ended else code.replace("_", " ")
    return known[ended]
