"""Commands and figures in the pages for operators."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from bench.capacity_model import Inputs, kept_bytes, stored_bytes_per_s
from natterjack.broker.roles import ROLES

from .libyaml import read_yaml
from .names import ROOT

HOW_TO = ROOT / "docs" / "how-to"
INSTALL = HOW_TO / "install-on-kubernetes.md"
PAGES = [
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name != "commands.md"),
    ROOT / "deploy" / "README.md",
]


def code(page: Path) -> list[str]:
    """Return the lines of a page's code blocks, with continuation lines joined."""
    text = re.sub(r"\\\n +", "", page.read_text())
    fenced = re.findall(r"^ *```sh\n(.*?)^ *```", text, flags=re.M | re.S)
    indented = [line for line in text.splitlines() if line.startswith("    ")]
    return [line.strip() for line in "".join(fenced).splitlines() or indented]


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


def test_the_install_builds_the_images_that_the_chart_runs() -> None:
    values = read_yaml(ROOT / "helm" / "natterjack" / "values.yaml")
    lines = code(INSTALL)
    pushed = next(line for line in lines if "docker push" in line)
    repository = values["image"]["repository"].removesuffix("worker")
    registry, _, image = pushed.removeprefix("docker push ").partition("/")
    assert image == f"{repository}$image:{version('natterjack')}"
    assert values["edge"]["image"]["repository"] == f"{repository}edge"
    assert any("for image in worker edge" in line for line in lines)
    assert any(f"--set image.registry={registry} " in line for line in lines)


def test_the_pages_use_only_users_that_the_install_creates() -> None:
    text = (HOW_TO / "watch-sessions.md").read_text()
    made = next(line for line in code(INSTALL) if line.startswith("for role in"))
    used = set(re.findall(r"NATS_NKEY=users/(\w+)\.nk NATS_INBOX_PREFIX=_INBOX_\1", text))
    assert used == {"monitor", "operator"}
    assert all(f" {role}" in made for role in used & set(ROLES))


def test_the_sizes_are_those_of_the_model() -> None:
    text = re.sub(r"\s+", " ", (HOW_TO / "size-an-installation.md").read_text())
    model, day = Inputs(), Inputs(events_kept_s=86_400)
    events = model.events_per_s * model.event_bytes * model.events_kept_s
    assert f"{stored_bytes_per_s(model) * model.kept_s / 1e6:.0f} MB of audio" in text
    assert events / 1e6 == pytest.approx(
        float(text.partition(" MB of events")[0].split()[-1]), 0.01
    )
    assert f"with what the store adds {kept_bytes(model) / 1e6:.0f} MB" in text
    for kept, inputs in (("7 days", model), ("1 day", day)):
        one = kept_bytes(inputs)
        sizes = [f"{one / 1e6:.0f} MB", *(f"{n * one / 1e9:.0f} GB" for n in (200, 1000))]
        assert f"| {kept} | {' | '.join(sizes)} |" in text
    use = 500 * model.worker_cpu_s_per_hour / 3600
    assert f"500 sessions a worker are a third of it ({use:.2f})" in text
