"""Emulator of Deepgram's `POST /v1/listen`: transcribes recordings of tone words.

Follows the vendor's documentation ("Pre-recorded audio", "Errors") and the shapes of
deepgram-openapi.yml. Credentials are checked first, then the query, then the body. Not
emulated: fetching a URL, callbacks, summaries, topics, intents and sentiments.
"""

from __future__ import annotations

import hashlib
import io
import json
import uuid
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, NoReturn, cast

from aiohttp import web
from pydantic import Field

from natterjack.audio import Encoding

from .. import pcm
from ..canned import Recognizer, recognizer
from ..exchange import Answer, HttpEmulator, HttpFaults
from ..faults import ConnectionLog, Faults
from ..session import Refusal
from ..tones import TimedWord
from .query import (
    ERRORS,
    KEYTERM_TOKENS,
    MODELS,
    bad,
    boolean,
    check_auth,
    count_tokens,
    malformed,
    one,
    refuse,
)

ENCODINGS: Final = ("linear16", "flac", "mulaw", "amr-nb", "amr-wb", "opus", "speex", "g729")
_BOOLEANS: Final = (
    *("multichannel", "diarize", "punctuate", "smart_format", "paragraphs", "numerals"),
    *("measurements", "dictation", "profanity_filter", "filler_words", "utterances"),
    *("detect_entities", "sentiment", "topics", "intents", "mip_opt_out"),
)
_REDACT: Final = ("true", "false", "pci", "pii", "numbers")
_MODEL_ID: Final = "30089e05-99d1-4376-b32e-c263170674af"


class RestFaults(HttpFaults):
    """Switches of this emulator."""

    empty_alternatives: bool = Field(False, description="silence has no alternatives")
    extra_fields: bool = Field(False, description="answers have undocumented fields")


@dataclass(frozen=True)
class Recording:
    """A valid query."""

    model: str
    encoding: str | None
    sample_rate: int | None
    multichannel: bool
    punctuated: bool
    diarize: bool
    detect_language: bool
    language: str
    tags: tuple[str, ...]
    extra: dict[str, str]


class DeepgramRestEmulator(HttpEmulator):
    """Server at `http://127.0.0.1:<port>/v1/listen`."""

    name: ClassVar[str] = "deepgram-rest"
    path: ClassVar[str] = "/v1/listen"
    faults_model: ClassVar[type[Faults]] = RestFaults

    def refusal(self, status: int) -> Refusal:
        code, message = ERRORS.get(status, ("Error", f"HTTP {status}"))
        return refuse(status, code, message)

    def bodies(self) -> dict[str, bytes]:
        return {
            **super().bodies(),
            "no_results": b'{"metadata": {}}',
            "accepted": json.dumps({"request_id": str(uuid.uuid4())}).encode(),
            "no_channels": b'{"results": {"channels": []}}',
            "wrong_words": json.dumps(
                {"results": {"channels": [{"alternatives": [{"transcript": 1, "words": [7]}]}]}}
            ).encode(),
        }

    def answer(self, request: web.Request, body: bytes, entry: ConnectionLog) -> Answer:
        check_auth(request, self.api_key)
        query = {name: request.query.getall(name) for name in request.query}
        recording = parse(query)
        if request.content_type == "application/json":
            _refuse_url(body)
        tracks, encoding, rate = _decoded(recording, body)
        entry.request_id = str(uuid.uuid4())
        entry.audio_frames = 1
        decoded = [
            _decode(track, recognizer(self.faults.words, rate, encoding)) for track in tracks
        ]
        entry.audio_seconds = round(decoded[0][1], 6)
        entry.words += sorted(
            (word for words, _ in decoded for word in words), key=lambda word: word.start
        )
        content = self._results(recording, body, entry, [words for words, _ in decoded])
        entry.finals += [word.word for word in entry.words]
        return Answer(content, {"dg-request-id": entry.request_id})

    def _results(
        self,
        recording: Recording,
        body: bytes,
        entry: ConnectionLog,
        decoded: Sequence[list[TimedWord]],
    ) -> dict[str, Any]:
        faults = cast(RestFaults, self.faults)
        channels = [_channel(recording, words) for words in decoded]
        if faults.empty_alternatives:
            for channel in channels:
                if not channel["alternatives"][0]["transcript"]:
                    channel["alternatives"].clear()
        metadata: dict[str, Any] = {
            "transaction_key": "deprecated",
            "request_id": entry.request_id,
            "sha256": hashlib.sha256(body).hexdigest(),
            "created": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "duration": entry.audio_seconds,
            "channels": len(decoded),
            "models": [_MODEL_ID],
            "model_info": {
                _MODEL_ID: {
                    "name": f"general-{recording.model}",
                    "version": "2025-01-01.0",
                    "arch": recording.model,
                }
            },
        }
        if recording.tags:
            metadata["tags"] = list(recording.tags)
        if recording.extra:
            metadata["extra"] = recording.extra
        content: dict[str, Any] = {"metadata": metadata, "results": {"channels": channels}}
        if faults.extra_fields:
            content["x_extra"] = {"deep": [1, None]}
            channels[0]["x_extra"] = "more"
        return content


def parse(query: Mapping[str, Sequence[str]]) -> Recording:
    """Parse a query by parameter name. Raises Refusal."""
    flags = {name: boolean(query, name) for name in _BOOLEANS}
    encoding, sample_rate = one(query, "encoding"), one(query, "sample_rate")
    if encoding is not None and encoding not in ENCODINGS:
        malformed(f"unknown variant `{encoding}`, expected one of {', '.join(ENCODINGS)}")
    if sample_rate is not None and not sample_rate.isdecimal():
        malformed("sample_rate: invalid digit found in string")
    model = one(query, "model") or "base-general"
    if model.startswith("flux"):
        bad("Flux models are served on /v2/listen.")
    if model not in MODELS and model != "base-general":
        raise refuse(403, *ERRORS[403])
    nova_3 = model.startswith("nova-3")
    if query.get("keyterm") and not nova_3:
        bad("Keyterms are only supported for Nova-3 and Flux.")
    if query.get("keywords") and nova_3:
        bad("Keywords are not supported for Nova-3, use keyterm.")
    if count_tokens(query.get("keyterm", ())) > KEYTERM_TOKENS:
        bad(f"Keyterm limit exceeded. The maximum number of tokens is {KEYTERM_TOKENS}.")
    for value in query.get("redact", ()):
        if value not in _REDACT:
            malformed(f"redact: unknown variant `{value}`")
    diarizer = one(query, "diarize_model")
    if diarizer not in (None, "latest", "v1", "v2"):
        malformed(f"diarize_model: unknown variant `{diarizer}`")
    if diarizer is not None and "diarize" in query:
        bad("diarize_model cannot be used together with diarize or diarize_version.")
    return Recording(
        model=model,
        encoding=encoding,
        sample_rate=None if sample_rate is None else int(sample_rate),
        multichannel=flags["multichannel"],
        punctuated=flags["punctuate"] or flags["smart_format"],
        diarize=flags["diarize"] or diarizer is not None,
        detect_language=query.get("detect_language", ["false"]) != ["false"],
        language=one(query, "language") or "en",
        tags=tuple(query.get("tag", ())),
        extra=dict(pair.split(":", 1) for pair in query.get("extra", ()) if ":" in pair),
    )


def _decoded(recording: Recording, body: bytes) -> tuple[list[bytes], Encoding, int]:
    """Decode the audio into channels, mixed without `multichannel`. Raises Refusal."""
    if body.startswith(b"RIFF"):
        try:
            with wave.open(io.BytesIO(body)) as reader:
                count, rate = reader.getnchannels(), reader.getframerate()
                if reader.getsampwidth() != 2:
                    _corrupt()
                audio = reader.readframes(reader.getnframes())
        except (wave.Error, EOFError):
            _corrupt()
        if not audio:
            _corrupt()
        if count == 1:
            return [audio], "linear16", rate
        if recording.multichannel:
            return pcm.split(audio, count), "linear16", rate
        return [pcm.mix(audio, count)], "linear16", rate
    if recording.encoding not in ("linear16", "mulaw") or not recording.sample_rate or not body:
        _corrupt()
    return [body], cast(Encoding, recording.encoding), recording.sample_rate


def _decode(audio: bytes, decoder: Recognizer) -> tuple[list[TimedWord], float]:
    """Return the words and the seconds of audio."""
    return decoder.feed(audio) + decoder.flush(), decoder.seconds


def _channel(recording: Recording, words: Sequence[TimedWord]) -> dict[str, Any]:
    items: list[dict[str, Any]] = []
    for position, word in enumerate(words):
        item: dict[str, Any] = {
            "word": word.word,
            "start": round(word.start, 4),
            "end": round(word.end, 4),
            "confidence": 0.99,
        }
        if recording.punctuated:
            shown = word.word if position else word.word.capitalize()
            item["punctuated_word"] = shown + ("." if position == len(words) - 1 else "")
        if recording.diarize:
            item |= {"speaker": 0, "speaker_confidence": 0.8}
        items.append(item)
    channel: dict[str, Any] = {
        "alternatives": [
            {
                "transcript": " ".join(item.get("punctuated_word", item["word"]) for item in items),
                "confidence": 0.99 if items else 0.0,
                "words": items,
            }
        ]
    }
    if recording.detect_language:
        channel |= {"detected_language": "en", "language_confidence": 0.99}
    return channel


def _refuse_url(body: bytes) -> NoReturn:
    try:
        url = json.loads(body)["url"]
    except (ValueError, TypeError, KeyError):
        raise refuse(400, "Bad Request", "Invalid JSON submitted.") from None
    raise refuse(400, "REMOTE_CONTENT_ERROR", f"The remote server could not be reached: {url}")


def _corrupt() -> NoReturn:
    bad("failed to process audio: corrupt or unsupported data")
