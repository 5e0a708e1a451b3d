"""Checks of provider accounts: whether the provider accepts the key, by a request that is free."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path

from natterjack.errors import UsageError
from natterjack.plugin.base import Plugin
from natterjack.plugin.entry_points import GROUP, VOICES_GROUP, available
from natterjack.plugin.errors import PluginError, ProviderError, RequestRefused
from natterjack.settings import load

from .finding import Check, Finding, failed, ok, one_line, skipped, warning

_DEFAULT = "sherpa"
"""The default of WORKER_PROVIDER."""
_KINDS = {GROUP: "provider", VOICES_GROUP: "voice"}


def chosen(environment: Mapping[str, str]) -> dict[str, set[str]]:
    """The names of the providers and voices that a worker uses by default, by group."""
    names = {
        GROUP: environment.get("WORKER_PROVIDER", _DEFAULT),
        VOICES_GROUP: environment.get("WORKER_VOICE", ""),
    }
    return {
        group: {name.strip() for name in text.split(",") if name.strip()}
        for group, text in names.items()
    }


def checks(environment: Mapping[str, str]) -> list[Check]:
    """One check for each provider and voice that is installed, or wanted."""
    found: list[Check] = []
    loading = asyncio.Lock()
    wanted = chosen(environment)
    for group, kind in _KINDS.items():
        installed = available(group)
        for name in sorted({*installed, *wanted[group]}):
            account = Account(f"{kind} {name}", installed.get(name), name in wanted[group], loading)
            found.append((account.check, account.examine))
    return found


class Account:
    """The check of one provider."""

    def __init__(
        self, check: str, point: EntryPoint | None, wanted: bool, loading: asyncio.Lock
    ) -> None:
        """`loading` is held while a plugin is imported: modules that import one another cannot be
        imported by two threads."""
        self.check = check
        self._loading = loading
        self._point = point
        self._wanted = wanted

    async def examine(self) -> Finding:
        """Load the plugin, configure it as a worker does, and ask the provider."""
        if self._point is None:
            cure = "name one of those that `natterjack plugins` lists, or install its package"
            return failed(self.check, "is not installed", cure)
        try:
            async with self._loading:
                kind = await asyncio.to_thread(self._point.load)
        except ImportError as error:
            text = f"cannot be loaded: {one_line(error)}"
            cure = "pip install 'natterjack[worker]' ('natterjack[local]' for the embedded engine)"
            return failed(self.check, text, cure) if self._wanted else skipped(self.check, text)
        if not self._wanted and not _has_key(kind):
            return skipped(self.check, "needs no key, and is not chosen")
        try:
            plugin: Plugin = await asyncio.to_thread(_configured, kind)
        except PluginError as error:
            if not self._wanted:
                return skipped(self.check, one_line(error))
            return failed(self.check, one_line(error), "set it, or choose another WORKER_PROVIDER")
        except UsageError as error:
            return failed(self.check, one_line(error), "correct the setting")
        try:
            return ok(self.check, one_line(await plugin.check()))
        except RequestRefused as error:
            cures = {"auth": "set another key", "credit": "add credit to the account"}
            cure = cures.get(
                error.cause, "check the provider's address, and the model in its settings"
            )
            refused = failed if self._wanted or error.cause in cures else warning
            return refused(self.check, one_line(error), cure)
        except ProviderError as error:
            cure = "check the network and the provider's address (a proxy: HTTPS_PROXY)"
            # One that nobody has chosen may be meant for another address.
            found = failed if self._wanted else warning
            return found(self.check, one_line(error), cure)
        except NotImplementedError:
            return warning(self.check, "the plugin has no check", "")
        finally:
            await plugin.close()


def _has_key(kind: type[Plugin]) -> bool:
    return any("SecretStr" in str(f.annotation) for f in kind.Settings.model_fields.values())


def _configured(kind: type[Plugin]) -> Plugin:
    """Make the plugin's object with its settings. Raises: PluginError, UsageError."""
    folder = os.environ.get("WORKER_SECRETS_DIR")
    return kind(load(kind.Settings, None, Path(folder) if folder else None))
