"""Microphones: opened, waited for, replaced by another one, and switched back to."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterator

import numpy as np

from natterjack.audio import AudioFormat
from natterjack.notices import DEVICE_FALLBACK, DEVICE_LOST, SUSPENDED, Note
from natterjack.process.run import end_tasks
from natterjack.telemetry.log import fields

from ..errors import SourceError, SourceLost, SourceUnusable
from ..settings import MicrophoneSettings
from . import Block, always
from .capture_clock import CaptureClock
from .choice import Choice
from .recording.base import Recording
from .recording.opener import Opener

log = logging.getLogger(__name__)

_BLOCK_S = 0.08
_FIRST_DRIFT_S, _DRIFT_REPORT_S = 3600.0, 24 * 3600.0
_WRONG_PPM = 500
"""A drift that no sound card has."""
_LEAST_DRIFT_S = 600.0
"""A shorter recording does not show the drift."""
_LEAST_GAP_S = 0.02
"""The least gap between two recordings: longer than the mark that says that a device is away."""
_RETRY_S, _LONGEST_RETRY_S = 1.0, 5.0
_FINISH_CHECK_S = 0.1
_CURE = (
    "plug one in, or name another one as `device` (--device, or in the configuration file); "
    "`natterjack-edge devices` lists those that are there"
)


class MicrophoneSource:
    """A microphone that records from `open` on.

    When it disappears, it is opened again, or another one that the settings name. When one comes
    back that they name first, it is recorded again.
    """

    can_wait = False
    format: AudioFormat
    """Format of the blocks, once it is open. It stays, whatever is recorded later."""

    def __init__(
        self, settings: MicrophoneSettings, channels: int | None, block_s: float = _BLOCK_S
    ) -> None:
        """Record `channels` channels.

        With None, record one channel, or all of them if the device cannot record mono. A sound
        server is asked for `block_s` of audio at a time. To be called in the event loop.
        """
        self.wanted_frames = 1
        self.can_finish = always
        self.waiting_for: str | None = None
        self.fallback: str | None = None
        """The microphone that is recorded because a preferred one is not there, or None."""
        self._settings = settings
        self._opener = Opener(settings, channels, block_s)
        self._replaced: str | None = None
        """The microphone that was recorded before this one, until that is logged."""
        self._opened_again = False
        """Whether nothing of the present recording has been yielded, and something before it."""
        self._noted_fallback = False
        self._closed = False
        self._drift_report_s = _FIRST_DRIFT_S
        """When the drift is reported next, in seconds of this recording."""

    @property
    def name(self) -> str:
        choice = self._opener.choice
        return "microphone" if choice is None else choice.device.name

    async def open(
        self,
        patience_s: float | None = None,
        waiting: Callable[[], None] = lambda: None,
        expected: AudioFormat | None = None,
    ) -> None:
        """Open a microphone, and wait for one for `patience_s`, by default for
        `device_wait_seconds`. `waiting` is called when the wait begins. With a format that is
        `expected`, `blocks` waits in place of this, and converts to that format. Cancel-safe.

        Raises: SourceError if there is none, or SourceLost if there was none for so long;
        SourceUnusable at once if waiting does not help.
        """
        if patience_s is None:
            patience_s = self._settings.device_wait_seconds
        deadline, logged, retry_s = time.monotonic() + patience_s, "", _RETRY_S
        try:
            while True:
                try:
                    await self._open_one(again=bool(logged))
                    break
                except SourceUnusable:
                    raise
                except (SourceError, SourceLost) as error:
                    if time.monotonic() + retry_s > deadline:
                        if logged:
                            raise SourceLost(f"{error} (waited {patience_s:g} s)") from None
                        raise SourceError(str(error)) from None
                    if str(error) != logged:
                        logged = str(error)
                        log.warning(
                            "%s; waiting for a microphone: %s", error, _CURE,
                            extra=fields(at_most_seconds=patience_s),
                        )  # fmt: skip
                        waiting()
                    self.waiting_for = "a microphone"
                    if expected is not None:
                        self.format = self._opener.format = expected
                        return
                await asyncio.sleep(retry_s)
                retry_s = min(_LONGEST_RETRY_S, retry_s * 1.25)
        except BaseException:  # including cancellation
            self.close()
            raise
        self.waiting_for = None
        if logged:
            log.warning("recording", extra=fields(microphone=self.name))

    async def blocks(self) -> AsyncGenerator[Block, None]:
        while True:
            recording = self._opener.recording
            if self._opener.choice is None:
                await self._reopen(SourceLost("there is no microphone"), announced=True)
                self._opened_again = False  # no audio of this run is before it
                continue
            assert recording is not None
            try:
                await recording.wait(self._wanted(recording))
            except SourceLost as lost:
                for block in self.remaining():
                    yield block
                yield self._away()
                await self._reopen(lost)
                continue
            for block in self._converted(recording.decided.take()):
                yield block
            if recording.clock.drift_seconds >= self._drift_report_s:
                self._drift_report_s += _DRIFT_REPORT_S
                self._report_drift(recording.clock)
            if self.fallback and (better := self._opener.better()) is not None:
                for block in self.remaining():
                    yield block
                yield self._away()
                await self._switch_to(better)

    def remaining(self) -> list[Block]:
        recording = self._opener.recording
        return [] if recording is None else list(self._converted(recording.decided.take_all()))

    def _wanted(self, recording: Recording) -> int:
        """The frames to wait for, at the rate of the device."""
        rate = recording.format.sample_rate
        return max(1, self.wanted_frames * rate // self.format.sample_rate)

    def _converted(self, blocks: Iterator[Block]) -> Iterator[Block]:
        for block in self._opener.converted(blocks):
            if self._opened_again and (block.lost_frames or len(block.samples)):
                # It ends a gap, long enough to be one at the published rate, too.
                self._opened_again = False
                least = round(_LEAST_GAP_S * self.format.sample_rate)
                if block.lost_frames < least:
                    block = block._replace(lost_frames=least, cause=DEVICE_LOST)
            if block.lost_frames:
                self._log_gap(block)
            if len(block.samples) and self._noted_fallback != bool(self.fallback):
                self._noted_fallback = bool(self.fallback)
                note = Note(DEVICE_FALLBACK, ended=not self.fallback)
                block = block._replace(notes=(*block.notes, note))
            yield block

    def _away(self) -> Block:
        """A block without samples that says that the microphone is away."""
        nothing = np.empty((0, self.format.channels), np.int16)
        return Block(nothing, time.time_ns(), notes=(Note(DEVICE_LOST),))

    def _log_gap(self, block: Block) -> None:
        lost_s = block.lost_frames / self.format.sample_rate
        before, self._replaced = self._replaced, None
        if before is not None:
            log.warning(
                "another microphone is recorded",
                extra=fields(
                    microphone=self.name, instead_of=before, missing_seconds=round(lost_s, 2)
                ),
            )
        elif block.cause == DEVICE_LOST:
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

    def _report_drift(self, clock: CaptureClock) -> None:
        ppm = round(clock.drift_ppm)
        log.log(
            logging.WARNING if abs(ppm) > _WRONG_PPM else logging.INFO,
            "the microphone's clock differs from this machine's by %d ppm",
            ppm,
            extra=fields(microphone=self.name, seconds=round(clock.drift_seconds)),
        )

    # A preferred microphone that is back.

    async def _switch_to(self, better: Choice) -> None:
        """Record a preferred microphone, or another one if that does not work. Cancel-safe."""
        log.warning(
            "microphone %r is there again; switching back to it", better.device.name,
            extra=fields(instead_of=self.name),
        )  # fmt: skip
        await self._reopen(SourceLost(f"microphone {self.name!r} was left"), announced=True)

    # Opening.

    async def _reopen(self, lost: SourceLost, *, announced: bool = False) -> None:
        """Open the microphone again, or another one, and return when it delivers audio.

        The time between becomes a gap. Cancel-safe. Raises: `lost` if there is none for longer than
        `device_wait_seconds` and the session can finish.
        """
        first, before = self._opener.choice is None, self.name
        self.waiting_for = "a microphone" if first else f"microphone {before!r}"
        async with asyncio.TaskGroup() as tasks:
            reopening = tasks.create_task(self._reopen_until_it_delivers(lost))
            waiting = tasks.create_task(self._wait_long_enough(lost, announced=announced))
            await asyncio.wait((reopening, waiting), return_when=asyncio.FIRST_COMPLETED)
            reopened = reopening.done()
            await end_tasks((reopening, waiting))
        if not reopened:
            raise lost
        self.waiting_for = None
        self._opened_again = True
        if first:
            log.warning("recording", extra=fields(microphone=self.name))
        elif self.name != before:
            self._replaced = before
        self._drift_report_s = _FIRST_DRIFT_S

    async def _wait_long_enough(self, lost: SourceLost, *, announced: bool) -> None:
        """Return when waiting for the microphone is no longer worthwhile. Cancel-safe."""
        patience_s = self._settings.device_wait_seconds
        if patience_s:
            if not announced:
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
        """Retry until a microphone delivers audio. Cancel-safe."""
        logged = str(lost)
        while True:
            try:
                await self._open_one(again=True)
                return
            except (SourceError, SourceLost) as error:
                # That there is none is what `lost` has said.
                if str(error) != logged:
                    logged = str(error)
                    log.log(
                        logging.WARNING if isinstance(error, SourceLost) else logging.INFO,
                        "%s; retrying", error,
                    )  # fmt: skip
            await asyncio.sleep(_RETRY_S)

    async def _open_one(self, *, again: bool) -> None:
        """Open the best microphone that is there, and return when it delivers audio. Cancel-safe.

        Raises: SourceError, SourceLost.
        """
        choice = await self._opener.open(again=again)
        assert self._opener.format is not None
        self.format = self._opener.format
        self.fallback = choice.device.name if choice.rank else None
        if choice.rank:
            log.warning(
                "microphone %r is not there; recording %r until it is back",
                self._settings.device[0], choice.device.name,
            )  # fmt: skip

    def close(self) -> None:
        """Stop recording. A dead device that does not respond is abandoned after 2 s."""
        if self._closed:
            return
        self._closed = True
        recording = self._opener.recording
        if recording is not None and recording.clock.drift_seconds >= _LEAST_DRIFT_S:
            self._report_drift(recording.clock)
        self._opener.close()

    async def aclose(self) -> None:
        """Like `close`, but the event loop goes on meanwhile."""
        self._opener.close_source()
        await asyncio.to_thread(self.close)
