"""Microphones recorded by PortAudio."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import math
import threading
import time
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np

from natterjack.audio import AudioFormat
from natterjack.notices import DEVICE_LOST, SUSPENDED, Note
from natterjack.process.run import end_tasks
from natterjack.telemetry.log import fields

from ..errors import SourceError, SourceLost
from ..settings import MicrophoneSettings
from . import DEVICE_THREADS, Block, always
from .block_queue import BlockQueue, DecidedBlocks
from .boot_clock import boot_time, boot_time_and_sleep
from .capture_clock import CaptureClock
from .devices import (
    MICROPHONE,
    STREAMS,
    Device,
    choose_channels,
    do_not_wait_at_exit,
    error_text,
    list_devices,
    portaudio,
    reselect_device,
    select_device,
)

log = logging.getLogger(__name__)

_BLOCK_S = 0.02
_QUEUE_S, _LEAST_QUEUE_S, _QUEUE_BYTES = 60.0, 10.0, 16 * 1024 * 1024
"""Audio held between PortAudio's thread and the event loop: what a sound server has kept while this
process was stopped comes at once. Audio beyond it is lost."""
_MUTE_S, _MUTE_CHECK_S = 5.0, 1.0  # a working device delivers blocks even in silence
_DRIFT_REPORT_S = 3600.0
_WRONG_PPM = 500
"""A drift that no sound card has."""
_LEAST_DRIFT_S = 600.0
"""A shorter recording does not show the drift."""
_CLOSE_S = 2.0
_RETRY_S = 1.0
_FINISH_CHECK_S = 0.1


class _Recording:
    """A PortAudio stream that records from the moment it is created."""

    def __init__(
        self,
        device: Device,
        audio_format: AudioFormat,
        loop: asyncio.AbstractEventLoop,
        earlier: CaptureClock | None = None,
    ) -> None:
        """Start to record. With `earlier`, it goes on after the gap since that recording.

        Raises: SourceError.
        """
        self.clock = CaptureClock(audio_format.sample_rate, boot_time(), earlier)
        bytes_per_second = audio_format.sample_rate * audio_format.frame_bytes
        seconds = max(_LEAST_QUEUE_S, min(_QUEUE_S, _QUEUE_BYTES / bytes_per_second))
        self.queue = BlockQueue(audio_format, int(seconds / _BLOCK_S))
        self.decided = DecidedBlocks(self.queue, self.clock)
        self._name = device.name
        self._loop = loop
        self._block_frames = max(1, round(audio_format.sample_rate * _BLOCK_S))
        self._wanted_blocks = 1
        self._ready = asyncio.Event()
        self._waking = False
        self._gone = False
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

    # The next three run in PortAudio's thread and must not block.

    def _captured(self, data: Any, _frames: int, times: Any, _status: Any) -> None:
        now, asleep = boot_time_and_sleep()
        self.queue.captured(
            bytes(data),
            latency_s=times.currentTime - times.inputBufferAdcTime,
            now=now,
            asleep=asleep,
            now_ns=time.time_ns(),
        )
        if len(self.queue.blocks) >= self._wanted_blocks:
            self._wake()

    def _finished(self) -> None:
        self._gone = True
        self._waking = False
        self._wake()

    def _wake(self) -> None:
        if self._waking:
            return  # one wake-up is pending; a stalled loop should not collect more
        self._waking = True
        try:
            self._loop.call_soon_threadsafe(self._ready.set)
        except RuntimeError:
            return  # the loop was closed before the device

    async def wait(self, wanted_frames: int = 1) -> None:
        """Return when so many frames are queued.

        Cancel-safe. Raises: SourceLost, in which case fewer frames may be queued.
        """
        self._wanted_blocks = -(-wanted_frames // self._block_frames)
        quiet = 0
        while True:
            self._ready.clear()
            self._waking = False
            gone = self._gone  # read before the queue, because the last block comes before it
            if len(self.queue.blocks) >= self._wanted_blocks:
                return
            if gone:
                raise SourceLost(f"microphone {self._name!r} is gone")
            try:
                async with asyncio.timeout(_MUTE_CHECK_S):
                    await self._ready.wait()
                quiet = 0
            except TimeoutError:
                quiet += 1  # one is not enough: it also comes after this process was stopped
                if quiet * _MUTE_CHECK_S >= _MUTE_S:
                    raise SourceLost(
                        f"microphone {self._name!r} has delivered no audio for {_MUTE_S:.0f} s"
                    ) from None

    def close(self) -> None:
        """Stop recording. A device that does not respond is abandoned after 2 s. Idempotent."""
        stream, self._stream = self._stream, None
        STREAMS.closed(self)
        if stream is not None and STREAMS.stop(stream):
            stream.close()


class MicrophoneSource:
    """A microphone that records from the moment it is created.

    When it disappears, it is reopened.
    """

    can_wait = False

    def __init__(self, settings: MicrophoneSettings, channels: int | None) -> None:
        """Record `channels` channels.

        With None, record one channel, or all of them if the device cannot record mono. To be called
        in the event loop. Raises: SourceError.
        """
        self.wanted_frames = 1
        self.can_finish = always
        self.waiting_for: str | None = None
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._closed = False
        self._reopening: threading.Thread | None = None
        """The thread that last reopened the device."""
        self._reopening_since = 0.0
        self._device = device = select_device(list_devices(), settings.device)
        rate = settings.device_rate or device.sample_rate
        self.format = AudioFormat("linear16", rate, choose_channels(device, channels, rate))
        self._drift_report_s = _DRIFT_REPORT_S
        """When the drift is reported next, in seconds of this recording."""
        self._recording = _Recording(device, self.format, self._loop)

    @property
    def name(self) -> str:
        return self._device.name

    async def blocks(self) -> AsyncGenerator[Block, None]:
        while True:
            try:
                await self._recording.wait(self.wanted_frames)
            except SourceLost as lost:
                for block in self._recording.decided.take_all():
                    yield self._named(block)
                yield self._lost()
                await self._reopen(lost)
            for block in self._recording.decided.take():
                yield self._named(block)
            clock = self._recording.clock
            if clock.drift_seconds >= self._drift_report_s:
                self._drift_report_s += _DRIFT_REPORT_S
                self._report_drift(clock)

    def remaining(self) -> list[Block]:
        return [self._named(block) for block in self._recording.decided.take_all()]

    def _named(self, block: Block) -> Block:
        """Log the gap before `block`, if there is one, and return it."""
        if block.lost_frames:
            lost_s = block.lost_frames / self.format.sample_rate
            if block.cause == DEVICE_LOST:
                log.warning(
                    "the microphone is back",
                    extra=fields(microphone=self.name, missing_seconds=round(lost_s, 2)),
                )
            else:
                log.warning(
                    "%.2f s of audio were lost: this machine was %s",
                    lost_s,
                    "suspended" if block.cause == SUSPENDED else "too busy",
                    extra=fields(microphone=self.name, cause=block.cause),
                )
        return block

    def _lost(self) -> Block:
        """A block without samples that says that the microphone is away."""
        nothing = np.empty((0, self.format.channels), np.int16)
        return Block(nothing, time.time_ns(), notes=(Note(DEVICE_LOST),))

    def _report_drift(self, clock: CaptureClock) -> None:
        ppm = round(clock.drift_ppm)
        log.log(
            logging.WARNING if abs(ppm) > _WRONG_PPM else logging.INFO,
            "the microphone's clock differs from this machine's by %d ppm",
            ppm,
            extra=fields(microphone=self.name, seconds=round(clock.drift_seconds)),
        )

    async def _reopen(self, lost: SourceLost) -> None:
        """Reopen the microphone, and return when it delivers audio.

        The time between becomes a gap. Cancel-safe. Raises: `lost` if the
        microphone stays away for longer than `device_wait_seconds` and the session can finish.
        """
        self.waiting_for = f"microphone {self._device.name!r}"
        async with asyncio.TaskGroup() as tasks:
            reopening = tasks.create_task(self._reopen_until_it_delivers(lost))
            waiting = tasks.create_task(self._wait_long_enough(lost))
            await asyncio.wait((reopening, waiting), return_when=asyncio.FIRST_COMPLETED)
            reopened = reopening.done()
            await end_tasks((reopening, waiting))
        if not reopened:
            raise lost
        self.waiting_for = None
        self._drift_report_s = _DRIFT_REPORT_S

    async def _wait_long_enough(self, lost: SourceLost) -> None:
        """Return when waiting for the microphone is no longer worthwhile. Cancel-safe."""
        patience_s = self._settings.device_wait_seconds
        if patience_s:
            log.warning(
                "%s; waiting for it to return", lost, extra=fields(at_most_seconds=patience_s)
            )
            await asyncio.sleep(patience_s)
        announce_at = time.monotonic() + _RETRY_S
        while not self.can_finish():
            if time.monotonic() >= announce_at:
                announce_at = math.inf
                log.warning("%s; waiting for it until the broker has stored the audio", lost)
            await asyncio.sleep(_FINISH_CHECK_S)

    async def _reopen_until_it_delivers(self, lost: SourceLost) -> None:
        """Retry until the microphone delivers audio. Cancel-safe."""
        logged = str(lost)
        while True:
            try:
                if await self._reopen_in_thread():
                    await self._recording.wait()
                    return
            except (SourceError, SourceLost) as error:
                if str(error) != logged:
                    logged = str(error)
                    log.warning("%s; retrying", error)
            await asyncio.sleep(_RETRY_S)

    async def _reopen_in_thread(self) -> bool:
        """Run `_try_to_reopen` in a thread of its own, which is abandoned on cancellation.

        PortAudio may hang in it, and asyncio would wait for its own threads at exit.
        """
        result: concurrent.futures.Future[bool] = concurrent.futures.Future()
        result.set_running_or_notify_cancel()

        def work() -> None:
            try:
                result.set_result(self._try_to_reopen())
            except Exception as error:  # noqa: BLE001 - passed on to the awaiting task
                result.set_exception(error)

        self._reopening = threading.Thread(target=work, name=f"{DEVICE_THREADS} open", daemon=True)
        self._reopening_since = time.monotonic()
        self._reopening.start()
        return await asyncio.wrap_future(result)

    def _try_to_reopen(self) -> bool:
        """Close the device and record from it again. Returns False if there is no such device.

        Raises: SourceError if the device is there but cannot be recorded.
        """
        library = portaudio()
        with STREAMS.library:
            self._recording.close()
            try:
                STREAMS.restart_for(MICROPHONE)
                self._device = reselect_device(list_devices(), self._device, self._settings.device)
            except (library.PortAudioError, SourceError):
                return False
            earlier = self._recording.clock
            self._recording = _Recording(self._device, self.format, self._loop, earlier)
        return True

    def close(self) -> None:
        """Stop recording. A dead device that does not respond is abandoned after 2 s."""
        if self._closed:
            return
        self._closed = True
        if self._recording.clock.drift_seconds >= _LEAST_DRIFT_S:
            self._report_drift(self._recording.clock)
        patience_s = _CLOSE_S
        if self._reopening is not None and self._reopening.is_alive():
            patience_s = max(0.0, self._reopening_since + _CLOSE_S - time.monotonic())
        closing = threading.Thread(target=self._close, name=f"{DEVICE_THREADS} close", daemon=True)
        closing.start()
        closing.join(patience_s)
        if closing.is_alive():
            do_not_wait_at_exit()

    def _close(self) -> None:
        if self._reopening is not None:
            self._reopening.join()
        with STREAMS.library:
            self._recording.close()
