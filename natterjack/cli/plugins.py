"""`natterjack plugins`: the installed providers and voices with their capabilities and settings."""

from __future__ import annotations

import dataclasses
import json
from importlib.metadata import EntryPoint
from typing import Any

from pydantic.fields import FieldInfo

from natterjack.plugin.entry_points import GROUP, VOICES_GROUP, available
from natterjack.process.table import table
from natterjack.settings import variable

_KINDS = {GROUP: "transcription", VOICES_GROUP: "voice"}


def describe(point: EntryPoint) -> dict[str, Any]:
    """Name, kind, package, version, capabilities and settings of a plugin, or its loading error."""
    about: dict[str, Any] = {"name": point.name, "kind": _KINDS[point.group]}
    if point.dist is not None:
        about |= {"package": point.dist.name, "version": point.dist.version}
    try:
        found = point.load()
        capabilities = dataclasses.asdict(found.capabilities)
        settings = found.Settings
    except Exception as error:  # noqa: BLE001 - third-party code may raise anything
        return {**about, "error": f"{type(error).__name__}: {error}"}
    about["capabilities"] = {
        name: sorted(value) if isinstance(value, frozenset) else value
        for name, value in capabilities.items()
    }
    about["settings"] = [
        {
            "name": variable(settings, name),
            "default": _default(field),
            "required": field.is_required(),
            "help": field.description,
        }
        for name, field in settings.model_fields.items()
    ]
    return about


def _default(field: FieldInfo) -> Any:
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def show(*, as_json: bool) -> int:
    """Print the list and return the exit status, which is 1 if a plugin cannot be loaded."""
    plugins = [describe(point) for group in _KINDS for point in available(group).values()]
    if as_json:
        print(json.dumps(plugins, indent=2))
    else:
        for about in plugins:
            _print(about)
        if not plugins:
            print("no providers are installed: pip install 'natterjack[worker]'")
    return 1 if any("error" in about for about in plugins) else 0


def _print(about: dict[str, Any]) -> None:
    kind = ", voice" if about["kind"] == "voice" else ""
    print(f"{about['name']}{kind}  ({about.get('package', '?')} {about.get('version', '?')})")
    if "error" in about:
        print(f"  cannot be loaded: {about['error']}\n")
        return
    capabilities, settings = [], []
    for name, value in about["capabilities"].items():
        shown = "nothing" if name == "configurable" and not value else _text(value)
        capabilities.append([f"  {name.replace('_', ' ')}", shown])
    for setting in about["settings"]:
        default = "required" if setting["required"] else f"default {setting['default']}"
        settings.append([f"  {setting['name']}", f"{setting['help']} [{default}]"])
    for lines in (capabilities, settings):
        print(*(table(lines) if lines else []), sep="\n")
    print()


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "any"
    return "any" if value is None else str(value)
