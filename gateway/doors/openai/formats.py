"""The answers of `POST /v1/audio/transcriptions`, in each format. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from natterjack.events import FinalEvent
from natterjack.transcripts.builder import TranscriptBuilder

from ..words import delimiter, timed_words

Finals = Sequence[FinalEvent]


def text(finals: Finals) -> str:
    """The whole text."""
    language = _language(finals)
    return delimiter(language).join(final.text for final in finals if final.text)


def usage(seconds: float) -> dict[str, Any]:
    """Return the member `usage` of an answer: the duration of the audio that was transcribed."""
    return {"type": "duration", "seconds": round(seconds, 3)}


def plain(finals: Finals, seconds: float) -> dict[str, Any]:
    """The format `json`."""
    return {"text": text(finals), "usage": usage(seconds)}


def verbose(finals: Finals, seconds: float, granularities: Sequence[str]) -> dict[str, Any]:
    """The format `verbose_json`."""
    answer: dict[str, Any] = {
        "task": "transcribe",
        "language": _language(finals) or "",
        "duration": round(seconds, 3),
        "text": text(finals),
    }
    if "word" in granularities:
        answer["words"] = [
            {"word": word.text, "start": round(word.start, 3), "end": round(word.end, 3)}
            for final in finals
            for word in timed_words(final)
        ]
    if "segment" in granularities or not granularities:
        answer["segments"] = [
            {
                "id": number, "seek": 0, "start": round(final.start, 3), "end": round(final.end, 3),
                "text": final.text, "tokens": [], "temperature": 0.0, "avg_logprob": 0.0,
                "compression_ratio": 1.0, "no_speech_prob": 0.0,
            }
            for number, final in enumerate(final for final in finals if final.text)
        ]  # fmt: skip
    return {**answer, "usage": usage(seconds)}


class Speakers:
    """Names speakers A, B, C … in the order in which they speak."""

    def __init__(self) -> None:
        self._names: dict[str | None, str] = {}
        self._count = 0

    def segments(self, final: FinalEvent) -> list[dict[str, Any]]:
        """The segments of a final, one for each stretch of one speaker."""
        found = []
        for label, group in groupby(timed_words(final), key=lambda word: word.speaker):
            words = list(group)
            name = self._names.setdefault(label, self._letter(len(self._names)))
            found.append({
                "type": "transcript.text.segment",
                "id": f"seg_{self._count:03d}",
                "start": round(words[0].start, 3),
                "end": round(words[-1].end, 3),
                "speaker": name,
                "text": delimiter(final.language).join(word.text for word in words),
            })  # fmt: skip
            self._count += 1
        return found

    @staticmethod
    def _letter(number: int) -> str:
        return chr(ord("A") + number) if number < 26 else f"S{number}"


def diarized(finals: Finals, seconds: float) -> dict[str, Any]:
    """The format `diarized_json`."""
    speakers = Speakers()
    segments = [segment for final in finals for segment in speakers.segments(final)]
    return {
        "task": "transcribe", "duration": round(seconds, 3), "text": text(finals),
        "segments": segments, "usage": usage(seconds),
    }  # fmt: skip


def subtitles(finals: Finals, form: str) -> str:
    """The formats `srt` and `vtt`."""
    builder = TranscriptBuilder()
    for final in finals:
        builder.add(final)
    transcript = builder.build()
    return transcript.to_srt(speakers=False) if form == "srt" else transcript.to_vtt(speakers=False)


def _language(finals: Finals) -> str | None:
    return next((final.language for final in finals if final.language), None)
