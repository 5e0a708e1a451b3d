"""A loudspeaker, played by PortAudio."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from natterjack.telemetry.log import fields
from natterjack.voice.audio import FRAME_BYTES

from ...errors import EdgeError, OutputError
from ...options.playing import PlaySettings
from ...sources import DEVICE_THREADS
from ...sources.boot_clock import boot_time
from ...sources.choice import LOUDSPEAKER, Device, reselect_device, select_device
from ...sources.devices import (
    STREAMS,
    do_not_wait_at_exit,
    error_text,
    list_devices,
    portaudio,
    start_device_thread,
)
from ..playout import Playout

log = logging.getLogger(__name__)

T = TypeVar("T")

_BLOCK_S = 0.02
_LONGEST_LATENCY_S = 10.0
_MUTE_S, _CHECK_S = 5.0, 1.0  # a working device takes audio even if it is silence
_RETRY_S = 1.0
_DROP_S = 2.0
"""How long a device may take to drop what it has. One that takes longer is dead."""
_CLOSE_S = 2.0


class _Stream:
    """A PortAudio stream that plays from the moment it is created."""

    def __init__(
        self, device: Device, rate: int, latency_s: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        """The device is given `latency_s` of audio ahead. Raises: OutputError."""
        self.playout: Playout | None = None
        """The source of the audio; silence if None."""
        self._latency_s = latency_s
        self._loop = loop
        self.calls = 0
        self.underruns = 0
        """How often the device had nothing to play, because this process was too slow."""
        self._ending = False
        self.gone = asyncio.Event()
        library = portaudio()
        self._channels = 1
        try:
            library.check_output_settings(device.index, channels=1, dtype="int16", samplerate=rate)
        except library.PortAudioError:
            self._channels = min(device.channels, 2)
        try:
            self._stream = library.RawOutputStream(
                samplerate=rate,
                blocksize=max(1, round(rate * _BLOCK_S)),
                device=device.index,
                channels=self._channels,
                dtype="int16",
                latency=latency_s,
                callback=self._play,
                finished_callback=self._finished,
            )
            self._stream.start()
        except library.PortAudioError as error:
            raise OutputError(
                f"loudspeaker {device.name!r} cannot be played on: {error_text(error)}"
            ) from None
        STREAMS.playing(self, self._give_way)

    # The next two run in PortAudio's thread and must not block.

    def _play(self, data: Any, frames: int, times: Any, status: Any) -> None:
        self.calls += 1
        self.underruns += bool(status.output_underflow)
        latency = times.outputBufferDacTime - times.currentTime
        if not 0 <= latency <= _LONGEST_LATENCY_S:
            latency = self._latency_s
        audio = b""
        if self.playout is not None:
            audio = self.playout.pull(frames, boot_time() + latency)
        if self._channels > 1:
            audio = np.repeat(np.frombuffer(audio, np.int16), self._channels).tobytes()
        data[:] = audio.ljust(frames * self._channels * FRAME_BYTES, b"\0")

    def _finished(self) -> None:
        if not self._ending:
            with contextlib.suppress(RuntimeError):  # the loop was closed before the device
                self._loop.call_soon_threadsafe(self.gone.set)

    async def wait_gone(self) -> str:
        """Return in what way the device is gone, once it is. Cancel-safe."""
        quiet, calls = 0, self.calls
        while quiet * _CHECK_S < _MUTE_S:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_S):
                    await self.gone.wait()
                return "is gone"
            quiet = quiet + 1 if self.calls == calls else 0
            calls = self.calls
        return f"has taken no audio for {_MUTE_S:.0f} s"

    def drop(self) -> None:
        """Drop what the device has not played, and play on, unless the device is dead."""
        library = portaudio()
        with STREAMS.library:
            if self._stream is None:
                return
            self._ending = True
            stops = STREAMS.stop(self._stream)
            self._ending = False
            try:
                if stops:
                    self._stream.start()
                    return
                self._stream = None
            except library.PortAudioError:
                pass
            self._finished()

    def close(self) -> None:
        """Stop playing at once. A device that does not respond is abandoned. Idempotent."""
        with STREAMS.library:
            self._ending = True
            stream, self._stream = self._stream, None
            STREAMS.closed(self)
            if stream is not None and STREAMS.stop(stream):
                stream.close()

    def _give_way(self) -> None:
        self.close()
        self._ending = False
        self._finished()


class Loudspeaker:
    """A loudspeaker. When it disappears, it is waited for and opened again."""

    def __init__(self, settings: PlaySettings) -> None:
        """Open the device. To be called in the event loop. Raises: SourceError, OutputError."""
        self._wanted = settings.device
        self._latency_s = settings.latency_ms / 1000
        self._underruns = 0
        """Those of streams before the present one."""
        self._loop = asyncio.get_running_loop()
        self._device = select_device(list_devices(LOUDSPEAKER), self._wanted, LOUDSPEAKER)
        self.rate = settings.sample_rate or self._device.sample_rate
        self.waiting_for: str | None = None
        self._playout: Playout | None = None
        self._working: threading.Thread | None = None
        """The last thread that used PortAudio for it."""
        self._closed = False
        self._stream: _Stream | None = self._open()

    def _open(self) -> _Stream:
        return _Stream(self._device, self.rate, self._latency_s, self._loop)

    @property
    def name(self) -> str:
        return self._device.name

    async def play(self, playout: Playout) -> None:
        self._playout = playout
        while True:
            stream = self._stream
            assert stream is not None
            stream.playout = playout
            trouble = f"loudspeaker {self.name!r} {await stream.wait_gone()}"
            stream.playout = None
            self._underruns += stream.underruns
            playout.lose(boot_time())
            self.waiting_for = f"loudspeaker {self.name!r}"
            log.warning("%s; waiting for it to return", trouble)
            await self._reopen(trouble)
            log.warning("the loudspeaker is back", extra=fields(loudspeaker=self.name))
            self.waiting_for = None
            playout.find()

    async def _reopen(self, trouble: str) -> None:
        """Retry until the device takes audio. Cancel-safe."""
        while True:
            try:
                if await self._in_thread(self._try_to_reopen) and await self._takes_audio():
                    return
            except EdgeError as error:
                if str(error) != trouble:
                    trouble = str(error)
                    log.warning("%s; retrying", error)
            await asyncio.sleep(_RETRY_S)

    async def _takes_audio(self) -> bool:
        for _ in range(round(_MUTE_S / _CHECK_S)):
            if self._stream is not None and self._stream.calls:
                return True
            await asyncio.sleep(_CHECK_S)
        return False

    def _try_to_reopen(self) -> bool:
        """Close the device and open it again. Returns False if there is no such device.

        Raises: EdgeError if the device is there but cannot be played on.
        """
        library = portaudio()
        with STREAMS.library:
            if self._stream is not None:
                self._stream.close()
            try:
                STREAMS.restart_for(LOUDSPEAKER)
                found = list_devices(LOUDSPEAKER)
                self._device = reselect_device(found, self._device, self._wanted, LOUDSPEAKER)
            except (library.PortAudioError, EdgeError):
                return False
            self._stream = self._open()
        return True

    async def drop(self) -> None:
        stream = self._stream
        if stream is None or self.waiting_for is not None:
            return
        try:
            async with asyncio.timeout(_DROP_S):
                await self._in_thread(stream.drop)
        except TimeoutError:
            stream.gone.set()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread of its own, after the one before."""
        self._working, result = start_device_thread(work, "play", after=self._working)
        return await asyncio.wrap_future(result)

    def close(self) -> None:
        """Stop playing. A dead device that does not respond is abandoned after 2 s."""
        if self._closed:
            return
        self._closed = True
        underruns = self._underruns + (self._stream.underruns if self._stream else 0)
        if underruns:
            log.warning(
                "the loudspeaker had nothing to play %d times, because this machine was too busy; "
                "a greater EDGE_PLAY_LATENCY_MS may help",
                underruns,
            )
        before = self._working

        def run() -> None:
            if before is not None:
                before.join()
            if self._stream is not None:
                self._stream.close()

        closing = threading.Thread(target=run, name=f"{DEVICE_THREADS} close", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)
        if closing.is_alive():
            do_not_wait_at_exit()
