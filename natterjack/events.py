"""The events of a session, one model each: the contract with downstream services.

Times named `start` and `end` are seconds on the session's clock: a position divided by the sample
rate. This clock continues through reconnects, handovers and gaps.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import from_json, to_json

from .errors import BadEvent, first_problem
from .notices import CODE_PATTERN
from .position import Position
from .subjects import SessionKey
from .values import Account, Model, Moment, ProviderUsage, Seconds, Stretch, Word

_TYPE = Field(description="kind of the event")
_SOURCE, _POSITION = "_source", "_position"
"""Where an event was decoded from, beside its fields: not compared, copied to the wire or shown."""


class CommonFields(Model):
    """Fields of all events."""

    session_id: Annotated[str, Field(description="ID of the session, from its request")]
    tenant: Annotated[str, Field(description="first token of the session key")]
    conversation: Annotated[str, Field(description="second token of the session key")]
    speaker: Annotated[str, Field(description="third token of the session key")]
    epoch: Annotated[int, Field(ge=0, description="delivery count of the session's lease")]
    provider: Annotated[str | None, Field(description="name of the provider in use")] = None
    model: Annotated[str | None, Field(description="model that the request names")] = None
    repeats: Annotated[
        str | None,
        Field(description="ID of the session whose audio this one transcribes again"),
    ] = None
    continues: Annotated[
        str | None,
        Field(
            description="ID of the session that this one continues: it transcribes the rest of the "
            "same audio, on the same clock"
        ),
    ] = None
    published_at: Annotated[Moment, Field(description="wall-clock time at the worker")]
    shortened: Annotated[
        bool,
        Field(
            description="parts were left out, because the event exceeded the server's "
            "`max_payload`: `request`, `labels`, the end of a text (`…`), words, gaps of the "
            "account, `providers`"
        ),
    ] = False

    @property
    def key(self) -> SessionKey:
        return SessionKey(self.tenant, self.conversation, self.speaker)

    @property
    def id(self) -> str | None:
        """`<session_id>:<sequence>`, the same whenever the event is read. None for interims."""
        return None

    @property
    def position(self) -> str | None:
        """Where the event is in the stream, as text to store: `listen(since=...)` continues after
        it. None if it was not read from the stream."""
        position: Position | None = self.__dict__.get(_POSITION)
        return None if position is None else str(position)

    @property
    def source(self) -> bytes:
        """The payload that the event was decoded from; else what `encode` returns."""
        source: bytes | None = self.__dict__.get(_SOURCE)
        return self.encode() if source is None else source

    @property
    def raw(self) -> dict[str, Any]:
        """The event's JSON, with fields that this release does not know. Decoded at each call."""
        raw: dict[str, Any] = from_json(self.source)
        return raw

    def encode(self) -> bytes:
        """The JSON that is published; absent values are left out."""
        return to_json(self, exclude_none=True)


class Durable(CommonFields):
    """Fields of all durable events."""

    sequence: Annotated[
        int,
        Field(
            ge=0, description="number among the session's durable events: 0, 1, 2 ... without holes"
        ),
    ]

    @property
    def id(self) -> str:
        return f"{self.session_id}:{self.sequence}"

    @property
    def closing(self) -> bool:
        """Whether the session ends with this event."""
        return False


class _Transcript(Stretch):
    segment: Annotated[
        int, Field(ge=0, description="number of the segment: 0, 1, 2 ..., one for each final")
    ]
    text: Annotated[str, Field(description="the text of the segment")]
    words: Annotated[
        list[Word], Field(description="the words of `text`, if the provider gives them")
    ] = Field(default_factory=list)
    start: Annotated[Seconds, Field(description="where the segment begins, in seconds")]
    end: Annotated[Seconds, Field(description="where the segment ends, in seconds")]
    times_estimated: Annotated[
        bool, Field(description="the worker estimated times of the segment or its words")
    ] = False
    confidence: Annotated[float | None, Field(description="from 0 to 1")] = None
    language: Annotated[
        str | None, Field(description="BCP-47 tag of the language that was recognized")
    ] = None
    started_at: Annotated[Moment | None, Field(description="wall-clock time of `start`")] = None
    latency: Annotated[
        float | None,
        Field(
            ge=-1e9, le=1e9,
            description="seconds from the arrival of the segment's last sample to publication",
        ),
    ] = None  # fmt: skip


class InterimEvent(_Transcript, CommonFields):
    """Text that may still change. It is published at once and not stored."""

    type: Annotated[Literal["interim"], _TYPE] = "interim"


class FinalEvent(_Transcript, Durable):
    """Text that will not change."""

    type: Annotated[Literal["final"], _TYPE] = "final"


TurnKind = Literal["started", "eager_end", "resumed", "ended"]


class TurnEvent(Durable):
    """The start or the end of a turn, a stretch of one speaker's speech."""

    type: Annotated[Literal["turn"], _TYPE] = "turn"
    turn: Annotated[int, Field(ge=0, description="number of the turn: 0, 1, 2 ...")]
    event: Annotated[TurnKind, Field(description="what happened to the turn")]
    text: Annotated[
        str | None, Field(description="the text of the turn so far, if the provider gives it")
    ] = None
    start: Annotated[Seconds | None, Field(description="where the turn begins, in seconds")] = None
    end: Annotated[Seconds | None, Field(description="where the turn ends, in seconds")] = None
    confidence: Annotated[
        float | None, Field(description="confidence that the turn has ended, from 0 to 1")
    ] = None


StatusState = Literal["assigned", "streaming", "recovering", "handed_over", "closed", "failed"]


class StatusEvent(Durable):
    """A change of a session's state. `closed` and `failed` end the session and have its account."""

    type: Annotated[Literal["status"], _TYPE] = "status"
    state: Annotated[StatusState, Field(description="the new state")]
    reason: Annotated[str | None, Field(description="why the state changed")] = None
    detail: Annotated[str | None, Field(description="details beyond `reason`, for people")] = None
    worker: Annotated[str, Field(description="name of the worker")]
    audio_position: Annotated[
        int | None,
        Field(
            alias="position",
            ge=0,
            le=2**53,
            description="frame up to which the session's audio is transcribed or part of a gap, "
            "where another session can continue; only in closing events",
        ),
    ] = None
    continued_by: Annotated[
        str | None,
        Field(
            description="ID of the session that continues this one if its edge still captures; "
            "only in closing events"
        ),
    ] = None
    account: Annotated[Account | None, Field(description="only in closing events")] = None
    labels: Annotated[
        dict[str, str] | None,
        Field(description="of the session's request; only in `assigned` and closing events"),
    ] = None
    language: Annotated[
        str | None,
        Field(description="BCP-47 tag of the request; only in `assigned` and closing events"),
    ] = None
    opened_at: Annotated[
        Moment | None,
        Field(
            description="when the edge opened the session; only in `assigned` and closing events"
        ),
    ] = None
    request: Annotated[
        dict[str, Any] | None,
        Field(
            description="the session's request, with the `start_position` at which it has started; "
            "only in closing events, and up to 16 KiB"
        ),
    ] = None

    @property
    def closing(self) -> bool:
        return self.state in ("closed", "failed")


class UsageEvent(Durable):
    """The use and cost of a session so far: sent regularly, when credit is low, and at the end."""

    type: Annotated[Literal["usage"], _TYPE] = "usage"
    audio_seconds: Annotated[
        Seconds, Field(description="audio sent to providers, including audio sent again")
    ]
    connected_seconds: Annotated[Seconds, Field(description="duration of all provider connections")]
    cost: Annotated[float | None, Field(description="total over all providers, in `currency`")] = (
        None
    )
    currency: Annotated[str | None, Field(description="ISO 4217 code of `cost`")] = None
    credits_remaining_seconds: Annotated[
        float | None, Field(description="seconds until the provider or a budget ends the session")
    ] = None
    low: Annotated[
        bool, Field(description="a threshold was passed, or the provider has sent a warning")
    ] = False
    providers: Annotated[
        dict[str, ProviderUsage], Field(description="use of each provider, by name")
    ] = Field(default_factory=dict)


class NoticeEvent(Durable):
    """A condition of the audio that begins or ends, as its edge has noted it."""

    type: Annotated[Literal["notice"], _TYPE] = "notice"
    notice: Annotated[int, Field(ge=0, description="number of the notice: 0, 1, 2 ...")]
    code: Annotated[
        str,
        Field(
            pattern=f"^{CODE_PATTERN}$",
            description="the condition, such as `input_dead` or `muted`; later releases, and other "
            "edges, have more codes",
        ),
    ]
    state: Annotated[
        Literal["begins", "ends"], Field(description="what the condition does at `at`")
    ]
    at: Annotated[Seconds, Field(description="where it begins or ends, in seconds")]
    audio_position: Annotated[
        int, Field(ge=0, le=2**53, description="the position of the audio where it does")
    ]
    occurred_at: Annotated[Moment | None, Field(description="wall-clock time of `at`")] = None
    audio_of: Annotated[
        str | None,
        Field(description="ID in the headers of the session's audio, if it is not its own"),
    ] = None


DurableEvent = FinalEvent | TurnEvent | StatusEvent | UsageEvent | NoticeEvent
Event = InterimEvent | DurableEvent

_ADAPTER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


def parse_event(payload: bytes | str) -> Event:
    """Parse an event from a message's payload. Raises BadEvent."""
    try:
        return _ADAPTER.validate_json(payload)
    except ValidationError as error:
        raise BadEvent(f"not an event: {first_problem(error)}") from None


def remember_source(event: CommonFields, payload: bytes, position: Position | None) -> None:
    """Keep what an event was decoded from, for `raw` and `position`."""
    event.__dict__[_SOURCE] = payload
    event.__dict__[_POSITION] = position


def parse_durable(payload: bytes | str) -> Durable | None:
    """Parse a durable event from a message's payload; None if there is none in it.

    For an event that only a later release understands, returns the fields common to all.
    """
    try:
        event = parse_event(payload)
    except BadEvent:
        try:
            return Durable.model_validate_json(payload)
        except ValidationError:
            return None
    return None if isinstance(event, InterimEvent) else event
