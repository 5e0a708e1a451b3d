"""JSON schemas of the models, in the form of which tools make code in other languages."""

from __future__ import annotations

from typing import Any


def plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a model's schema that code generators understand.

    A member with one possible value, the kind of an event, is required and has an `enum`, not a
    `const`. Members have no titles, of which generators make types.
    """
    made = dict(schema)
    for key in ("items", "additionalProperties"):
        if isinstance(made.get(key), dict):
            made[key] = plain(made[key])
    if "anyOf" in made:
        made["anyOf"] = [plain(part) for part in made["anyOf"]]
    required = set(made.get("required", ()))
    members: dict[str, Any] = {}
    for name, member in made.get("properties", {}).items():
        members[name] = plain({key: value for key, value in member.items() if key != "title"})
        if "const" in member:
            del members[name]["default"]
            members[name]["enum"] = [members[name].pop("const")]
            required.add(name)
    if members:
        made["properties"] = members
    if required:
        made["required"] = [name for name in members if name in required]
    return made
