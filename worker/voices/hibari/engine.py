"""Hibari: loaded once per process, and used by all streams from several threads.

All calls block. The network and the signal processing release the interpreter lock while they
compute.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import onnxruntime
from hibari import dsp
from hibari.g2p import G2P
from hibari.g2p.normalize import normalize

from natterjack.plugin.errors import PluginError

from . import model
from .text import Word

log = logging.getLogger(__name__)

SAMPLE_RATE: Final = 24_000
_LEAD_SECONDS: Final = 0.1
"""The sound of a phoneme begins before its time in the model: by 0.100 s in the median of 39 words
that begin with `s`, half of them between 0.075 and 0.115 s."""
_STRESS: Final = "\N{MODIFIER LETTER VERTICAL LINE}"


class Timed(NamedTuple):
    """The place of a word in the audio of its piece."""

    character: int
    seconds: float


class Spoken(NamedTuple):
    """A synthesized piece."""

    audio: bytes
    """linear16 at SAMPLE_RATE, one channel; empty if the piece has nothing to speak."""
    words: Sequence[Timed]
    """In order. A word that is read together with the one before it is left out."""


class _Reading(NamedTuple):
    """How the engine reads some text."""

    words: list[str]
    """Words as they are read: numbers, dates and abbreviations are other words than in the text."""
    ids: list[int]
    """Numbers of the phonemes."""
    begins: list[int | None]
    """For each word, the index of its first phoneme; None if it has none."""


class Engine:
    """A loaded voice."""

    def __init__(self, folder: Path) -> None:
        """Load the voice from `folder`; takes about half a second. Raises PluginError."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Pieces differ in length, so that the arena would grow with every new one.
        options.enable_cpu_mem_arena = False
        content = model.read(folder)
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
            self._ids: dict[str, int] = json.loads((folder / "vocab.json").read_text("utf-8"))
            self._g2p = G2P()
        except Exception as error:  # onnxruntime's have no common class
            raise PluginError(f"hibari: cannot load the voice: {error}; {model.INSTALL}") from error

    def speak(self, words: Sequence[Word], speed: float) -> Spoken:
        """Synthesize one piece. The same words at the same speed give the same audio."""
        reading = self._read(words)
        if not any(at is not None for at in reading.begins):  # nothing, or punctuation alone
            return Spoken(b"", ())
        *spectrum, durations = self._session.run(
            ("lh", "theta", "ln", "lr", "phi", "f0", model.DURATIONS),
            {
                "ids": np.array([[0, *reading.ids, 0]], np.int64),
                "speed": np.array([speed], np.float32),
            },
        )
        samples = dsp.synth(*(part[0] for part in spectrum), np.random.default_rng(0))
        audio = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
        # In units of their own, which add up to the length of the audio.
        ends = np.cumsum(durations.reshape(-1))
        unit = len(samples) / SAMPLE_RATE / float(ends[-1])
        times = [
            None if at is None else max(0.0, float(ends[at]) * unit - _LEAD_SECONDS)
            for at in reading.begins
        ]
        return Spoken(audio, _matched(words, reading.words, times))

    def _read(self, words: Sequence[Word]) -> _Reading:
        """Read a piece or, if its reader fails on it, each word of it alone."""
        try:
            return self._read_text(" ".join(word.text for word in words))
        except Exception:  # the reader has none of its own: it fails on numbers of 40 digits
            log.debug("a piece is read word by word", exc_info=True)
        found = _Reading([], [], [])
        for word in words:
            alone = self._read_word(word.text)
            found.words.append(word.text)
            found.begins.append(len(found.ids) if alone.ids else None)
            found.ids.extend([*alone.ids, self._ids[" "]] if alone.ids else ())
        return found

    def _read_word(self, word: str) -> _Reading:
        """Read a word alone; spell it, or leave it out, if the reader fails on it."""
        for text in (word, " ".join(word)):
            try:
                return self._read_text(text)
            except Exception:  # as in `_read`
                log.debug("a word is not read as it is", exc_info=True)
        return _Reading([], [], [])

    def _read_text(self, text: str) -> _Reading:
        text = normalize(text)
        space = self._ids[" "]
        ids: list[int] = []
        begins: list[int | None] = [None]
        tokens: list[Any] = self._g2p.phonemize_tokens(self._g2p.tokenize(text))
        for token in tokens:
            for phoneme in token.phonemes or "":
                number = self._ids.get(phoneme)
                if number is None or (number == space and not ids):
                    continue
                if begins[-1] is None and (phoneme.isalpha() or phoneme == _STRESS):
                    begins[-1] = len(ids)
                ids.append(number)
            if token.whitespace:
                begins.append(None)
                if ids:
                    ids.append(space)
        return _Reading(text.split(), ids, begins)


def _matched(
    words: Sequence[Word], read: Sequence[str], times: Sequence[float | None]
) -> list[Timed]:
    """The places of `words`, which the engine reads as `read`, with the times of those."""
    found: list[Timed] = []
    matcher = SequenceMatcher(None, [word.text for word in words], read, autojunk=False)
    for kind, begin, end, there, there_end in matcher.get_opcodes():
        # If the engine reads several words differently, only the first one is known to begin where
        # their reading begins.
        count = end - begin if kind == "equal" else min(1, end - begin, there_end - there)
        for offset in range(count):
            time = times[there + offset] if there + offset < len(times) else None
            character = words[begin + offset].character
            if time is not None and (not found or found[-1].character < character):
                found.append(Timed(character, time))
    return found
