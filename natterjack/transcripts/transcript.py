"""Transcript: a conversation as a value."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from . import documents, subtitles
from .model import Line, TranscriptGap, TranscriptSession

VERSION: Literal[1] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """A conversation: what its speakers said, merged on one clock.

    It does not change; `follow` gives a new one after each event. Times are seconds from the start
    of the conversation, which is the wall-clock time `started_at`. A session that repeats another
    one replaces its text, as far as it has come.
    """

    version: Annotated[
        Literal[1], Field(description="of this format; members may be added within a version")
    ] = VERSION
    tenant: Annotated[str, Field(description="first token of the session keys")]
    conversation: Annotated[str, Field(description="second token of the session keys")]
    started_at: Annotated[
        datetime | None,
        Field(
            description="wall-clock time of the start: that of the first frame of the audio that "
            "was captured first. Absent while there is no text"
        ),
    ] = None
    open: Annotated[bool, Field(description="a session has not ended, so more text may follow")] = (
        False
    )
    lines: Annotated[
        tuple[Line, ...], Field(description="what was said, in the order of the starts")
    ] = ()
    interims: Annotated[
        tuple[Line, ...], Field(description="what open sessions say now; this may still change")
    ] = ()
    gaps: Annotated[
        tuple[TranscriptGap, ...],
        Field(description="what has no transcript, in the order of the starts"),
    ] = ()
    sessions: Annotated[
        tuple[TranscriptSession, ...], Field(description="in the order of their first events")
    ] = field(default=())

    @property
    def speakers(self) -> tuple[str, ...]:
        """The names of all who say something, in the order of their first lines."""
        return tuple(dict.fromkeys(line.name for line in self.lines))

    @property
    def duration(self) -> float:
        """Seconds from the start to the end of the last line."""
        return max((line.end for line in self.lines), default=0.0)

    @property
    def stored_from(self) -> datetime | None:
        """The wall-clock time from which on it is stored, if text before has expired."""
        if self.started_at is None or not self.gaps or self.gaps[0].cause != "expired":
            return None
        first = min((line.start for line in self.lines), default=self.gaps[0].end)
        if self.gaps[0].start > first:
            return None
        return self.started_at + timedelta(seconds=first)

    def to_txt(self, *, times: bool = True, speakers: bool | None = None) -> str:
        """A line of text for each line and each gap.

        `times`: it begins with the time. `speakers`: the speaker is named; by default, if there are
        several.
        """
        return documents.to_txt(self.lines, self.gaps, times, self._named(speakers))

    def to_md(self) -> str:
        """Markdown: a heading, and a paragraph for each line and each gap."""
        title = self.conversation
        return documents.to_md(title, self.started_at, self.duration, self.lines, self.gaps)

    def to_srt(
        self,
        *,
        speakers: bool | None = None,
        characters_per_second: float = subtitles.CHARACTERS_PER_SECOND,
    ) -> str:
        """Subtitles in the format SubRip.

        Each has at most two lines of 42 cells and is shown for 1 to 7 seconds, longer than it is
        spoken if more than `characters_per_second` would have to be read and nothing follows.
        `speakers`: a subtitle begins with the speaker's name where that changes; by default, if
        there are several.
        """
        named = self._named(speakers)
        return subtitles.to_srt(subtitles.cues(self.lines, named, characters_per_second))

    def to_vtt(
        self,
        *,
        speakers: bool | None = None,
        characters_per_second: float = subtitles.CHARACTERS_PER_SECOND,
    ) -> str:
        """Subtitles in the format WebVTT, which are those of `to_srt`; the speaker is that of a
        voice span, besides."""
        named = self._named(speakers)
        return subtitles.to_vtt(subtitles.cues(self.lines, named, characters_per_second))

    def to_json(self, *, indent: int | None = None) -> str:
        """JSON with all that the value has; members without a value are left out."""
        return _ADAPTER.dump_json(self, exclude_none=True, indent=indent).decode()

    def _named(self, speakers: bool | None) -> bool:
        return len(self.speakers) > 1 if speakers is None else speakers


_ADAPTER: TypeAdapter[Transcript] = TypeAdapter(Transcript)


def schema() -> dict[str, Any]:
    """The JSON schema of what `Transcript.to_json` makes."""
    made = _without_null(_ADAPTER.json_schema(mode="serialization"))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def _without_null(part: Any) -> Any:
    """A part of a schema in which members may be absent but not null."""
    if isinstance(part, list):
        return [_without_null(one) for one in part]
    if not isinstance(part, dict):
        return part
    made = {name: _without_null(one) for name, one in part.items()}
    if made.get("default", "") is None:
        del made["default"]
    alternatives = [one for one in made.get("anyOf", ()) if one != {"type": "null"}]
    if len(alternatives) == 1:
        del made["anyOf"]
        made.update(alternatives[0])
    return made
