"""The user's page names every flag and variable that the program takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge_capture import settings
from edge_capture.__main__ import main
from natterjack.settings import BrokerSettings, LogSettings

PAGE = (Path(__file__).parents[2] / "docs" / "edge.md").read_text()


@pytest.mark.parametrize(
    "model",
    [
        settings.EdgeSettings,
        settings.SpoolSettings,
        settings.PublishSettings,
        settings.RequestSettings,
        settings.StdinSettings,
        settings.MicrophoneSettings,
        BrokerSettings,
        LogSettings,
    ],
)
def test_every_variable_is_on_the_page(model: type[settings.EdgeSettings]) -> None:
    prefix = model.model_config.get("env_prefix", "")
    for name in model.model_fields:
        assert f"`{prefix}{name}`".upper() in PAGE.upper(), name


@pytest.mark.parametrize("command", ["file", "stdin", "mic", "send", "devices"])
def test_every_flag_is_on_the_page(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out.partition("examples:")[0]
    for flag in set(re.findall(r"--[a-z][a-z-]+", text)) - {"--help"}:
        assert f"`{flag}" in PAGE, flag


def test_every_command_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for command in ("file", "stdin", "mic", "send", "devices"):
        assert f"natterjack-edge {command}" in text
