"""What can go wrong with a provider. `cause` is a metric label: one of a small fixed set of words.

NatterjackError
├── PluginError             a provider is unknown, or its plugin cannot be loaded or configured
└── ProviderError           the provider's side of a session failed (provider, cause, retryable)
    ├── RequestRefused      it will not serve this request: wrong key, no credit, bad parameters
    ├── Unavailable         it cannot be reached or is overloaded now; trying again may help
    ├── Dropped             the connection broke
    ├── Stalled             it is connected but does not answer, or takes no more audio
    └── RemoteProtocolError it sent something that its protocol does not allow
"""

from __future__ import annotations

from typing import ClassVar, Literal

from natterjack.errors import NatterjackError, UsageError

RefusedCause = Literal["auth", "credit", "request"]
UnavailableCause = Literal["connect", "rate_limit", "server_error"]
StalledCause = Literal["send_blocked", "mute", "finish"]


class PluginError(UsageError):
    """A provider is unknown, or its plugin cannot be loaded or configured."""


class ProviderError(NatterjackError):
    """The provider's side of a session failed.

    `code` is the provider's own (an HTTP status, a close code), for people and logs.
    """

    retryable: ClassVar[bool] = True

    def __init__(self, provider: str, cause: str, message: str, code: str | None = None) -> None:
        super().__init__(f"{provider}: {message}" + (f" ({code})" if code else ""))
        self.provider = provider
        self.cause = cause
        self.code = code


class RequestRefused(ProviderError):
    """It will not serve this request, however often it is asked."""

    retryable = False

    def __init__(
        self, provider: str, cause: RefusedCause, message: str, code: str | None = None
    ) -> None:
        super().__init__(provider, cause, message, code)


class Unavailable(ProviderError):
    """It cannot be reached or is overloaded now."""

    def __init__(
        self, provider: str, cause: UnavailableCause, message: str, code: str | None = None
    ) -> None:
        super().__init__(provider, cause, message, code)


class Dropped(ProviderError):
    """The connection broke."""

    def __init__(self, provider: str, message: str, code: str | None = None) -> None:
        super().__init__(provider, "dropped", message, code)


class Stalled(ProviderError):
    """It is connected but does not answer, or takes no more audio."""

    def __init__(self, provider: str, cause: StalledCause, message: str) -> None:
        super().__init__(provider, cause, message)


class RemoteProtocolError(ProviderError):
    """It said something that its protocol does not allow."""

    def __init__(self, provider: str, message: str, code: str | None = None) -> None:
        super().__init__(provider, "protocol", message, code)
