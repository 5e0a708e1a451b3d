"""The command line of `natterjack`: arguments, help, mistakes."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator

import pytest

from natterjack.cli.main import parser

from .commands import run


def parsers(root: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of its subcommands."""
    yield root
    for action in root._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in dict.fromkeys(action.choices.values()):
                yield from parsers(command)


ALL = {each.prog: each for each in parsers(parser())}


@pytest.mark.parametrize("name", ALL)
def test_every_argument_has_help(name: str) -> None:
    for action in ALL[name]._actions:
        assert action.help or action.metavar in ("ACTION", "COMMAND")


@pytest.mark.parametrize("name", ALL)
def test_every_command_can_print_its_help(name: str) -> None:
    done = run(*name.split()[1:], "--help")
    assert done.status == 0
    assert done.out.startswith(f"usage: {name} ")
    assert done.out == ALL[name].format_help(), "the parser of this command alone is another"
    assert done.errors == ""


@pytest.mark.parametrize("name", ALL)
def test_every_command_is_described(name: str) -> None:
    description = ALL[name].description
    assert description is not None
    assert description[0].isupper()
    assert description.endswith(".")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["sing"],
        ["budget"],
        ["limits", "set"],
        ["users", "add", "king"],
        ["up", "--port", "65536"],
        ["up", "--port", "-2"],
        ["up", "--workers", "-1"],
        ["up", "--workers", "two"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.status == 2
    assert "usage: natterjack" in done.errors


@pytest.mark.parametrize("command", ["up", "demo"])
def test_an_empty_store_is_not_the_current_folder(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args([command, "--store", ""])
    assert "argument --store: the path is empty" in capsys.readouterr().err


def test_defaults() -> None:
    up = parser().parse_args(["up"])
    assert (up.workers, up.provider, up.port, up.store) == (1, None, 4222, None)
    demo = parser().parse_args(["demo", "--mic", "--device", "2"])
    assert (demo.path, demo.mic, demo.device) == (None, True, "2")
    tail = parser().parse_args(["tail", "--tenant", "acme"])
    assert (tail.tenant, tail.conversation, tail.from_start) == ("acme", None, False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("tail", "--nats-url", "nats://127.0.0.1:9"), "no NATS at nats://127.0.0.1:9: connection"),
        (("tail", "--tenant", "a.b"), "tenant 'a.b' is not valid"),
        (("tail", "--log-level", "loud"), "NATTERJACK_LOG_LEVEL"),
    ],
)
def test_mistakes_are_one_line_and_status_2(arguments: tuple[str, ...], says: str) -> None:
    command = run(*arguments)
    assert command.status == 2
    assert says in command.errors
    assert command.errors.count("\n") == 1


def test_plugins_lists_installed_providers() -> None:
    command = run("plugins")
    assert command.status == 0
    assert re.search(r"^sherpa  \(natterjack \d", command.out, re.MULTILINE)
    assert "DEEPGRAM_API_KEY" in command.out
    command = run("plugins", "--json")
    assert command.status == 0
    plugins = {plugin["name"]: plugin for plugin in json.loads(command.out)}
    assert plugins["deepgram"]["capabilities"]["words"] == "timed"
    assert plugins["sherpa"]["capabilities"]["words"] == "estimated"
    defaults = {one["name"]: one["default"] for one in plugins["sherpa"]["settings"]}
    assert defaults["SHERPA_THREADS"] >= 1, "a default that depends on the machine"
