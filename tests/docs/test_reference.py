"""The generated reference pages are complete, described and up to date."""

from __future__ import annotations

import argparse
import tomllib
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_settings import BaseSettings

from docs.generate import ROOT, commands, events, metrics, providers, settings, writers
from natterjack import subjects
from natterjack.events import Durable, InterimEvent
from natterjack.plugin.entry_points import VOICES_GROUP
from natterjack.settings import variable
from worker.providers.loading import load_class

WRITERS = writers()
REFERENCE = ROOT / "docs" / "reference"


@cache
def generated(path: Path) -> str:
    """The content of a generated file."""
    return WRITERS[path]()


@pytest.mark.parametrize("path", WRITERS, ids=lambda path: path.name)
def test_the_page_is_what_the_code_says(path: Path) -> None:
    assert path.read_text() == generated(path), "run: make docs"


def test_settings_models_of_every_program_are_found() -> None:
    """Also those that no list names: they are found by importing every module."""
    found = {f"{model.__module__}.{model.__name__}" for model in settings.models()}
    assert {
        "worker.settings.WorkerSettings",
        "edge_capture.settings.RequestSettings",
        "edge_capture.settings.StdinSettings",
        "natterjack.settings.BrokerSettings",
    } <= found
    loaded = {load_class(name).Settings for name in providers.providers()}
    assert loaded <= set(settings.models())


@pytest.mark.parametrize("model", settings.models(), ids=lambda model: model.__name__)
def test_every_setting_is_described_and_on_the_page(model: type[BaseSettings]) -> None:
    page = generated(REFERENCE / "settings.md")
    assert model.__doc__
    for name, field in model.model_fields.items():
        assert field.description, name
        assert f"| `{variable(model, name)}` |" in page


def test_titles_of_settings_are_unique() -> None:
    titles = [settings.title(model.__name__) for model in settings.models()]
    assert len(titles) == len(set(titles))


@pytest.mark.parametrize(
    ("name", "parser", "about"), [pytest.param(*one, id=one[0]) for one in commands.commands()]
)
def test_every_command_and_argument_is_described(
    name: str, parser: argparse.ArgumentParser, about: str
) -> None:
    page = generated(REFERENCE / "commands.md")
    assert f"# {name}\n" in page
    assert about or parser.description
    for action in commands.own_arguments(parser):
        assert action.help, action.dest


def test_every_subject_is_on_the_page() -> None:
    page = generated(REFERENCE / "events.md")
    prefixes = [name for name in vars(subjects) if name.endswith("_PREFIX")]
    assert len(prefixes) == 20
    for name in prefixes:
        assert f"`{getattr(subjects, name)}." in page, name
    for stream in events.stream_configs():
        assert f"| `{stream.name}` |" in page


def _event_models() -> list[type[BaseModel]]:
    return [InterimEvent, *Durable.__subclasses__(), *_finals()]


def _finals() -> list[type[BaseModel]]:
    return [child for model in Durable.__subclasses__() for child in model.__subclasses__()]


@pytest.mark.parametrize("model", _event_models(), ids=lambda model: model.__name__)
def test_every_member_of_an_event_is_on_the_page(model: type[BaseModel]) -> None:
    page = generated(REFERENCE / "events.md")
    section = page.partition(f"### {model.__name__}\n")[2].partition("\n### ")[0]
    assert section, model.__name__
    for name, field in model.model_fields.items():
        assert f"| `{field.alias or name}` |" in section
        assert field.description, f"{model.__name__}.{name} has no description"


def test_every_metric_is_described_and_on_the_page() -> None:
    page = generated(REFERENCE / "metrics.md")
    for metric in metrics.metrics():
        assert metric.help
        assert f"| `{metric.shown}` |" in page


@pytest.mark.parametrize("name", providers.providers())
def test_every_provider_has_a_page_with_its_settings(name: str) -> None:
    readme = (ROOT / providers.readme(name)).read_text()
    model = load_class(name).Settings
    for field in model.model_fields:
        assert variable(model, field) in readme
    assert f"[`{name}`](../../{providers.readme(name)})" in generated(REFERENCE / "providers.md")


@pytest.mark.parametrize("name", providers.voices())
def test_every_voice_has_a_page_with_its_settings_and_an_entry_point(name: str) -> None:
    voice = providers.voices()[name]
    readme = (ROOT / providers.voice_readme(name)).read_text()
    for field in voice.Settings.model_fields:
        assert variable(voice.Settings, field) in readme
    assert f"[`{name}`](../../{providers.voice_readme(name)})" in generated(
        REFERENCE / "providers.md"
    )
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    point = EntryPoint(name, points[VOICES_GROUP][name], VOICES_GROUP)
    assert point.load() is voice
