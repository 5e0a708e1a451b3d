"""Settings of `deepgram-aura`. It shares the key and the address with `deepgram`."""

from __future__ import annotations

from natterjack.settings import described
from worker.providers.deepgram.settings import DeepgramAccount


class DeepgramSpeakSettings(DeepgramAccount):
    """Deepgram's streaming text-to-speech (speak v1, Aura voices)."""

    speak_model: str = described(
        "aura-2-thalia-en", "voice, unless the session names one: aura-2-<voice>-<language>"
    )
    speak_speed: float | None = described(
        None,
        "rate of speech, 0.7 to 1.5 (English and Spanish Aura-2 voices; Spanish from 0.9); if "
        "unset, the voice's own",
        ge=0.7,
        le=1.5,
    )
    speak_mip_opt_out: bool = described(
        False, "opt out of Deepgram's model improvement program (changes the price)"
    )
    speak_characters_per_minute: int = described(
        2400,
        "text that a stream sends in a minute, in characters; Deepgram closes one that sends more",
        gt=0,
    )
    speak_flushes_per_minute: int = described(
        20, "phrases that a stream ends in a minute; Deepgram ignores the end of more", gt=0
    )
    speak_max_seconds: float = described(
        3600, "time after which Deepgram ends a stream, in seconds", gt=60
    )
    speak_clear_timeout_seconds: float = described(
        5,
        "timeout for the answer to an interrupt, in seconds; after it, the stream is replaced",
        gt=0,
    )
    speak_close_timeout_seconds: float = described(
        1,
        "longest wait for Deepgram to end a stream in which everything was spoken, in seconds; a "
        "stream that is cut off may count against the account's limit for longer",
        ge=0,
    )
    speak_connect_timeout_seconds: float = described(
        10, "timeout for connecting, including the handshake, in seconds", gt=0
    )
    speak_ping_seconds: float = described(
        20, "interval of WebSocket pings, in seconds; Deepgram documents no limit", gt=0
    )
    speak_price_per_1000_characters: float = described(
        0.03,
        "USD per 1,000 characters of text (Aura-2, pay as you go, November 2026; first-generation "
        "voices cost half)",
        ge=0,
    )
