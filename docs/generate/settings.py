"""docs/reference/settings.md: every setting of every program, from the settings models."""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from natterjack.settings import variable

from .commands import commands, settings_flags
from .markdown import cell, code, heading, paragraphs, table

PACKAGES = ("worker", "edge_capture", "gateway", "natterjack")
_ORDER = (
    "worker.settings",
    "edge_capture.",
    "gateway.",
    "natterjack.",
    "worker.providers.",
    "worker.voices.",
)


@cache
def models() -> tuple[type[BaseSettings], ...]:
    """All settings models of the programs, found by importing every module."""
    for name in PACKAGES:
        package = import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not module.name.endswith(".__main__"):
                import_module(module.name)

    def below(model: type[BaseSettings]) -> Iterator[type[BaseSettings]]:
        for child in model.__subclasses__():
            yield child
            yield from below(child)

    ours = {m for m in below(BaseSettings) if m.__module__.partition(".")[0] in PACKAGES}
    return tuple(sorted(ours, key=_place))


def _place(model: type[BaseSettings]) -> tuple[int, str, int]:
    place = next(i for i, prefix in enumerate(_ORDER) if model.__module__.startswith(prefix))
    return place, model.__module__, inspect.getsourcelines(model)[1]


def own_fields(model: type[BaseSettings]) -> dict[str, FieldInfo]:
    """The fields that `model` itself defines, not those that it inherits."""
    inherited = {
        name
        for base in model.__mro__[1:]
        if issubclass(base, BaseSettings) and base is not BaseSettings
        for name in base.model_fields
    }
    return {name: field for name, field in model.model_fields.items() if name not in inherited}


def title(model: str) -> str:
    """The heading of a model's section: `DeepgramRestSettings` is `Deepgram Rest`."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", model.removesuffix("Settings"))


def anchor(model: str) -> str:
    """A link to the section of a model."""
    return f"settings.md#{title(model).lower().replace(' ', '-')}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory:
        return ""
    default = field.get_default()
    empty = default is None or default == "" or default == [] or default == {}
    return "" if empty else code(",".join(default) if isinstance(default, tuple) else default)


def _section(model: type[BaseSettings]) -> str:
    flags: dict[str, str] = {}
    programs: dict[str, None] = {}
    names = {model.__name__, *(child.__name__ for child in model.__subclasses__())}
    for name, parser, _ in commands():
        for (owner, field), options in settings_flags(parser).items():
            if owner in names and field in model.model_fields:
                flags.setdefault(field, ", ".join(options))
                programs.setdefault(name)
    if model.__module__.startswith(("worker.providers.", "worker.voices.")):
        programs.setdefault("natterjack-worker")
    rows = [
        (
            code(variable(model, name)),
            code(flags.get(name, "")),
            _default(field),
            cell(field.description or ""),
        )
        for name, field in own_fields(model).items()
    ]
    about = (model.__doc__ or "").strip().partition("\n\n")[0]
    users = ", ".join(f"`{name}`" for name in programs)
    return f"## {title(model.__name__)}\n\n{paragraphs(f'{about} Used by: {users}.')}\n\n" + table(
        ["variable", "flag", "default", "meaning"], rows
    )


def page() -> str:
    """The page."""
    return "\n".join(
        [
            heading(
                "Settings",
                "the settings models",
                "Each setting is an environment variable; most are flags too, and a flag wins. "
                "Secrets have no flags. Lists in variables use commas; objects are JSON. A "
                "provider's settings may also be files: see "
                "[changing keys](../how-to/change-keys.md). At start, each program warns about "
                "variables that begin or look like its settings but are not, except those that "
                "Kubernetes sets for Services. `natterjack-edge` does not start with one that "
                "resembles `EDGE_TENANT`, `EDGE_CONVERSATION`, `EDGE_SPEAKER` or "
                "`EDGE_SPLIT_CHANNELS` while that is not set: its audio would be published under "
                "another key.",
            ),
            *map(_section, models()),
        ]
    )


def variables_text() -> str:
    """The names of all settings, and their prefixes, for `natterjack doctor`."""
    names = {variable(model, field) for model in models() for field in model.model_fields}
    prefixes = {f"{model.model_config.get('env_prefix', '')}*" for model in models()}
    return "\n".join([*sorted(prefixes), *sorted(names)]) + "\n"
