"""Requests to a running session on `stt.control.<key>`, and what its worker answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Command = Literal["finalize", "configure", "stop"]


class ControlRequest(BaseModel):
    """What is asked of a session: make pending audio final, change settings, or end it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    command: Command
    settings: Annotated[
        dict[str, Any], Field(description="for `configure`: names and their new values")
    ] = Field(default_factory=dict)
    reason: Annotated[str | None, Field(max_length=200, description="for `stop`")] = None


class Supports(BaseModel):
    """What the session's provider can do in mid-stream."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    finalize: bool = False
    configure: list[str] = Field(default_factory=list)


class ControlReply(BaseModel):
    """What became of a request. `position` (seconds on the session's clock): for `configure`, from
    where it holds; for `finalize` and `stop`, up to where audio is made final."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    ok: bool
    session_id: str
    provider: str | None = None
    supports: Supports = Field(default_factory=Supports)
    position: float | None = None
    error: str | None = None


_STOPPED = "stopped: "


def stop_reason(reason: str) -> str:
    """The reason in the closing status of a session that a request ended, for `reason`."""
    return f"{_STOPPED}{reason}"


def is_stop(reason: str | None) -> bool:
    """Whether a session that closed with `reason` was ended by a request."""
    return bool(reason and reason.startswith(_STOPPED))
