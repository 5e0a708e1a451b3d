"""The parts of a transcript. All times are seconds from the start of the conversation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from natterjack.values import Seconds

Kind = Literal["transcribed", "spoken"]


@dataclass(frozen=True, slots=True)
class TimedWord:
    """One word of a segment."""

    text: Annotated[str, Field(description="the word, with its punctuation")]
    start: Annotated[Seconds | None, Field(description="where the word begins, in seconds")] = None
    end: Annotated[Seconds | None, Field(description="where the word ends, in seconds")] = None
    confidence: Annotated[float | None, Field(description="from 0 to 1")] = None


@dataclass(frozen=True, slots=True)
class Segment:
    """The text of one final, or of a part of it; of a voice session, of one utterance."""

    session_id: Annotated[str, Field(description="ID of the session")]
    segment: Annotated[int, Field(ge=0, description="number of the segment, or of the utterance")]
    text: Annotated[str, Field(description="the text, on one line")]
    start: Annotated[Seconds, Field(description="where it begins, in seconds")]
    end: Annotated[Seconds, Field(description="where it ends, in seconds")]
    words: Annotated[
        tuple[TimedWord, ...], Field(description="the words of `text`, if the provider gives them")
    ] = ()
    confidence: Annotated[float | None, Field(description="from 0 to 1")] = None
    language: Annotated[
        str | None, Field(description="BCP-47 tag of the language that was recognized")
    ] = None
    interrupted: Annotated[bool, Field(description="the rest of the utterance was not heard")] = (
        False
    )


@dataclass(frozen=True, slots=True)
class Line:
    """A stretch of one speaker's speech without a long pause, and before anybody else says
    something. After a minute, the next sentence begins another line."""

    speaker: Annotated[str, Field(description="third token of the session key")]
    start: Annotated[Seconds, Field(description="where the line begins, in seconds")]
    end: Annotated[Seconds, Field(description="where the line ends, in seconds")]
    text: Annotated[str, Field(description="the texts of its segments, joined")]
    kind: Annotated[
        Kind,
        Field(description="`transcribed`: what was heard; `spoken`: what a voice session has said"),
    ]
    segments: Annotated[tuple[Segment, ...], Field(description="in the order of their times")]
    label: Annotated[
        str | None,
        Field(
            description="the label that the provider gives to the person, if it tells several apart"
        ),
    ] = None

    @property
    def name(self) -> str:
        """The speaker, with the provider's label if there is one."""
        return f"{self.speaker} ({self.label})" if self.label else self.speaker

    @property
    def who(self) -> tuple[str, str | None, Kind]:
        """The properties that the segments of a line have in common: speaker, label and kind."""
        return self.speaker, self.label, self.kind


@dataclass(frozen=True, slots=True)
class TranscriptGap:
    """A stretch of a speaker's audio without a transcript."""

    speaker: Annotated[str, Field(description="third token of the session key")]
    session_id: Annotated[str, Field(description="ID of the session")]
    start: Annotated[Seconds, Field(description="where the gap begins, in seconds")]
    end: Annotated[Seconds, Field(description="where the gap ends, in seconds")]
    cause: Annotated[
        str,
        Field(
            description="the cause in the session's account, or: `expired` (the broker no longer "
            "stores the finals), `failed` (the session ended before the end of its audio)"
        ),
    ]


@dataclass(frozen=True, slots=True)
class TranscriptSession:
    """A session of the conversation."""

    session_id: Annotated[str, Field(description="ID of the session, from its request")]
    speaker: Annotated[str, Field(description="third token of the session key")]
    kind: Annotated[Kind, Field(description="the kind of its lines")]
    state: Annotated[str, Field(description="the last state that was published")]
    open: Annotated[bool, Field(description="the session has not ended")]
    reason: Annotated[str | None, Field(description="why the state changed")] = None
    repeats: Annotated[
        str | None, Field(description="ID of the session whose text this one replaces")
    ] = None
    continues: Annotated[
        str | None, Field(description="ID of the session that this one continues")
    ] = None
