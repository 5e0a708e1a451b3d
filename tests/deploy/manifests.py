"""Validation of rendered manifests, and the schema of the chart's values."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from .chart import (
    CHART,
    Document,
)
from .libyaml import read_yaml

kubernetes_validate = pytest.importorskip(
    "kubernetes_validate",
    reason="kubernetes-validate is missing; install it with pip install -e '.[dev]'",
)

NEWEST = ".".join(kubernetes_validate.latest_version().split(".")[:2])
EVERYTHING: Document = {
    "edge": {"enabled": True, "args": ["devices"]},
    "webhook": {"enabled": True, "url": "https://crm.example.org/hook"},
    "registrar": {"enabled": True, "auth": {"existingSecret": "users"}},
    "gateway": {
        "enabled": True,
        "tokens": {"existingSecret": "tokens"},
        "origins": ["https://app.example.org"],
        "ingress": {"enabled": True, "hosts": ["speech.example.org"], "tlsSecret": "speech-tls"},
        "autoscaling": {"enabled": True, "targetConnections": 700},
    },
    "autoscaling": {"enabled": True},
    "networkPolicy": {"cilium": {"enabled": True}},
    "metrics": {part: {"enabled": True} for part in ("podMonitor", "prometheusRule", "dashboard")},
    "providers": {"speechmatics": {"enabled": True}, "managed": {"enabled": True}},
    "nats": {"tls": {"caSecret": "ca", "certSecret": "cert"}, "auth": {"existingSecret": "users"}},
    "caBundle": {"existingConfigMap": "company"},
    "proxy": {"url": "http://proxy:3128", "noProxy": ".svc"},
    "tests": {"audio": {"existingConfigMap": "recording"}},
}
"""Values that enable everything that can be enabled at once."""


@cache
def custom_schemas() -> dict[tuple[str, str], Document]:
    """Load the schemas of custom resources, by apiVersion and kind."""
    found = {}
    for path in (Path(__file__).parent / "schemas").glob("*.json"):
        schema = json.loads(path.read_text())
        kinds = [schema["properties"][name] for name in ("apiVersion", "kind")]
        version, kind = (each.get("const") or each["enum"][0] for each in kinds)
        found[version, kind] = schema
    return found


def check(documents: list[Document], kubernetes: str) -> None:
    """Check that a strict API server accepts every document; fail on an unknown kind."""
    for document in documents:
        _check(json.dumps(document), kubernetes)


@cache  # values change one document of many
def _check(text: str, kubernetes: str) -> None:
    document = json.loads(text)
    schema = custom_schemas().get((document["apiVersion"], document["kind"]))
    if schema is not None:
        jsonschema.Draft7Validator(schema).validate(document)
    else:
        kubernetes_validate.validate(document, kubernetes, strict=True)


@cache
def schema() -> Document:
    found: Document = json.loads((CHART / "values.schema.json").read_text())
    return found


def resolved(part: Document) -> Document:
    if "$ref" in part:
        found: Document = schema()["definitions"][part["$ref"].rpartition("/")[2]]
        return found
    return part


def leaves(part: Document, path: str = "") -> Iterator[tuple[str, Document]]:
    """Yield every value that has no nested values, with its schema."""
    part = resolved(part)
    if "properties" in part:
        for name, below in part["properties"].items():
            yield from leaves(below, f"{path}.{name}".lstrip("."))
    else:
        yield path, part


def put(values: Document, path: str, value: Any) -> None:
    *above, name = path.split(".")
    for each in above:
        values = values.setdefault(each, {})
    values[name] = value


def defaults() -> Document:
    return copy.deepcopy(_defaults())


@cache
def _defaults() -> Document:
    found: Document = read_yaml(CHART / "values.yaml")
    return found
