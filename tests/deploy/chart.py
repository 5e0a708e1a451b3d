"""Helpers that render the chart with helm."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..waiting import bound
from .names import ROOT

CHART = ROOT / "helm" / "natterjack"
SCENARIOS = sorted(path.stem.removesuffix("-values") for path in CHART.glob("ci/*-values.yaml"))
OLDEST = "1.28"
"""The oldest Kubernetes version that Chart.yaml supports."""
NAMESPACE = "speech"

Document = dict[str, Any]


class _Strict(yaml.CSafeLoader):
    """A loader that refuses duplicate keys, which PyYAML accepts."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        duplicates = {key for key in keys if keys.count(key) > 1}
        assert not duplicates, f"duplicate keys {duplicates}, {node.start_mark}"
        return super().construct_mapping(node, deep=deep)


def program(name: str) -> str:
    """Find a program beside Python or on the path; skip the test if there is none."""
    local = Path(sysconfig.get_path("scripts")) / name
    found = str(local) if local.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is missing; install it with pip install -e '.[dev]'")
    return found


_SHORT_LIVED = {"GOGC": "off", "GOMAXPROCS": "1"}
"""Without a garbage collector, helm takes a third less CPU time for a chart."""


def helm(*arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("helm"), *map(str, arguments)],
        input=stdin, capture_output=True, text=True, check=False, timeout=bound(60),
        env=os.environ | _SHORT_LIVED,
    )  # fmt: skip


def values_of(scenario: str) -> Path:
    return CHART / "ci" / f"{scenario}-values.yaml"


def refused(values: Document, *arguments: str | Path) -> str:
    """Return helm's error for values that it must refuse."""
    done = helm("template", "r", CHART, "-f", "-", *arguments, stdin=json.dumps(values))
    assert done.returncode != 0, "helm rendered the values"
    return done.stderr


def render(
    values: Document | None = None, *, scenario: str | None = None, kubernetes: str = OLDEST
) -> list[Document]:
    """Render a release `r` of a scenario; `values` take precedence over the scenario's."""
    arguments: list[str | Path] = ["template", "r", CHART, "-n", NAMESPACE]
    arguments += ["--kube-version", f"{kubernetes}.0"]
    if scenario:
        arguments += ["-f", values_of(scenario)]
    done = helm(*arguments, "-f", "-", stdin=json.dumps(values or {}))
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.load_all(done.stdout, _Strict) if document]


@cache
def rendered(scenario: str, kubernetes: str = OLDEST) -> list[Document]:
    """Render a scenario once for all tests, which must not modify the result."""
    return render(scenario=scenario, kubernetes=kubernetes)


def find(documents: list[Document], kind: str, component: str | None = None) -> Document:
    """Find the only document of a kind and component."""
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
    """Yield the name of each pod's owner and its template (`metadata` and `spec`)."""
    for document in documents:
        if document["kind"] == "Pod":
            yield document["metadata"]["name"], document
        elif document["kind"] in ("Deployment", "DaemonSet", "Job"):
            yield document["metadata"]["name"], document["spec"]["template"]


def settings_of(documents: list[Document], component: str) -> dict[str, str]:
    """Return the settings in a component's ConfigMap."""
    found: dict[str, str] = find(documents, "ConfigMap", component)["data"]
    return found


def container(pod: Document) -> Document:
    """Return the first container, which is natterjack's."""
    found: Document = pod["spec"]["containers"][0]
    return found


def given(documents: list[Document], component: str) -> dict[str, str]:
    """Return all settings of a component, from its ConfigMap or its `env`."""
    for document in documents:
        if component_of(document) == component and document["kind"] in ("Job", "Pod"):
            pod = document["spec"]["template"] if document["kind"] == "Job" else document
            return {e["name"]: e["value"] for e in container(pod)["env"] if "value" in e}
    return settings_of(documents, component)


def notes(values: Document, scenario: str | None = None) -> str:
    """Render the notes through an extra object, because `helm template` does not show them."""
    include = '{{ include (print $.Template.BasePath "/NOTES.txt") $ | b64enc }}'
    shown = {"kind": "Notes", "apiVersion": "v1", "metadata": {"name": "notes"}, "text": include}
    documents = render({**values, "extraObjects": [shown]}, scenario=scenario)
    text: str = find(documents, "Notes")["text"]
    return base64.b64decode(text).decode()
