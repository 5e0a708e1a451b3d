"""A picture of an interrupt: `python -m bench.voice --picture FILE.svg`.

The waveform is that of a recording of the loudspeaker, from `natterjack-edge play`. The provider is
an emulator whose words are tones, so the recording shows which of them were audible.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt

from natterjack.emulators import tones
from natterjack.emulators.deepgram.flux_speak import DeepgramFluxSpeakEmulator
from natterjack.emulators.spoken import SECONDS_PER_WORD, tone_words
from tests.waiting import until

from ..loudspeaker import RATE
from .latency import VOICES, setup

TEXT = "Your table for four is booked for Friday evening at seven, and the kitchen closes at ten."
_SPOKEN_S = 6 * SECONDS_PER_WORD + 0.6 * tones.WORD_SECONDS
"""How long it speaks before the interrupt: to the middle of a word."""
_PACE = 2.0
"""Speed at which the emulator makes audio, so that it is not done before the interrupt."""
_QUIET_S = 1.0
_WIDTH, _LEFT, _STEP = 860, 12, 2
"""In pixels."""
_AFTER_S = 1.15
"""How much is shown after the interrupt."""
_ZOOM_S = (-0.06, 0.06)
_STYLE = """
    text { font: 13px system-ui, "Helvetica Neue", "DejaVu Sans", sans-serif; fill: #1f2328; }
    .small { font-size: 12px; fill: #57606a; }
    .word { text-anchor: middle; }
    .heard { fill: #2b8a3e; font-weight: 600; }
    .lost { fill: #8b949e; text-decoration: line-through; }
    .wave { fill: #4a7fb5; }
    .axis, .word-line { stroke: #8b949e; fill: none; }
    .not { stroke-dasharray: 3 3; }
    .mark { stroke: #c92a2a; stroke-width: 1.5; }
    .end { stroke: #57606a; stroke-width: 1.5; }
    .red { fill: #c92a2a; }
    .zoom { fill: #8b949e; fill-opacity: 0.12; stroke: none; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; }
      .small { fill: #a6b0ba; }
      .heard { fill: #46a758; }
      .wave { fill: #79b0e8; }
      .mark { stroke: #ff7b72; }
      .red { fill: #ff7b72; }
      .end { stroke: #a6b0ba; }
    }
  """


class Recording(NamedTuple):
    """A recording of speech that is interrupted. Times are in seconds of the recording."""

    samples: npt.NDArray[np.int16]
    first: float
    """The first audible sample."""
    interrupted: float
    """The call of `interrupt()`."""
    cut: float
    """The cut at the edge."""
    last: float
    """The last audible sample."""
    heard: list[tones.TimedWord]
    """The words that are complete in the recording."""
    spoken: str
    """The text that was heard according to the event; `remaining` is the text that was not."""
    remaining: str
    estimated: bool


async def record() -> Recording:
    """Speak and interrupt. Raises RuntimeError if the recording is not clean, because the machine
    is too busy."""
    async with (
        DeepgramFluxSpeakEmulator(speech_pace=_PACE) as provider,
        setup(VOICES[1], provider.url.removeprefix("ws://"), keeps=True) as each,
    ):
        recorder, listener = each.recorder, each.listener
        utterance = await each.speaking.say(TEXT)
        await until(lambda: recorder.first, "it is audible")
        await asyncio.sleep(_SPOKEN_S)
        interrupted = time.monotonic()
        await each.speaking.interrupt()
        await until(lambda: time.monotonic() - recorder.last > _QUIET_S, "it is silent")
        event = await each.interrupted(utterance)
        await asyncio.sleep(_AFTER_S)
        began = recorder.began
        audio = bytes(recorder.audio)
        first, last = recorder.first - began, recorder.last - began
    decoder = tones.Decoder(RATE)
    heard = [*decoder.feed(audio), *decoder.flush()]
    if [word.word for word in heard] != tone_words(TEXT)[: len(heard)] or not heard:
        raise RuntimeError("the recording has gaps: the machine is too busy; try again")
    return Recording(
        np.frombuffer(audio, "<i2"), first, interrupted - began, listener.cut - began, last, heard,
        event.text_spoken or "", event.text_remaining or "", bool(event.estimated),
    )  # fmt: skip


class _Panel:
    """A stretch of the recording in the picture."""

    def __init__(
        self, recording: Recording, start: float, end: float, middle: float, height: float
    ) -> None:
        """`middle` is the place of the waveform's zero from above."""
        self.start, self.end, self.middle, self.height = start, end, middle, height
        self._samples = recording.samples
        self._peak = max(1, int(np.abs(recording.samples.astype(np.int32)).max()))

    def x(self, at: float) -> float:
        return round(_LEFT + (at - self.start) / (self.end - self.start) * _WIDTH, 1)

    def wave(self) -> str:
        """Return the waveform as a path: the greatest and the least sample of every two pixels."""
        edges = np.linspace(self.start, self.end, _WIDTH // _STEP + 1) * RATE
        scale = self.height / 2 / self._peak
        upper, lower = [], []
        for index, (start, end) in enumerate(itertools.pairwise(edges.astype(int))):
            part = self._samples[start : max(start + 1, end)]
            top, bottom = (part.max(), part.min()) if len(part) else (0, 0)
            x = _LEFT + _STEP * index
            upper.append(f"{x} {self.middle - max(top * scale, 0.4):.1f}")
            lower.append(f"{x} {self.middle - min(bottom * scale, -0.4):.1f}")
        return f'<path class="wave" d="M{" ".join([*upper, *reversed(lower)])}z"/>'

    def line(self, at: float, kind: str, top: float, bottom: float) -> str:
        x = self.x(at)
        return f'<path class="{kind}" d="M{x} {top}V{bottom}"/>'


def _words(recording: Recording, panel: _Panel) -> Iterable[str]:
    """The words of the text, where they are audible or would have been."""
    begin, count = recording.heard[0].start, len(recording.heard)
    for number, word in enumerate(TEXT.split()):
        start = begin + number * SECONDS_PER_WORD
        end = start + tones.WORD_SECONDS
        if end > panel.end:
            return
        x, kind = panel.x((start + end) / 2), "heard" if number < count else "lost"
        line = "word-line" if number < count else "word-line not"
        yield f'<path class="{line}" d="M{panel.x(start)} 60H{panel.x(end)}"/>'
        yield f'<text class="word {kind}" x="{x}" y="52">{escape(word)}</text>'


def svg(recording: Recording) -> str:
    """Draw a recording."""
    moment, last, cut = recording.interrupted, recording.last, recording.cut
    whole = _Panel(recording, recording.first - 0.1, moment + _AFTER_S, 112, 90)
    zoom = _Panel(recording, moment + _ZOOM_S[0], moment + _ZOOM_S[1], 272, 90)
    count, kind = len(recording.heard), "estimated" if recording.estimated else "exact"
    silent_ms, cut_ms = 1000 * (last - moment), 1000 * (cut - moment)
    left, right = whole.x(zoom.start), whole.x(zoom.end)
    title = (
        f"A loudspeaker's waveform of an utterance that is interrupted. {count} words are heard; "
        f"the last audible sample is {silent_ms:.0f} ms after the interrupt."
    )
    ticks = [
        f'<text class="small word" x="{zoom.x(moment + ms / 1000)}" y="338">{ms:+d} ms</text>'
        for ms in range(-40, 60, 20)
        if ms
    ]
    parts = [
        f'<text class="small" x="{_LEFT}" y="16">What a loudspeaker plays (recorded): each word is '
        "a burst of tones</text>",
        f'<rect class="zoom" x="{left}" y="62" width="{right - left:.1f}" height="102"/>',
        *_words(recording, whole),
        whole.wave(),
        whole.line(moment, "mark", 24, 164),
        f'<text class="red" x="{whole.x(moment) + 6}" y="32">interrupt()</text>',
        f'<path class="axis not" d="M{left} 164L{_LEFT} 214M{right} 164L{_LEFT + _WIDTH} 214"/>',
        f'<rect class="zoom" x="{_LEFT}" y="214" width="{_WIDTH}" height="110"/>',
        zoom.wave(),
        zoom.line(moment, "mark", 206, 324),
        f'<text class="red word" x="{zoom.x(moment)}" y="338">interrupt()</text>',
        zoom.line(cut, "end", 222, 324),
        zoom.line(last, "end", 214, 324),
        f'<text x="{zoom.x(last) + 6}" y="234">last audible sample, {silent_ms:.0f} ms</text>',
        f'<text class="small" x="{zoom.x(last) + 6}" y="254">(the cut had reached the edge '
        f"after {cut_ms:.1f} ms)</text>",
        *ticks,
        f'<text class="small" x="{_LEFT}" y="368">The event, {kind}:</text>',
        *(
            f'<text x="{_LEFT + 110}" y="{y}">{name} <tspan class="{shade}" dx="6">'
            f"{escape(text.strip())}</tspan></text>"
            for y, name, shade, text in (
                (368, "text_spoken", "heard", recording.spoken),
                (388, "text_remaining", "lost", recording.remaining),
            )
        ),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH + 2 * _LEFT} 398" '
        f'role="img" aria-labelledby="title">\n  <title id="title">{escape(title)}</title>\n'
        f"  <style>{_STYLE}</style>\n  " + "\n  ".join(parts) + "\n</svg>\n"
    )


def draw(path: Path) -> None:
    """Record an interrupt and draw it. Raises RuntimeError as `record`."""
    path.write_text(svg(asyncio.run(record())))
