"""Client messages of Speechmatics' realtime APIs, `/v2` and `/v2/agent`, and the answers that both
share: no sockets, clocks or broker.

Fields of a later release, and features that no backend has, are ignored: a client of the vendor
works unchanged. What would give a wrong transcript is refused, as the vendor does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from natterjack.audio import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE
from natterjack.errors import first_problem
from natterjack.events import Event

from ..parsing import parsed
from ..words import delimiter, right_to_left
from .errors import Fatal

_KINDS: Final = frozenset(
    ("StartRecognition", "EndOfStream", "ForceEndOfUtterance", "SetRecognitionConfig",
     "GetSpeakers")
)  # fmt: skip
_CHANNELS: Final = frozenset(("AddChannelAudio", "EndOfChannel"))
_INVALID: Final = {"language": "invalid_language", "model": "invalid_model"}


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class AudioFormat(_Model):
    """The client's audio: raw samples of one channel, or a file that describes itself."""

    type: Literal["raw", "file"]
    encoding: Literal["pcm_s16le", "pcm_f32le", "mulaw"] | None = None
    sample_rate: Annotated[int | None, Field(ge=MIN_SAMPLE_RATE, le=MAX_SAMPLE_RATE)] = None

    @property
    def telephony(self) -> bool:
        """Whether the vendor would use its model for telephones."""
        return self.sample_rate is not None and self.sample_rate < 12_000


class _ExtraWord(_Model):
    content: Annotated[str, Field(min_length=1)]


class _Conversation(_Model):
    end_of_utterance_silence_trigger: Annotated[float, Field(ge=0, le=2)] = 0.0


class _Transcription(_Model):
    language: Annotated[str, Field(min_length=1, max_length=35, pattern=r"^[A-Za-z0-9_-]+$")]
    model: Annotated[str | None, Field(max_length=128)] = None
    output_locale: Annotated[str | None, Field(max_length=35)] = None
    additional_vocab: list[str | _ExtraWord] = Field(default_factory=list)
    diarization: Literal["none", "speaker", "channel", "channel_and_speaker"] = "none"
    enable_partials: bool = False
    emit_sentences: bool = False
    conversation_config: _Conversation | None = None


class _Turn(_Model):
    turn_detection_mode: Literal["vad", "external"] = "vad"


class _Translation(_Model):
    target_languages: list[str] = Field(default_factory=list)


class _Start(_Model):
    audio_format: AudioFormat
    transcription_config: _Transcription
    turn_config: _Turn | None = None
    translation_config: _Translation | None = None


class _Changes(_Model):
    language: str | None = None
    enable_partials: bool | None = None
    conversation_config: _Conversation | None = None


class _SetConfig(_Model):
    transcription_config: _Changes


class _Force(_Model):
    timestamp: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None


class Start(_Model):
    """A valid StartRecognition."""

    audio: AudioFormat
    language: str
    model: str | None
    partials: bool
    speakers: bool
    """Whether words or segments have the labels of speakers."""
    sentences: bool
    """Whether segments end with sentences (Agent STT)."""
    utterance_trigger: float
    """Silence that ends an utterance, in seconds; 0 if the client wants no EndOfUtterance."""
    external_turns: bool
    """Whether the client ends turns (Agent STT)."""
    vocabulary: tuple[str, ...]
    translations: tuple[str, ...]
    """Languages to translate into, which no backend does."""


def decode(text: str) -> tuple[str, Mapping[str, Any]]:
    """The kind and the content of a client's message. Raises: Fatal."""
    try:
        content = parsed(text)
    except ValueError:
        raise Fatal("invalid_message", "the message is not JSON") from None
    kind = content.get("message") if isinstance(content, dict) else None
    if not isinstance(kind, str):
        raise Fatal("invalid_message", "the message is not an object with a text `message`")
    if kind in _CHANNELS:
        raise Fatal("not_allowed", f"{kind}: audio of one channel only, as binary messages")
    if kind not in _KINDS:
        raise Fatal("invalid_message", f"unknown message {kind[:100]!r}")
    return kind, content


def start(content: Mapping[str, Any]) -> Start:
    """Validate a StartRecognition. Raises: Fatal."""
    try:
        given = _Start.model_validate(content)
    except ValidationError as error:
        raise Fatal(_wrong(error.errors()[0]["loc"]), first_problem(error)) from None
    audio, config = given.audio_format, given.transcription_config
    if audio.type == "raw" and (audio.encoding is None or audio.sample_rate is None):
        raise Fatal("invalid_audio_type", "raw audio needs `encoding` and `sample_rate`")
    if config.diarization.startswith("channel"):
        raise Fatal("invalid_config", "diarization: audio of one channel only")
    conversation = config.conversation_config or _Conversation()
    vocabulary = (one if isinstance(one, str) else one.content for one in config.additional_vocab)
    return Start(
        audio=audio,
        language=config.language,
        model=config.model,
        partials=config.enable_partials,
        speakers=config.diarization == "speaker",
        sentences=config.emit_sentences,
        utterance_trigger=conversation.end_of_utterance_silence_trigger,
        external_turns=(given.turn_config or _Turn()).turn_detection_mode == "external",
        vocabulary=tuple(dict.fromkeys(word.strip() for word in vocabulary if word.strip())),
        translations=tuple((given.translation_config or _Translation()).target_languages),
    )


def changed(current: Start, content: Mapping[str, Any]) -> Start:
    """The configuration after a SetRecognitionConfig. Raises: Fatal.

    `max_delay`, its mode and the volume threshold are settings of the backend, and do not change.
    """
    try:
        changes = _SetConfig.model_validate(content).transcription_config
    except ValidationError as error:
        raise Fatal("invalid_config", first_problem(error)) from None
    if changes.language not in (None, current.language):
        raise Fatal("invalid_config", "language: it cannot be changed in a session")
    update: dict[str, Any] = {}
    if changes.enable_partials is not None:
        update["partials"] = changes.enable_partials
    if changes.conversation_config is not None:
        trigger = changes.conversation_config.end_of_utterance_silence_trigger
        update["utterance_trigger"] = trigger
    return current.model_copy(update=update)


def forced_at(content: Mapping[str, Any]) -> float | None:
    """The timestamp of a ForceEndOfUtterance. Raises: Fatal."""
    try:
        return _Force.model_validate(content).timestamp
    except ValidationError as error:
        raise Fatal("invalid_message", first_problem(error)) from None


def _wrong(place: tuple[int | str, ...]) -> str:
    """The type of Error for a field that is wrong."""
    if place[:1] == ("audio_format",):
        return "invalid_audio_type"
    return _INVALID.get(str(place[1]), "invalid_config") if len(place) > 1 else "invalid_config"


# ---- messages of the server ---------------------------------------------------------------------

Message = dict[str, Any]


class Dialect(Protocol):
    """The messages of one API for the events of a session, whose times are on the client's
    clock."""

    config: Start

    def receive(self, event: Event) -> list[Message]:
        """The messages for an event."""

    def force(self, timestamp: float | None) -> tuple[bool, list[Message]]:
        """Note a ForceEndOfUtterance. Return whether pending audio must become final, after which
        `forced` is called, and the messages to send at once. Raises: Fatal."""

    def forced(self, complete: bool) -> list[Message]:
        """The messages once the audio before a ForceEndOfUtterance is final; unless `complete`,
        some of it may not be."""

    @property
    def open(self) -> bool:
        """Whether speech is open."""


def recognition_started(session_id: str, language: str) -> Message:
    """The answer to StartRecognition."""
    return {
        "message": "RecognitionStarted",
        "id": session_id,
        "language_pack_info": {
            "adapted": False,
            "itn": True,
            "language_description": language,
            "word_delimiter": delimiter(language),
            "writing_direction": "right-to-left" if right_to_left(language) else "left-to-right",
        },
    }


def quality(audio: AudioFormat) -> Message:
    """The Info about the model in use. Its other values have no fields in Agent STT."""
    kind = "telephony" if audio.telephony else "broadcast"
    reason = f"Running recognition using a {kind} model quality."
    return {"message": "Info", "type": "recognition_quality", "reason": reason, "quality": kind}


def audio_added(sequence: int) -> str:
    """The acknowledgement of a binary message, as text; the first one is 1."""
    return f'{{"message":"AudioAdded","seq_no":{sequence}}}'


def warning(kind: str | None, reason: str) -> Message:
    """A Warning, after which the session goes on."""
    message: Message = {"message": "Warning", "reason": reason}
    if kind is not None:
        message["type"] = kind
    return message


def no_speakers() -> Message:
    """The answer to GetSpeakers: no backend returns identifiers of voices."""
    return {"message": "SpeakersResult", "speakers": []}


END_OF_TRANSCRIPT: Final[Message] = {"message": "EndOfTranscript"}


class Labels:
    """Labels of speakers in the vendor's form, `S1`, `S2` ..., in the order of their appearance."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def label(self, speaker: str | None) -> str:
        """The label for a backend's label; `UU` for an unknown speaker."""
        if speaker is None or speaker == "UU":
            return "UU"
        return self._known.setdefault(speaker, f"S{len(self._known) + 1}")
