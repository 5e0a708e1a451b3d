"""YAML documents, read with libyaml, which is ten times faster than the parser in Python."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml


def parse_yaml(text: str) -> Any:
    """Return the only document of a text."""
    return yaml.load(text, yaml.CSafeLoader)


def parse_yamls(text: str) -> list[Any]:
    """Return the documents of a text that are not empty."""
    return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]


def parse_manifests(text: str) -> list[Any]:
    """Return what helm printed, as `parse_yamls` does. The same text gives the same objects, which
    must not be modified: of many renderings, most manifests are equal."""
    found = (_parsed(part) for part in re.split(r"^---$", text, flags=re.M))
    return [document for document in found if document]


_parsed = cache(parse_yaml)


def read_yaml(path: Path) -> Any:
    """Return the only document of a file."""
    return parse_yaml(path.read_text())
