"""The faults that tests can inject into the emulator of Deepgram's speak v2 (Flux)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..faults import Faults


class FluxSpeakFaults(Faults):
    """Switches of this emulator."""

    speech_pace: float = Field(4, gt=0, description="speed of the audio, in multiples of real time")
    odd_frames: bool = Field(False, description="frames of audio end within samples")
    inactive_seconds: float = Field(
        60, gt=0, description="end the stream after this long without a message or a ping"
    )
    session_seconds: float = Field(3600, gt=0, description="end the stream at this age")
    no_connected: bool = Field(False, description="never send Connected")
    flushed: Literal["before", "in", "after"] = Field(
        "before",
        description="place of Flushed: before the audio of the rest of the text, in it, or after "
        "SpeechMetadata",
    )
    interrupt_answers: tuple[str, ...] = Field(
        (),
        description="answers to the first Interrupts: normal, none (the speech stops), or the code "
        "of a warning (the speech goes on)",
    )
    interrupt_seconds: float = Field(0, ge=0, description="delay of the answer to Interrupt")
    audio_after_interrupt: int = Field(
        0, ge=0, description="frames of 20 ms of the turn's audio sent between Interrupt and answer"
    )
    idle_interrupt: str = Field(
        "NO_ACTIVE_SPEECH", description="warning for an Interrupt without an active turn"
    )
    rebases: bool = Field(True, description="an interrupt sets the clock to what was played")
    configure_answer: Literal["normal", "not_supported", "internal", "none"] = "normal"
    synthesis_retries: int = Field(0, ge=0, description="warn this often before each turn's audio")
    synthesis_fails: bool = Field(False, description="fail with NET-0000 instead of speaking")
    error_code: str = "NET-0000"
    error_after_seconds: float | None = Field(
        None, description="send an Error with `error_code` at this position"
    )
    extra_fields: bool = Field(False, description="messages have undocumented fields")
