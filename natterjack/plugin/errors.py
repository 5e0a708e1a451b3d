"""Errors of providers.

NatterjackError
├── UsageError
│   └── PluginError         a provider is unknown, or its plugin cannot be loaded or configured
└── ProviderError           a stream failed (provider, cause, code, retryable)
    ├── RequestRefused      the provider refuses: key, credit, parameters
    ├── Unavailable         the provider cannot be reached or is overloaded; a retry may succeed
    ├── Dropped             the connection broke
    ├── Stalled             the provider is connected but does not answer, or accepts no more audio
    ├── RemoteProtocolError the provider sent something that its protocol does not allow
    └── PluginFault         the plugin itself failed: it raised another error, or broke the contract

A plugin raises ProviderError and its subclasses for everything that goes wrong on the provider's
side. Their `cause` is a metric label, so it is one of a fixed set of words.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from natterjack.errors import NatterjackError, UsageError

from .provider import Final

RefusedCause = Literal["auth", "credit", "request"]
UnavailableCause = Literal["connect", "rate_limit", "server_error"]
StalledCause = Literal["send_blocked", "mute", "finish"]


class PluginError(UsageError):
    """A provider is unknown, or its plugin cannot be loaded or configured.

    A plugin's constructor raises it when a setting is missing; the message names the environment
    variable.
    """


class ProviderError(NatterjackError):
    """A stream failed on the provider's side.

    The worker opens another stream after most errors, at this provider or at the next one of the
    session's chain, and sends the audio that has no final yet again.
    """

    retryable: ClassVar[bool] = True
    """Whether the same request may succeed soon. If not, the session leaves this provider."""

    def __init__(self, provider: str, cause: str, message: str, code: str | None = None) -> None:
        """`provider` is the provider's name, `message` a text for people, and `code` the provider's
        own code: an HTTP status, a close code, a word. None of them may contain a secret."""
        super().__init__(f"{provider}: {message}" + (f" ({code})" if code else ""))
        self.provider = provider
        self.cause = cause
        self.code = code


class RequestRefused(ProviderError):
    """The provider will not serve this request as things are.

    `cause` is `auth` (a wrong key), `credit` (no money left) or `request` (a parameter is wrong).
    The worker never sends a request again after `request`. After `auth` and `credit`, it uses
    another provider, or holds the session until the account is in order.
    """

    retryable = False

    def __init__(
        self, provider: str, cause: RefusedCause, message: str, code: str | None = None
    ) -> None:
        super().__init__(provider, cause, message, code)


class Unavailable(ProviderError):
    """The provider cannot be reached or is overloaded.

    `cause` is `connect` (no connection), `rate_limit` (too many requests or connections) or
    `server_error` (the provider reports a fault of its own).
    """

    def __init__(
        self, provider: str, cause: UnavailableCause, message: str, code: str | None = None
    ) -> None:
        super().__init__(provider, cause, message, code)


class Dropped(ProviderError):
    """The connection broke before the stream was complete. `cause` is `dropped`."""

    def __init__(self, provider: str, message: str, code: str | None = None) -> None:
        super().__init__(provider, "dropped", message, code)


class Stalled(ProviderError):
    """The provider is connected but does not answer, or accepts no more audio.

    `cause` is `send_blocked`, `mute` or `finish` (the stream does not end). The worker detects all
    three by itself; a plugin raises this error only if it knows better.
    """

    def __init__(self, provider: str, cause: StalledCause, message: str) -> None:
        super().__init__(provider, cause, message)


class RemoteProtocolError(ProviderError):
    """The provider sent something that its protocol does not allow. `cause` is `protocol`.

    A plugin raises it for a message that it cannot read, unless it is certain that the message is
    no final: the audio that is not final is then transcribed again. If that fails as often as
    `WORKER_REPEATED_FAILURES` says, at every provider of the session, `readable` is published, and
    the audio becomes a gap.
    """

    def __init__(
        self,
        provider: str,
        message: str,
        code: str | None = None,
        *,
        readable: Final | None = None,
    ) -> None:
        """`readable` is what can be read of the final, with its times as far as they are known."""
        super().__init__(provider, "protocol", message, code)
        self.readable = readable


class PluginFault(ProviderError):
    """The plugin raised an error that is not a ProviderError, or broke the contract.

    `cause` is `plugin`. The worker raises this error; plugins do not.
    """

    def __init__(self, provider: str, message: str) -> None:
        super().__init__(provider, "plugin", message)


def http_error(provider: str, status: int, message: str) -> ProviderError:
    """The error for an HTTP status of 400 or more.

    401 and 403 are RequestRefused (`auth`), 402 is RequestRefused (`credit`), 429 is Unavailable
    (`rate_limit`), 408 and 5xx are Unavailable (`server_error`), and every other status is
    RequestRefused (`request`). The status becomes the error's `code`.
    """
    code = str(status)
    if status in (401, 403):
        return RequestRefused(provider, "auth", message, code)
    if status == 402:
        return RequestRefused(provider, "credit", message, code)
    if status == 429:
        return Unavailable(provider, "rate_limit", message, code)
    if status == 408 or status >= 500:
        return Unavailable(provider, "server_error", message, code)
    return RequestRefused(provider, "request", message, code)
