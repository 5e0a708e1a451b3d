"""Speechmatics' close codes, and the faults that tests can inject at both endpoints."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from ..faults import Faults

CLOSE_CODES: Final = {
    "invalid_message": 1003,
    "protocol_error": 1003,
    # The documentation does not distinguish these; our choice.
    "invalid_config": 1008,
    "invalid_audio_type": 1008,
    "invalid_output_format": 1008,
    "invalid_language": 1008,
    "invalid_model": 4004,
    "not_authorised": 4001,
    "not_allowed": 4003,
    "quota_exceeded": 4005,
    "timelimit_exceeded": 4006,
    "job_error": 4013,
    "idle_timeout": 1008,
    "session_timeout": 1008,
    "unknown_error": 1011,
}
"""The close code that follows each type of Error ("Error handling")."""


def close_code(kind: str) -> int:
    """The close code after an Error of this type; for an unknown type, our choice."""
    return CLOSE_CODES.get(kind, 1011)


class SessionFaults(Faults):
    """Switches of the emulators of both endpoints. Those for open connections obey `connections`,
    except for choices and the clock."""

    start_delay_seconds: float = Field(0, ge=0, description="delay of RecognitionStarted")
    no_recognition_started: bool = Field(False, description="never send RecognitionStarted")
    withhold_acks_after_seconds: float | None = Field(
        None, description="send no AudioAdded after this position"
    )
    no_transcripts_after_seconds: float | None = Field(
        None, description="acknowledge audio after this position without transcribing it"
    )
    parks_after_seconds: float | None = Field(
        None, description="park the session at this position, and resume with the next audio"
    )
    clock_after_parking: Literal["restart", "continue"] = Field(
        "restart", description="whether times start at zero again; audio is acknowledged either way"
    )
    error_type: str | None = Field(None, description="type of an injected Error")
    error_after_seconds: float | None = Field(
        None, description="position of the injected Error; none for StartRecognition"
    )
    error_in_band: bool = Field(True, description="if off, only the close frame has the reason")
    warning_type: str | None = Field(None, description="type of an injected Warning")
    warning_after_seconds: float = Field(0, description="position of the injected Warning")
    duration_limit_seconds: float | None = Field(
        None, description="send the Warning duration_limit_exceeded and end the transcript"
    )
    unreadable_final_after_seconds: float | None = Field(
        None, description="send the next final without metadata, once per connection"
    )
    end_of_transcript: Literal["normal", "missing", "close"] = Field(
        "normal", description="missing: send nothing; close: send only the close frame"
    )
    quota: int | None = Field(None, description="concurrent sessions; one more gets quota_exceeded")
    auth_in_band: bool = Field(False, description="report an invalid key after the handshake")
    management_status: int | None = Field(
        None, description="answer requests for temporary keys with this HTTP status"
    )
    clock_rate: float = Field(
        1, gt=0, description="speed of idle and session time, relative to real time"
    )

    word_delimiter: str = Field(" ", description="word delimiter of the language pack")
    extra_fields: bool = Field(False, description="messages have undocumented fields")


class SpeechmaticsFaults(SessionFaults):
    """Switches of the emulator of the realtime API."""

    language_info: bool = Field(False, description="send a LanguageInfo before each transcript")
    quiet_in_silence: bool = Field(
        False, description="send neither partials nor finals for silence"
    )
    late_punctuation: bool = Field(False, description="send a full stop in a separate final")
    overreaching_finals: bool = Field(
        False, description="a final's end_time is the end of the audio, even within the next word"
    )


class AgentFaults(SessionFaults):
    """Switches of the emulator of Agent STT."""

    word_messages: bool = Field(
        False, description="send an AddTranscript and a LanguageInfo before each segment"
    )
    untyped_warning: bool = Field(False, description="send a Warning without a type at the start")
    segment_cap_seconds: float = Field(120, description="longest segment")
