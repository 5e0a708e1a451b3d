"""The events of a session, one model each: the contract with every downstream service.

Times named `start` and `end` are seconds on the session's own clock: samples captured since the
session's start, divided by the sample rate. They run on through reconnects, handovers and gaps.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from .errors import BadEvent, first_problem
from .subjects import SessionKey

Seconds = Annotated[float, Field(ge=0)]


class _Model(BaseModel):
    # Unknown fields are ignored: a subscriber must outlive a newer worker.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Word(_Model):
    """One word; times and confidence are absent where the provider has none."""

    text: str
    start: Seconds | None = None
    end: Seconds | None = None
    confidence: float | None = None
    speaker: str | None = None


class _Event(_Model):
    session_id: str
    tenant: str
    conversation: str
    speaker: str
    epoch: Annotated[int, Field(ge=0, description="delivery count of the session's lease")]
    provider: str | None = None
    model: str | None = None
    published_at: datetime

    @property
    def key(self) -> SessionKey:
        return SessionKey(self.tenant, self.conversation, self.speaker)

    def encode(self) -> bytes:
        """JSON as published; absent values are left out."""
        return to_json(self, exclude_none=True)


class Durable(_Event):
    """What all durable events have."""

    sequence: Annotated[
        int, Field(ge=0, description="0, 1, 2 ... without holes over all durable events")
    ]


class _Transcript(_Model):
    segment: Annotated[int, Field(ge=0, description="0, 1, 2 ...: one for each final")]
    text: str
    words: list[Word] = Field(default_factory=list)
    start: Seconds
    end: Seconds
    times_estimated: Annotated[
        bool, Field(description="word times are the worker's estimate, not the provider's")
    ] = False
    confidence: float | None = None
    language: str | None = None
    started_at: Annotated[datetime | None, Field(description="wall clock of `start`")] = None
    latency: Annotated[
        float | None,
        Field(description="seconds from the arrival of the last sample covered to publishing"),
    ] = None


class InterimEvent(_Transcript, _Event):
    """Text that may still change. Published at once, stored nowhere."""

    type: Literal["interim"] = "interim"


class FinalEvent(_Transcript, Durable):
    """Text that will not change."""

    type: Literal["final"] = "final"


TurnKind = Literal["started", "eager_end", "resumed", "ended"]


class TurnEvent(Durable):
    """A boundary of one speaker's stretch."""

    type: Literal["turn"] = "turn"
    turn: Annotated[int, Field(ge=0)]
    event: TurnKind
    text: str | None = None
    start: Seconds | None = None
    end: Seconds | None = None
    confidence: float | None = None


class Gap(_Model):
    """Audio that could not be had; silence of the same length stands in for it."""

    start: Seconds
    end: Seconds
    cause: str


class ProviderUsage(_Model):
    """What a session has used of one provider, over all its connections and workers."""

    connections: int = 0
    sent_seconds: Annotated[Seconds, Field(description="audio, replays included")] = 0
    replayed_seconds: Annotated[
        Seconds, Field(description="of these, sent before: what faults have cost")
    ] = 0
    estimated_seconds: Annotated[
        Seconds,
        Field(description="of these, assumed: what killed workers sent after they last told"),
    ] = 0
    connected_seconds: Seconds = 0
    reported_seconds: Annotated[
        Seconds | None, Field(description="by the provider's own account, where it gives one")
    ] = None
    billed_seconds: Annotated[Seconds, Field(description="by the provider's billing rule")] = 0
    cost: Annotated[float, Field(description="of the billed seconds, in `currency`")] = 0
    recovery_cost: Annotated[float, Field(description="of these, for replayed audio")] = 0
    currency: str = "USD"


class Account(_Model):
    """What became of a session's audio, in seconds, over its whole life."""

    captured_seconds: Annotated[Seconds, Field(description="by the edge, from positions")] = 0
    received_seconds: Annotated[Seconds, Field(description="by workers, each sample once")] = 0
    sent_seconds: Annotated[Seconds, Field(description="to providers, replays included")] = 0
    transcribed_seconds: Annotated[Seconds, Field(description="covered by finals")] = 0
    connected_seconds: Annotated[Seconds, Field(description="of provider connections")] = 0
    providers: Annotated[
        dict[str, ProviderUsage], Field(description="what was used of each provider")
    ] = Field(default_factory=dict)
    gaps: Annotated[list[Gap], Field(description="the first 100")] = Field(default_factory=list)
    gap_seconds: Annotated[dict[str, float], Field(description="of all gaps, by cause")] = Field(
        default_factory=dict
    )
    bad_chunks: Annotated[
        dict[str, int], Field(description="chunks left out, by what was wrong with them")
    ] = Field(default_factory=dict)
    recoveries: Annotated[
        dict[str, int], Field(description="times the provider stream was opened again, by cause")
    ] = Field(default_factory=dict)


StatusState = Literal["assigned", "streaming", "recovering", "handed_over", "closed", "failed"]


class StatusEvent(Durable):
    """A change in a session's life. `closed` and `failed` end it and carry its account."""

    type: Literal["status"] = "status"
    state: StatusState
    reason: str | None = None
    detail: Annotated[
        str | None, Field(description="what there is to say beyond `reason`, for people")
    ] = None
    worker: str
    account: Account | None = None

    @property
    def closing(self) -> bool:
        return self.state in ("closed", "failed")


class UsageEvent(Durable):
    """What a session has cost so far: on a timer, when credit is low, and before its end."""

    type: Literal["usage"] = "usage"
    audio_seconds: Annotated[Seconds, Field(description="sent to providers, replays included")]
    connected_seconds: Seconds
    cost: Annotated[float | None, Field(description="at all providers, in `currency`")] = None
    currency: str | None = None
    credits_remaining_seconds: Annotated[
        float | None, Field(description="until the provider, or a budget, ends the session")
    ] = None
    low: Annotated[bool, Field(description="a threshold was passed, or the provider warns")] = False
    providers: dict[str, ProviderUsage] = Field(default_factory=dict)


DurableEvent = FinalEvent | TurnEvent | StatusEvent | UsageEvent
Event = InterimEvent | DurableEvent

_ADAPTER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


def parse_event(payload: bytes | str) -> Event:
    """The event in a message's payload. Raises BadEvent."""
    try:
        return _ADAPTER.validate_json(payload)
    except ValidationError as error:
        raise BadEvent(f"not an event: {first_problem(error)}") from None


def parse_durable(payload: bytes | str) -> Durable | None:
    """The durable event in a message's payload; of a kind, or with a value, that only a later
    release knows: what it has in common with all others. None: there is no such thing in it."""
    try:
        event = parse_event(payload)
    except BadEvent:
        try:
            return Durable.model_validate_json(payload)
        except ValidationError:
            return None
    return None if isinstance(event, InterimEvent) else event
