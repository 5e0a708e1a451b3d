"""Settings of the `deepgram` provider, and those it shares with `deepgram-flux`."""

from __future__ import annotations

import logging

from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from natterjack.plugin.errors import PluginError
from natterjack.settings import described

log = logging.getLogger(__name__)


class DeepgramAccount(BaseSettings):
    """Where Deepgram is, and who asks."""

    model_config = SettingsConfigDict(env_prefix="DEEPGRAM_", frozen=True, extra="ignore")

    api_key: SecretStr | None = described(None, "API key; there is no default")
    url: str = described(
        "wss://api.deepgram.com",
        "base address (wss:// or ws://); /v1/listen or /v2/listen is appended",
    )

    @field_validator("url")
    @classmethod
    def _websocket_address(cls, url: str) -> str:
        if not url.startswith(("ws://", "wss://")):
            raise ValueError("must start with wss:// (or ws:// for an emulator or a proxy)")
        return url.rstrip("/")

    def checked_key(self) -> SecretStr:
        """The key. Raises PluginError when there is none; says in the log when it will travel
        without encryption."""
        if self.api_key is None or not self.api_key.get_secret_value().strip():
            raise PluginError("DEEPGRAM_API_KEY is not set: it takes a Deepgram API key")
        if self.url.startswith("ws://"):
            log.warning("Deepgram is reached without encryption, at %s", self.url)
        return self.api_key


class DeepgramSettings(DeepgramAccount):
    """Deepgram's streaming speech-to-text (listen v1, Nova models)."""

    model: str = described("nova-3", "model, unless the session names one")
    language: str | None = described(
        None, "language (BCP 47, or `multi`), unless the session names one; none: Deepgram's (en)"
    )
    interim_results: bool = described(True, "give interims, about each second")
    smart_format: bool = described(True, "format numbers, dates and the like, and punctuate")
    punctuate: bool = described(False, "punctuate, where smart_format is off")
    endpointing_ms: int = described(
        300, "silence that ends an utterance, in milliseconds; 0: off", ge=0
    )
    utterance_end_ms: int = described(
        1000,
        "gap between words that ends an utterance, in milliseconds, 1000 to 5000; 0: off; "
        "needs interims",
        ge=0,
        le=5000,
    )
    vad_events: bool = described(True, "let voice activity, not only words, start a turn")
    diarize: bool = described(False, "tell speakers apart")
    multichannel: bool = described(
        False, "transcribe up to 20 channels apart, instead of mixing them"
    )
    filler_words: bool = described(False, "keep `uh` and `um`")
    numerals: bool = described(False, "write numbers as digits")
    redact: str = described(
        "", "what to redact, with commas between: pci, numbers, aggressive_numbers, ssn"
    )
    tag: str = described("", "tags for the vendor's usage reports, with commas between")
    mip_opt_out: bool = described(
        False, "opt out of the vendor's model improvement programme (changes the price)"
    )
    keepalive_seconds: float = described(
        4, "a keepalive is sent after so long without audio, in seconds", gt=0, lt=10
    )
    ping_seconds: float = described(
        20, "a WebSocket ping is sent after so long without a message, in seconds", gt=0
    )
    connect_timeout_seconds: float = described(
        10, "bound of connecting, handshake included, in seconds", gt=0
    )
    catch_up_rate: float = described(
        1.25, "times real time at which recorded audio is sent; Deepgram asks for 1.25", ge=1
    )
    price_per_hour: float = described(
        0.288,
        "USD an hour of audio and channel (0.0048 a minute: Nova-3 monolingual, pay as you go, "
        "price lists of November 2026)",
        ge=0,
    )

    admin_key: SecretStr | None = described(
        None,
        "API key that may read the balance (billing:read: role admin or owner); none: the balance "
        "is not asked for",
    )
    api_url: str = described(
        "https://api.deepgram.com",
        "base address for the balance (https:// or http://); regional hosts do not serve it",
    )
    balance_seconds: float = described(
        300, "how often the balance is asked for, in seconds; 0: never", ge=0
    )
    project_id: str | None = described(
        None, "project whose balance is asked for; none: the one that the key belongs to"
    )

    @field_validator("admin_key", mode="after")
    @classmethod
    def _key_or_none(cls, key: SecretStr | None) -> SecretStr | None:
        # A file's last line break must not get into a header.
        stripped = "" if key is None else key.get_secret_value().strip()
        if not stripped.isprintable() or " " in stripped:
            raise ValueError("must be one word")
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
        """The key that may read the balance, where it is to be asked for; says in the log when it
        will travel without encryption."""
        if self.admin_key is None or not self.balance_seconds:
            return None
        if self.api_url.startswith("http://"):
            log.warning("Deepgram's balance is asked for without encryption, at %s", self.api_url)
        return self.admin_key

    @field_validator("utterance_end_ms")
    @classmethod
    def _within_bounds(cls, gap: int) -> int:
        if 0 < gap < 1000:
            raise ValueError("must be 0 or at least 1000")
        return gap


def listed(names: str) -> list[str]:
    """The items of a setting that has commas between them."""
    return [name.strip() for name in names.split(",") if name.strip()]
