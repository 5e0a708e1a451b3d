"""Wire protocol of Speechmatics' Agent STT: no sockets, clocks, environment or broker.

"Specification" is the vendor's AsyncAPI document of Agent STT; names in comments are its schemas,
or pages of the vendor's documentation ("Speechmatics docs").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from natterjack.plugin.errors import RemoteProtocolError
from natterjack.plugin.provider import Notice

from .. import wire
from ..speechmatics import control
from ..speechmatics.messages import Control
from ..wire import MAX_QUOTE
from .messages import Content, EndOfTurn, Segment, Speech, StartOfTurn
from .options import NAME, parse_changes

_MID_STREAM: Final = ("language", "enable_partials")
"""All fields of SetRecognitionConfig (specification, MidSessionTranscriptionConfig)."""
_SEGMENTS: Final = ("AddSegment", "AddPartialSegment")
_UNREQUESTED: Final = frozenset(
    {
        "SpeakersResult",
        # Not in the specification. The vendor's SDK lets them pass, "if the engine sends" them;
        # segments have the same words.
        "AddTranscript",
        "AddPartialTranscript",
        "EndOfUtterance",
        "LanguageInfo",
        "AudioEventStarted",
        "AudioEventEnded",
    }
)
"""Messages that this client neither asks for nor needs."""
_KINDS: Final = {
    *control.KINDS,
    *_SEGMENTS,
    *_UNREQUESTED,
    "SpeechStarted",
    "SpeechEnded",
    "StartOfTurn",
    "EndOfTurn",
}


def encode_changes(config: Mapping[str, Any], changes: Mapping[str, Any]) -> tuple[str, Any]:
    """SetRecognitionConfig, and the stream's new configuration. Raises: RequestRefused."""
    new = {**config, **parse_changes(changes)}
    return control.encode_config(new, _MID_STREAM), new


def decode(message: str | bytes, latest: float = math.inf) -> Control | Content:
    """Decode a message. A well-formed message of an unknown type becomes a Notice.

    Times after `latest`, the end of the audio sent, are not used.

    Raises: RemoteProtocolError if the message may be a final whose text cannot be read, since no
    later message repeats its words; wire.Harmless for any other malformed message.
    """
    content = wire.parse(NAME, message)
    kind = content.get("message")
    if not (isinstance(kind, str) and kind in _KINDS) and "segment" in content:
        # A segment is known by its shape too, so that its text is kept if the discriminator is
        # wrong.
        found = _segment(content, final=True, latest=latest)
        what = f"message is {wire.quoted(kind)}"
        raise wire.unclear(NAME, what, found.text, found.start, found.end, ())
    match kind:
        case "AddSegment" | "AddPartialSegment":
            return _segment(content, final=kind == "AddSegment", latest=latest)
        case "StartOfTurn":
            return StartOfTurn(_time(content, "start_time", latest))
        case "EndOfTurn":
            return EndOfTurn(_time(content, "end_time", latest))
        case "SpeechStarted" | "SpeechEnded":
            return Speech(kind == "SpeechStarted")
    name = wire.kind(NAME, content, "message")
    if name in control.KINDS:
        return control.decode(NAME, name, content)
    if name in _UNREQUESTED:
        return Notice("not_asked_for", name)
    return Notice("unknown", f"message {name[:MAX_QUOTE]!r}")


def _segment(content: dict[str, Any], *, final: bool, latest: float) -> Segment:
    segment = content.get("segment")
    text = wire.text(segment.get("transcript")) if isinstance(segment, dict) else None
    if text is None:
        kind = RemoteProtocolError if final else wire.Harmless
        raise kind(NAME, f"a segment without readable text: {wire.quoted(segment)}")
    start, end = _time(content, "start_time", latest), _time(content, "end_time", latest)
    if start is not None and end is not None and end < start:
        end = None
    speaker = control.speaker(segment.get("speaker")) if isinstance(segment, dict) else None
    return Segment(final, text.strip(), start, end, speaker)


def _time(content: dict[str, Any], name: str, latest: float) -> float | None:
    return wire.seconds(control.metadata(content).get(name), latest)
