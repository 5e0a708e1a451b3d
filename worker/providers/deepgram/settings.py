"""Settings of the `deepgram` provider, and those it shares with `deepgram-flux`."""

from __future__ import annotations

import logging

from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from natterjack.plugin.errors import PluginError
from natterjack.settings import described

log = logging.getLogger(__name__)


class DeepgramAccount(BaseSettings):
    """Address of Deepgram and the API key."""

    model_config = SettingsConfigDict(env_prefix="DEEPGRAM_", frozen=True, extra="ignore")

    api_key: SecretStr | None = described(None, "API key; required")
    url: str = described(
        "wss://api.deepgram.com",
        "base address (wss:// or ws://) of the streaming APIs, to which the path is appended",
    )

    @field_validator("url")
    @classmethod
    def _websocket_address(cls, url: str) -> str:
        if not url.startswith(("ws://", "wss://")):
            raise ValueError("must start with wss:// (or ws:// for an emulator or a proxy)")
        return url.rstrip("/")

    def checked_key(self) -> SecretStr:
        """Return the API key; log a warning if the address is not encrypted.

        Raises: PluginError if the key is not set.
        """
        if self.api_key is None or not self.api_key.get_secret_value().strip():
            raise PluginError("DEEPGRAM_API_KEY is not set; set it to a Deepgram API key")
        if self.url.startswith("ws://"):
            log.warning("connecting to Deepgram without encryption, at %s", self.url)
        return self.api_key


class DeepgramSettings(DeepgramAccount):
    """Deepgram's streaming speech-to-text (listen v1, Nova models)."""

    model: str = described("nova-3", "model, unless the session names one")
    language: str | None = described(
        None,
        "language (BCP 47, or `multi`), unless the session names one; if unset, Deepgram's default "
        "(en)",
    )
    interim_results: bool = described(True, "send interims, about one per second")
    smart_format: bool = described(True, "format numbers, dates and similar text, and punctuate")
    punctuate: bool = described(False, "punctuate when smart_format is off")
    endpointing_ms: int = described(
        300, "silence that ends an utterance, in milliseconds; 0 turns it off", ge=0
    )
    utterance_end_ms: int = described(
        1000,
        "gap between words that ends an utterance, in milliseconds, 1000 to 5000; 0 turns it off; "
        "needs interims",
        ge=0,
        le=5000,
    )
    vad_events: bool = described(True, "start turns at voice activity, not only at words")
    diarize: bool = described(False, "distinguish speakers")
    multichannel: bool = described(
        False, "transcribe up to 20 channels separately instead of mixing them"
    )
    channel_wait_seconds: float = described(
        5,
        "audio for which finals wait for a channel without results, in seconds, if channels are "
        "transcribed separately; a channel with interims is waited for three times as long",
        gt=0,
    )
    filler_words: bool = described(False, "keep `uh` and `um`")
    numerals: bool = described(False, "write numbers as digits")
    redact: str = described(
        "", "what to redact, separated by commas: pci, numbers, aggressive_numbers, ssn"
    )
    tag: str = described("", "tags for Deepgram's usage reports, separated by commas")
    mip_opt_out: bool = described(
        False, "opt out of Deepgram's model improvement program (changes the price)"
    )
    keepalive_seconds: float = described(
        4, "time without audio after which a keepalive is sent, in seconds", gt=0, lt=10
    )
    ping_seconds: float = described(
        20,
        "time without a message after which a WebSocket ping is sent, in seconds; the pong must "
        "arrive within half that time",
        gt=0,
    )
    connect_timeout_seconds: float = described(
        10, "timeout for connecting, including the handshake, in seconds", gt=0
    )
    catch_up_rate: float = described(
        1.25,
        "rate at which recorded audio is sent, as a multiple of real time; Deepgram recommends "
        "1.25",
        ge=1,
    )
    price_per_hour: float = described(
        0.288,
        "USD per hour of audio and channel (0.0048 per minute: Nova-3 monolingual, pay as you go, "
        "November 2026)",
        ge=0,
    )

    admin_key: SecretStr | None = described(
        None,
        "API key that may read the balance (billing:read, roles admin and owner); if unset, the "
        "balance is not read",
    )
    api_url: str = described(
        "https://api.deepgram.com",
        "base address for the balance (https:// or http://); regional hosts do not serve it",
    )
    balance_seconds: float = described(
        300, "interval between reads of the balance, in seconds; 0 turns them off", ge=0
    )
    project_id: str | None = described(
        None, "project whose balance is read; if unset, the only project of the key"
    )

    @field_validator("admin_key", mode="after")
    @classmethod
    def _key_or_none(cls, key: SecretStr | None) -> SecretStr | None:
        # A trailing newline, as from a file, must not end up in a header.
        stripped = "" if key is None else key.get_secret_value().strip()
        if not stripped.isprintable() or " " in stripped:
            raise ValueError("must not contain spaces or control characters")
        return SecretStr(stripped) if stripped else None

    @field_validator("project_id", mode="after")
    @classmethod
    def _project_or_none(cls, project_id: str | None) -> str | None:
        return (project_id or "").strip() or None

    @field_validator("api_url")
    @classmethod
    def _http_address(cls, url: str) -> str:
        scheme, _, rest = url.partition("://")
        if scheme not in ("http", "https") or not rest.strip("/"):
            raise ValueError("must start with https:// (or http:// for an emulator or a proxy)")
        return url.rstrip("/")

    def checked_admin_key(self) -> SecretStr | None:
        """Return the key for the balance, or None if the balance is not to be read.

        Logs a warning if the address is not encrypted.
        """
        if self.admin_key is None or not self.balance_seconds:
            return None
        if self.api_url.startswith("http://"):
            log.warning("reading Deepgram's balance without encryption, at %s", self.api_url)
        return self.admin_key

    @field_validator("utterance_end_ms")
    @classmethod
    def _within_bounds(cls, gap: int) -> int:
        if 0 < gap < 1000:
            raise ValueError("must be 0 or at least 1000")
        return gap


def listed(names: str) -> list[str]:
    """Split a comma-separated setting; empty items are dropped."""
    return [name.strip() for name in names.split(",") if name.strip()]
