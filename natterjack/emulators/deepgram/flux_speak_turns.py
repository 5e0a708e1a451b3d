"""Turns of speech: their text, what is stripped from it, and where its words are in the audio."""

from __future__ import annotations

import re
import uuid
from typing import Any, Final, NamedTuple

from ..spoken import places, sentences

_MARKUP: Final = re.compile(
    r"</?(?:speak|break|prosody|emphasis|say-as|phoneme|sub|voice|amazon:\w+|mstts:\w+)\b[^>]*>"
    r"|\[(?:laughs|whispers|sighs|excited|sarcastic|pause)\]"
    r"|\[laughter\]|<emotion\b[^>]*>"
)
"""Some of the markup that is stripped; the lists of the vendor are longer."""
_CONTROL: Final = re.compile(r"\\\{(?P<content>.*?)\\\}")
_PRONUNCIATION: Final = re.compile(
    r'\s*"word"\s*:\s*"(?P<word>[^"]+)"\s*,\s*"pronounce"\s*:\s*"(?P<ipa>[^"]+)"\s*'
)
_SPOKEN: Final = re.compile(r"\w")


class BadControl(Exception):
    """An inline control that is not a pronunciation, such as a pause, which is for batch only."""


class Plain(NamedTuple):
    """A text without markup and controls."""

    text: str
    stripped: list[str]
    pronunciations: int


def plain(text: str) -> Plain:
    """Strip a text. Raises BadControl."""
    stripped = _MARKUP.findall(text)
    text = _MARKUP.sub("", text)
    count = 0

    def word(found: re.Match[str]) -> str:
        nonlocal count
        matched = _PRONUNCIATION.fullmatch(found["content"])
        if matched is None:
            raise BadControl(found[0])
        count += 1
        return matched["word"]

    return Plain(_CONTROL.sub(word, text), stripped, count)


class Turn:
    """One turn: a response of an agent."""

    def __init__(self) -> None:
        self.speech_id = f"dg_sp_{uuid.uuid4().hex[:12]}"
        self.text = ""
        """Its text without markup and controls."""
        self.input_characters = 0
        self.pronunciations = 0
        self.flushed = False
        self.start_ms = 0.0
        """Where its audio begins, on the clock of the session."""
        self.start_bytes = 0
        """Audio of the connection that was sent before it."""
        self._taken = 0
        """Characters of `text` that were synthesized."""
        self._ends: list[tuple[int, float]] = []
        """Where each word that was synthesized ends: in `text`, and in seconds of the audio."""
        self._seconds = 0.0

    def add(self, text: Plain, raw: str) -> None:
        """Append the text of a Speak."""
        self.text += text.text
        self.input_characters += len(raw)
        self.pronunciations += text.pronunciations

    def segment(self, gap_seconds: float) -> str:
        """Return the text to synthesize now: complete sentences, or all of it after Flush."""
        rest = self.text[self._taken :]
        ready = rest if self.flushed else sentences(rest)[0]
        seconds = 0.0
        for word in places(ready, gap_seconds):
            end = self._taken + word.character
            while end < len(self.text) and not self.text[end].isspace():
                end += 1
            self._ends.append((end, self._seconds + word.end))
            seconds = word.end + gap_seconds
        self._seconds += seconds
        self._taken += len(ready)
        return ready

    @property
    def silent(self) -> bool:
        """Whether nothing in it can be spoken."""
        return not _SPOKEN.search(self.text)

    def split(self, played_seconds: float) -> tuple[str, str]:
        """Split the text after the last word whose audio was played."""
        at = max((end for end, seconds in self._ends if seconds <= played_seconds), default=0)
        return self.text[:at], self.text[at:]

    def metadata(self, duration_ms: float) -> dict[str, Any]:
        """The fields of SpeechMetadata."""
        return {
            "speech_id": self.speech_id,
            "audio_duration_ms": round(duration_ms),
            "input_character_count": self.input_characters,
            "billable_character_count": len(self.text),
            "controls_applied": {
                "pronunciations_applied": self.pronunciations,
                "breaks_applied": 0,
                "pronunciation_warnings": 0,
            },
        }
