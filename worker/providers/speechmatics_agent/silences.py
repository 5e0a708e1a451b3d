"""Silence that the server reports in no message, known from the audio. Pure apart from numpy.

Agent STT sends nothing while nobody speaks, and its acknowledgements confirm that audio was read,
not that it was transcribed. Only audio in which the worker hears nothing either counts as silence
soon; a stream that resumes would otherwise repeat all of it. Times are seconds of the stream.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from ..estimate import Span
from ..voice import BLOCK_SECONDS, Voice

_PIECE_SECONDS: Final = 0.25
"""Audio that is examined at once: most of the cost is that of each call."""
_GAP_SECONDS: Final = 0.2
"""Sounds less than this apart are one."""
_FADE_SECONDS: Final = 0.5
"""A sound that ends within this time after a segment belongs to it."""
_BEFORE_SECONDS: Final = 0.2
"""Time before a sound that is no silence, since words begin softly."""


class Silences:
    """The sounds of one stream, and how far its silence reaches."""

    def __init__(
        self, sample_rate: int, margin_seconds: float, noise_margin_seconds: float
    ) -> None:
        """The margins are ages of audio that has no segment: with neither sound nor speech, and
        with a sound that the server does not take for speech; 0 for never."""
        self._margin = margin_seconds
        self._noise_margin = noise_margin_seconds
        self._voice = Voice(sample_rate)
        self._piece_bytes = round(2 * _PIECE_SECONDS * sample_rate)
        self._unheard = bytearray()
        self._blocks = 0
        """Number of blocks that were examined."""
        self._sounds: deque[Span] = deque()
        """Sounds that may lie after the frontier, oldest first."""

    def sent(self, audio: bytes) -> None:
        """Listen to audio that is sent."""
        if not self._margin:
            return
        self._unheard += audio
        if len(self._unheard) < self._piece_bytes:
            return
        piece, self._unheard = bytes(self._unheard), bytearray()
        for block in self._voice.feed(piece):
            start = self._blocks * BLOCK_SECONDS
            self._blocks += 1
            if block.voiced:
                if self._sounds and start - self._sounds[-1][1] < _GAP_SECONDS:
                    start = self._sounds.pop()[0]
                self._sounds.append((start, self._blocks * BLOCK_SECONDS))

    def until(self, frontier: float, acknowledged: float) -> float:
        """The end of the silence after `frontier`, the end of all that is final.

        `acknowledged`: the audio that the server has read. Nothing in it may be pending.
        """
        if not self._margin:
            return frontier
        while self._sounds and self._sounds[0][1] <= frontier + _FADE_SECONDS:
            self._sounds.popleft()
        end = min(acknowledged - self._margin, self._blocks * BLOCK_SECONDS)
        if self._sounds:
            end = min(end, self._sounds[0][0] - _BEFORE_SECONDS)
            if self._noise_margin:
                end = max(end, acknowledged - self._noise_margin)
        return max(frontier, end)
