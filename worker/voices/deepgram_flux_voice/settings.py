"""Settings of `deepgram-flux-voice`. It shares the key and the address with `deepgram`."""

from __future__ import annotations

from pydantic import field_validator

from natterjack.settings import described
from worker.providers.deepgram.settings import DeepgramAccount

SPEED_MIN, SPEED_MAX, SPEED_STEP = 0.5, 1.5, 0.05


def checked_speed(speed: float) -> float:
    """Round off what binary fractions add. Raises: ValueError unless the speed is a step."""
    rounded = round(round(speed / SPEED_STEP) * SPEED_STEP, 2)
    if not (SPEED_MIN <= rounded <= SPEED_MAX and abs(speed - rounded) < 1e-6):
        raise ValueError(f"must be {SPEED_MIN:g} to {SPEED_MAX:g} in steps of {SPEED_STEP:g}")
    return rounded


class DeepgramFluxVoiceSettings(DeepgramAccount):
    """Deepgram's turn-based streaming text-to-speech (speak v2, Flux voices)."""

    flux_voice_model: str = described(
        "flux-haley-en", "voice, unless the session names one; the language is a part of the name"
    )
    flux_voice_speed: float = described(1.0, "rate of speech, 0.5 to 1.5 in steps of 0.05")
    flux_voice_expressivity: int = described(
        0, "variation of the speech, -2 to 2; Deepgram validates only 0 for production", ge=-2, le=2
    )
    flux_voice_tag: str = described("", "tags for Deepgram's usage reports, separated by commas")
    flux_voice_mip_opt_out: bool = described(
        False, "opt out of Deepgram's model improvement program (changes the price)"
    )
    flux_voice_phrase_characters: int = described(
        2000,
        "longest text that is synthesized as one turn, in characters; Deepgram documents no limit",
        ge=100,
    )
    flux_voice_message_characters: int = described(
        2000,
        "longest text of one message, in characters; Deepgram has a limit (BIG-0000) and does not "
        "document it",
        ge=20,
    )
    flux_voice_max_seconds: float = described(
        3600, "time after which Deepgram ends a stream, in seconds", gt=60
    )
    flux_voice_rebased_clock: bool = described(
        True,
        "after an interrupt, count the audio for the next one from the position that was played; "
        "off: from all audio that was sent. Deepgram documents the first, indirectly",
    )
    flux_voice_interrupt_timeout_seconds: float = described(
        5,
        "timeout for the answer to an interrupt, in seconds; after it, the stream is replaced",
        gt=0,
    )
    flux_voice_configure_timeout_seconds: float = described(
        2,
        "longest wait for the answer to a change of settings, in seconds; it may come later, after "
        "audio that is not read yet",
        gt=0,
    )
    flux_voice_close_timeout_seconds: float = described(
        1,
        "longest wait for Deepgram to end a stream in which everything was spoken, in seconds; a "
        "stream that is cut off may count against the account's limit for longer",
        ge=0,
    )
    flux_voice_connect_timeout_seconds: float = described(
        10, "timeout for connecting, including the handshake, in seconds", gt=0
    )
    flux_voice_connected_timeout_seconds: float = described(
        5, "timeout for the message Connected after the handshake, in seconds", gt=0
    )
    flux_voice_ping_seconds: float = described(
        20,
        "interval of WebSocket pings, in seconds; Deepgram ends a stream after 60 s without any "
        "message or ping",
        gt=0,
        lt=60,
    )
    flux_voice_price_per_1000_characters: float = described(
        0,
        "USD per 1,000 characters of text; set it to the price of your contract, since Deepgram's "
        "documentation has none",
        ge=0,
    )

    @field_validator("flux_voice_speed")
    @classmethod
    def _in_steps(cls, speed: float) -> float:
        return checked_speed(speed)
