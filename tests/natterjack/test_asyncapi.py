"""docs/reference/asyncapi.json: it matches the models, and events match it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from jsonschema import Draft202012Validator

from natterjack.asyncapi import document
from natterjack.events import FinalEvent, Word

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "asyncapi.json"


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
