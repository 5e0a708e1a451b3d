"""Watches the audio of a source for findings: silence, clipping, a wrong encoding and so on.

Each second of audio is measured once, and judged together with those before it. A finding begins
when its condition has held for 10 s. It ends when the condition has been absent for 2 s, and for
twice as long each time that it comes again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from natterjack.audio import AudioFormat

from .measure import Level, Second, level_of, measure, most_opposite
from .samples import FULL_SCALE, LINEAR16, Coding, Samples

DEAD, LOW, CLIPPING, OFFSET = "input_dead", "input_low", "input_clipping", "input_offset"
PHASE, CHANNEL, ENCODING = "input_phase", "input_channel", "input_encoding"
INVALID = "input_invalid"

_OVER = {
    DEAD: "audio arrives again",
    LOW: "the input is loud enough again",
    CLIPPING: "samples are no longer clipped",
    OFFSET: "the audio has no constant offset any more",
    PHASE: "the channels no longer have opposite phase",
    CHANNEL: "more than one channel has audio again",
    ENCODING: "the audio is no longer noise",
    INVALID: "all samples are finite numbers again",
}
"""Texts about the end of a finding."""

_WINDOW = 10
"""Seconds that are judged together."""
_QUIET_STEPS = 8
"""Difference between the extremes of a channel, in steps of a 16-bit sample, that no microphone
stays below: at most 4 up and 4 down."""
_CLIPPED, _NOT_CLIPPED = 0.002, 0.0002
"""Shares of clipped samples at which a finding begins and ends."""
_CLIPPED_SECONDS = 3
_OFFSET, _NO_OFFSET = 0.05, 0.03
"""Means of a channel, as parts of full scale, at which a finding begins and ends."""
_OPPOSITE, _NOT_OPPOSITE = -0.9, -0.5
_GUESSES = 5
_AUDIBLE_STEPS = 300
_MIN_S = 0.5
_PATIENCE_S, _MAX_PATIENCE_S = 2, 3600


class Finding(NamedTuple):
    """The beginning or the end of a condition of the input."""

    code: str
    began: bool
    frame: int
    """The first frame with which it began or ended, from the start of the run."""
    text: str
    """The condition and its remedy, for people."""


class Watch:
    """Watches the audio of one source, in blocks of any size."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self._rate = audio_format.sample_rate
        encoding = audio_format.encoding
        self._coding = LINEAR16 if encoding == "linear16" else Coding(encoding, 1)
        self._blocks: list[Samples] = []
        self._frames = 0
        """Frames in `_blocks`."""
        self._invalid = 0
        """Invalid samples in `_blocks`."""
        self._end = 0
        """The frame after the last one, lost ones included."""
        self._seconds: deque[Second] = deque(maxlen=_WINDOW)
        self._states = {code: _State() for code in _OVER}

    def feed(self, samples: Samples, lost_frames: int = 0, invalid: int = 0) -> list[Finding]:
        """Watch a block. Returns what begins and ends. `lost_frames` were lost just before it."""
        self._end += lost_frames
        self._invalid += invalid
        found = []
        while len(samples):
            part = samples[: self._rate - self._frames]
            samples = samples[len(part) :]
            self._blocks.append(part)
            self._frames += len(part)
            self._end += len(part)
            if self._frames == self._rate:
                self._measure()
                found += self._judge(whole=len(self._seconds) == _WINDOW)
        return found

    @property
    def level(self) -> Level | None:
        """The level over the last 10 s of audio; None before the first second."""
        return level_of(self._seconds, self._rate) if self._seconds else None

    @property
    def findings(self) -> list[Finding]:
        """The findings in force."""
        return [
            Finding(code, True, state.since, state.text)
            for code, state in self._states.items()
            if state.began
        ]

    def finish(self) -> list[Finding]:
        """Return what can be said about audio that was too short. To be called at its end."""
        if len(self._seconds) == _WINDOW:
            return []
        if self._frames:
            self._measure()
        if sum(second.frames for second in self._seconds) < _MIN_S * self._rate:
            return []
        return [finding for finding in self._judge(whole=True) if finding.began]

    def _measure(self) -> None:
        samples = self._blocks[0] if len(self._blocks) == 1 else np.concatenate(self._blocks)
        self._seconds.append(measure(samples, self._coding, self._invalid))
        self._blocks, self._frames, self._invalid = [], 0, 0

    def _judge(self, *, whole: bool) -> list[Finding]:
        """Return what the last second adds. `whole` if there is enough for a finding to begin."""
        window = list(self._seconds)
        spread = np.max([s.high for s in window], 0) - np.min([s.low for s in window], 0)
        begin = self._end - window[-1].frames
        found = []
        for code, judged in {
            DEAD: _dead(window, spread),
            LOW: _low(window, spread),
            CLIPPING: _clipping(window),
            OFFSET: _offset(window),
            PHASE: _phase(window),
            CHANNEL: _channel(window, spread),
            ENCODING: _encoding(window),
            INVALID: _invalid(window),
        }.items():
            holds = judged.holds
            if holds and not whole and code != INVALID:
                holds = None
            start = self._end - sum(second.frames for second in window[judged.first :])
            state = self._states[code]
            if (began := state.step(holds, start, begin)) is not None:
                state.text = judged.text if began else _OVER[code]
                found.append(Finding(code, began, state.since, state.text))
        return found


class _Judgment(NamedTuple):
    """Whether the condition of a finding holds."""

    holds: bool | None = None
    """False if it certainly does not."""
    text: str = ""
    first: int = 0
    """The first second of the window in which it holds."""


_NOTHING = _Judgment()


class _State:
    """Whether a finding has begun, with hysteresis."""

    def __init__(self) -> None:
        self.since = 0
        """The frame with which it began or ended."""
        self.began = False
        """Whether it is in force."""
        self.text = ""
        """The condition, and its remedy, for people."""
        self._patience = _PATIENCE_S
        self._over_for = 0
        self._over_since = 0

    def step(self, holds: bool | None, start: int, begin: int) -> bool | None:
        """Take whether the condition holds in the last second; None if that does not show it.

        The condition began at frame `start`, and the last second at frame `begin`. Returns True if
        the finding begins, False if it ends, and None otherwise. It ends when the condition has
        been absent for 2 s, and for twice as long the next time, up to an hour.
        """
        if not self.began:
            if not holds:
                return None
            self.began, self.since, self._over_for = True, start, 0
            return True
        if holds is not False:
            self._over_for = 0 if holds else self._over_for
            return None
        if not self._over_for:
            self._over_since = begin
        self._over_for += 1
        if self._over_for < self._patience:
            return None
        self.began, self.since = False, self._over_since
        self._patience = min(2 * self._patience, _MAX_PATIENCE_S)
        return False


def _dead(window: Sequence[Second], spread: Samples) -> _Judgment:
    holds = not spread.any()
    value = window[-1].high[0]
    what = "zeros only" if abs(value) <= 8 else f"a constant value ({value:.0f})"
    text = f"the input has {what}: it is muted or disconnected, or nobody sends audio"
    over = bool((window[-1].high > window[-1].low).any())
    return _Judgment(True if holds else False if over else None, text)


def _low(window: Sequence[Second], spread: Samples) -> _Judgment:
    live = spread[spread > 0]
    holds = len(live) > 0 and bool((live <= _QUIET_STEPS).all())
    last = window[-1].high - window[-1].low
    over = bool((last > 2 * _QUIET_STEPS).any())
    text = (
        "the input is silent but for the noise of a converter: the microphone is muted, "
        "disconnected, or its gain is far too low"
    )
    return _Judgment(True if holds else False if over else None, text)


def _clipping(window: Sequence[Second]) -> _Judgment:
    frames = sum(second.frames for second in window)
    share = sum(second.clipped * second.frames for second in window) / frames
    seconds = sum(second.clipped > _NOT_CLIPPED for second in window)
    holds = share > _CLIPPED and seconds >= min(_CLIPPED_SECONDS, len(window))
    text = f"{share:.1%} of the samples are clipped: lower the gain of the microphone or the source"
    first = next((n for n, second in enumerate(window) if second.clipped > _NOT_CLIPPED), 0)
    return _Judgment(True if holds else False if share < _NOT_CLIPPED else None, text, first)


def _offset(window: Sequence[Second]) -> _Judgment:
    offsets = np.array([second.offset for second in window]) / FULL_SCALE
    # A channel without any signal is dead, whatever its value.
    offsets[:, np.all([second.high == second.low for second in window], axis=0)] = 0
    # The offset of a fault stays, and has the same sign: what all seconds have in common.
    low, high = offsets.min(axis=0), offsets.max(axis=0)
    steady = np.where(low > 0, low, np.where(high < 0, high, 0.0))
    worst = int(np.abs(steady).argmax())
    value = float(steady[worst])
    where = f"channel {worst + 1} has" if len(steady) > 1 else "the audio has"
    text = (
        f"{where} a constant offset of {value:+.0%} of full scale, which takes away from the range "
        "and disturbs recognition: try another cable or input, or another audio interface"
    )
    over = float(np.abs(offsets[-1]).max()) < _NO_OFFSET
    return _Judgment(True if abs(value) > _OFFSET else False if over else None, text)


def _phase(window: Sequence[Second]) -> _Judgment:
    if len(window[-1].low) < 2:
        return _NOTHING
    pair, least = most_opposite(np.mean([second.products for second in window], axis=0))
    text = (
        f"channels {_names(pair)} have opposite phase and cancel each other when they are mixed: "
        "only the louder one is used. Correct the wiring of one, or make each a session with "
        "`split_channels` (--split-channels, EDGE_SPLIT_CHANNELS)"
    )
    if least is None:
        return _Judgment(text=text)
    last = most_opposite(window[-1].products)[1]
    over = least > _OPPOSITE and last is not None and last > _NOT_OPPOSITE
    return _Judgment(True if least < _OPPOSITE else False if over else None, text)


def _channel(window: Sequence[Second], spread: Samples) -> _Judgment:
    if len(spread) < 2:
        return _NOTHING
    live = np.flatnonzero(spread > _QUIET_STEPS)
    last = window[-1].high - window[-1].low
    over = np.count_nonzero(last > 2 * _QUIET_STEPS) > 1
    text = (
        f"only channel {_names(live[:1])} of {len(spread)} has audio, and it is used alone; check "
        "the others, or make each a session with `split_channels` (--split-channels, "
        "EDGE_SPLIT_CHANNELS)"
    )
    return _Judgment(True if len(live) == 1 else False if over else None, text)


def _encoding(window: Sequence[Second]) -> _Judgment:
    guesses = Counter(second.guess for second in window if second.guess is not None)
    if not guesses:
        last = window[-1]
        over = not last.noise and bool((last.high - last.low).max() > _AUDIBLE_STEPS)
        return _Judgment(False if over else None)
    (guessed, count), *_ = guesses.most_common(1)
    assert guessed is not None
    enough = count >= min(_GUESSES, -(-len(window) // 2))
    if not guessed.name:
        enough = count >= len(window) - 1
    text = (
        "the audio is noise, as if it were in another encoding. It is probably "
        f"{guessed.text}; it needs {guessed.cure}"
    )
    first = next(n for n, second in enumerate(window) if second.guess is not None)
    return _Judgment(True if enough else None, text, first)


def _invalid(window: Sequence[Second]) -> _Judgment:
    count = window[-1].invalid
    text = f"{count} samples are NaN, infinite or huge; each is replaced by the one before it"
    return _Judgment(count > 0, text, len(window) - 1)


def _names(channels: Samples) -> str:
    """Return numbers of channels, from 1, for people."""
    return " and ".join(str(channel + 1) for channel in channels)
