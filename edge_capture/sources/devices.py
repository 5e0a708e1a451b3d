"""The devices that PortAudio finds."""

from __future__ import annotations

import atexit
import concurrent.futures
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from ..errors import SourceError, SourceUnusable
from . import DEVICE_THREADS
from .choice import MICROPHONE, Device, Kind

log = logging.getLogger(__name__)

T = TypeVar("T")

_STOP_S = 2.0
"""How long a stream may take to stop. One that takes longer is dead."""
_GIVE_WAY_S = 5.0
"""How often at most playback is interrupted to look for a microphone."""

_NO_LIBRARY = (
    "the PortAudio library is not installed: apt-get install libportaudio2 "
    "(macOS and Windows: pip install --force-reinstall sounddevice)"
)
_NO_DEVICE = (
    "no {} found: connect one, and let this user use it (on Linux, the group audio). Those of "
    "PulseAudio and PipeWire need libasound2-plugins, and the user who is logged in"
)


def separate_stderr(*, mute: bool) -> None:
    """Give Python's standard error a descriptor of its own. With `mute`, messages of ALSA and
    PortAudio do not appear: they write to descriptor 2 at any time, from threads of their own.

    sounddevice closes descriptor 2 for as long as PortAudio starts, and what is logged meanwhile
    would be lost.
    """
    own = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    if mute:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)
    sys.stderr = own


def start_device_thread(
    work: Callable[[], T], name: str, *, after: threading.Thread | None
) -> tuple[threading.Thread, concurrent.futures.Future[T]]:
    """Run `work` in a thread of its own once the thread `after` has ended, and return the thread
    and the result to come.

    It is abandoned when nobody waits for it: PortAudio may hang in it, and asyncio would wait for
    its own threads at exit.
    """
    result: concurrent.futures.Future[T] = concurrent.futures.Future()
    result.set_running_or_notify_cancel()

    def run() -> None:
        if after is not None:
            after.join()
        try:
            result.set_result(work())
        except Exception as error:  # noqa: BLE001 - passed on to whoever waits
            result.set_exception(error)

    thread = threading.Thread(target=run, name=f"{DEVICE_THREADS} {name}", daemon=True)
    thread.start()
    return thread, result


def portaudio() -> Any:
    """Return the sounddevice module. Raises: SourceError that names what to install."""
    try:
        import sounddevice
    except ModuleNotFoundError:
        raise SourceUnusable("audio devices need: pip install 'natterjack[edge]'") from None
    except OSError:
        raise SourceUnusable(_NO_LIBRARY) from None
    except Exception as error:  # noqa: BLE001 - PortAudioError cannot be imported on its own
        raise SourceError(f"PortAudio does not start: {error}") from None
    return sounddevice


def do_not_wait_at_exit() -> None:
    """Leave PortAudio as it is when this process ends: it would wait for a dead device forever."""
    # To import it starts it, which waits for a dead device, too.
    if (library := sys.modules.get("sounddevice")) is not None:
        atexit.unregister(library._exit_handler)


class OpenStreams:
    """The streams that this process records from and plays on.

    PortAudio supports one thread at a time, and lists devices only when it starts. A restart closes
    all streams: one that plays gives way to a microphone that is looked for, but a microphone that
    records is never interrupted.
    """

    def __init__(self) -> None:
        self.library = threading.RLock()
        """Held while PortAudio is used."""
        self._recording: set[object] = set()
        self._playing: dict[object, Callable[[], None]] = {}
        self._restarted = -math.inf
        self._dead: set[object] = set()
        """Streams of PortAudio that do not stop."""

    def recording(self, stream: object) -> None:
        """A stream records, until `closed`."""
        self._recording.add(stream)

    def playing(self, stream: object, close: Callable[[], None]) -> None:
        """A stream plays, until `closed`. `close` closes it when it is to give way."""
        self._playing[stream] = close

    def closed(self, stream: object) -> None:
        """A stream is closed. Idempotent."""
        self._recording.discard(stream)
        self._playing.pop(stream, None)

    def stop(self, stream: Any) -> bool:
        """Stop a stream of PortAudio at once; call it with `library` held. Returns False if it does
        not stop within 2 s. Then it is closed when it does, and is not to be used any more.

        A stream waits for a sound server that stands still. It waits forever if the server was
        killed while libpulse held memory of it: libpulse then waits for itself.
        """
        stopped, abandoned = threading.Event(), SimpleQueue[bool]()

        def work() -> None:
            stream.abort()
            stopped.set()
            if abandoned.get():
                with self.library:
                    stream.close()
                    self._dead.discard(stream)

        threading.Thread(target=work, name=f"{DEVICE_THREADS} stop", daemon=True).start()
        stops = stopped.wait(_STOP_S)
        if not stops:
            self._dead.add(stream)
            do_not_wait_at_exit()
            log.warning(
                "an audio device does not respond; until it does, devices that are plugged in are "
                "not found, unless this program is started again"
            )
        abandoned.put(not stops)
        return stops

    def restart_for(self, kind: Kind) -> None:
        """Restart PortAudio, so that it lists the devices that there are, if streams that are open
        allow it: it would wait for a dead one. Raises: PortAudioError."""
        if self._dead:
            return
        now = time.monotonic()
        if self._recording:
            return  # also for another microphone: two that look for theirs would end each other's
        if self._playing and now - self._restarted < _GIVE_WAY_S:
            return
        self._restarted = now
        for close in list(self._playing.values()):
            close()
        library = portaudio()
        if library._initialized:
            library._terminate()
        library._initialize()


STREAMS = OpenStreams()


def list_devices(kind: Kind = MICROPHONE) -> list[Device]:
    """Return all devices of a kind. Raises: its error if there are none; SourceError if there is no
    PortAudio."""
    library = portaudio()
    hosts = library.query_hostapis()
    default = library.default.device[kind.direction]
    if default < 0:
        default = next((host[f"default_{kind.direction}_device"] for host in hosts), -1)
    channels = f"max_{kind.direction}_channels"
    devices = [
        Device(
            entry["index"],
            entry["name"],
            hosts[entry["hostapi"]]["name"],
            entry[channels],
            round(entry["default_samplerate"]),
            entry["index"] == default,
        )
        for entry in library.query_devices()
        if entry[channels] > 0
    ]
    if not devices:
        raise kind.error(_NO_DEVICE.format(kind.name))
    return devices


def records_mono(device: Device, rate: int) -> bool:
    """Whether PortAudio can record one channel of a device that may have more."""
    library = portaudio()
    try:
        library.check_input_settings(device.index, channels=1, dtype="int16", samplerate=rate)
    except library.PortAudioError:
        return False
    return True


def error_text(error: Exception) -> str:
    """Return the text of a PortAudioError with that of the host API, if there is one."""
    # The arguments are a text, a number and, if the host API failed, (index, number, text).
    details = error.args[2][2] if len(error.args) > 2 else ""
    return f"{error.args[0]}" + (f" ({details})" if details else "")
