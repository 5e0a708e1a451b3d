"""Settings of the `speechmatics-agent` provider. It shares the account with `speechmatics`."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from natterjack.settings import described

from ..speechmatics.settings import SpeechmaticsAccount, websocket_address

TurnMode = Literal["vad", "external"]


class SpeechmaticsAgentSettings(SpeechmaticsAccount):
    """Speechmatics' Agent STT: segments and turns."""

    agent_url: str = described(
        "wss://eu2.rt.speechmatics.com/v2/agent",
        "full address, including the region (wss:// or ws://)",
    )
    agent_language: str = described("en", "language (ISO code), unless the session names one")
    agent_model: str = described("linden-1", "model, unless the session names one")
    agent_turn_detection_mode: TurnMode = described(
        "vad", "vad: the server ends turns; external: only `finalize` does"
    )
    agent_emit_sentences: bool = described(
        True,
        "a segment has one sentence; otherwise it lasts to the end of the turn, up to two minutes, "
        "and no part of it is final before",
    )
    agent_enable_partials: bool = described(True, "send interims")
    agent_domain: str | None = described(
        None, "specialized language pack, such as finance or medical"
    )
    agent_output_locale: str | None = described(
        None,
        "spelling of the transcript, such as en-GB; if unset, from the session's language if "
        "that is en-AU, en-GB or en-US",
    )
    agent_diarization: Literal["none", "speaker"] = described(
        "none", "speaker distinguishes speakers"
    )
    agent_max_speakers: int | None = described(
        None, "maximum number of speakers, at least 2; if unset, the vendor's limit", ge=2
    )
    agent_final_timeout_seconds: float = described(
        150,
        "acknowledged audio after which an interim that is not final fails the stream, in seconds; "
        "a segment lasts up to 120 s; 0 turns it off",
        ge=0,
    )
    agent_silence_margin_seconds: float = described(
        5,
        "age at which audio counts as silence if neither the server nor the worker hears speech in "
        "it, in seconds; 0 turns it off",
        ge=0,
    )
    agent_noise_margin_seconds: float = described(
        60,
        "age at which audio counts as silence if the worker hears sound in it, but the server no "
        "speech, in seconds; 0 turns it off",
        ge=0,
    )
    agent_catch_up_rate: float = described(
        1.25,
        "rate at which recorded audio is sent, as a multiple of real time; the server reads no "
        "faster",
        ge=1,
    )
    agent_price_per_hour: float = described(
        0.0, "USD per hour of audio in your contract; the vendor publishes no price", ge=0
    )

    @field_validator("agent_url")
    @classmethod
    def _websocket_address(cls, url: str) -> str:
        return websocket_address(url)
