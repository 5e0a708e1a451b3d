"""The presence of edges, and requests to them.

An edge writes its presence into the bucket `stt_edges`, under `<tenant>.<agent>`, every few
seconds, and answers requests on `stt.edge.<tenant>.<agent>`. A user who may write an entry may
write anything into it, so readers accept only bounded, printable text and finite numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from natterjack.broker.streams import EDGES_BUCKET, MAX_PRESENCE_BYTES, bucket_subject
from natterjack.process.terminal import plain
from natterjack.subjects import TOKEN_PATTERN

EdgeOp = Literal["status", "start", "stop", "mute", "unmute", "rotate", "reload"]
OPS: tuple[EdgeOp, ...] = get_args(EdgeOp)

MAX_SOURCES = 64
"""Sources in a presence; further ones are left out."""
MAX_REQUEST_BYTES, MAX_REPLY_BYTES = 4096, 2 * MAX_PRESENCE_BYTES
_MAX_FINDINGS = 32
_MAX_DBFS = 100.0
_MAX_NUMBER = 1e15
_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
MAX_INTERVAL_SECONDS = 300.0
_LEAST_ABSENT_S, _MISSED = 20.0, 3.0

STOPPED, ABSENT = "stopped", "absent"


def _text(limit: int) -> Any:
    """Printable text on one line; longer text is cut."""

    def clean(value: object) -> object:
        return plain(value[: 4 * limit])[:limit] if isinstance(value, str) else value

    return BeforeValidator(clean)


def _number(least: float, most: float) -> Any:
    """A finite number within these bounds; anything else counts as unknown."""

    def clean(value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        # Not math.isfinite, which raises for an integer that is too large for a float.
        return value if least <= value <= most else None

    return BeforeValidator(clean)


def _first(limit: int) -> Any:
    """The first `limit` entries of a list."""
    return BeforeValidator(lambda value: value[:limit] if isinstance(value, list) else value)


Token = Annotated[str, Field(pattern=f"^{TOKEN_PATTERN}$")]
Word = Annotated[str, _text(64)]
Text = Annotated[str, _text(200)]
Dbfs = Annotated[float | None, _number(-200.0, _MAX_DBFS)]
Share = Annotated[float | None, _number(0.0, 1.0)]
Amount = Annotated[float | None, _number(0.0, _MAX_NUMBER)]
Time = Annotated[AwareDatetime, Field(ge=_FIRST, lt=_LAST)]


class Level(BaseModel):
    """The level of a source over the last 10 s; a field is absent if it is not known."""

    model_config = ConfigDict(extra="ignore")

    peak_dbfs: Annotated[Dbfs, Field(description="the loudest sample, in dBFS")] = None
    rms_dbfs: Annotated[Dbfs, Field(description="root mean square, in dBFS")] = None
    zeros: Annotated[Share, Field(description="share of samples that are zero, 0 to 1")] = None
    correlation: Annotated[
        float | None,
        _number(-1.0, 1.0),
        Field(description="least correlation of two channels, -1 (opposite phase) to 1 (the same)"),
    ] = None


class SourcePresence(BaseModel):
    """One source of an edge."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[Token, Field(description="its name, by which requests name it")]
    kind: Annotated[Word, Field(description="what it is, such as mic, file or stdin")] = ""
    device: Annotated[Text | None, Field(description="the device or file in use")] = None
    state: Annotated[
        Word, Field(description="capturing, waiting, muted, stopped or failed; others may be added")
    ]
    level: Level | None = None
    findings: Annotated[
        list[Word],
        _first(_MAX_FINDINGS),
        Field(description="codes of what is wrong with its input"),
    ] = []
    key: Annotated[
        Text | None, Field(description="<tenant>.<conversation>.<speaker> of its session")
    ] = None
    session_id: Word | None = None
    error: Annotated[Text | None, Field(description="why it waits or has failed")] = None


class SpoolPresence(BaseModel):
    """Audio of an edge that the broker has not yet stored, in the spool or in memory."""

    model_config = ConfigDict(extra="ignore")

    bytes: Amount = None
    seconds: Annotated[Amount, Field(description="seconds of audio")] = None
    limit_bytes: Annotated[
        Amount, Field(description="limit of the spool; absent if there is no spool")
    ] = None

    @property
    def share(self) -> float | None:
        """How full the spool is, from 0 to 1. None if there is none."""
        if self.bytes is None or not self.limit_bytes:
            return None
        return min(1.0, self.bytes / self.limit_bytes)


class EdgePresence(BaseModel):
    """The state that an edge reports: the value of `<tenant>.<agent>` in the bucket `stt_edges`."""

    model_config = ConfigDict(extra="ignore")

    tenant: Token
    agent: Annotated[Token, Field(description="name of the edge, unique within its tenant")]
    instance: Annotated[Word, Field(description="distinguishes the runs of an agent")] = ""
    version: Annotated[Word, Field(description="its release")] = ""
    host: Annotated[Text, Field(description="name of its machine")] = ""
    started_at: Time
    seen_at: Annotated[Time, Field(description="when it was written, by the clock of the edge")]
    interval_seconds: Annotated[
        float | None,
        _number(0.1, MAX_INTERVAL_SECONDS),
        Field(description="seconds between two presences"),
    ] = None
    state: Annotated[Word, Field(description="running, ending or stopped")] = "running"
    sources: Annotated[list[SourcePresence], _first(MAX_SOURCES)] = []
    spool: SpoolPresence | None = None
    clock_offset_seconds: Annotated[
        float | None,
        _number(-_MAX_NUMBER, _MAX_NUMBER),
        Field(description="how far the clock of the edge is ahead of the broker's"),
    ] = None
    last_error: Annotated[Text | None, Field(description="the newest error of the edge")] = None

    def encode(self) -> bytes:
        """Return the message. Sources that make it too large are left out."""
        data = self._dump(self.sources)
        kept = len(self.sources)
        while len(data) > MAX_PRESENCE_BYTES and kept:
            kept //= 2
            data = self._dump(self.sources[:kept])
        return data

    def _dump(self, sources: Sequence[SourcePresence]) -> bytes:
        shown = self.model_copy(update={"sources": list(sources)})
        return shown.model_dump_json(exclude_none=True).encode()

    @property
    def absent_after_seconds(self) -> float:
        """Seconds without a presence after which the edge counts as absent."""
        return max(_LEAST_ABSENT_S, _MISSED * (self.interval_seconds or 0.0))

    def state_after(self, seconds_ago: float) -> str:
        """The state of an edge whose newest presence is this one, written `seconds_ago`."""
        if self.state == STOPPED:
            return STOPPED
        return ABSENT if seconds_ago > self.absent_after_seconds else self.state


class EdgeRequest(BaseModel):
    """A request to an edge on `stt.edge.<tenant>.<agent>`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    op: Annotated[EdgeOp, Field(description="what the edge must do")]
    source: Annotated[Token | None, Field(description="the source; absent: all of them")] = None


class EdgeReply(BaseModel):
    """The result of a request to an edge."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    ok: Annotated[bool, Field(description="the request was carried out")]
    detail: Annotated[str, _text(500), Field(description="what was done, or why not")] = ""
    presence: Annotated[
        EdgePresence | None, Field(description="the state of the edge afterwards")
    ] = None

    def encode(self) -> bytes:
        """Return the message. What makes it too large is left out."""
        data = self.model_dump_json(exclude_none=True).encode()
        if len(data) > MAX_REPLY_BYTES and self.presence is not None:
            fewer = EdgePresence.model_validate_json(self.presence.encode())
            data = self.model_copy(update={"presence": fewer}).model_dump_json().encode()
        return data


def presence_subject(tenant: str, agent: str) -> str:
    """The subject of an edge's entry in the bucket `stt_edges`."""
    return bucket_subject(EDGES_BUCKET, f"{tenant}.{agent}")


def parse_presence(subject: str, data: bytes) -> EdgePresence | None:
    """Parse an entry of the bucket `stt_edges`; None if it is not what the edge of that key writes:
    too large, invalid, or about another edge."""
    if not 0 < len(data) <= MAX_PRESENCE_BYTES:
        return None
    try:
        found = EdgePresence.model_validate_json(data)
    except (ValidationError, RecursionError):
        return None
    return found if subject == presence_subject(found.tenant, found.agent) else None


def parse_reply(data: bytes) -> EdgeReply | None:
    """Parse a reply of an edge; None if it is none."""
    if not 0 < len(data) <= MAX_REPLY_BYTES:
        return None
    try:
        return EdgeReply.model_validate_json(data)
    except (ValidationError, RecursionError):
        return None


def parse_request(data: bytes) -> EdgeRequest | None:
    """Parse a request to an edge; None if it is none."""
    if not 0 < len(data) <= MAX_REQUEST_BYTES:
        return None
    try:
        return EdgeRequest.model_validate_json(data)
    except (ValidationError, RecursionError):
        return None
