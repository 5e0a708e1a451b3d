"""Turns the audio of one stream into provider events. Blocking: it runs in a worker thread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from natterjack.plugin.provider import Final, Interim, ProviderEvent, ProviderWord, Turn

from ..estimate import Span, estimated_words, spoken_text, timed_words
from .engine import Engine, Hypothesis
from .segmenter import (
    SAMPLE_RATE,
    WINDOW,
    Cut,
    Segmenter,
    Silence,
    Speech,
    TurnEnded,
    TurnStarted,
    windows,
)
from .settings import SherpaSettings

SAMPLE_BYTES = 2
_BEHIND_INTERIM_SECONDS = 2.0
"""Minimum audio between interims when decoding is behind. Finals have priority, but a stream
without any message would count as broken."""


class Transcriber:
    """Voice activity, segments and decoding of one stream; used by one thread at a time.

    Holds the audio that is not final yet, at most one segment.
    """

    def __init__(self, engine: Engine, settings: SherpaSettings) -> None:
        self._activity = engine.voice_activity(settings.vad_threshold)
        self._decoder = engine.decoder()
        self._language = engine.files.language
        self._segmenter = Segmenter(
            silence_seconds=settings.silence_seconds,
            min_speech_seconds=settings.min_speech_seconds,
            max_segment_seconds=settings.max_segment_seconds,
        )
        self._interim_windows = (
            windows(settings.interim_seconds) if settings.interim_seconds else None
        )
        self._interim_at = 0
        self._audio = bytearray()
        """Audio since the end of the last segment."""
        self._samples = 0
        """Number of samples received."""

    def transcribe(
        self, audio: bytes, *, finalize: bool = False, finish: bool = False, behind: bool = False
    ) -> list[ProviderEvent]:
        """Process `audio` and return the events.

        `finalize` makes pending text final; `finish` does too, and no audio follows. `behind` means
        that decoding is slower than the audio, so that optional interims are left out.
        """
        self._audio += audio
        self._samples += len(audio) // SAMPLE_BYTES
        events = list(self._events(self._take_windows(pad=finish)))
        if finish:
            events.extend(self._events(self._segmenter.finish()))
        elif finalize:
            events.extend(self._events(self._segmenter.finalize()))
        elif self._interim_due(behind):
            events.append(self._interim())
        return events

    def _take_windows(self, *, pad: bool) -> Iterator[Cut]:
        """Pass whole windows to the segmenter and, with `pad`, the rest filled with silence."""
        begin = (self._segmenter.end - self._segmenter.start) * WINDOW
        fresh = self._pcm(begin, None)
        if pad:
            fresh = np.pad(fresh, (0, -len(fresh) % WINDOW))
        for window in fresh[: len(fresh) // WINDOW * WINDOW].reshape(-1, WINDOW):
            yield from self._segmenter.add(
                self._activity.voiced(window), float(np.mean(window * window))
            )

    def _events(self, cuts: Iterable[Cut]) -> Iterator[ProviderEvent]:
        for cut in cuts:
            match cut:
                case Speech(start, end):
                    samples = self._pcm(0, (end - start) * WINDOW)
                    hypothesis = self._decoder.decode(samples, final=True)
                    text, words, estimated = self._read(hypothesis, start, cut.voiced)
                    yield Final(
                        text,
                        self._seconds(start),
                        self._seconds(end),
                        words,
                        language=self._language,
                        times_estimated=estimated,
                    )
                    self._discard(start, end)
                case Silence(start, end):
                    yield Final("", self._seconds(start), self._seconds(end))
                    self._discard(start, end)
                case TurnStarted(at):
                    self._interim_at = at
                    yield Turn("started", self._seconds(at))
                case TurnEnded(at):
                    yield Turn("ended", self._seconds(at))

    def _interim_due(self, behind: bool) -> bool:
        segmenter = self._segmenter
        if self._interim_windows is None or not segmenter.in_turn:
            return False
        period = self._interim_windows
        if behind:
            period = max(period, windows(_BEHIND_INTERIM_SECONDS))
        # The pause at the end of a turn adds nothing to an interim.
        fresh = segmenter.last_voiced > max(self._interim_at, segmenter.start)
        return fresh and segmenter.end - self._interim_at >= period

    def _interim(self) -> Interim:
        start, end = self._segmenter.start, self._segmenter.end
        self._interim_at = end
        hypothesis = self._decoder.decode(self._pcm(0, (end - start) * WINDOW), final=False)
        text, words, estimated = self._read(hypothesis, start, self._segmenter.voiced)
        return Interim(
            text,
            self._seconds(start),
            self._seconds(end),
            words,
            language=self._language,
            times_estimated=estimated,
        )

    def _read(
        self, hypothesis: Hypothesis, start: int, voiced: tuple[tuple[int, int], ...]
    ) -> tuple[str, tuple[ProviderWord, ...], bool]:
        """Text and words of a segment that starts at `start`, and whether the times are
        estimated."""
        text = spoken_text(hypothesis.text)
        spans: list[Span] = [(self._seconds(a), self._seconds(b)) for a, b in voiced]
        if not text:
            return "", (), False
        if hypothesis.times:
            offset = self._seconds(start)
            times = [offset + time for time in hypothesis.times]
            return text, timed_words(hypothesis.tokens, times, spans), False
        return text, estimated_words(text, spans), True

    def _pcm(self, begin: int, end: int | None) -> npt.NDArray[np.float32]:
        """Samples `begin` to `end` of the buffered audio, from -1 to 1."""
        whole = len(self._audio) // SAMPLE_BYTES
        pcm = bytes(self._audio[begin * SAMPLE_BYTES : (end or whole) * SAMPLE_BYTES])
        return np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32768)

    def _discard(self, start: int, end: int) -> None:
        del self._audio[: (end - start) * WINDOW * SAMPLE_BYTES]
        self._interim_at = max(self._interim_at, end)

    def _seconds(self, position: int) -> float:
        # The last window may be padded with silence that is not part of the stream.
        return min(position * WINDOW, self._samples) / SAMPLE_RATE
