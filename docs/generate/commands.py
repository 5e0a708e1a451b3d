"""docs/reference/commands.md: every command and its arguments, from the parsers."""

from __future__ import annotations

import argparse
import pkgutil
from collections.abc import Iterator
from functools import cache

from .markdown import cell, code, heading, paragraphs, sentence, table

_PARSERS = {
    "natterjack": "natterjack.cli.main:parser",
    "natterjack-worker": "worker.__main__:parser",
    "natterjack-edge": "edge_capture.parser:make_parser",
    "natterjack-gateway": "gateway.__main__:parser",
}
"""The function that makes the parser of each program."""


@cache
def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each program, by the program's name."""
    return {name: pkgutil.resolve_name(function)() for name, function in _PARSERS.items()}


def walk(
    name: str, parser: argparse.ArgumentParser, about: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """Each command with its parser and its one-line help, outermost first."""
    yield name, parser, about
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for command, inner in action.choices.items():
                yield from walk(f"{name} {command}", inner, helps.get(command, ""))


def commands() -> list[tuple[str, argparse.ArgumentParser, str]]:
    """Every command of every program."""
    return [found for name, parser in parsers().items() for found in walk(name, parser)]


def own_arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The arguments that are no settings. (The flag of a setting has a dest `Model.field`.)"""
    hidden = (argparse._HelpAction, argparse._SubParsersAction)
    return [a for a in parser._actions if "." not in a.dest and not isinstance(a, hidden)]


def settings_flags(parser: argparse.ArgumentParser) -> dict[tuple[str, str], list[str]]:
    """The flags of settings, by the name of the model and the field."""
    found = {}
    for action in parser._actions:
        model, dot, field = action.dest.partition(".")
        if dot:
            found[model, field] = list(action.option_strings)
    return found


def _argument(parser: argparse.ArgumentParser, action: argparse.Action) -> tuple[str, str]:
    metavar = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    if isinstance(metavar, tuple):
        metavar = " ".join(metavar)
    if action.option_strings:
        takes = action.nargs != 0
        choices = "|".join(map(str, action.choices)) if action.choices else ""
        value = f" {choices or metavar}" if takes else ""
        shown = ", ".join(f"{option}{value}" for option in action.option_strings)
    else:
        shown = metavar
    text = (action.help or "") % {**vars(action), "prog": parser.prog}
    required = "" if not action.required or not action.option_strings else " (required)"
    return code(shown), cell(text + required)


def _usage(name: str, parser: argparse.ArgumentParser) -> str:
    parts = [name]
    for action in own_arguments(parser):
        if not action.option_strings:
            shown = str(action.metavar or action.dest.upper())
            shown = f"{shown} ..." if action.nargs in ("*", "+") else shown
            parts.append(f"[{shown}]" if action.nargs in ("?", "*") else shown)
        elif action.required:
            parts.append(f"{action.option_strings[0]} {action.metavar or action.dest.upper()}")
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            parts.append("COMMAND" if action.required else "[COMMAND]")
    return " ".join([*parts, "[options]"])


def _section(name: str, parser: argparse.ArgumentParser, about: str, epilog: str) -> str:
    from .settings import anchor

    level = "##" if " " not in name else "###"
    parts = [f"{level} {name}\n"]
    text = parser.description or about
    if text:
        parts.append(paragraphs(sentence(text)) + "\n")
    parts.append(f"```text\n{_usage(name, parser)}\n```\n")
    if own := own_arguments(parser):
        rows = [_argument(parser, action) for action in own]
        parts.append(table(["argument", "meaning"], rows))
    models = list(dict.fromkeys(model for model, _ in settings_flags(parser)))
    if models:
        links = ", ".join(f"[{m.removesuffix('Settings')}]({anchor(m)})" for m in models)
        parts.append(paragraphs(f"Settings: {links}.") + "\n")
    if parser.epilog and parser.epilog != epilog:
        if "\n" in parser.epilog.strip():
            parts.append(f"```text\n{parser.epilog.strip()}\n```\n")
        else:
            parts.append(paragraphs(parser.epilog) + "\n")
    return "\n".join(parts)


def page() -> str:
    """The page."""
    parts = [
        heading(
            "Commands",
            "the argparse parsers",
            "Every setting is a flag too: the tables below leave these out and link to "
            "[settings](settings.md). `--help` shows all of them. A flag wins over its "
            "environment variable. Secrets have no flags.",
        )
    ]
    for program, root in parsers().items():
        for name, parser, about in walk(program, root):
            epilog = "" if parser is root else root.epilog or ""
            parts.append(_section(name, parser, about, epilog))
    return "\n".join(parts)
