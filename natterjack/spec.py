"""SessionSpec: the request with which an edge opens a session."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import from_json

from .audio import (
    BYTES_PER_SAMPLE,
    MAX_FLAC_CHANNELS,
    MAX_SAMPLE_RATE,
    MIN_SAMPLE_RATE,
    AudioFormat,
    WireEncoding,
    flac_frames,
)
from .subjects import TOKEN_PATTERN, SessionKey

Token = Annotated[str, Field(pattern=f"^{TOKEN_PATTERN}$")]
SESSION_ID_PATTERN = r"[A-Za-z0-9_-]{8,64}"
SessionId = Annotated[str, Field(pattern=f"^{SESSION_ID_PATTERN}$")]

MAX_STORED_BYTES = 16 * 1024
"""The largest request that a closing event keeps."""
_MORE_LEVELS = 10
"""How many levels deeper a request may lie in a message that contains it."""
MAX_SECONDS = 30 * 24 * 3600
"""The longest session that can be requested."""
_MAX_POSITION = 2**53 - 1
"""The greatest integer that every JSON reader keeps exactly."""
ProviderName = Annotated[str, Field(max_length=64)]


class SessionSpec(BaseModel):
    """Payload of `stt.session.<key>`. Unknown fields are ignored, for newer edges."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    session_id: SessionId = Field(
        default_factory=lambda: str(uuid4()),
        description="unique ID made by the edge, normally a UUID",
    )
    tenant: Annotated[Token, Field(description="first token of the session key")]
    conversation: Annotated[Token, Field(description="second token of the session key")]
    speaker: Annotated[Token, Field(description="third token of the session key")]
    encoding: Annotated[
        WireEncoding,
        Field(
            description="of every chunk; with `flac`, each is a FLAC stream of 16 bits and of at "
            f"most {MAX_FLAC_CHANNELS} channels"
        ),
    ] = "linear16"
    sample_rate: Annotated[
        int, Field(ge=MIN_SAMPLE_RATE, le=MAX_SAMPLE_RATE, description="hertz")
    ] = 16_000
    channels: Annotated[int, Field(ge=1, le=32, description="interleaved in every chunk")] = 1
    language: Annotated[str | None, Field(max_length=35, description="BCP-47 tag")] = None
    provider: Annotated[
        ProviderName | Annotated[list[ProviderName], Field(max_length=8)] | None,
        Field(
            description="a provider, or a list of providers to try in order; default: the worker's"
        ),
    ] = None
    model: Annotated[str | None, Field(max_length=128, description="model of the provider")] = None
    keyterms: Annotated[
        list[str], Field(max_length=500, description="words that the provider should expect")
    ] = Field(default_factory=list)
    options: dict[str, Any] = Field(
        default_factory=dict, description="provider-specific options, validated by the provider"
    )
    max_seconds: Annotated[
        float | None,
        Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False, description="maximum duration of audio"),
    ] = None
    repeats: Annotated[
        SessionId | None,
        Field(
            description="ID of a session of the key whose stored audio is to be transcribed again"
        ),
    ] = None
    continues: Annotated[
        SessionId | None,
        Field(
            description="ID of the session of the key that ended while its audio went on, and that "
            "this one continues"
        ),
    ] = None
    audio_of: Annotated[
        SessionId | None,
        Field(description="ID in the headers of the session's audio, if it is not its own"),
    ] = None
    start_position: Annotated[
        int,
        Field(
            ge=0, le=_MAX_POSITION,
            description="position in that audio of the first frame to transcribe",
        ),
    ] = 0  # fmt: skip
    successor: Annotated[
        SessionId | None,
        Field(
            description="ID of the session that the edge will open if this one ends while it still "
            "captures"
        ),
    ] = None
    labels: dict[str, str] = Field(
        default_factory=dict, description="free text of the requester, not used by workers"
    )
    opened_at: datetime = Field(
        default_factory=lambda: datetime.now(UTC), description="wall-clock time at the edge"
    )

    @field_validator("provider")
    @classmethod
    def _some_provider(cls, value: str | list[str] | None) -> str | list[str] | None:
        if value is not None and (not value or not all(value)):
            raise ValueError("name a provider, or leave the field out")
        return value

    @model_validator(mode="after")
    def _not_itself(self) -> Self:
        for name in ("continues", "successor"):
            if getattr(self, name) == self.session_id:
                raise ValueError(f"{name} names the session itself")
        return self

    @model_validator(mode="after")
    def _channels_of_flac(self) -> Self:
        if self.encoding == "flac" and self.channels > MAX_FLAC_CHANNELS:
            raise ValueError(f"flac has at most {MAX_FLAC_CHANNELS} channels")
        return self

    @property
    def key(self) -> SessionKey:
        return SessionKey(self.tenant, self.conversation, self.speaker)

    @property
    def audio_session_id(self) -> str:
        """The ID in the headers of the session's audio."""
        return self.audio_of or self.repeats or self.session_id

    @property
    def audio_format(self) -> AudioFormat:
        """The format of the audio. That of `flac` is the decoded one, `linear16`."""
        encoding = "linear16" if self.encoding == "flac" else self.encoding
        return AudioFormat(encoding, self.sample_rate, self.channels)

    def decoded_bytes(self, payload: bytes) -> int:
        """The size of a chunk's payload when decoded, without decoding it. Raises: BadChunk."""
        if self.encoding != "flac":
            return len(payload)
        audio_format = self.audio_format
        return flac_frames(payload, audio_format) * audio_format.frame_bytes

    def frames(self, payload: bytes) -> int:
        """The number of frames in a chunk's payload, without decoding it. Raises: BadChunk."""
        if self.encoding == "flac":
            return self.audio_format.frames(self.decoded_bytes(payload))
        return len(payload) // (BYTES_PER_SAMPLE[self.encoding] * self.channels)

    def stored(self) -> dict[str, Any] | None:
        """The request as closing events keep it, so that it can be repeated; None if it is larger
        than MAX_STORED_BYTES, or its options are nested so deeply that an event with them could not
        be read."""
        payload = self.model_dump_json(exclude_none=True)
        if len(payload.encode()) > MAX_STORED_BYTES:
            return None
        try:
            from_json(f"{'[' * _MORE_LEVELS}{payload}{']' * _MORE_LEVELS}")
        except ValueError:
            return None
        stored: dict[str, Any] = json.loads(payload)
        return stored

    @property
    def providers(self) -> list[str]:
        """Providers to try in order; empty for the worker's default."""
        if self.provider is None:
            return []
        return [self.provider] if isinstance(self.provider, str) else list(self.provider)
