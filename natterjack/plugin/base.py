"""The part of the plugin interface that providers and voices share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic_settings import BaseSettings


@dataclass(frozen=True, slots=True)
class Balance:
    """Credit that is left with a provider. Negative if the account is overdrawn."""

    amount: float
    unit: str
    """`seconds` or `hours` of audio, or a currency (ISO 4217, upper case). It is a metric label."""


class Plugin(ABC):
    """The base of Provider and Voice. The worker makes one object per process."""

    name: ClassVar[str]
    """Name of the entry point, and of the provider in settings, events and metrics."""
    Settings: ClassVar[type[BaseSettings]]
    """Settings of the provider: a pydantic-settings model with an environment prefix of its own and
    a description for each field. Keys and passwords are SecretStr."""
    balance_seconds: float = 0
    """Interval between calls of `balance`, in seconds; 0 if the provider reports no balance."""

    @abstractmethod
    def __init__(self, settings: Any) -> None:
        """Make a provider from an object of `Settings`, without network access.

        Raises PluginError with the name of the environment variable if a setting is missing.
        """

    async def balance(self) -> list[Balance]:
        """Return the credit that is left, one entry per unit.

        Bounded in time. Raises ProviderError.
        """
        return []

    async def check(self) -> str:
        """Ask the provider whether it accepts the key, without cost, and return its answer in
        words, for `natterjack doctor`.

        By default, it opens a stream and closes it; a plugin whose `open` sends nothing overrides
        it. Bounded in time. Raises ProviderError.
        """
        raise NotImplementedError

    async def close(self) -> None:  # noqa: B027 - most providers have nothing to release
        """Release what the streams share, such as models and connection pools. Idempotent."""
