"""Emulator of Deepgram's `/v1/listen`: streaming speech-to-text for tone words.

Follows the vendor's documentation ("Live audio", "Interim results", "Endpointing", "Utterance
end", "Speech started", "Keep alive", "Finalize", "Close stream", "Configure") and the shapes of
deepgram-asyncapi.yml. Undocumented behavior is marked "our choice".
"""

from __future__ import annotations

import hashlib
import json
import uuid
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Literal, cast

from aiohttp import web
from pydantic import Field

from natterjack.audio import BYTES_PER_SAMPLE, Encoding

from .. import pcm
from ..faults import GARBAGE, Faults
from ..session import Close, Outgoing, Refusal, Session
from .account import AccountEmulator, AccountFaults
from .channel import Channel
from .query import ERRORS, KEYTERM_TOKENS, Listen, check_auth, count_tokens, parse, refuse

_STEP_SECONDS: Final = 0.02
"""Length of a processing step, short so that results do not depend on the frame size."""
_TIMED_OUT: Final = Close(
    1011,
    "NET-0001: Deepgram did not receive audio data or a text message within the timeout window. "
    "See https://dpgr.am/net0001",
)
_UNDECODABLE: Final = Close(1008, "DATA-0000: The payload cannot be decoded as audio.")
_CLIENT_TYPES: Final = ("KeepAlive", "Finalize", "CloseStream", "Configure")
_CONFIGURE_FIELDS: Final = ("features", "processors", "keyterms", "language_hints")


class DeepgramFaults(AccountFaults):
    """Switches of this emulator."""

    last_word_end_unknown: bool = Field(False, description="UtteranceEnd has a last_word_end of -1")
    finalize_answer: Literal["normal", "unmarked", "none"] = Field(
        "normal",
        description="unmarked: without from_finalize; none: no answer if nothing is pending",
    )
    duplicate_speech_started: bool = Field(False, description="send each SpeechStarted twice")
    contradicting_interims: bool = Field(
        False, description="interims and finals have different words"
    )
    empty_alternatives: bool = Field(False, description="results of silence have no alternatives")
    extra_fields: bool = Field(False, description="messages have undocumented fields")


class ListenSession(Session):
    """One listen v1 stream."""

    summary_type: ClassVar[str] = "Metadata"

    def __init__(self, query: Listen, faults: Faults, subprotocol: str | None = None) -> None:
        super().__init__(faults)
        self.query = query
        self.subprotocol = subprotocol
        self.request_id = str(uuid.uuid4())
        self.headers = {"dg-request-id": self.request_id}
        self._decodable = query.encoding in BYTES_PER_SAMPLE
        self._channels: list[Channel] = []
        self._frame = 1
        if self._decodable:
            encoding: Encoding = cast(Encoding, query.encoding)
            self._frame = BYTES_PER_SAMPLE[encoding] * query.channels
            count = query.channels if query.multichannel else 1
            if count < query.channels:
                encoding = "linear16"  # the result of mixing
            self._channels = [
                Channel(i, count, query, self.recognizer(query.sample_rate, encoding))
                for i in range(count)
            ]
        self._rest = b""
        self._digest = hashlib.sha256()
        self._received = False
        self._closed = False

    @property
    def seconds(self) -> float:
        return self._channels[0].decoder.seconds if self._channels else 0.0

    @property
    def mid_word(self) -> bool:
        return any(channel.mid_word for channel in self._channels)

    def seconds_in(self, audio: bytes) -> float:
        return len(audio) / self._frame / self.query.sample_rate if self._decodable else 0.0

    def audio(self, audio: bytes) -> list[Outgoing]:
        if self._closed:
            return []  # undocumented; our choice
        if not audio:
            return (
                self._close_stream()
            )  # "Close Stream": an empty binary message has the same effect
        if not self._decodable:
            self._closed = True
            return [_UNDECODABLE]
        self._received = True
        self._digest.update(audio)
        answers: list[Outgoing] = []
        audio = self._rest + audio
        step = int(_STEP_SECONDS * self.query.sample_rate) * self._frame
        whole = len(audio) - len(audio) % self._frame
        self._rest = audio[whole:]
        for at in range(0, whole, step):
            piece = audio[at : min(at + step, whole)]
            for channel, samples in zip(self._channels, self._split(piece), strict=True):
                answers += self._outgoing(channel.process(samples, self.words))
        return answers

    def text(self, message: str) -> list[Outgoing]:
        if self._closed:
            return []
        try:
            content = json.loads(message)
        except ValueError as error:
            return [self._schema_error(message, str(error))]
        if not isinstance(content, dict) or content.get("type") not in _CLIENT_TYPES:
            return [self._schema_error(message, "unknown message type")]
        match content["type"]:
            case "Finalize":
                return self._finalize(content.get("channel"))
            case "CloseStream":
                return self._close_stream()
            case "Configure":
                return [self._configure(content, message)]
        return []  # KeepAlive has no answer

    def resets_timer(self, message: str) -> bool:
        try:
            return json.loads(message)["type"] in _CLIENT_TYPES
        except (ValueError, TypeError, KeyError):
            return False

    def timed_out(self) -> list[Outgoing]:
        self._closed = True
        return [_TIMED_OUT]

    def final_text(self, message: dict[str, Any]) -> str:
        if message.get("type") != "Results" or not message["is_final"]:
            return ""
        return str("".join(one["transcript"] for one in message["channel"]["alternatives"]))

    def garbage(self) -> dict[str, str | bytes]:
        interim = {"type": "Results", "is_final": False}
        wrong = {**interim, "channel_index": [0, 1], "start": "now", "duration": None}
        no_alternatives = {
            "type": "Results",
            "channel_index": [0, 1],
            "start": self.seconds,
            "duration": 0.0,
            "is_final": False,
            "channel": {"alternatives": []},
        }
        return {
            **GARBAGE,
            "wrong_types": json.dumps(wrong),
            "no_alternatives": json.dumps(no_alternatives),
            "results_without_channel": json.dumps({**interim, "start": 0, "duration": 1}),
            "not_a_number": '{"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": NaN}',
        }

    def _split(self, audio: bytes) -> list[bytes]:
        """Split audio into transcribed channels. Without `multichannel`, mix all (our choice)."""
        query = self.query
        if query.channels == 1:
            return [audio]
        encoding = cast(Encoding, query.encoding)
        if query.multichannel:
            return pcm.split(audio, query.channels, encoding)
        return [pcm.mix(audio, query.channels, encoding)]

    def _outgoing(self, messages: list[dict[str, Any]]) -> list[Outgoing]:
        """Add identifiers to a channel's messages and distort them according to the switches."""
        outgoing: list[Outgoing] = []
        faults = cast(DeepgramFaults, self.faults)
        for message in messages:
            if message["type"] == "Results":
                message["metadata"] = self._metadata()
                alternatives = message["channel"]["alternatives"]
                if faults.empty_alternatives and not alternatives[0]["transcript"]:
                    alternatives.clear()
                if faults.contradicting_interims and not message["is_final"]:
                    for one in alternatives:
                        one["transcript"] = one["transcript"].upper()[::-1]
                        for word in one["words"]:
                            word["word"] = word["word"][::-1]
                            word.pop("punctuated_word", None)
            if message["type"] == "UtteranceEnd" and faults.last_word_end_unknown:
                message["last_word_end"] = -1
            if faults.extra_fields:
                message["x_extra"] = {"deep": [1, None, {"er": True}]}
            outgoing.append(message)
            if message["type"] == "SpeechStarted" and faults.duplicate_speech_started:
                outgoing.append(dict(message))
        return outgoing

    def _metadata(self) -> dict[str, Any]:
        model = self.query.model
        metadata: dict[str, Any] = {
            "request_id": self.request_id,
            "model_info": {"name": f"general-{model}", "version": "2025-01-01.0", "arch": model},
            "model_uuid": "22222222-2222-4222-8222-222222222222",
        }
        if self.query.extra:
            metadata["extra"] = self.query.extra
        return metadata

    def _finalize(self, only: Any) -> list[Outgoing]:
        faults = cast(DeepgramFaults, self.faults)
        answers: list[Outgoing] = []
        for channel in self._channels:
            if only is not None and only != channel.index:
                continue
            if channel.pending or faults.finalize_answer != "none":
                results = channel.flush(
                    self.words, from_finalize=faults.finalize_answer != "unmarked"
                )
                answers += self._outgoing(results)
        return answers

    def _close_stream(self) -> list[Outgoing]:
        answers: list[Outgoing] = []
        for channel in self._channels:
            answers += self._outgoing(channel.end(self.words))
        self._closed = True
        summary: dict[str, Any] = {
            "type": "Metadata",
            "transaction_key": "deprecated",
            "request_id": self.request_id,
            "sha256": self._digest.hexdigest(),
            "created": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "duration": round(self.seconds, 6),
            "channels": self.query.channels if self._received else 0,
        }
        return [*answers, *self._outgoing([summary]), Close(1000)]

    def _configure(self, content: dict[str, Any], message: str) -> dict[str, Any]:
        for name in content:
            if name != "type" and name not in _CONFIGURE_FIELDS:
                expected = ", ".join(f"`{field}`" for field in _CONFIGURE_FIELDS)
                return self._schema_error(
                    message, f"unknown field `{name}`, expected one of {expected}"
                )
        features, keyterms = content.get("features") or {}, content.get("keyterms")
        if not isinstance(features, dict) or not all(
            isinstance(value, bool) for value in features.values()
        ):
            return self._schema_error(message, "features: invalid type, expected a boolean")
        if keyterms is None:
            return {"type": "ConfigureSuccess", "request_id": self.request_id}
        if not isinstance(keyterms, list) or not all(isinstance(term, str) for term in keyterms):
            return self._schema_error(message, "keyterms: invalid type, expected a sequence")
        if not self.query.model.startswith("nova-3"):
            return self._configure_failure(
                "CONFIGURE_KEYTERMS_NOT_SUPPORTED",
                "`keyterms` are only supported for Nova-3 and Flux.",
            )
        if count_tokens(keyterms) > KEYTERM_TOKENS:
            return self._configure_failure(
                "CONFIGURE_KEYTERM_LIMIT_EXCEEDED",
                f"Keyterm limit exceeded. The maximum number of tokens is {KEYTERM_TOKENS}.",
            )
        return {"type": "ConfigureSuccess", "request_id": self.request_id, "keyterms": keyterms}

    def _configure_failure(self, code: str, description: str) -> dict[str, Any]:
        return {
            "type": "ConfigureFailure",
            "request_id": self.request_id,
            "code": code,
            "description": description,
        }

    def _schema_error(self, message: str, detail: str) -> dict[str, Any]:
        return {
            "type": "Error",
            "variant": "SchemaError",
            "description": f"Could not deserialize last text message: {detail}",
            "message": message,
        }


class DeepgramEmulator(AccountEmulator):
    """Server at `ws://127.0.0.1:<port>/v1/listen`, and the account that pays for it."""

    name: ClassVar[str] = "deepgram"
    path: ClassVar[str] = "/v1/listen"
    faults_model: ClassVar[type[Faults]] = DeepgramFaults

    def admit(self, request: web.Request) -> Session:
        subprotocol = check_auth(request, self.api_key)
        self.check_credit()
        query = {name: request.query.getall(name) for name in request.query}
        return ListenSession(parse(query), self.faults, subprotocol)

    def refusal(self, status: int) -> Refusal:
        code, message = ERRORS.get(status, ("Error", f"HTTP {status}"))
        return refuse(status, code, message)
