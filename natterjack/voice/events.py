"""The events of a voice session, one model each, on `tts.event.<key>.<kind>`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from natterjack.errors import BadEvent, first_problem
from natterjack.events import Durable, StatusState
from natterjack.values import Seconds

_TYPE = Field(description="kind of the event")
Characters = Annotated[int, Field(ge=0)]


class VoiceStatusEvent(Durable):
    """A change of a voice session's state. `closed` and `failed` end the session."""

    type: Annotated[Literal["status"], _TYPE] = "status"
    state: Annotated[StatusState, Field(description="the new state; `streaming`: it can speak")]
    reason: Annotated[str | None, Field(description="why the state changed")] = None
    detail: Annotated[str | None, Field(description="details beyond `reason`, for people")] = None
    worker: Annotated[str, Field(description="name of the worker")]
    utterance: Annotated[
        int | None,
        Field(
            ge=0,
            description="number of the first utterance that was not finished; only in closing "
            "events",
        ),
    ] = None
    text_remaining: Annotated[
        str | None,
        Field(description="text that was not spoken; only in closing events, up to 16 KiB"),
    ] = None
    request: Annotated[
        dict[str, Any] | None,
        Field(description="the session's request; only in closing events, and up to 16 KiB"),
    ] = None

    @property
    def closing(self) -> bool:
        return self.state in ("closed", "failed")


class UtteranceEvent(Durable):
    """The start or the end of an utterance."""

    type: Annotated[Literal["utterance"], _TYPE] = "utterance"
    utterance: Annotated[int, Field(ge=0, description="number of the utterance: 0, 1, 2 ...")]
    event: Annotated[
        Literal["started", "finished", "interrupted"],
        Field(
            description="`started`: its first audio was published; `finished`: all of it was "
            "played; `interrupted`: the rest is not spoken"
        ),
    ]
    reason: Annotated[
        str | None,
        Field(
            description="of `interrupted`: `request`, `turn` (the speaker of `interrupt_on` began "
            "to talk), `no_player` (nothing played it in time), `failed`, or why the session has "
            "ended: `end of text`, `closed`, `idle`, `superseded`, `budget`"
        ),
    ] = None
    detail: Annotated[
        str | None,
        Field(
            description="details beyond `reason`, for people; of `finished`: what was wrong with "
            "the text, of which a part was missing or could not be read"
        ),
    ] = None
    text_spoken: Annotated[
        str | None, Field(description="text that was heard; absent in `started`")
    ] = None
    text_remaining: Annotated[
        str | None, Field(description="of `interrupted`: text that was received and not heard")
    ] = None
    estimated: Annotated[
        bool,
        Field(description="the boundary of the two texts was estimated from playback time"),
    ] = False
    start: Annotated[
        Seconds, Field(description="seconds of the session's speech before the utterance")
    ] = 0
    end: Annotated[
        Seconds | None,
        Field(description="seconds of the session's speech at the end of what was played"),
    ] = None
    latency: Annotated[
        float | None,
        Field(description="of `started`: seconds from the arrival of its first text"),
    ] = None


class VoiceUsage(Durable):
    """The use and cost of a voice session so far: sent regularly and at the end."""

    type: Annotated[Literal["usage"], _TYPE] = "usage"
    characters: Annotated[
        Characters, Field(description="characters sent to providers, including text sent again")
    ] = 0
    repeated_characters: Annotated[
        Characters,
        Field(description="part of `characters` that had been sent before, because of faults"),
    ] = 0
    audio_seconds: Annotated[Seconds, Field(description="speech that was published")] = 0
    played_seconds: Annotated[Seconds, Field(description="speech that was played")] = 0
    connected_seconds: Annotated[
        Seconds, Field(description="duration of all provider connections")
    ] = 0
    cost: Annotated[float | None, Field(description="total over all providers, in `currency`")] = (
        None
    )
    currency: Annotated[str | None, Field(description="ISO 4217 code of `cost`")] = None


VoiceEvent = VoiceStatusEvent | UtteranceEvent | VoiceUsage

_ADAPTER: TypeAdapter[VoiceEvent] = TypeAdapter(Annotated[VoiceEvent, Field(discriminator="type")])


def parse_voice_event(payload: bytes | str) -> VoiceEvent:
    """Parse an event from a message's payload. Raises BadEvent."""
    try:
        return _ADAPTER.validate_json(payload)
    except ValidationError as error:
        raise BadEvent(f"not a voice event: {first_problem(error)}") from None
