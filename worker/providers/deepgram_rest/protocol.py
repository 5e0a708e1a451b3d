"""Wire protocol of Deepgram's `POST /v1/listen`: no sockets, clocks, environment or broker.

Sections named in comments are pages of the vendor's documentation ("Deepgram docs").
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from pydantic import SecretStr

from natterjack.audio import AudioFormat
from natterjack.plugin.errors import ProviderError, RemoteProtocolError
from natterjack.plugin.provider import ProviderWord

from .. import wire
from ..deepgram import vendor
from .options import NAME, Plan

_HEADER_BYTES = 44


@dataclass(frozen=True, slots=True)
class Post:
    """Build the address and headers of a stream's requests."""

    url: str
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Result:
    """Transcript of a recording; times are seconds from its start."""

    text: str
    words: tuple[ProviderWord, ...]
    confidence: float | None
    language: str | None
    request_id: str | None


def post(url: str, api_key: SecretStr, plan: Plan) -> Post:
    """Address and headers of a stream's requests."""
    return Post(
        f"{url}/v1/listen?{urlencode(plan.query)}",
        {
            # "Authentication": `Token` goes with an API key.
            "Authorization": f"Token {api_key.get_secret_value()}",
            # "Pre-recorded audio": without it the server parses the body as JSON or a form.
            "Content-Type": "audio/wav",
        },
    )


def encode_wav(audio: bytes, audio_format: AudioFormat) -> bytes:
    """Encode linear16 audio as a WAV file. The file states its sample rate, for which this API has
    no documented parameter."""
    _, rate, channels = audio_format
    frame_bytes = audio_format.frame_bytes
    return (
        struct.pack(
            "<4sI4s4sIHHIIHH4sI",
            *(b"RIFF", _HEADER_BYTES - 8 + len(audio), b"WAVE"),
            *(b"fmt ", 16, 1, channels, rate, rate * frame_bytes, frame_bytes, 16),
            *(b"data", len(audio)),
        )
        + audio
    )


def decode(body: bytes) -> Result:
    """Decode a response of status 200. Raises: RemoteProtocolError if its text cannot be read."""
    content = wire.parse(NAME, body)
    results = content.get("results")
    channels = results.get("channels") if isinstance(results, dict) else None
    if not isinstance(channels, list) or not channels:
        raise RemoteProtocolError(NAME, "response without results")
    found = [vendor.best_alternative(channel) for channel in channels]
    best = [alternative for alternative in found if alternative is not None]
    if len(best) < len(found):
        raise RemoteProtocolError(NAME, "results without a transcript")
    many = len(best) > 1
    words = [
        _with_channel(word, index if many else None)
        for index, alternative in enumerate(best)
        for word in alternative.words
    ]
    words.sort(key=lambda word: word.start or 0.0)
    if many and all(alternative.words or not alternative.text for alternative in best):
        text = wire.joined(words)
    else:
        text = " ".join(alternative.text for alternative in best)
    metadata = content.get("metadata")
    return Result(
        text=text.strip(),
        words=tuple(words),
        confidence=best[0].confidence if text and not many else None,
        # The detected language ("Language Detection"), or the first one of a multilingual model.
        language=wire.label(channels[0].get("detected_language")) or best[0].language,
        request_id=wire.label(metadata.get("request_id")) if isinstance(metadata, dict) else None,
    )


def _with_channel(word: ProviderWord, channel: int | None) -> ProviderWord:
    """The word with its channel as the speaker, followed by the diarizer's label, if any
    ("Multichannel")."""
    if channel is None:
        return word
    label = str(channel) if word.speaker is None else f"{channel}.{word.speaker}"
    return word._replace(speaker=label)


def status_error(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """The error for a response whose status is not 200."""
    if status < 400:
        return RemoteProtocolError(NAME, "unexpected status", str(status))
    return vendor.http_error(NAME, status, headers, vendor.error_text(body))
