"""A microphone that PortAudio records."""

from __future__ import annotations

import asyncio
from typing import Any

from natterjack.audio import AudioFormat

from ...errors import SourceError
from ..capture_clock import CaptureClock
from ..choice import Device
from ..devices import STREAMS, error_text, portaudio
from .base import Recording

_BLOCK_S = 0.02


class PortAudioRecording(Recording):
    """A PortAudio stream that records from the moment it is created."""

    def __init__(
        self,
        device: Device,
        audio_format: AudioFormat,
        loop: asyncio.AbstractEventLoop,
        earlier: CaptureClock | None = None,
    ) -> None:
        super().__init__(device.name, audio_format, _BLOCK_S, loop, earlier)
        self._block_frames = max(1, round(audio_format.sample_rate * _BLOCK_S))
        self._stream = self._start(device, audio_format)

    def _start(self, device: Device, audio_format: AudioFormat) -> Any:
        library = portaudio()
        try:
            stream = library.RawInputStream(
                samplerate=audio_format.sample_rate,
                blocksize=self._block_frames,
                device=device.index,
                channels=audio_format.channels,
                dtype="int16",
                callback=self._captured,
                finished_callback=self._finished,
            )
            stream.start()
            STREAMS.recording(self)
        except library.PortAudioError as error:
            raise SourceError(
                f"microphone {device.name!r} cannot be recorded: {error_text(error)}"
            ) from None
        return stream

    def _enough(self) -> bool:
        return len(self.queue.blocks) >= -(-self._wanted_frames // self._block_frames)

    # The next two run in PortAudio's thread and must not block.

    def _captured(self, data: Any, _frames: int, times: Any, _status: Any) -> None:
        self._deliver(bytes(data), times.currentTime - times.inputBufferAdcTime)

    def _finished(self) -> None:
        self._end("is gone")

    def close(self) -> None:
        stream, self._stream = self._stream, None
        STREAMS.closed(self)
        if stream is not None and STREAMS.stop(stream):
            stream.close()
