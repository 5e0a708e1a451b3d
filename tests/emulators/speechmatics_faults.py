"""What goes wrong at Speechmatics: by its own rules, and at a test's command."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from .faults import Faults

CLOSE_CODES: Final = {
    "invalid_message": 1003,
    "protocol_error": 1003,
    # Not told apart in the documentation: our choice.
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
IDLE_SECONDS: Final = 3600.0
IDLE_WARNINGS: Final = (15, 10, 5)
SESSION_SECONDS: Final = 48 * 3600.0
SESSION_WARNINGS: Final = (45, 30, 15)
LIFELESS_SECONDS: Final = 180.0
""""Limits": how long a session may go without audio, may last, and may go without audio, ping and
pong, in seconds; warnings come so many minutes before the first two end."""


class SpeechmaticsFaults(Faults):
    """Switches of this emulator. Those of its own that change a running connection obey
    `connections`, but for the choices and the clock."""

    start_delay_seconds: float = Field(0, ge=0, description="RecognitionStarted so much later")
    no_recognition_started: bool = Field(False, description="RecognitionStarted never comes")
    withhold_acks_after_seconds: float | None = Field(
        None, description="no AudioAdded from then on; those withheld never come"
    )
    no_transcripts_after_seconds: float | None = Field(
        None, description="audio is acknowledged from then on, and not transcribed"
    )
    error_type: str | None = Field(None, description="fail with an Error of this type, ...")
    error_after_seconds: float | None = Field(
        None, description="... after so much audio; none: at StartRecognition"
    )
    error_in_band: bool = Field(True, description="off: only the closing frame says why")
    warning_type: str | None = Field(None, description="send a Warning of this type, ...")
    warning_after_seconds: float = Field(0, description="... after so much audio")
    duration_limit_seconds: float | None = Field(
        None, description="Warning duration_limit_exceeded, and what follows from it"
    )
    unreadable_final_after_seconds: float | None = Field(
        None, description="the next final has no metadata, once a connection"
    )
    language_info: bool = Field(False, description="a LanguageInfo comes before each transcript")
    end_of_transcript: Literal["normal", "missing", "close"] = Field(
        "normal", description="missing: nothing comes; close: only the closing frame"
    )
    quota: int | None = Field(None, description="sessions at once; one more is quota_exceeded")
    auth_in_band: bool = Field(False, description="a wrong key is told of after the handshake")
    management_status: int | None = Field(
        None, description="answer requests for temporary keys with this HTTP status"
    )
    clock_rate: float = Field(1, gt=0, description="times faster that idle and session time pass")

    word_delimiter: str = Field(" ", description="of the language pack")
    quiet_in_silence: bool = Field(False, description="silence gets neither partials nor finals")
    late_punctuation: bool = Field(False, description="a full stop comes in a final of its own")
    overreaching_finals: bool = Field(
        False, description="a final's end_time is that of the audio, in the next word or not"
    )
    extra_fields: bool = Field(False, description="messages have fields that no document names")
