"""The keys of the configuration file, in the order of its tables."""

from __future__ import annotations

from datetime import time
from typing import Annotated, Any, ClassVar, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    field_validator,
    model_validator,
)

from natterjack.audio import MIN_SAMPLE_RATE, Encoding
from natterjack.settings import FsPath, described
from natterjack.subjects import TOKEN_PATTERN

MAX_SOURCES = 64

Token = Annotated[str, Field(pattern=f"^{TOKEN_PATTERN}$")]


def _whole(value: object) -> object:
    """TOML takes 2e9, which is short for a large number, for one with a fraction."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# A TOML file has types of its own: "no" is a text, and would count as true or false elsewhere.
Switch = Annotated[bool, Strict()]
Whole = Annotated[int, Strict(), BeforeValidator(_whole)]
Number = Annotated[float, Strict()]


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
"""One text, or several in order of preference."""


class Table(BaseModel):
    """A table of the file, all of whose keys are known."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NatsTable(Table):
    """`[nats]`: the connection. The variables `NATS_*` precede it."""

    url: str | None = described(None, "server URL, or several separated by commas")
    creds: FsPath | None = described(None, "credentials file (JWT and seed)")
    nkey: FsPath | None = described(None, "file with an NKey seed")
    user: str | None = described(None, "user name")
    password_file: FsPath | None = described(None, "file with the password")
    ca: FsPath | None = described(None, "CA bundle for the server's certificate")
    cert: FsPath | None = described(None, "client certificate")
    key: FsPath | None = described(None, "private key of the client certificate")
    inbox_prefix: str | None = described(None, "prefix of the subjects on which replies arrive")


class SpoolTable(Table):
    """`[spool]`: audio on disk until the broker has stored it, for all sources. The variables
    `EDGE_SPOOL*` precede it."""

    directory: FsPath | None = described(
        None, "spool directory; if unset, audio is buffered in memory only"
    )
    seconds: Number | None = described(
        None, "maximum seconds of audio of one session in the spool", ge=10
    )
    bytes: Whole | None = described(
        None, "maximum size of all sessions in the spool, in bytes", ge=65_536
    )


class DeliveryTable(Table):
    """`[delivery]`: how audio is delivered to the broker. The variables precede it."""

    window_chunks: Whole | None = described(
        None, "maximum number of chunks of a session that are not yet acknowledged", ge=1, le=10_000
    )
    burst_seconds: Number | None = described(
        None, "seconds of audio that a session may publish at once, without a rate limit", ge=0
    )
    catch_up_rate: Number | None = described(
        None, "seconds of audio per second that it may publish beyond that: at least 1, or 0", ge=0
    )
    finish_seconds: Number | None = described(
        None, "seconds to wait for acknowledgements after SIGTERM", ge=0
    )


class KeepTable(Table):
    """`[keep]`: recordings on this machine. The variables `EDGE_KEEP*` precede it."""

    directory: FsPath | None = described(
        None, "directory in which the audio of each session is kept as a FLAC file; if unset, none"
    )
    bytes: Whole | None = described(None, "maximum size of all recordings, in bytes", ge=1_000_000)
    days: Number | None = described(
        None, "days after which a recording is deleted", gt=0, le=36_500
    )


class RotateTable(Table):
    """`rotate`: when the session of a source ends and another one begins with the next sample."""

    every_minutes: Whole | None = described(
        None, "at multiples of so many minutes after midnight: 60 is each full hour", ge=1, le=1440
    )
    at: tuple[time, ...] = described((), 'at these times of day, such as ["08:00", "13:30"]')
    silence_minutes: Number | None = described(
        None, "after so many minutes in which nothing was audible; not again before something is",
        gt=0, le=1440,
    )  # fmt: skip
    silence_dbfs: Number = described(
        -50, "level up to which audio counts as silent, in dBFS", ge=-96, le=0
    )
    wait_seconds: Number = described(
        5,
        "seconds of audio for which a rotation that is due waits for a pause between words; 0 does "
        "not wait, and may cut a word in two",
        ge=0, le=60,
    )  # fmt: skip

    @field_validator("at", mode="before")
    @classmethod
    def _times(cls, value: object) -> object:
        items = value if isinstance(value, list | tuple) else [value]
        for item in items:
            if isinstance(item, time) and item.tzinfo is None:
                continue
            try:
                assert isinstance(item, str)
                assert time.fromisoformat(item).tzinfo is None
            except (AssertionError, ValueError):
                raise ValueError(f"{item!r} is not a time of day, such as 08:00") from None
        return tuple(items)


class Defaults(Table):
    """`[defaults]`: what holds for every source that does not say otherwise."""

    conversation: str = described(
        "{source}-{time}",
        "template of the conversation's name: letters, digits, _ and -, the time as in strftime, "
        "and {agent}, {host}, {source}, {time}",
    )
    speaker: Token = described("speaker", "speaker: the third part of the key")
    split_channels: tuple[Token, ...] | None = described(
        None,
        "speakers, one for each channel in order: each channel becomes a session",
        min_length=1,
    )
    language: str | None = described(None, "language as a BCP-47 tag, such as en or de-CH")
    provider: Names | None = described(
        None, "provider, or several in order of preference; if unset, the worker decides"
    )
    model: str | None = described(None, "model of the provider")
    keyterms: tuple[str, ...] = described((), "terms that the provider should recognize")
    options: dict[str, Any] = described({}, "options for the provider")
    labels: dict[str, str] = described(
        {}, "labels stored with the sessions; those of a source are added to those of `[defaults]`"
    )
    max_seconds: Number | None = described(
        None, "seconds of audio after which a worker ends a session; another one continues it", gt=0
    )
    buffer_seconds: Number = described(
        2700, "seconds of audio kept in memory while the broker accepts none, without a spool", gt=0
    )
    publish_sample_rate: Whole = described(
        16_000, "rate at which audio is published, in hertz; 0 keeps that of the source", ge=0
    )
    publish_encoding: Literal["linear16", "flac"] = described(
        "linear16", "how linear16 is encoded on the way to the broker: flac needs half of the bytes"
    )
    chunk_ms: Whole = described(80, "length of a chunk in milliseconds", ge=10, le=1000)
    captions: Switch = described(
        False, "show what is transcribed of it on standard output; the user needs this right"
    )
    rotate: RotateTable | None = described(None, "when the session ends and another one begins")
    time_zone: str | None = described(
        None,
        "time zone of names and of `rotate`, such as Europe/Berlin; if unset, that of the machine",
    )
    start: Switch = described(
        True, "whether the source is captured from the beginning, or only after a request to start"
    )

    @field_validator("time_zone")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                ZoneInfo(value)
            except (ZoneInfoNotFoundError, ValueError, OSError):
                raise ValueError(
                    f"there is no time zone {value!r} on this machine (the system package tzdata, "
                    "or pip install tzdata)"
                ) from None
        return value

    @field_validator("split_channels")
    @classmethod
    def _different(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError("each channel needs a speaker of its own")
        return value


class SourceTable(Defaults):
    """A table of `[[sources]]`, with the keys of each kind."""

    INPUT: ClassVar[tuple[str, ...]] = ()
    """The keys that say what is captured. A change of others needs no gap."""
    name: Token = described(..., "name of the source, different from those of the others")
    kind: str

    @property
    def speakers(self) -> tuple[str, ...]:
        """The speakers of its sessions."""
        return self.split_channels or (self.speaker,)

    @property
    def can_wait(self) -> bool:
        """Whether what it does not read is read later, instead of being lost."""
        return False

    @property
    def split(self) -> int | None:
        """Number of channels that are sessions; None if all are mixed."""
        return None if self.split_channels is None else len(self.split_channels)

    def same_input(self, other: SourceTable) -> bool:
        """Whether both capture the same, in the same format."""
        keys = ("name", "kind", "publish_sample_rate", "publish_encoding", "chunk_ms", *self.INPUT)
        mine, theirs = (
            [getattr(each, key, None) for key in keys] + [len(each.split_channels or ())]
            for each in (self, other)
        )
        return mine == theirs


class MicrophoneTable(SourceTable):
    """`kind = "microphone"`: a microphone of this machine."""

    INPUT = (
        "device",
        "device_channels",
        "device_rate",
        "device_wait_seconds",
        "device_return_seconds",
    )
    kind: Literal["microphone"]
    device: Names | None = described(
        None,
        "a name of `natterjack-edge devices`, a part of one, a pattern with * or ?, or several of "
        "these in order of preference; if unset, the system's default",
    )
    device_channels: tuple[Annotated[Whole, Field(ge=1, le=32)], ...] = described(
        (), "channels of the microphone to record, from 1; if unset, one, or one for each speaker"
    )
    device_rate: Whole | None = described(
        None, "recording rate in hertz; if unset, that of the device", ge=MIN_SAMPLE_RATE
    )
    device_wait_seconds: Number = described(
        300, "seconds after which a session ends if its microphone does not return", ge=0
    )
    device_return_seconds: Number = described(
        10,
        "seconds for which a microphone that is preferred to the present one must be there before "
        "it is recorded again",
        ge=0,
    )


class FileTable(SourceTable):
    """`kind = "file"`: a recording, which is published once after each start of the agent, and
    when a reload names another one."""

    INPUT = ("path", "speed", "track")
    kind: Literal["file"]
    path: FsPath = described(..., "the file")
    speed: Annotated[Number, Field(gt=0)] | Literal["max"] = described(
        1, 'playback speed, or "max": as fast as possible'
    )
    track: Whole | None = described(None, "which audio track, from 1", ge=1, le=999)

    @property
    def can_wait(self) -> bool:
        return True


class _RawTable(SourceTable):
    encoding: Encoding = described("linear16", "encoding of the audio: linear16, mulaw or alaw")
    sample_rate: Whole = described(16_000, "its sample rate in hertz", ge=MIN_SAMPLE_RATE)
    channels: Whole = described(1, "its number of interleaved channels", ge=1, le=32)


class PipeTable(_RawTable):
    """`kind = "pipe"`: raw audio or a WAV file from a named pipe (FIFO) or standard input."""

    INPUT = ("path", "encoding", "sample_rate", "channels", "raw", "live")
    kind: Literal["pipe"]
    path: FsPath = described(..., "path of the pipe, or - for standard input")
    raw: Switch = described(False, "treat the input as raw audio even if it begins like a file")
    live: Switch = described(True, "never make the writer wait: if too much waits, drop the oldest")

    @property
    def can_wait(self) -> bool:
        return not self.live


class StreamTable(SourceTable):
    """`kind = "stream"`: whatever ffmpeg reads from an address, such as RTP, RTSP, HTTP, SRT."""

    INPUT = (
        "url",
        "url_file",
        "ffmpeg",
        "input_options",
        "sample_rate",
        "channels",
        "wait_seconds",
    )
    kind: Literal["stream"]
    url: str | None = described(None, "the address", min_length=1, max_length=4096)
    url_file: FsPath | None = described(None, "file with the address, if it has a password")
    ffmpeg: str = described("ffmpeg", "the program")
    input_options: tuple[str, ...] = described(
        (), 'options of ffmpeg for the input, such as ["-rtsp_transport", "tcp"]', max_length=64
    )
    sample_rate: Whole = described(
        16_000, "rate to which ffmpeg converts, in hertz", ge=MIN_SAMPLE_RATE, le=192_000
    )
    channels: Whole = described(1, "number of channels to which it converts", ge=1, le=32)
    wait_seconds: Number = described(
        300, "seconds after which the session ends if no audio arrives", gt=0
    )

    @model_validator(mode="after")
    def _one_address(self) -> StreamTable:
        if (self.url is None) == (self.url_file is None):
            raise ValueError("it needs either url or url_file")
        return self


class CommandTable(_RawTable):
    """`kind = "command"`: raw audio that a program writes to its standard output."""

    INPUT = ("command", "encoding", "sample_rate", "channels", "wait_seconds")
    kind: Literal["command"]
    command: tuple[str, ...] = described(
        ..., "the program and its arguments, without a shell", min_length=1, max_length=256
    )
    wait_seconds: Number = described(
        300, "seconds after which the session ends if no audio arrives", gt=0
    )


KINDS: dict[str, type[SourceTable]] = {
    "microphone": MicrophoneTable,
    "file": FileTable,
    "pipe": PipeTable,
    "stream": StreamTable,
    "command": CommandTable,
}
Source = MicrophoneTable | FileTable | PipeTable | StreamTable | CommandTable


class AgentTable(Table):
    """The keys at the beginning of the file."""

    agent: Token | None = described(
        None, "name of the agent, which EDGE_AGENT precedes; if unset, the name of the host"
    )
    tenant: Token | None = described(
        None, "tenant: the first part of all keys, which EDGE_TENANT precedes; if unset, default"
    )
