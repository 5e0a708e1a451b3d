"""Wire protocol of Speechmatics' realtime API: no sockets, clocks, environment or broker.

"Specification" is the vendor's AsyncAPI document of the realtime API; names in comments are its
schemas, or pages of the vendor's documentation ("Speechmatics docs").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from natterjack.plugin.errors import RemoteProtocolError
from natterjack.plugin.provider import Notice, ProviderWord

from .. import wire
from ..estimate import spoken_text, with_times
from ..wire import MAX_QUOTE
from . import control
from .control import metadata
from .messages import (
    Attaches,
    EndOfUtterance,
    LanguageInfo,
    Message,
    Result,
    Transcript,
)
from .options import NAME, parse_changes

_MID_STREAM: Final = (
    "language",
    "max_delay",
    "max_delay_mode",
    "enable_partials",
    "audio_filtering_config",
    "conversation_config",
)
"""All fields of SetRecognitionConfig (specification, MidSessionTranscriptionConfig)."""
_UNREQUESTED: Final = frozenset(
    {
        "ChannelAudioAdded",
        "AddPartialTranslation",
        "AddTranslation",
        "AudioEventStarted",
        "AudioEventEnded",
        "SpeakersResult",
    }
)
"""Messages for features that this client never requests."""
_KINDS: Final = (
    _UNREQUESTED
    | control.KINDS
    | {
        "AddTranscript",
        "AddPartialTranscript",
        "EndOfUtterance",
        "LanguageInfo",
    }
)
_WORD_SECONDS: Final = 0.3
"""Length of a word for the estimate of an end. A later end would cover words that follow."""


_ATTACHES: Final[dict[str, Attaches]] = {
    "next": "next",
    "previous": "previous",
    "none": "none",
    "both": "both",
}


# ---- out ------------------------------------------------------------------------------------


def encode_changes(config: Mapping[str, Any], changes: Mapping[str, Any]) -> tuple[str, Any]:
    """SetRecognitionConfig, and the stream's new configuration. Raises: RequestRefused."""
    new = {**config, **parse_changes(changes)}
    return control.encode_config(new, _MID_STREAM), new


# ---- in -------------------------------------------------------------------------------------


def decode(message: str | bytes, latest: float = math.inf) -> Message:
    """Decode a message. A well-formed message of an unknown type becomes a Notice.

    Times after `latest`, the end of the audio sent, are not used.

    Raises: RemoteProtocolError if the message may be a final whose text cannot be read, since no
    later message repeats its words; wire.Harmless for any other malformed message.
    """
    content = wire.parse(NAME, message)
    # `message` is the discriminator; some messages also have a `type`. A transcript is known by its
    # shape too, so that its text is kept if the discriminator is wrong.
    kind = content.get("message")
    if not (isinstance(kind, str) and kind in _KINDS) and "transcript" in metadata(content):
        found = _transcript(content, final=True, latest=latest)
        words = tuple([ProviderWord(one.text, one.start, one.end) for one in found.results])
        text = " ".join(word.text for word in words)
        what = f"message is {wire.quoted(kind)}"
        raise wire.unclear(NAME, what, text, found.start, found.end, words)
    match kind:
        case "AddTranscript" | "AddPartialTranscript":
            return _transcript(content, final=kind == "AddTranscript", latest=latest)
        case "EndOfUtterance":
            span = metadata(content)
            end = wire.seconds(span.get("end_time"), latest)
            return EndOfUtterance(wire.required(end, NAME, span, "end_time"))
        case "LanguageInfo":
            delimiter = wire.text(content.get("word_delimiter"))
            language = wire.required(wire.label(content.get("language")), NAME, content, "language")
            return LanguageInfo(language, wire.required(delimiter, NAME, content, "word_delimiter"))
    name = wire.kind(NAME, content, "message")
    if name in control.KINDS:
        return control.decode(NAME, name, content)
    if name in _UNREQUESTED:
        return Notice("not_asked_for", name)
    return Notice("unknown", f"message {name[:MAX_QUOTE]!r}")


def _transcript(content: dict[str, Any], *, final: bool, latest: float) -> Transcript:
    span, items = metadata(content), content.get("results")
    start = wire.seconds(span.get("start_time"), latest)
    end = wire.seconds(span.get("end_time"), latest)
    if start is not None and end is not None and end < start:
        end = None
    results = _results(items, wire.text(span.get("transcript")), final, latest)
    if results is None or not (final or results or end is not None):
        kind = RemoteProtocolError if final else wire.Harmless
        raise kind(NAME, f"transcript without readable results: {wire.quoted(items)}")
    timed = [
        one._replace(end=wire.end_of(one.start, one.end, end) or 0.0)
        for one in _timed(results, start, end)
    ]
    if start is None:
        start = timed[0].start if timed else 0.0
    if end is None:
        end = max([start, *(result.end for result in timed)])
    return Transcript(final, start, end, tuple(timed), timed != results)


_UNKNOWN: Final = -1.0
"""A time that cannot be read."""
_UNREADABLE: Final = Result(False, "", _UNKNOWN, _UNKNOWN)


def _results(items: Any, whole: str | None, final: bool, latest: float) -> list[Result] | None:
    """The results of a transcript; those of its text as a whole ("AddTranscript"), without times,
    if not all of them can be read. None if that cannot be read either."""
    parsed: list[Result | None] = [_UNREADABLE]
    if isinstance(items, list):
        parsed = [_result(item, final, latest) for item in items]
    results = [one for one in parsed if one is not None and one is not _UNREADABLE]
    if results and len(results) == len(parsed):  # the usual case
        return results
    if whole is None:
        return None if _UNREADABLE in parsed else results
    words = whole.split()
    if not words or "".join(words) == "".join([one.text for one in results]).replace(" ", ""):
        return results
    return [Result(False, word, _UNKNOWN, _UNKNOWN) for word in words]


def _timed(results: list[Result], start: float | None, end: float | None) -> list[Result]:
    """Estimate the times that cannot be read."""
    if all(result.start >= 0 <= result.end for result in results):
        return results
    words = [
        ProviderWord(
            result.text,
            None if result.start < 0 else result.start,
            None if result.end < 0 else result.end,
        )
        for result in results
    ]
    start = start or 0.0
    known = [word.end for word in words if word.end is not None]
    latest = max([start + _WORD_SECONDS * len(words), *known]) if end is None else end
    return [
        result._replace(start=word.start or 0.0, end=word.end or 0.0)
        for result, word in zip(results, with_times(words, start, latest), strict=True)
    ]


def _result(result: Any, final: bool, latest: float) -> Result | None:
    """Parse a result; None if it has no text, and _UNREADABLE if its text cannot be read."""
    if not isinstance(result, dict):
        return _UNREADABLE
    kind, alternatives = result.get("type"), result.get("alternatives")
    if (alternatives is None or alternatives == []) and kind not in ("word", "entity"):
        return None
    best = wire.first(alternatives)
    text = wire.text(best.get("content")) if isinstance(best, dict) else None
    if text is None:
        return _UNREADABLE
    text = text.strip()
    if not text:
        return None
    start = wire.seconds(result.get("start_time"), latest)
    end = wire.seconds(result.get("end_time"), latest)
    if start is not None and end is not None and end < start:
        end = start
    attached = result.get("attaches_to")
    mark = kind == "punctuation" or (kind not in ("word", "entity") and not spoken_text(text))
    return Result(
        punctuation=mark,
        text=text,
        start=_UNKNOWN if start is None else start,
        end=_UNKNOWN if end is None else end,
        # "AddPartialTranscript": confidences of partials are meaningless.
        confidence=wire.confidence(best.get("confidence")) if final else None,
        language=wire.label(best.get("language")),
        speaker=control.speaker(best.get("speaker")),
        attaches=(_ATTACHES.get(attached) if isinstance(attached, str) else None)
        or ("previous" if mark else "none"),
    )
