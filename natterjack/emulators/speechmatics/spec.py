"""Validation of messages of both sides against Speechmatics' own specifications."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema

from ..specification import load_specification

_SPECS: Final = Path(__file__).parent / "specs"

Where = tuple[str | int, ...]


class Specification:
    """One AsyncAPI document."""

    def __init__(self, name: str, draft: type[jsonschema.protocols.Validator]) -> None:
        """`draft`: the version of JSON Schema that the document is written for."""
        self.path = _SPECS / name
        self._draft = draft
        self.validator = cache(self._validator)

    def document(self) -> dict[str, Any]:
        """Return the document."""
        return load_specification(self.path)

    def messages(self, channel: str) -> set[str]:
        """Return the message types that clients `publish`, or `subscribe` to."""
        return set(self.document()["channels"][channel]["messages"])

    def problems(self, message: dict[str, Any]) -> list[tuple[Where, str]]:
        """List the path and reason of each error in a message.

        Unknown fields are errors, too: the vendor answers them with `invalid_config`.
        """
        kind = str(message.get("message"))
        found = [
            (tuple(error.absolute_path), error.message)
            for error in self.validator(kind).iter_errors(message)
        ]
        schema = self.document()["components"]["messages"][kind]["payload"]
        found += [(path, "unknown field") for path in self._unknown(message, schema, ())]
        return found

    def _validator(self, message: str) -> jsonschema.protocols.Validator:
        """The validator of a message type. Raises KeyError for an unknown type."""
        components = self.document()["components"]
        schema = components["messages"][message]["payload"]
        if self._draft is jsonschema.Draft7Validator:  # there, a reference has no neighbors
            schema = {"allOf": [schema]}
        return self._draft({**schema, "components": components})

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in schema:
            node: Any = self.document()
            for part in schema["$ref"].removeprefix("#/").split("/"):
                node = node[part]
            schema = node
        return schema

    def _unknown(self, value: Any, schema: dict[str, Any], path: Where) -> Iterator[Where]:
        schema = self._resolved(schema)
        branches = [schema, *map(self._resolved, schema.get("oneOf", []))]
        if isinstance(value, dict):
            known: dict[str, Any] = {}
            for branch in branches:
                known |= branch.get("properties", {})
            for name, inner in value.items():
                if name not in known:
                    yield (*path, name)
                else:
                    yield from self._unknown(inner, known[name], (*path, name))
        elif isinstance(value, list) and "items" in schema:
            for index, inner in enumerate(value):
                yield from self._unknown(inner, schema["items"], (*path, index))


REALTIME: Final = Specification("speechmatics-realtime.yaml", jsonschema.Draft202012Validator)
# It has keywords beside references. Later drafts of JSON Schema apply them, and would allow no
# field at all.
AGENT: Final = Specification("speechmatics-agent-stt.yaml", jsonschema.Draft7Validator)
