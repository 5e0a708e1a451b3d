"""Validation of messages of both sides against Speechmatics' own specification."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema

from .specification import load_specification

SPECIFICATION: Final = Path(__file__).parent / "specs" / "speechmatics-realtime.yaml"

Where = tuple[str | int, ...]


def document() -> dict[str, Any]:
    """Return the AsyncAPI document."""
    return load_specification(SPECIFICATION)


@cache
def validator(message: str) -> jsonschema.Draft202012Validator:
    """Return the validator of a message type. Raises KeyError for an unknown type."""
    components = document()["components"]
    payload = components["messages"][message]["payload"]
    return jsonschema.Draft202012Validator({**payload, "components": components})


def messages(channel: str) -> set[str]:
    """Return the message types that clients `publish`, or `subscribe` to."""
    return set(document()["channels"][channel]["messages"])


def problems(message: dict[str, Any]) -> list[tuple[Where, str]]:
    """List the path and reason of each error in a message.

    Unknown fields are errors, too: the vendor answers them with `invalid_config`.
    """
    kind = str(message.get("message"))
    found = [
        (tuple(error.absolute_path), error.message)
        for error in validator(kind).iter_errors(message)
    ]
    schema = document()["components"]["messages"][kind]["payload"]
    found += [(path, "unknown field") for path in _unknown(message, schema, ())]
    return found


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        node: Any = document()
        for part in schema["$ref"].removeprefix("#/").split("/"):
            node = node[part]
        schema = node
    return schema


def _unknown(value: Any, schema: dict[str, Any], path: Where) -> Iterator[Where]:
    schema = _resolved(schema)
    branches = [schema, *map(_resolved, schema.get("oneOf", []))]
    if isinstance(value, dict):
        known: dict[str, Any] = {}
        for branch in branches:
            known |= branch.get("properties", {})
        for name, inner in value.items():
            if name not in known:
                yield (*path, name)
            else:
                yield from _unknown(inner, known[name], (*path, name))
    elif isinstance(value, list) and "items" in schema:
        for index, inner in enumerate(value):
            yield from _unknown(inner, schema["items"], (*path, index))
