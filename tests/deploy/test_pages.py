"""Commands and figures in the pages for operators."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from bench.capacity_model import Inputs, kept_bytes, stored_bytes_per_s
from natterjack.broker.roles import ROLES

from .names import ROOT

HANDBOOK = ROOT / "docs" / "handbook.md"
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "deploy" / "README.md"]


def code(page: Path) -> list[str]:
    """Return the lines of a page's code blocks, with continuation lines joined."""
    text = re.sub(r"\\\n +", "", page.read_text())
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_streams_are_applied_with_their_settings(page: Path) -> None:
    """Without settings, `streams apply` uses a single replica."""
    for line in code(page):
        if "streams apply" in line and "docker" not in line:
            assert "--stream-replicas 3" in line, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_users_config_has_a_directory(page: Path) -> None:
    text = re.sub(r"\s+", " ", page.read_text())
    assert not re.findall(r"users config(?! --dir).{20}", text)


def test_the_handbook_builds_the_images_that_the_chart_runs() -> None:
    values = yaml.safe_load((ROOT / "helm" / "natterjack" / "values.yaml").read_text())
    lines = code(HANDBOOK)
    pushed = next(line for line in lines if "docker push" in line)
    repository = values["image"]["repository"].removesuffix("worker")
    registry, _, image = pushed.removeprefix("docker push ").partition("/")
    assert image == f"{repository}$image:{version('natterjack')}"
    assert values["edge"]["image"]["repository"] == f"{repository}edge"
    assert any("for image in worker edge" in line for line in lines)
    assert any(f"--set image.registry={registry} " in line for line in lines)


def test_the_handbook_uses_only_users_that_it_creates() -> None:
    text = HANDBOOK.read_text()
    made = next(line for line in code(HANDBOOK) if line.startswith("for role in"))
    used = set(re.findall(r"NATS_NKEY=users/(\w+)\.nk NATS_INBOX_PREFIX=_INBOX_\1", text))
    assert used == {"monitor", "operator"}
    assert all(f" {role}" in made for role in used & set(ROLES))


def test_the_handbook_has_the_sizes_of_the_model() -> None:
    text = re.sub(r"\s+", " ", HANDBOOK.read_text())
    model, day = Inputs(), Inputs(events_kept_s=86_400)
    events = model.events_per_s * model.event_bytes * model.events_kept_s
    assert f"{stored_bytes_per_s(model) * model.kept_s / 1e6:.0f} MB of sound" in text
    assert events / 1e6 == pytest.approx(
        float(text.partition(" MB of events")[0].split()[-1]), 0.01
    )
    assert f"with what the store adds {kept_bytes(model) / 1e6:.0f} MB" in text
    for sessions in (200, 1000):
        expected = f"{sessions:,} (?:sessions )?are {sessions * kept_bytes(model) / 1e9:.0f} GB"
        assert re.search(expected, text), expected
    assert f"events of one day {kept_bytes(day) / 1e6:.0f} MB" in text
    use = 500 * model.worker_cpu_s_per_hour / 3600
    assert f"500 sessions a worker are a third of it ({use:.2f})" in text
