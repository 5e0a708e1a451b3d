"""Microphones by PortAudio."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import numpy as np

from natterjack.audio import AudioFormat
from natterjack.telemetry.log import fields

from ..errors import SourceError, SourceLost
from ..settings import MicrophoneSettings
from . import DEVICE_THREADS, Block

log = logging.getLogger(__name__)

_BLOCK_S = 0.02
_QUEUE_S = 10.0
"""Sound held between PortAudio's thread and the event loop; beyond it what comes is lost."""
_MUTE_S = 5.0  # a device gives blocks even in silence; without any for so long it is gone
_LONGEST_LATENCY_S = 5.0
_CLOSE_S = 2.0
_RETRY_S = 1.0
_SAY_S = 5.0  # between two lines about lost sound
_MOST_CHANNELS = 32

_NO_LIBRARY = (
    "the PortAudio library is not here: apt-get install libportaudio2 "
    "(macOS and Windows: pip install --force-reinstall sounddevice)"
)
_NO_DEVICE = (
    "no microphone is here; `natterjack-edge devices` lists what there is. A sound server such as "
    "PulseAudio or PipeWire is reached with: apt-get install libasound2-plugins"
)


@dataclass(frozen=True)
class Device:
    """An input device."""

    index: int
    name: str
    host: str
    """The host API that it is reached by: ALSA, Core Audio ..."""
    channels: int
    sample_rate: int
    """Its default, in hertz."""
    default: bool


def mute_libraries() -> None:
    """Keep ALSA's and PortAudio's own lines off the terminal; Python's still go to it.

    They write to descriptor 2 whenever they like, from threads of their own.
    """
    own = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    sys.stderr = own


def _library() -> Any:
    """The sounddevice module. Raises: SourceError naming what to install."""
    try:
        import sounddevice
    except ModuleNotFoundError:
        raise SourceError("microphones need: pip install 'natterjack[edge]'") from None
    except OSError:
        raise SourceError(_NO_LIBRARY) from None
    except Exception as error:  # noqa: BLE001 - PortAudioError, which the failed import holds back
        raise SourceError(f"PortAudio does not start: {error}") from None
    return sounddevice


def list_devices() -> list[Device]:
    """All input devices. Raises: SourceError when there are none, or no PortAudio."""
    library = _library()
    hosts = library.query_hostapis()
    default = library.default.device[0]
    if default < 0:
        default = next((host["default_input_device"] for host in hosts), -1)
    devices = [
        Device(
            entry["index"],
            entry["name"],
            hosts[entry["hostapi"]]["name"],
            entry["max_input_channels"],
            round(entry["default_samplerate"]),
            entry["index"] == default,
        )
        for entry in library.query_devices()
        if entry["max_input_channels"] > 0
    ]
    if not devices:
        raise SourceError(_NO_DEVICE)
    return devices


def find_device(wanted: str | None) -> Device:
    """The device by index, by name or by part of it; None: the default. Raises: SourceError."""
    devices = list_devices()
    if wanted is None:
        return next((device for device in devices if device.default), devices[0])
    if wanted.isdecimal():
        found = [device for device in devices if device.index == int(wanted)]
    else:
        found = [device for device in devices if device.name == wanted] or [
            device for device in devices if wanted.casefold() in device.name.casefold()
        ]
    if not found:
        names = ", ".join(f"{device.index} {device.name}" for device in devices)
        raise SourceError(f"no microphone is called {wanted!r}; there are: {names}")
    if len(found) > 1:
        names = ", ".join(f"{device.index} {device.name}" for device in found)
        raise SourceError(f"several microphones are called {wanted!r}, use an index: {names}")
    return found[0]


class _Recording:
    """One stream of PortAudio, recording from the moment it is made, and what has come from it."""

    def __init__(
        self,
        device: Device,
        audio_format: AudioFormat,
        loop: asyncio.AbstractEventLoop,
        since: float | None = None,
    ) -> None:
        """`since`: where on time.monotonic() the sound before it ended; what lies between is lost.

        Raises: SourceError.
        """
        self.blocks: deque[Block] = deque()
        self.ended = time.monotonic() if since is None else since
        """End of the last sound captured, on time.monotonic()."""
        self.overflows = 0
        """Times that sound was lost before it came here: in the driver, or for a stalled loop."""
        self._said_overflows = 0
        self._said_at = 0.0
        self._name = device.name
        self._format = audio_format
        self._loop = loop
        self._since = since
        self._block_frames = max(1, round(audio_format.sample_rate * _BLOCK_S))
        self._wanted_blocks = 1
        self._ready = asyncio.Event()
        self._poked = False
        self._gone = False
        self._lost_frames = 0
        self._most_blocks = int(_QUEUE_S / _BLOCK_S)
        self._stream = self._start(device)

    def _start(self, device: Device) -> Any:
        library = _library()
        try:
            stream = library.RawInputStream(
                samplerate=self._format.sample_rate,
                blocksize=self._block_frames,
                device=device.index,
                channels=self._format.channels,
                dtype="int16",
                callback=self._captured,
                finished_callback=self._finished,
            )
            stream.start()
        except library.PortAudioError as error:
            raise SourceError(
                f"microphone {device.name!r} does not record: {_text(error)}"
            ) from None
        return stream

    # The next two run in PortAudio's thread: they must not wait for anything.

    def _captured(self, data: Any, frames: int, times: Any, status: Any) -> None:
        now, now_ns = time.monotonic(), time.time_ns()
        seconds = frames / self._format.sample_rate
        if status.input_overflow:
            self.overflows += 1
        if len(self.blocks) >= self._most_blocks:
            self.overflows += 1
            self._lost_frames += frames
            return
        latency = times.currentTime - times.inputBufferAdcTime
        if not (times.inputBufferAdcTime > 0 and 0 <= latency <= _LONGEST_LATENCY_S):
            latency = seconds  # not every host API knows
        lost, self._lost_frames = self._lost_frames, 0
        if self._since is not None:
            lost = max(0, round((now - latency - self._since) * self._format.sample_rate))
            self._since = None
        self.ended = now - latency + seconds
        samples = np.frombuffer(bytes(data), np.int16).reshape(-1, self._format.channels)
        self.blocks.append(Block(samples, now_ns - int(latency * 1e9), lost))
        if len(self.blocks) >= self._wanted_blocks:
            self._poke()

    def _finished(self) -> None:
        self._gone = True
        self._poked = False
        self._poke()

    def _poke(self) -> None:
        if self._poked:
            return  # one wake-up is on its way already; a stalled loop gets no heap of them
        self._poked = True
        try:
            self._loop.call_soon_threadsafe(self._ready.set)
        except RuntimeError:
            return  # the loop has ended before the device

    async def wait(self, wanted_frames: int = 1) -> None:
        """Return when `blocks` has so much. Cancel-safe. Raises: SourceLost; there may be some."""
        self._wanted_blocks = -(-wanted_frames // self._block_frames)
        while True:
            self._say_overflows()
            self._ready.clear()
            self._poked = False
            gone = self._gone  # before the blocks: the last of them comes before it
            if len(self.blocks) >= self._wanted_blocks:
                return
            if gone:
                raise SourceLost(f"microphone {self._name!r} is gone")
            try:
                async with asyncio.timeout(_MUTE_S):
                    await self._ready.wait()
            except TimeoutError:
                raise SourceLost(
                    f"microphone {self._name!r} has given nothing for {_MUTE_S:.0f} s"
                ) from None

    def _say_overflows(self) -> None:
        now = time.monotonic()
        if self.overflows > self._said_overflows and now - self._said_at > _SAY_S:
            self._said_overflows, self._said_at = self.overflows, now
            log.warning(
                "sound was lost before it could be taken; this machine is too busy",
                extra=fields(microphone=self._name, times=self.overflows),
            )

    def close(self) -> None:
        """Stop recording. With a dead device this may not return. Idempotent."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.abort()
            stream.close()


class MicrophoneSource:
    """A microphone, recording from the moment it is made. When it vanishes it is opened again."""

    waits = False

    def __init__(self, settings: MicrophoneSettings, channels: int | None) -> None:
        """Record `channels` channels; None: one, or a mix of all where the device has no mono.

        To be called in the event loop. Raises: SourceError.
        """
        self.wanted_frames = 1
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._closed = False
        self._opening: threading.Thread | None = None
        """The thread that last opened the device again."""
        self._opening_since = 0.0
        self._device = device = find_device(settings.device)
        rate = settings.device_rate or device.sample_rate
        self.format = AudioFormat("linear16", rate, _channels(device, channels, rate))
        self._recording = _Recording(device, self.format, self._loop)

    @property
    def name(self) -> str:
        return self._device.name

    @property
    def overflows(self) -> int:
        """Times that sound was lost on its way here, since the device was last opened."""
        return self._recording.overflows

    async def blocks(self) -> AsyncGenerator[Block, None]:
        while True:
            try:
                await self._recording.wait(self.wanted_frames)
            except SourceLost as lost:
                while self._recording.blocks:
                    yield self._recording.blocks.popleft()
                await self._come_back(lost)
            while self._recording.blocks:
                yield self._recording.blocks.popleft()

    def rest(self) -> list[Block]:
        blocks = self._recording.blocks
        return [blocks.popleft() for _ in range(len(blocks))]

    async def _come_back(self, lost: SourceLost) -> None:
        """Open the microphone again; return when it gives sound, whose first block says how much is
        missing. Cancel-safe. Raises: `lost` when it is away for longer than the setting."""
        longest, since = self._settings.device_wait_seconds, self._recording.ended
        if not longest:
            raise lost
        log.warning("%s; the session waits for it", lost, extra=fields(at_most_seconds=longest))
        said = str(lost)
        try:
            async with asyncio.timeout(longest):
                while True:
                    try:
                        if await self._open_in_thread(since):
                            await self._recording.wait()
                            break
                    except (SourceError, SourceLost) as error:
                        if str(error) != said:
                            said = str(error)
                            log.warning("%s; trying on", error)
                    await asyncio.sleep(_RETRY_S)
        except TimeoutError:
            raise lost from None
        missing = self._recording.blocks[0].lost_frames / self.format.sample_rate
        log.warning(
            "the microphone is back",
            extra=fields(microphone=self.name, missing_seconds=round(missing, 2)),
        )

    async def _open_in_thread(self, since: float) -> bool:
        """`_open_again`, without stalling the loop. When cancelled, the thread is left to itself:
        PortAudio may hang in it, and asyncio's own threads would be awaited at exit."""
        result: concurrent.futures.Future[bool] = concurrent.futures.Future()
        result.set_running_or_notify_cancel()

        def work() -> None:
            try:
                result.set_result(self._open_again(since))
            except Exception as error:  # noqa: BLE001 - whatever it is, it goes to who awaits it
                result.set_exception(error)

        self._opening = threading.Thread(target=work, name=f"{DEVICE_THREADS} open", daemon=True)
        self._opening_since = time.monotonic()
        self._opening.start()
        return await asyncio.wrap_future(result)

    def _open_again(self, since: float) -> bool:
        """Close the device and record from it anew; False if it is not here.

        PortAudio is ended and started anew: it knows the devices of its start and no others.
        Raises: SourceError: it is here, and does not record.
        """
        library = _library()
        self._recording.close()
        try:
            if library._initialized:
                library._terminate()
            library._initialize()
            self._device = self._find_again()
        except (library.PortAudioError, SourceError):
            return False
        self._recording = _Recording(self._device, self.format, self._loop, since)
        return True

    def _find_again(self) -> Device:
        """The device of the same name; else what the setting names. Raises: SourceError."""
        for device in list_devices():
            if (device.name, device.host) == (self._device.name, self._device.host):
                return device
        wanted = self._settings.device
        if wanted is not None and wanted.isdecimal():
            raise SourceError(f"microphone {self.name!r} is gone")  # the index is another's by now
        return find_device(wanted)

    def close(self) -> None:
        """Stop recording; a dead device that does not let go is left after 2 s."""
        if self._closed:
            return
        self._closed = True
        patience = _CLOSE_S
        if self._opening is not None and self._opening.is_alive():
            patience = max(0.0, self._opening_since + _CLOSE_S - time.monotonic())
        closing = threading.Thread(target=self._close, name=f"{DEVICE_THREADS} close", daemon=True)
        closing.start()
        closing.join(patience)
        if closing.is_alive():
            # At exit sounddevice would wait for the device once more, and for good.
            atexit.unregister(_library()._exit_handler)

    def _close(self) -> None:
        if self._opening is not None:
            self._opening.join()  # PortAudio is for one thread at a time
        self._recording.close()


def _channels(device: Device, wanted: int | None, rate: int) -> int:
    library = _library()
    if wanted is not None:
        if wanted > device.channels:
            raise SourceError(
                f"--split-channels names {wanted} speakers, "
                f"microphone {device.name!r} has {device.channels} channels"
            )
        return wanted
    try:
        library.check_input_settings(device.index, channels=1, dtype="int16", samplerate=rate)
    except library.PortAudioError:
        return min(device.channels, _MOST_CHANNELS)
    return 1


def _text(error: Exception) -> str:
    # PortAudioError: text, number, and maybe what the host API said: (index, number, text).
    details = error.args[2][2] if len(error.args) > 2 else ""
    return f"{error.args[0]}" + (f" ({details})" if details else "")
