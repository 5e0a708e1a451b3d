from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from edge_capture.__main__ import main
from edge_capture.parser import make_parser

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "commands.md").read_text()
COMMANDS = ["file", "stdin", "mic", "send", "play", "probe", "devices"]


def flags_without_variable(command: str) -> set[str]:
    """The flags of a command that are not settings. Those of a setting have a dotted name."""
    (commands,) = (
        action
        for action in make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    actions = commands.choices[command]._actions
    return {flag for action in actions if "." not in action.dest for flag in action.option_strings}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_that_is_not_a_setting_is_on_the_page(command: str) -> None:
    for flag in flags_without_variable(command) - {"-h", "--help"}:
        assert re.search(rf"`{flag}\b", PAGE), flag


def test_the_page_is_about_flags_that_exist() -> None:
    assert {"--speed", "--resume", "--wait", "--once"} <= flags_without_variable("file")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_has_an_example_of_every_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert f"natterjack-edge {command}" in capsys.readouterr().out
