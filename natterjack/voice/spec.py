"""VoiceSpec, TextPiece and Played: what applications and players publish for a voice session."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self, TypeVar
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from natterjack.errors import BadEvent, InvalidKey, first_problem
from natterjack.spec import ProviderName, SessionId, Token
from natterjack.subjects import SessionKey

from .audio import MAX_RATE, MIN_RATE

MAX_TEXT_CHARACTERS = 100_000
"""The longest text of one piece."""
MAX_PIECE_BYTES = 6 * MAX_TEXT_CHARACTERS + 4096
"""The largest message with a piece: six bytes are the longest escape of a character in JSON."""
_MAX_INT = 2**53 - 1
"""The greatest integer that every JSON reader keeps exactly."""
Position = Annotated[int, Field(ge=0, le=_MAX_INT)]
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    def encode(self) -> bytes:
        """The JSON that is published; absent values are left out."""
        return self.model_dump_json(exclude_none=True).encode()


class VoiceSpec(_Model):
    """Payload of `tts.session.<key>`: a request to open a voice session."""

    session_id: SessionId = Field(
        default_factory=lambda: str(uuid4()),
        description="unique ID made by the application, normally a UUID",
    )
    tenant: Annotated[Token, Field(description="first token of the session key")]
    conversation: Annotated[Token, Field(description="second token of the session key")]
    speaker: Annotated[Token, Field(description="third token of the session key")]
    voice: Annotated[
        ProviderName | Annotated[list[ProviderName], Field(max_length=8)] | None,
        Field(
            description="a voice provider, or a list of them to try in order; default: the worker's"
        ),
    ] = None
    model: Annotated[
        str | None, Field(max_length=128, description="the provider's name of the voice")
    ] = None
    language: Annotated[str | None, Field(max_length=35, description="BCP-47 tag")] = None
    sample_rate: Annotated[
        int, Field(ge=MIN_RATE, le=MAX_RATE, description="of the audio that is published, in hertz")
    ] = 24_000
    interrupt_on: Annotated[
        str | None,
        Field(
            max_length=194,
            description="key of a transcription session of the same tenant, whose speaker "
            "interrupts this voice by starting a turn",
        ),
    ] = None
    options: dict[str, Any] = Field(
        default_factory=dict, description="provider-specific options, validated by the provider"
    )
    labels: dict[str, str] = Field(
        default_factory=dict, description="free text of the requester, not used by workers"
    )
    opened_at: datetime = Field(
        default_factory=lambda: datetime.now(UTC), description="wall-clock time of the request"
    )

    @field_validator("voice")
    @classmethod
    def _some_voice(cls, value: str | list[str] | None) -> str | list[str] | None:
        if value is not None and (not value or not all(value)):
            raise ValueError("name a voice provider, or leave the field out")
        return value

    @field_validator("interrupt_on")
    @classmethod
    def _a_key(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                SessionKey.parse(value)
            except InvalidKey as error:
                raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _own_tenant(self) -> Self:
        # Else the events of this session would tell when the other tenant's speakers talk.
        if self.interrupt_on is not None and SessionKey.parse(self.interrupt_on)[0] != self.tenant:
            raise ValueError(f"interrupt_on {self.interrupt_on} is of another tenant")
        return self

    @property
    def key(self) -> SessionKey:
        return SessionKey(self.tenant, self.conversation, self.speaker)

    @property
    def providers(self) -> list[str]:
        """Voice providers to try in order; empty for the worker's default."""
        if self.voice is None:
            return []
        return [self.voice] if isinstance(self.voice, str) else list(self.voice)


class PiecePlace(_Model):
    """The place of a piece in its session. It can be read even if the text cannot."""

    session_id: Annotated[SessionId, Field(description="ID of the session")]
    utterance: Annotated[
        Position, Field(description="number of the utterance: 0, 1, 2 ... without holes")
    ]
    piece: Annotated[
        Position, Field(description="number of the piece in its utterance: 0, 1, 2 ...")
    ]
    flush: Annotated[bool, Field(description="the utterance ends with this piece")] = False
    end: Annotated[
        bool,
        Field(description="no utterance follows: the session closes when this one was played"),
    ] = False


class TextPiece(PiecePlace):
    """Payload of `tts.text.<key>`: a piece of an utterance's text.

    The texts of an utterance are joined as they are, in the order of `piece`. The piece with
    `flush` is the utterance's last. `Nats-Msg-Id` is `msg_id`, so a piece that is published again
    is stored once. Half of a surrogate pair becomes U+FFFD.
    """

    text: Annotated[
        str, Field(max_length=MAX_TEXT_CHARACTERS, description="text to speak; may be empty")
    ] = ""

    @field_validator("text", mode="before")
    @classmethod
    def _unicode(cls, value: object) -> object:
        return whole_characters(value) if isinstance(value, str) else value

    @property
    def msg_id(self) -> str:
        """The `Nats-Msg-Id` of the piece."""
        return f"{self.session_id}:{self.utterance}:{self.piece}"


M = TypeVar("M", bound=_Model)

PlayState = Literal["playing", "starved", "idle", "interrupted", "lost"]


class Played(_Model):
    """Payload of `tts.played.<key>`: how far the player has played.

    The greatest position of a session counts. Players do not read streams, since their permissions
    could not be confined to a tenant there: the worker publishes again what they miss.
    """

    session_id: Annotated[SessionId, Field(description="ID of the session")]
    utterance: Annotated[
        Position, Field(description="number of the utterance that was played last")
    ]
    position: Annotated[
        Position,
        Field(
            description="frames since the session's first: every frame before it was played, or "
            "was dropped by an interrupt"
        ),
    ]
    state: Annotated[
        PlayState,
        Field(
            description="`playing`; `starved`: the audio of an open utterance ran out; `idle`: all "
            "was played; `interrupted`: audio was dropped at a cut; `lost`: the device is away"
        ),
    ]
    missing: Annotated[
        Position | None,
        Field(
            description="number of the first chunk that the player has not received and needs: the "
            "worker publishes the stored chunks from it on again, except those that were played. "
            "A player that starts reads the newest chunk of its key by direct get, to learn the "
            "session, and asks for 0"
        ),
    ] = None


def whole_characters(text: str) -> str:
    """The text with U+FFFD in place of each half of a surrogate pair, which UTF-8 cannot have."""
    return _SURROGATE.sub("\ufffd", text)


def parse_piece(payload: bytes) -> TextPiece:
    """Parse a message of `tts.text.<key>`. Raises BadEvent, which names the problem."""
    try:
        return _parsed(TextPiece, payload, MAX_PIECE_BYTES)
    except BadEvent:
        if _ESCAPED_SURROGATE.search(payload) is None:
            raise
        # A program that divides text by UTF-16 units has cut a character.
        return _parsed(TextPiece, _without_surrogates(payload), MAX_PIECE_BYTES)


def parse_place(payload: bytes) -> PiecePlace:
    """Parse the place of a message of `tts.text.<key>` whose text cannot be read. Raises BadEvent,
    which names the problem."""
    return _parsed(PiecePlace, payload, len(payload))


def _without_surrogates(payload: bytes) -> bytes:
    """JSON without escapes of single surrogates. Raises BadEvent."""
    try:
        return whole_characters(json.dumps(json.loads(payload), ensure_ascii=False)).encode()
    except (ValueError, RecursionError) as error:
        raise BadEvent(f"not a TextPiece: {error}") from None


def parse_played(payload: bytes) -> Played:
    """Parse a message of `tts.played.<key>`. Raises BadEvent, which names the problem."""
    return _parsed(Played, payload, 4096)


def _parsed(model: type[M], payload: bytes, limit: int) -> M:
    if len(payload) > limit:
        raise BadEvent(f"{len(payload)} bytes are too many: at most {limit}")
    try:
        return model.model_validate_json(payload)
    except ValidationError as error:
        raise BadEvent(f"not a {model.__name__}: {first_problem(error)}") from None
