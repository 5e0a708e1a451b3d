"""Requests to a voice session on `tts.control.<key>`, and the replies of its worker."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

VoiceCommand = Literal["interrupt", "configure", "close"]


class VoiceRequest(BaseModel):
    """A request to a voice session: stop speaking, change settings, or end the session."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    command: Annotated[
        VoiceCommand,
        Field(
            description="`interrupt`: drop all text and audio that was not played; `configure`: "
            "change settings; `close`: end the session when its text has been spoken"
        ),
    ]
    session_id: Annotated[
        str | None, Field(max_length=64, description="only if this session holds the key")
    ] = None
    settings: Annotated[
        dict[str, Any], Field(description="for `configure`: setting names and new values")
    ] = Field(default_factory=dict)
    reason: Annotated[
        str | None, Field(max_length=200, description="for `interrupt` and `close`: why")
    ] = None


class VoiceReply(BaseModel):
    """The result of a request."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    ok: Annotated[bool, Field(description="the request was carried out")]
    session_id: Annotated[str, Field(description="ID of the session that replied")]
    provider: Annotated[str | None, Field(description="name of the voice provider in use")] = None
    configure: Annotated[list[str], Field(description="settings that `configure` accepts now")] = (
        Field(default_factory=list)
    )
    utterance: Annotated[
        int | None, Field(ge=0, description="for `interrupt`: the utterance that was cut")
    ] = None
    position: Annotated[
        float | None,
        Field(description="for `interrupt`: seconds of the session's speech that were played"),
    ] = None
    error: Annotated[str | None, Field(description="why the request was not carried out")] = None
