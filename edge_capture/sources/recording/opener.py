"""Opens the best microphone that is there, in the format that its source has."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

from natterjack.audio import AudioFormat

from ...errors import SourceError, SourceLost, SourceUnusable
from ...settings import MicrophoneSettings
from .. import DEVICE_THREADS, Block
from ..capture_clock import CaptureClock
from ..choice import PULSE, Choice, Key
from ..devices import STREAMS, do_not_wait_at_exit, records_mono, start_device_thread
from ..pulse.recording import PulseRecording
from .base import Recording
from .finder import Finder
from .layout import Converter, Layout, choose_layout, rates_to_try
from .portaudio import PortAudioRecording
from .preference import Preference

log = logging.getLogger(__name__)

T = TypeVar("T")

_CLOSE_S = 2.0
LOOK_S = 2.0
"""How often a preferred microphone is looked for while another one is recorded."""


class Opener:
    """Opens one microphone at a time for a source. The first one determines the format of all."""

    def __init__(self, settings: MicrophoneSettings, split: int | None, block_s: float) -> None:
        """Record `split` channels; with None, one, or all of them if the device cannot record mono.
        To be called in the event loop."""
        self.format: AudioFormat | None = None
        """Format of the source, if it is given or a microphone has delivered audio."""
        self.choice: Choice | None = None
        """The microphone that has delivered audio last."""
        self.recording: Recording | None = None
        self._loop = asyncio.get_running_loop()
        self._settings, self._split, self._block_s = settings, split, block_s
        self._finder = Finder(settings.device)
        self._preference = Preference(settings.device_return_seconds, LOOK_S)
        self._converter: Converter | None = None
        self._offered: AudioFormat | None = None
        """The format of the source if the recording that was begun last delivers audio."""
        self._earlier: CaptureClock | None = None
        """The clock of the last recording that was closed."""
        self._working: threading.Thread | None = None
        """The thread that last looked for a device or opened one."""
        self._working_since = 0.0
        self._looking: concurrent.futures.Future[Choice | None] | None = None
        self._look_at = 0.0

    async def open(self, *, again: bool) -> Choice:
        """Close what is recorded, open the best microphone that is there, and return when it
        delivers audio. `again`: look for devices that are new. Cancel-safe.

        Raises: SourceError, SourceLost.
        """
        if isinstance(self.recording, PulseRecording):
            self._close_recording()
        avoided = self._preference.avoided(time.monotonic())
        choice = await asyncio.wrap_future(
            self._in_thread(lambda: self._find_and_open(avoided, again=again))
        )
        try:
            if choice.device.host == PULSE:
                self._open_source(choice)
            assert self.recording is not None
            await self.recording.wait()
        except (SourceError, SourceLost):
            self._preference.failed(choice.device.key, time.monotonic())
            raise
        self.format, self.choice = self._offered, choice
        self._finder.recorded(choice)
        self._preference.worked(choice.device.key)
        self._look_at = time.monotonic() + LOOK_S
        return choice

    def converted(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """Convert blocks of the recording to the format of the source."""
        assert self._converter is not None
        return map(self._converter.convert, blocks)

    def better(self) -> Choice | None:
        """Return the preferred microphone to switch to, if one has been there for long enough. To
        be called often; it looks in a thread."""
        now = time.monotonic()
        if self._looking is not None and self._looking.done():
            found, self._looking = self._looking.result(), None
            if found is None or self.choice is None or found.rank >= self.choice.rank:
                self._preference.returned(None, now)
            elif self._preference.returned(found.device.key, now):
                return found
        if self._looking is None and now >= self._look_at:
            self._look_at = now + LOOK_S
            self._looking = self._in_thread(self._finder.find_better)
        return None

    def _find_and_open(self, avoided: Collection[Key], *, again: bool) -> Choice:
        """Find the best microphone, and open it if it is one of PortAudio's. In a thread.

        Raises: SourceError.
        """
        with STREAMS.library:
            self._close_recording()
        choice = self._finder.find(avoided, again=again)
        if choice.device.host != PULSE:
            try:
                with STREAMS.library:
                    self._open_device(choice)
            except SourceError:
                self._preference.failed(choice.device.key, time.monotonic())
                raise
        return choice

    def _open_source(self, choice: Choice) -> None:
        device = choice.device
        rate = self._settings.device_rate or (
            device.sample_rate if self.format is None else self.format.sample_rate
        )
        layout = self._layout(choice, mono=not self._settings.device_channels)
        recorded = AudioFormat("linear16", rate, layout.recorded)
        recording = PulseRecording(device, recorded, self._block_s, self._loop, self._earlier)
        self._record(layout, recording)

    def _open_device(self, choice: Choice) -> None:
        """Open a device of PortAudio, at the first of the rates that it does not refuse."""
        device, source = choice.device, self.format
        rates = rates_to_try(device, self._settings.device_rate, source and source.sample_rate)
        refused: SourceError | None = None
        for rate in rates:
            layout = self._layout(choice, mono=records_mono(device, rate))
            recorded = AudioFormat("linear16", rate, layout.recorded)
            try:
                recording = PortAudioRecording(device, recorded, self._loop, self._earlier)
            except SourceError as error:
                refused = refused or error
                continue
            if refused is not None:
                log.warning("%s; recording at %d Hz", refused, rate)
            self._record(layout, recording)
            return
        tried = ", ".join(map(str, rates))
        raise SourceError(
            f"{refused}; `device_rate` (EDGE_DEVICE_RATE) is {tried}: without it, others are tried"
            if self._settings.device_rate is not None
            else f"{refused} (tried {tried} Hz)"
        )

    def _layout(self, choice: Choice, *, mono: bool) -> Layout:
        try:
            return choose_layout(
                choice.device,
                split=self._split,
                selected=self._settings.device_channels,
                mono=mono,
                fallback=choice.rank > 0,
            )
        except SourceUnusable as error:
            if choice.rank:
                raise SourceError(str(error)) from None  # the first one may come back
            raise

    def _record(self, layout: Layout, recording: Recording) -> None:
        self._offered = self.format or recording.format._replace(channels=layout.channels)
        self._converter = Converter(layout, recording.format, self._offered)
        self.recording = recording

    def _in_thread(self, work: Callable[[], T]) -> concurrent.futures.Future[T]:
        """Run `work` in a thread of its own, after the one before."""
        self._working_since = time.monotonic()
        self._working, result = start_device_thread(work, "open", after=self._working)
        return result

    def _close_recording(self) -> None:
        """Close the recording, if there is one. Its clock goes on in the next one."""
        recording, self.recording = self.recording, None
        if recording is not None:
            if self.choice is not None:  # else nothing was recorded before
                self._earlier = recording.clock
            recording.close()

    def close_source(self) -> None:
        """Stop recording a source of a sound server: at once, but in the event loop."""
        if isinstance(self.recording, PulseRecording):
            self.recording.close()

    def close(self) -> None:
        """Stop recording. A dead device that does not respond is abandoned after 2 s."""
        self.close_source()
        if self._working is None:
            return
        patience_s = _CLOSE_S
        if self._working is not None and self._working.is_alive():
            patience_s = max(0.0, self._working_since + _CLOSE_S - time.monotonic())
        closing = threading.Thread(target=self._close, name=f"{DEVICE_THREADS} close", daemon=True)
        closing.start()
        closing.join(patience_s)
        if closing.is_alive():
            do_not_wait_at_exit()

    def _close(self) -> None:
        if self._working is not None:
            self._working.join()
        with STREAMS.library:
            if isinstance(self.recording, PortAudioRecording):
                self.recording.close()
