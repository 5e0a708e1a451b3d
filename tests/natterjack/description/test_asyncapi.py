"""docs/reference/asyncapi.json: it matches the models, events match it, and the classes that a code
generator makes of it read recorded messages.

The official parser validates it in `make lint` (clients/js/scripts/validate.mjs). Types for
TypeScript are made of it in tests/clients/test_types.py.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from natterjack.description.asyncapi import document
from natterjack.events import FinalEvent
from natterjack.values import Word
from tests.compatibility.messages import described, with_new_fields

from ...waiting import bound

DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / "asyncapi.json"


def test_the_document_is_up_to_date() -> None:
    assert json.loads(DOCUMENT.read_text()) == document(), "run: make docs"


def test_published_events_are_valid() -> None:
    made = document()
    validator = Draft202012Validator({**made, "$ref": "#/components/schemas/FinalEvent"})
    event = FinalEvent(
        session_id="s", tenant="t", conversation="c", speaker="p", epoch=1, sequence=3, segment=0,
        text="hello there", words=[Word(text="hello", start=0.5, end=0.75), Word(text="there")],
        start=0.5, end=1.5, published_at=datetime.now(UTC),
    )  # fmt: skip
    wire = json.loads(event.encode())
    validator.validate(wire)
    assert not validator.is_valid({**wire, "sequence": -1})


def parts(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The schema and all that are in it."""
    yield path, schema
    inner = {
        "items": schema.get("items"),
        "additionalProperties": schema.get("additionalProperties"),
    }
    inner |= schema.get("properties", {}) | dict(enumerate(schema.get("anyOf", [])))
    for name, part in inner.items():
        if isinstance(part, dict):
            yield from parts(part, f"{path}.{name}")


def test_code_generators_understand_every_schema() -> None:
    made = document()["components"]
    headers = {n: m["headers"] for n, m in made["messages"].items() if "headers" in m}
    for name, schema in (made["schemas"] | headers).items():
        for path, part in parts(schema, name):
            assert "const" not in part, path
            assert {"type", "anyOf", "$ref"} & part.keys(), f"{path} has no type"
            assert set(part.get("required", ())) <= set(part.get("properties", ())), path
        if name.endswith("Event") or name == "VoiceUsage":
            kind = schema["properties"]["type"]
            assert "type" in schema["required"], f"a {name} is known by its type"
            assert len(kind["enum"]) == 1
            assert "default" not in kind


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The module that datamodel-code-generator makes of the document."""
    path = tmp_path_factory.mktemp("generated") / "generated_wire.py"
    subprocess.run(
        [
            sys.executable, "-m", "datamodel_code_generator", "--input", DOCUMENT, "--output", path,
            "--input-file-type", "asyncapi", "--output-model-type", "pydantic_v2.BaseModel",
            "--enum-field-as-literal", "one", "--formatters", "builtin",
        ],
        check=True, capture_output=True, timeout=bound(60),
    )  # fmt: skip
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[path.stem]


@pytest.mark.process
def test_generated_python_classes_read_recorded_messages(generated: ModuleType) -> None:
    read = set()
    for name, message in described():
        if name in vars(generated):
            for wire in (message.json, with_new_fields(message.json)):
                event = getattr(generated, name).model_validate(wire)
                assert getattr(event, "session_id", None) == message.json.get("session_id")
            read.add(name)
    assert read >= {"InterimEvent", "FinalEvent", "TurnEvent", "StatusEvent", "UsageEvent"}
    assert read >= {"UtteranceEvent", "VoiceStatusEvent"}
