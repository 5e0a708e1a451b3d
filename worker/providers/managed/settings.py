"""Settings of the `managed` provider."""

from __future__ import annotations

from typing import Literal

from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from natterjack.settings import described

Extensions = Literal["auto", "on", "off"]


class ManagedSettings(BaseSettings):
    """A proxy that holds the provider's key and counts credit (`/ws/transcribe`)."""

    model_config = SettingsConfigDict(env_prefix="MANAGED_", frozen=True, extra="ignore")

    url: str = described(
        "",
        "base address of the proxy (wss:// or ws://; neither: wss://); /ws/transcribe is appended; "
        "there is no default",
    )
    token: SecretStr | None = described(
        None, "token of the proxy's account system; there is no default"
    )
    model: str = described("nova-2", "model, unless the session names one")
    language: str = described("en-US", "language, unless the session names one")
    interim_results: bool = described(True, "give interims")
    extensions: Extensions = described(
        "auto",
        "whether the proxy takes `end` and `finalize`; auto: if its `ready` names a session",
    )
    connect_timeout_seconds: float = described(
        10, "bound of connecting, handshake included, in seconds", gt=0
    )
    ready_timeout_seconds: float = described(
        15, "bound of the wait for `ready` after the token was sent, in seconds", gt=0
    )
    ping_seconds: float = described(
        20, "a WebSocket ping is sent after so long without a message, in seconds", gt=0
    )
    hold_seconds: float = described(
        10,
        "a text without times waits for so many seconds of audio, at most, until a pause shows "
        "where it ends; meanwhile it is an interim",
        ge=0,
    )
    quiet_seconds: float = described(
        30,
        "speech, or sound like it, that has had no answer for so many seconds (of audio and of "
        "time) means that the proxy is mute",
        ge=1,
    )
    end_silence_seconds: float = described(
        2,
        "silence sent after the end of audio to a proxy that takes no `end`, in seconds; it is "
        "counted by the proxy",
        ge=0,
        le=10,
    )
    end_settle_seconds: float = described(
        1.5, "after it, nothing new for so many seconds means that all was said", gt=0
    )
    end_wait_seconds: float = described(
        8, "bound of the wait for the last texts after the end of audio, in seconds", gt=0
    )
    catch_up_rate: float = described(1.25, "times real time at which recorded audio is sent", ge=1)
    price_per_hour: float = described(0, "price of an hour of audio", ge=0)
    currency: str = described(
        "USD", "of the price, three letters (ISO 4217)", pattern=r"^[A-Z]{3}$"
    )

    @field_validator("url")
    @classmethod
    def _websocket_address(cls, url: str) -> str:
        # Fact sheet, 1: no slash at the end, and wss:// unless it is said. The
        # client that is known makes wss://https://... of an https address; that is a mistake here.
        scheme, separator, _ = url.partition("://")
        if separator and scheme not in ("ws", "wss"):
            raise ValueError("must start with wss:// or ws://, or with no scheme at all")
        url = url.rstrip("/")
        return url if separator or not url else f"wss://{url}"
