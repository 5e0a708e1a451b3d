"""The boundaries of turns of one stream. Pure: no sockets, clocks or environment."""

from __future__ import annotations

from collections.abc import Iterable

from natterjack.plugin.provider import ProviderWord, Turn


class Turns:
    """Boundaries of turns, each reported once and in order. A turn is open while any channel has
    speech.

    Deepgram docs, "Utterance End": an utterance ends with the first of speech_final and
    UtteranceEnd; SpeechStarted may come without words, and words without SpeechStarted.
    """

    def __init__(self) -> None:
        self._since: dict[int, float] = {}
        """Start of the current speech of each channel that has any."""
        self._ended: dict[int, float] = {}
        """End of each channel's last utterance; earlier words do not start a new one."""
        self._queue: list[Turn] = []

    def words(self, channel: int, words: Iterable[ProviderWord]) -> None:
        """Record words on a channel."""
        if channel in self._since:
            return
        for word in words:
            if word.start is not None:
                self.speech(channel, word.start)

    def speech(self, channel: int, at: float) -> None:
        """Record that a channel has speech from `at` on."""
        if channel in self._since or at < self._ended.get(channel, 0.0):
            return
        if not self._since:
            self._queue.append(Turn("started", at))
        self._since[channel] = at

    def since(self, channel: int) -> float | None:
        """Start of the channel's current speech; None if it is silent."""
        return self._since.get(channel)

    def silence(self, channel: int, at: float) -> None:
        """Record that the channel's utterance ended at `at`; one that began later stays open."""
        self._ended[channel] = max(at, self._ended.get(channel, 0.0))
        if channel in self._since and at >= self._since[channel]:
            del self._since[channel]
            if not self._since:
                self._queue.append(Turn("ended", at))

    def due(self, frontier: float) -> list[Turn]:
        """Take the boundaries to report now. The end of a turn waits until finals, which end at
        `frontier`, cover it."""
        due: list[Turn] = []
        while self._queue and (self._queue[0].event == "started" or self._queue[0].at <= frontier):
            due.append(self._queue.pop(0))
        return due

    def end(self, at: float) -> list[Turn]:
        """Close open turns at the end of the audio, `at`, and take all remaining boundaries."""
        for channel in list(self._since):
            self.silence(channel, max(at, self._since[channel]))
        due, self._queue = self._queue, []
        return due
