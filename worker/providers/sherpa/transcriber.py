"""Audio of one stream in, provider events out. Blocking: it runs in a worker thread."""

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
"""Least audio between interims when decoding is behind: they give way to finals, but not
altogether, since a stream that says nothing is taken for broken."""


class Transcriber:
    """Voice activity, segments and decoding of one stream; for one thread at a time.

    Holds the audio that is not final yet, which is at most one segment.
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
        """From the segmenter's start on."""
        self._samples = 0
        """Taken in all."""

    def hear(
        self, audio: bytes, *, finalize: bool = False, finish: bool = False, behind: bool = False
    ) -> list[ProviderEvent]:
        """What is to be said once `audio` has been heard.

        finalize: make what is pending final. finish: the same, and no audio follows.
        behind: decoding is slower than audio comes, so leave out what is not needed.
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
        """Give whole windows to the segmenter, and with `pad` what is left, filled with silence."""
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
                    heard = self._decoder.decode(samples, final=True)
                    text, words, estimated = self._read(heard, start, cut.voiced)
                    yield Final(
                        text,
                        self._seconds(start),
                        self._seconds(end),
                        words,
                        language=self._language,
                        times_estimated=estimated,
                    )
                    self._let_go(start, end)
                case Silence(start, end):
                    yield Final("", self._seconds(start), self._seconds(end))
                    self._let_go(start, end)
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
        # Nothing is to be learnt from the pause at the end of a turn.
        fresh = segmenter.last_voiced > max(self._interim_at, segmenter.start)
        return fresh and segmenter.end - self._interim_at >= period

    def _interim(self) -> Interim:
        start, end = self._segmenter.start, self._segmenter.end
        self._interim_at = end
        heard = self._decoder.decode(self._pcm(0, (end - start) * WINDOW), final=False)
        text, words, estimated = self._read(heard, start, self._segmenter.voiced)
        return Interim(
            text,
            self._seconds(start),
            self._seconds(end),
            words,
            language=self._language,
            times_estimated=estimated,
        )

    def _read(
        self, heard: Hypothesis, start: int, voiced: tuple[tuple[int, int], ...]
    ) -> tuple[str, tuple[ProviderWord, ...], bool]:
        """Text and words of a segment that starts at `start`, and whether times are estimates."""
        text = spoken_text(heard.text)
        spans: list[Span] = [(self._seconds(a), self._seconds(b)) for a, b in voiced]
        if not text:
            return "", (), False
        if heard.times:
            offset = self._seconds(start)
            times = [offset + time for time in heard.times]
            return text, timed_words(heard.tokens, times, spans), False
        return text, estimated_words(text, spans), True

    def _pcm(self, begin: int, end: int | None) -> npt.NDArray[np.float32]:
        """Samples `begin` to `end` of what is held, from -1 to 1."""
        whole = len(self._audio) // SAMPLE_BYTES
        held = bytes(self._audio[begin * SAMPLE_BYTES : (end or whole) * SAMPLE_BYTES])
        return np.frombuffer(held, "<i2").astype(np.float32) / np.float32(32768)

    def _let_go(self, start: int, end: int) -> None:
        del self._audio[: (end - start) * WINDOW * SAMPLE_BYTES]
        self._interim_at = max(self._interim_at, end)

    def _seconds(self, position: int) -> float:
        # The last window may be filled up with silence that nobody sent.
        return min(position * WINDOW, self._samples) / SAMPLE_RATE
