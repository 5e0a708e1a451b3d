from __future__ import annotations

import argparse

import pytest
from pydantic_settings import BaseSettings

from edge_capture import settings
from edge_capture.options.playing import PlaySettings
from edge_capture.parser import make_parser
from natterjack.errors import UsageError
from natterjack.settings import load


def variables(model: type[BaseSettings]) -> set[str]:
    prefix = str(model.model_config.get("env_prefix", ""))
    return {f"{prefix}{name}".upper() for name in model.model_fields}


def test_an_empty_path_is_not_the_current_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for model, name, says in (
        (settings.SpoolSettings, "spool", "EDGE_SPOOL.*: .*the path is empty"),
        (PlaySettings, "file", "EDGE_PLAY_FILE.*: .*the path is empty"),
    ):
        with pytest.raises(UsageError, match=says):
            load(model, argparse.Namespace(**{f"{model.__name__}.{name}": ""}))
    monkeypatch.setenv("EDGE_SPOOL", "")
    assert load(settings.SpoolSettings).spool is None


def test_every_model_of_the_program_is_listed() -> None:
    defined = {
        value
        for value in vars(settings).values()
        if isinstance(value, type) and issubclass(value, BaseSettings) and value is not BaseSettings
    }
    assert {flags.model for flags in settings.FLAGS} == defined
    assert set().union(*map(variables, settings.MODELS)) == set().union(*map(variables, defined))


def test_every_setting_is_listed_once() -> None:
    names = [name for model in settings.MODELS for name in variables(model)]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("model", settings.MODELS, ids=lambda model: model.__name__)
def test_every_setting_has_a_description_in_one_line(model: type[BaseSettings]) -> None:
    assert model.__doc__
    for name, field in model.model_fields.items():
        assert field.description, name
        assert "\n" not in field.description, name


@pytest.mark.parametrize("command", ["file", "stdin", "mic", "send", "play", "probe", "devices"])
def test_every_variable_of_a_command_is_in_its_help(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        make_parser().parse_args([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for flags in settings.FLAGS:
        for variable in variables(flags.model) - {"NATS_PASSWORD"}:  # a secret has no flag
            if command in flags.commands:
                assert f"[{variable}" in text
