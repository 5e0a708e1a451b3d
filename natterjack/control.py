"""Requests to a running session on `stt.control.<key>`, and the replies of its worker."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Command = Literal["finalize", "configure", "stop"]


class ControlRequest(BaseModel):
    """A request to a session: finalize pending audio, change settings, or end the session."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    command: Annotated[Command, Field(description="what the session must do")]
    settings: Annotated[
        dict[str, Any], Field(description="for `configure`: setting names and new values")
    ] = Field(default_factory=dict)
    reason: Annotated[
        str | None, Field(max_length=200, description="for `stop`: why the session is ended")
    ] = None
    position: Annotated[
        float | None,
        Field(
            ge=0, allow_inf_nan=False,
            description="for `finalize`, with `wait_seconds`: seconds on the clock of the session "
            "that the provider must have received before; else a word may be cut in two",
        ),
    ] = None  # fmt: skip
    wait_seconds: Annotated[
        float,
        Field(
            ge=0, le=10,
            description="for `finalize`: how long the reply may wait until the audio up to the "
            "request's `position` is sent, and everything up to its own is final; meanwhile, other "
            "requests to the session wait",
        ),
    ] = 0  # fmt: skip


class Supports(BaseModel):
    """Capabilities of the session's provider during a stream."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    finalize: Annotated[bool, Field(description="`finalize` is possible")] = False
    configure: Annotated[list[str], Field(description="settings that `configure` accepts")] = Field(
        default_factory=list
    )


class ControlReply(BaseModel):
    """The result of a request.

    `position` is in seconds on the session's clock: for `configure`, where the new settings take
    effect; for `finalize` and `stop`, the end of the audio that is finalized.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    ok: Annotated[bool, Field(description="the request was carried out")]
    session_id: Annotated[str, Field(description="ID of the session that replied")]
    provider: Annotated[str | None, Field(description="name of the provider in use")] = None
    supports: Annotated[Supports, Field(description="capabilities of that provider")] = Field(
        default_factory=Supports
    )
    position: Annotated[float | None, Field(description="seconds on the clock of the session")] = (
        None
    )
    final_position: Annotated[
        float | None,
        Field(
            description="for `finalize` with `wait_seconds`: up to where the audio is final, in "
            "seconds, silence included"
        ),
    ] = None
    error: Annotated[str | None, Field(description="why the request was not carried out")] = None


_STOPPED = "stopped: "


def stop_reason(reason: str) -> str:
    """The reason in the closing status of a session that was ended by a `stop` request."""
    return f"{_STOPPED}{reason}"


def is_stop(reason: str | None) -> bool:
    """Whether a closing status with `reason` belongs to a session ended by a `stop` request."""
    return bool(reason and reason.startswith(_STOPPED))
