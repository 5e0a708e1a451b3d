"""A source of the sound server that is recorded."""

from __future__ import annotations

import asyncio
import ctypes

from natterjack.audio import AudioFormat

from ...errors import SourceError
from ..capture_clock import CaptureClock
from ..choice import DEFAULT, Device
from ..recording.base import Recording
from .client import Client, InLoop, PulseError
from .library import (
    ADJUST_LATENCY,
    AIFF,
    DONT_MOVE,
    INVALID,
    NO_REMAP_CHANNELS,
    S16LE,
    STREAM_FAILED,
    STREAM_READY,
    BufferAttributes,
    ChannelMap,
    SampleSpec,
)

_GONE = "is gone"
_MONITOR = b".monitor"


class PulseRecording(Recording):
    """A stream that records from the moment it is created, in the event loop of this thread.

    A named source is recorded until it is gone. The default one is whatever the server has as its
    default, except the monitor of a loudspeaker that it falls back to.
    """

    def __init__(
        self,
        device: Device,
        audio_format: AudioFormat,
        block_s: float,
        loop: asyncio.AbstractEventLoop,
        earlier: CaptureClock | None = None,
    ) -> None:
        """The server delivers `block_s` of audio at a time, so that little else wakes this process.

        Raises: SourceError.
        """
        super().__init__(device.name, audio_format, block_s, loop, earlier)
        self._source = None if device.name == DEFAULT else device.name.encode()
        self._block_bytes = max(1, round(audio_format.sample_rate * block_s))
        self._block_bytes *= audio_format.frame_bytes
        self._data, self._size = ctypes.c_void_p(), ctypes.c_size_t()
        self._stream: int | None = None
        self._started = False
        try:
            self._client: Client | None = Client()
        except PulseError as error:
            raise SourceError(f"microphone {self._name!r} cannot be recorded: {error}") from None
        self._in_loop = InLoop(self._client, self._after)
        self._in_loop.run()

    def _enough(self) -> bool:
        return sum(len(each.samples) for each in self.queue.blocks) >= self._wanted_frames

    def _wake(self) -> None:
        self._ready.set()  # in the same thread

    def _after(self) -> None:
        """Go on after the library has done something."""
        assert self._client is not None
        how = _GONE
        try:
            if self._client.ready:
                if self._stream is None:
                    self._start(self._client)
                self._read(self._client)
        except PulseError as error:
            if not self._started:
                how = f"cannot be recorded: {error}"
            self._in_loop.running = False
        if not self._in_loop.running:
            self._end(how)

    def _start(self, client: Client) -> None:
        pulse, audio = client.pulse, self.format
        spec = SampleSpec(S16LE, audio.sample_rate, audio.channels)
        places = ChannelMap()
        pulse.pa_channel_map_init_extend(ctypes.byref(places), audio.channels, AIFF)
        self._stream = pulse.pa_stream_new(
            client.context, b"microphone", ctypes.byref(spec), ctypes.byref(places)
        )
        if not self._stream:
            raise client.error()
        buffer = BufferAttributes(INVALID, INVALID, INVALID, INVALID, self._block_bytes)
        flags = ADJUST_LATENCY | (DONT_MOVE if self._source else 0)
        if audio.channels > 1:
            flags |= NO_REMAP_CHANNELS  # by number, whatever the places of the channels are
        buffered = ctypes.byref(buffer)
        if pulse.pa_stream_connect_record(self._stream, self._source, buffered, flags) < 0:
            raise client.error()
        client.run_ready()

    def _read(self, client: Client) -> None:
        """Take everything that has arrived. It is copied at once: libpulse must not hold memory of
        the server, for which it would wait forever if the server were killed.

        Each part is a block of its own: after this process was stopped, audio may be missing
        between any two of them.
        """
        pulse, stream = client.pulse, self._stream
        state = pulse.pa_stream_get_state(stream)
        if state >= STREAM_FAILED:
            raise client.error()
        if state != STREAM_READY:
            return
        if not self._started:
            self._started = self._in_loop.settled = True
        while True:
            data, size = self._data, self._size
            if pulse.pa_stream_peek(stream, ctypes.byref(data), ctypes.byref(size)) < 0:
                raise client.error()
            if not size.value:
                break
            # Without data, it is a hole: the server has dropped audio.
            if data.value is not None:
                self._deliver(ctypes.string_at(data, size.value), 0)
            pulse.pa_stream_drop(stream)
        if self._source is None and self._moved_to_monitor(client):
            raise PulseError("moved to a monitor")

    def _moved_to_monitor(self, client: Client) -> bool:
        name = client.pulse.pa_stream_get_device_name(self._stream)
        return bool(name and name.endswith(_MONITOR))

    def close(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        self._in_loop.stop()
        if self._stream is not None:
            client.pulse.pa_stream_disconnect(self._stream)
            client.pulse.pa_stream_unref(self._stream)
        client.close()
