"""Opening the source that a table of the configuration file describes."""

from __future__ import annotations

from pathlib import Path

from natterjack.audio import AudioFormat

from ..config.models import (
    CommandTable,
    FileTable,
    MicrophoneTable,
    PipeTable,
    SourceTable,
    StreamTable,
)
from ..errors import SourceError
from ..settings import MicrophoneSettings, StdinSettings
from ..sources import Source
from ..sources.ffmpeg import redacted, shown_url, stream_command
from ..sources.process import ProcessSource

_FFMPEG = "apt-get install ffmpeg"
_PROGRAM = "correct `command`, or install the program"
_MAX_URL_BYTES = 4096


async def open_source(table: SourceTable, expected: AudioFormat | None = None) -> Source:
    """Open a source. It has audio when this returns, or is a microphone that records.

    A microphone is waited for; with a format that is `expected`, its blocks are. Cancel-safe.
    Raises: SourceError, SourceLost.
    """
    if isinstance(table, MicrophoneTable):
        from ..sources.microphone import MicrophoneSource

        microphone = MicrophoneSource(
            microphone_settings(table), table.split, table.chunk_ms / 1000
        )
        await microphone.open(expected=expected)
        return microphone
    if isinstance(table, FileTable):
        from ..sources.decoded import open_file

        speed = None if table.speed == "max" else table.speed
        return await open_file(table.path, speed, table.chunk_ms, table.track)
    if isinstance(table, PipeTable):
        from ..sources.pipe import PipeSource

        pipe = PipeSource(table.path, _stdin_settings(table), table.chunk_ms)
        try:
            await pipe.open()
        except BaseException:  # including cancellation
            pipe.close()
            raise
        return pipe
    assert isinstance(table, StreamTable | CommandTable)
    source = program_source(table)
    await source.open()
    return source


def program_source(table: StreamTable | CommandTable) -> ProcessSource:
    """Return what reads a program's output; it is not started yet. Raises: SourceError."""
    if isinstance(table, CommandTable):
        audio_format = AudioFormat(table.encoding, table.sample_rate, table.channels)
        return ProcessSource(
            Path(table.command[0]).name,
            table.command,
            audio_format,
            wait_seconds=table.wait_seconds,
            cure=_PROGRAM,
            clean=redacted,
        )
    url = table.url or read_url(table.url_file)
    return ProcessSource(
        shown_url(url),
        stream_command(table.ffmpeg, url, table.input_options, table.sample_rate, table.channels),
        AudioFormat("linear16", table.sample_rate, table.channels),
        wait_seconds=table.wait_seconds,
        cure=_FFMPEG,
        clean=lambda text: redacted(text, url),
    )


def read_url(path: Path | None) -> str:
    """Return the address in a file. Raises: SourceError."""
    assert path is not None
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_URL_BYTES + 1)
    except OSError as error:
        raise SourceError(f"url_file {path}: {error.strerror}") from None
    try:
        url = data.decode().strip()
    except UnicodeDecodeError:
        url = ""
    if not url or len(data) > _MAX_URL_BYTES or "\n" in url:
        raise SourceError(f"url_file {path} does not have one line with an address")
    return url


def microphone_settings(table: MicrophoneTable) -> MicrophoneSettings:
    """The settings of a microphone. What the file does not say comes from the environment."""
    given: dict[str, object] = {
        "device_wait_seconds": table.device_wait_seconds,
        "device_return_seconds": table.device_return_seconds,
    }
    if table.device_channels:
        given["device_channels"] = table.device_channels
    if table.device is not None:
        given["device"] = table.device
    if table.device_rate is not None:
        given["device_rate"] = table.device_rate
    return MicrophoneSettings(**given)  # type: ignore[arg-type]


def _stdin_settings(table: PipeTable) -> StdinSettings:
    # A header of a WAV file may contradict what was given, but not defaults.
    keys = {"encoding", "sample_rate", "channels"} & table.model_fields_set
    given = {key: getattr(table, key) for key in keys}
    return StdinSettings(**given, raw=table.raw, live=table.live)
