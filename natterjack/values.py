"""The values within events: times, stretches of audio, words, gaps, and what a session has used.

Times named `start` and `end` are seconds on the session's clock, as in `natterjack.events`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)

# Beyond these bounds, which leave room for edges whose clocks are wrong, no arithmetic is possible.
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Moment = Annotated[
    AwareDatetime, Field(ge=datetime(1900, 1, 1, tzinfo=UTC), le=datetime(9000, 1, 1, tzinfo=UTC))
]


class Model(BaseModel):
    """A value that cannot be changed."""

    # Unknown fields are ignored, so that subscribers can read events of newer workers.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Stretch(Model):
    """A stretch of audio, whose end may be absent. One that ends before it starts cannot be made,
    but a stored one can still be read."""

    @model_validator(mode="after")
    def _forward(self, info: ValidationInfo) -> Self:
        start, end = getattr(self, "start", None), getattr(self, "end", None)
        if start is not None and end is not None and end < start and info.mode == "python":
            raise ValueError(f"ends at {end} s, before it starts at {start} s")
        return self


class Word(Stretch):
    """One word; times and confidence are absent if the provider gives none, or unusable ones."""

    text: Annotated[str, Field(description="the word, with its punctuation")]
    start: Annotated[Seconds | None, Field(description="where the word begins, in seconds")] = None
    end: Annotated[Seconds | None, Field(description="where the word ends, in seconds")] = None
    confidence: Annotated[float | None, Field(description="from 0 to 1")] = None
    speaker: Annotated[
        str | None, Field(description="the label that the provider gives to the voice")
    ] = None


class Gap(Stretch):
    """Audio without a transcript: it was lost, and the provider received silence of the same
    duration in its place, or no provider could transcribe it (`unreadable`)."""

    start: Annotated[Seconds, Field(description="where the gap begins, in seconds")]
    end: Annotated[Seconds, Field(description="where the gap ends, in seconds")]
    cause: Annotated[
        str,
        Field(
            description="lost by the edge: `busy` (its machine was too busy), `suspended` (its "
            "machine was), `device_lost`, `dropped` (too much audio waited), `resumed` (no edge "
            "ran), or `edge` (unknown). Left out by it: `muted`. Lost later: `missing`, "
            "`bad_chunk`, `unreadable`"
        ),
    ]


class ProviderUsage(Model):
    """A session's use of one provider, over all its connections and workers."""

    connections: Annotated[int, Field(description="number of connections")] = 0
    sent_seconds: Annotated[
        Seconds, Field(description="audio sent, including audio sent again")
    ] = 0
    replayed_seconds: Annotated[
        Seconds,
        Field(description="part of `sent_seconds` that had been sent before, because of faults"),
    ] = 0
    estimated_seconds: Annotated[
        Seconds,
        Field(
            description="part of `sent_seconds` that is assumed: what killed workers may have sent "
            "after their last report"
        ),
    ] = 0
    connected_seconds: Annotated[Seconds, Field(description="duration of the connections")] = 0
    reported_seconds: Annotated[
        Seconds | None,
        Field(description="audio or connection time that the provider reports, if it does"),
    ] = None
    billed_seconds: Annotated[Seconds, Field(description="by the provider's billing rule")] = 0
    cost: Annotated[float, Field(description="cost of the billed seconds, in `currency`")] = 0
    recovery_cost: Annotated[float, Field(description="part of `cost` for audio sent again")] = 0
    currency: Annotated[str, Field(description="ISO 4217 code of `cost`")] = "USD"
    characters: Annotated[
        int, Field(ge=0, description="text sent to a voice, including text sent again")
    ] = 0


class Account(Model):
    """The closing summary of a session's audio, over its whole life."""

    captured_seconds: Annotated[Seconds, Field(description="audio captured by the edge")] = 0
    received_seconds: Annotated[
        Seconds, Field(description="audio received by workers, each sample counted once")
    ] = 0
    sent_seconds: Annotated[
        Seconds, Field(description="audio sent to providers, including audio sent again")
    ] = 0
    transcribed_seconds: Annotated[Seconds, Field(description="audio covered by finals")] = 0
    connected_seconds: Annotated[
        Seconds, Field(description="duration of all provider connections")
    ] = 0
    providers: Annotated[
        dict[str, ProviderUsage], Field(description="use of each provider, by name")
    ] = Field(default_factory=dict)
    gaps: Annotated[list[Gap], Field(description="the first 100 gaps")] = Field(
        default_factory=list
    )
    gap_seconds: Annotated[
        dict[str, float], Field(description="duration of all gaps, by cause")
    ] = Field(default_factory=dict)
    bad_chunks: Annotated[
        dict[str, int], Field(description="number of rejected chunks, by cause")
    ] = Field(default_factory=dict)
    recoveries: Annotated[
        dict[str, int], Field(description="number of recoveries of the provider stream, by cause")
    ] = Field(default_factory=dict)
    notices: Annotated[
        dict[str, int],
        Field(description="number of notices of the edge, by code; `other` for unknown codes"),
    ] = Field(default_factory=dict)
    notices_suppressed: Annotated[
        int, Field(ge=0, description="number of those that were not published: too many came")
    ] = 0
