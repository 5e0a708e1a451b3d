"""Converts how much was played to the provider's clock. Pure: no sockets, time or environment."""

from __future__ import annotations


class SessionClock:
    """The provider's clock of a stream: milliseconds of the audio that it generated.

    Deepgram docs, "Interruption Handling": an Interrupt names what was played since the start of
    the session, and must advance. An interrupt rebases the clock on what was played, so that audio
    that was generated and never played does not count. The caller's count of what was played leaves
    such audio out as well, also where the provider does not know that it was dropped: after an
    interrupt between two turns.
    """

    def __init__(self, sample_rate: int, frame_bytes: int, *, rebases: bool = True) -> None:
        """Without `rebases`, the clock goes on counting all audio that was generated."""
        self._bytes_per_ms = sample_rate * frame_bytes / 1000
        self._rebases = rebases
        self._origin_ms = 0.0
        """The clock where audio after the last interrupt begins."""
        self._origin_played: float | None = 0.0
        """Seconds that had been played at the last interrupt; None if that is not known."""
        self._received_bytes = 0
        """Audio received since the origin."""
        self._last_ms = 0

    def received(self, size_bytes: int) -> None:
        """Count audio that was received, whether or not it is used."""
        self._received_bytes += size_bytes

    def offset(self, played_seconds: float | None) -> int | None:
        """Return the offset for an Interrupt, greater than the last one; None if it is not known.

        It is at least 1, since an offset that does not advance is ignored, and the turn goes on.
        """
        if played_seconds is None or self._origin_played is None:
            return None
        played_ms = max(0.0, 1000 * (played_seconds - self._origin_played))
        offset = int(self._origin_ms + min(played_ms, self._received_ms))
        self._last_ms = max(offset, self._last_ms + 1)
        return self._last_ms

    def interrupted(self, played_seconds: float | None, audio_played_ms: int | None) -> None:
        """Note that the provider has carried out an interrupt, and set its clock to
        `audio_played_ms`; None if it did not say."""
        if audio_played_ms is None:
            audio_played_ms = self._last_ms
        self._last_ms = max(self._last_ms, audio_played_ms)
        if self._rebases:
            self._begin(audio_played_ms, played_seconds)
        else:
            self.dropped(played_seconds)

    def dropped(self, played_seconds: float | None) -> None:
        """Note that audio was dropped here alone: the provider's clock goes on."""
        self._begin(self._origin_ms + self._received_ms, played_seconds)

    @property
    def _received_ms(self) -> float:
        return self._received_bytes / self._bytes_per_ms

    def _begin(self, origin_ms: float, played_seconds: float | None) -> None:
        self._origin_ms = origin_ms
        self._origin_played = played_seconds
        self._received_bytes = 0
