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

from .guess import Guess, guess, is_noise, roughness
from .samples import EXPANSIONS, FULL_SCALE, LINEAR16, Coding, Samples, to_float, to_pcm

DEAD, LOW, CLIPPING, PHASE = "input_dead", "input_low", "input_clipping", "input_phase"
CHANNEL, ENCODING, INVALID = "input_channel", "input_encoding", "input_invalid"

_OVER = {
    DEAD: "audio arrives again",
    LOW: "the input is loud enough again",
    CLIPPING: "samples are no longer clipped",
    PHASE: "the channels no longer have opposite phase",
    CHANNEL: "more than one channel has audio again",
    ENCODING: "the audio is no longer noise",
    INVALID: "all samples are finite numbers again",
}
"""Texts about the end of a finding."""

_WINDOW = 10
"""Seconds that are judged together."""
_SLICE_FRAMES = 4096
"""Frames of each second of which more is measured than the extremes."""
_ROWS = 64
_QUIET_STEPS = 8
"""Difference between the extremes of a channel, in steps of a 16-bit sample, that no microphone
stays below: at most 4 up and 4 down."""
_CLIPPED, _NOT_CLIPPED = 0.002, 0.0002
"""Shares of clipped samples at which a finding begins and ends."""
_CLIPPED_SECONDS = 3
_OPPOSITE, _NOT_OPPOSITE = -0.9, -0.5
_PHASE_POWER = 1e-6
"""Mean square (-60 dBFS) below which the phase of a channel says nothing."""
_MIN_GUESS_FRAMES = 512
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

    def __init__(self, audio_format: AudioFormat, *, split: bool) -> None:
        """Watch audio of this format, of which each channel is a session if it is `split`."""
        self._rate = audio_format.sample_rate
        encoding = audio_format.encoding
        self._coding = LINEAR16 if encoding == "linear16" else Coding(encoding, 1)
        self._split = split
        self._blocks: list[Samples] = []
        self._frames = 0
        """Frames in `_blocks`."""
        self._invalid = 0
        """Invalid samples in `_blocks`."""
        self._end = 0
        """The frame after the last one, lost ones included."""
        self._seconds: deque[_Second] = deque(maxlen=_WINDOW)
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
        self._seconds.append(_measure(samples, self._coding, self._invalid))
        self._blocks, self._frames, self._invalid = [], 0, 0

    def _judge(self, *, whole: bool) -> list[Finding]:
        """Return what the last second adds. `whole` if there is enough for a finding to begin."""
        window = list(self._seconds)
        spread = np.max([s.high for s in window], 0) - np.min([s.low for s in window], 0)
        begin = self._end - window[-1].frames
        found = []
        for code, judged in {
            DEAD: self._dead(window, spread),
            LOW: self._low(window, spread),
            CLIPPING: _clipping(window),
            PHASE: _NOTHING if self._split else _phase(window),
            CHANNEL: _NOTHING if self._split else _channel(window, spread),
            ENCODING: _encoding(window),
            INVALID: _invalid(window),
        }.items():
            holds = judged.holds
            if holds and not whole and code != INVALID:
                holds = None
            start = self._end - sum(second.frames for second in window[judged.first :])
            state = self._states[code]
            if (began := state.step(holds, start, begin)) is not None:
                found.append(
                    Finding(code, began, state.since, judged.text if began else _OVER[code])
                )
        return found

    def _dead(self, window: Sequence[_Second], spread: Samples) -> _Judgment:
        dead = np.flatnonzero(spread == 0)
        last = window[-1].high - window[-1].low
        if self._split:
            holds = len(dead) > 0
            over = bool((last > 0).all())
        else:
            holds = len(dead) == len(spread)
            over = bool((last > 0).any())
        channels = f"channel {_names(dead)} has" if self._split else "the input has"
        if holds:
            value = window[-1].high[dead[0]]
            what = "zeros only" if abs(value) <= 8 else f"a constant value ({value:.0f})"
        else:
            what = ""
        text = f"{channels} {what}: it is muted or disconnected, or nobody sends audio"
        return _Judgment(True if holds else False if over else None, text)

    def _low(self, window: Sequence[_Second], spread: Samples) -> _Judgment:
        live = spread[spread > 0]
        holds = len(live) > 0 and bool((live <= _QUIET_STEPS).all())
        last = window[-1].high - window[-1].low
        over = bool((last > 2 * _QUIET_STEPS).any())
        text = (
            "the input is silent but for the noise of a converter: the microphone is muted, "
            "disconnected, or its gain is far too low"
        )
        return _Judgment(True if holds else False if over else None, text)


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
        self._began = False
        self._patience = _PATIENCE_S
        self._over_for = 0
        self._over_since = 0

    def step(self, holds: bool | None, start: int, begin: int) -> bool | None:
        """Take whether the condition holds in the last second; None if that does not show it.

        The condition began at frame `start`, and the last second at frame `begin`. Returns True if
        the finding begins, False if it ends, and None otherwise. It ends when the condition has
        been absent for 2 s, and for twice as long the next time, up to an hour.
        """
        if not self._began:
            if not holds:
                return None
            self._began, self.since, self._over_for = True, start, 0
            return True
        if holds is not False:
            self._over_for = 0 if holds else self._over_for
            return None
        if not self._over_for:
            self._over_since = begin
        self._over_for += 1
        if self._over_for < self._patience:
            return None
        self._began, self.since = False, self._over_since
        self._patience = min(2 * self._patience, _MAX_PATIENCE_S)
        return False


class _Second(NamedTuple):
    """Measurements of a second of audio."""

    frames: int
    low: Samples
    high: Samples
    """Extremes of each channel, in steps of a 16-bit sample."""
    clipped: float
    """Share of the frames with a clipped sample, at most."""
    products: Samples
    """Mean products of each pair of channels without their mean, in a part of the second."""
    guess: Guess | None
    noise: bool
    invalid: int


def _measure(samples: Samples, coding: Coding, invalid: int) -> _Second:
    frames, channels = samples.shape
    raw = samples[:_SLICE_FRAMES]
    if coding.kind in EXPANSIONS:
        samples = EXPANSIONS[coding.kind][samples]
    low, high = _extremes(samples)
    scale = FULL_SCALE if samples.dtype == np.float32 else 1.0
    low, high = low * scale, high * scale
    clipped = 0
    rail = (FULL_SCALE - 1) / scale
    if coding == LINEAR16 and (high.max() >= FULL_SCALE - 1 or low.min() <= -FULL_SCALE):
        clipped = int(np.count_nonzero(samples >= rail) + np.count_nonzero(samples <= -rail))
    part = to_float(samples[:_SLICE_FRAMES])
    part = part - part.mean(axis=0)
    products = part.T @ part / len(part)
    loudest = int(products.diagonal().argmax())
    power = float(products[loudest, loudest])
    noise, guessed = False, None
    if power > 0:
        channel = np.ascontiguousarray(part[:, loudest])
        rough = roughness(channel)
        noise = is_noise(channel, power, rough, channels)
        if noise:
            data = to_pcm(raw[: max(_MIN_GUESS_FRAMES, _SLICE_FRAMES // channels)]).tobytes()
            guessed = guess(data, coding, channels, rough)
    return _Second(frames, low, high, clipped / frames, products, guessed, noise, invalid)


def _extremes(samples: Samples) -> tuple[Samples, Samples]:
    """Return the least and the greatest sample of each channel, as float64."""
    frames, channels = samples.shape
    if frames >= _ROWS:  # rows of many samples are compared much faster; some are compared twice
        whole = samples[: frames - frames % _ROWS].reshape(-1, _ROWS * channels)
        rest = samples[frames - _ROWS :].reshape(-1, _ROWS * channels)
        low = np.minimum(whole.min(axis=0), rest[0]).reshape(-1, channels)
        high = np.maximum(whole.max(axis=0), rest[0]).reshape(-1, channels)
    else:
        low = high = samples
    return low.min(axis=0).astype(float), high.max(axis=0).astype(float)


def _clipping(window: Sequence[_Second]) -> _Judgment:
    frames = sum(second.frames for second in window)
    share = sum(second.clipped * second.frames for second in window) / frames
    seconds = sum(second.clipped > _NOT_CLIPPED for second in window)
    holds = share > _CLIPPED and seconds >= min(_CLIPPED_SECONDS, len(window))
    text = f"{share:.1%} of the samples are clipped: lower the gain of the microphone or the source"
    first = next((n for n, second in enumerate(window) if second.clipped > _NOT_CLIPPED), 0)
    return _Judgment(True if holds else False if share < _NOT_CLIPPED else None, text, first)


def _phase(window: Sequence[_Second]) -> _Judgment:
    if len(window[-1].low) < 2:
        return _NOTHING
    pair, least = _most_opposite(np.mean([second.products for second in window], axis=0))
    text = (
        f"channels {_names(pair)} have opposite phase and cancel each other when they are mixed: "
        "only the louder one is used. Correct the wiring of one, or make each a session with "
        "--split-channels (EDGE_SPLIT_CHANNELS)"
    )
    if least is None:
        return _Judgment(text=text)
    last = _most_opposite(window[-1].products)[1]
    over = least > _OPPOSITE and last is not None and last > _NOT_OPPOSITE
    return _Judgment(True if least < _OPPOSITE else False if over else None, text)


def _most_opposite(products: Samples) -> tuple[Samples, float | None]:
    """Return the two channels with the least correlation and that, or None if all are quiet."""
    power = products.diagonal()
    loud = np.flatnonzero(power > _PHASE_POWER)
    if len(loud) < 2:
        return np.array([0, 1]), None
    root = np.sqrt(power[loud])
    coefficients = products[np.ix_(loud, loud)] / np.outer(root, root)
    pair = sorted(divmod(int(coefficients.argmin()), len(loud)))
    return loud[pair], float(coefficients.min())


def _channel(window: Sequence[_Second], spread: Samples) -> _Judgment:
    if len(spread) < 2:
        return _NOTHING
    live = np.flatnonzero(spread > _QUIET_STEPS)
    last = window[-1].high - window[-1].low
    over = np.count_nonzero(last > 2 * _QUIET_STEPS) > 1
    text = (
        f"only channel {_names(live[:1])} of {len(spread)} has audio, and it is used alone; check "
        "the others, or make each a session with --split-channels (EDGE_SPLIT_CHANNELS)"
    )
    return _Judgment(True if len(live) == 1 else False if over else None, text)


def _encoding(window: Sequence[_Second]) -> _Judgment:
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


def _invalid(window: Sequence[_Second]) -> _Judgment:
    count = window[-1].invalid
    text = f"{count} samples are NaN, infinite or huge; each is replaced by the one before it"
    return _Judgment(count > 0, text, len(window) - 1)


def _names(channels: Samples) -> str:
    """Return numbers of channels, from 1, for people."""
    return " and ".join(str(channel + 1) for channel in channels)
