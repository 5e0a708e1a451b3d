"""Microphones by PortAudio."""

from __future__ import annotations

import asyncio
import atexit
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
from natterjack.log import fields

from ..errors import SourceError, SourceLost
from ..settings import MicrophoneSettings
from . import Block

log = logging.getLogger(__name__)

_BLOCK_S = 0.02
_QUEUE_S = 10.0
"""Sound held between PortAudio's thread and the event loop; beyond it what comes is lost."""
_MUTE_S = 5.0  # a device gives blocks even in silence; without any for so long it is gone
_LONGEST_LATENCY_S = 5.0
_CLOSE_S = 2.0
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


class MicrophoneSource:
    """A microphone, recording from the moment it is made."""

    waits = False

    def __init__(self, settings: MicrophoneSettings, channels: int | None) -> None:
        """Record `channels` channels; None: one, or a mix of all where the device has no mono.

        To be called in the event loop. Raises: SourceError.
        """
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._blocks: deque[Block] = deque()
        self._poked = False
        self._gone = False
        self._closed = False
        self._lost_frames = 0
        self.overflows = 0
        """Times that sound was lost before it came here: in the driver, or for a stalled loop."""
        self._said_overflows = 0
        self._said_at = 0.0
        device = find_device(settings.device)
        self.name = device.name
        rate = settings.device_rate or device.sample_rate
        self.format = AudioFormat("linear16", rate, _channels(device, channels, rate))
        self._most_blocks = int(_QUEUE_S / _BLOCK_S)
        self._stream = self._start(device)

    def _start(self, device: Device) -> Any:
        library = _library()
        try:
            stream = library.RawInputStream(
                samplerate=self.format.sample_rate,
                blocksize=max(1, round(self.format.sample_rate * _BLOCK_S)),
                device=device.index,
                channels=self.format.channels,
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
        now_ns = time.time_ns()
        if status.input_overflow:
            self.overflows += 1
        if len(self._blocks) >= self._most_blocks:
            self.overflows += 1
            self._lost_frames += frames
            return
        latency = times.currentTime - times.inputBufferAdcTime
        if not (times.inputBufferAdcTime > 0 and 0 <= latency <= _LONGEST_LATENCY_S):
            latency = frames / self.format.sample_rate  # not every host API knows
        samples = np.frombuffer(bytes(data), np.int16).reshape(-1, self.format.channels)
        lost, self._lost_frames = self._lost_frames, 0
        self._blocks.append(Block(samples, now_ns - int(latency * 1e9), lost))
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

    async def blocks(self) -> AsyncGenerator[Block, None]:
        while True:
            self._say_overflows()
            self._ready.clear()
            self._poked = False
            gone = self._gone  # before the blocks: the last of them comes before it
            while self._blocks:
                yield self._blocks.popleft()
            if gone:
                raise SourceLost(f"microphone {self.name!r} is gone")
            try:
                async with asyncio.timeout(_MUTE_S):
                    await self._ready.wait()
            except TimeoutError:
                raise SourceLost(
                    f"microphone {self.name!r} has given nothing for {_MUTE_S:.0f} s"
                ) from None

    def _say_overflows(self) -> None:
        now = time.monotonic()
        if self.overflows > self._said_overflows and now - self._said_at > _SAY_S:
            self._said_overflows, self._said_at = self.overflows, now
            log.warning(
                "sound was lost before it could be taken; this machine is too busy",
                extra=fields(microphone=self.name, times=self.overflows),
            )

    def close(self) -> None:
        """Stop recording; a dead device that does not let go is left after 2 s."""
        if self._closed:
            return
        self._closed = True
        closing = threading.Thread(target=self._close, name="close microphone", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)
        if closing.is_alive():
            # At exit sounddevice would wait for the device once more, and for good.
            atexit.unregister(_library()._exit_handler)

    def _close(self) -> None:
        self._stream.abort()
        self._stream.close()


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
