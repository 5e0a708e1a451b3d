"""The documentation names everything that users can set or meet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from edge_capture.settings import MODELS as EDGE_MODELS
from natterjack.plugin.entry_points import available
from natterjack.settings import StreamSettings
from worker.providers.loading import load_class
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[1]
PROGRAMS: list[type[BaseSettings]] = [WorkerSettings, StreamSettings, *EDGE_MODELS]


def table(model: type[BaseSettings]) -> str:
    """The settings of a model as a Markdown table."""
    prefix = str(model.model_config.get("env_prefix", ""))
    rows = [
        f"## {(model.__doc__ or '').splitlines()[0]}",
        "",
        "| variable | default | |",
        "| --- | --- | --- |",
    ]
    for name, field in model.model_fields.items():
        default = "" if field.default_factory else field.get_default()
        shown = "" if default is None or default == "" else f"`{default}`"
        rows.append(f"| `{f'{prefix}{name}'.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows)


def settings_page() -> str:
    """docs/settings.md; `python -m tests.test_docs > docs/settings.md` writes it."""
    head = (
        "# Settings\n\n"
        "Each is an environment variable, and a flag of the programs that use it (see their "
        "`--help`);\na flag wins. Secrets are no flags. Providers have their own: `natterjack "
        "plugins`, or their READMEs.\n"
    )
    return "\n\n".join([head.rstrip("\n"), *map(table, PROGRAMS)]) + "\n"


def test_every_setting_is_on_the_settings_page() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page(), (
        "run: python -m tests.test_docs > docs/settings.md"
    )


@pytest.mark.parametrize("name", sorted(available()))
def test_every_provider_says_how_it_is_set(name: str) -> None:
    readme = (ROOT / "worker" / "providers" / name.replace("-", "_") / "README.md").read_text()
    settings = load_class(name).Settings
    prefix = str(settings.model_config.get("env_prefix", ""))
    for field in settings.model_fields:
        assert f"{prefix}{field}".upper() in readme


def test_links_of_the_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


if __name__ == "__main__":
    print(settings_page(), end="")
