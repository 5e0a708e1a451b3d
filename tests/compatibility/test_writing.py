"""What is written today can be read by the release before: its fields are there, of their types,
and with values that it knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
import pytest_asyncio

from .messages import (
    FIXTURES,
    KINDS,
    MAPS,
    MODELS,
    RELEASE,
    Message,
    missed,
    recorded,
    shape_of_all,
)
from .record import Recording, record

pytestmark = pytest.mark.asyncio(loop_scope="module")
JSON_KINDS = tuple(kind for kind in KINDS if kind != "chunk")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def today() -> Recording:
    """What the programs of this checkout write, under the same load as was recorded."""
    return await record()


def _schema(kind: str) -> dict[str, Any]:
    """By which the recorded release read this kind."""
    found: dict[str, Any] = json.loads((FIXTURES / RELEASE / "schemas.json").read_text())[kind]
    return found


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", JSON_KINDS)
async def test_every_field_is_still_there_and_of_its_type(today: Recording, kind: str) -> None:
    assert today.messages[kind], "none was written: has its subject changed?"
    before = shape_of_all(recorded(RELEASE, kind))
    assert missed(before, shape_of_all(today.messages[kind])) == []


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", MODELS)
async def test_the_models_of_the_recorded_release_take_it(today: Recording, kind: str) -> None:
    """Values too: a new state, or a number that is no longer whole, stops an older reader."""
    judge = jsonschema.Draft202012Validator(_schema(kind))
    for message in today.messages[kind]:
        problems = [f"{p.json_path}: {p.message}" for p in judge.iter_errors(message.json)]
        assert problems == [], message


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", KINDS)
async def test_headers_are_still_there(today: Recording, kind: str) -> None:
    def names(messages: list[Message]) -> set[str]:
        return {name for message in messages for name in message.header_names}

    assert names(recorded(RELEASE, kind)) <= names(today.messages[kind])


@pytest.mark.timeout(240)
async def test_streams_are_as_the_recorded_release_wants_them(today: Recording) -> None:
    before = json.loads((FIXTURES / RELEASE / "streams.json").read_text())
    wanted = ("subjects", "retention", "storage", "max_msgs_per_subject", "allow_direct",
              "republish", "max_msg_size", "ack_policy", "max_deliver", "max_ack_pending",
              "durable_name")  # fmt: skip
    for name, config in before.items():
        for field in wanted:
            assert today.streams[name].get(field) == config.get(field), f"{name}: {field}"


# ---- the comparison itself ----------------------------------------------------------------------


Change = Callable[[str, Any], tuple[str, Any]]


def _changed(value: Any, place: str, change: Change, path: str = "") -> Any:
    """`value` with the field at `place`, a path of its shape, changed wherever it is."""
    if isinstance(value, list):
        return [_changed(item, place, change, f"{path}[]") for item in value]
    if not isinstance(value, dict):
        return value
    free = path.rpartition(".")[2] in MAPS
    made = {}
    for name, item in value.items():
        here = f"{path}.{'*' if free else name}"
        new_name, new_item = change(name, item) if here == place else (name, item)
        made[new_name] = _changed(new_item, place, change, here)
    return made


def _renamed(name: str, item: Any) -> tuple[str, Any]:
    return f"{name}_2", item


def _retyped(name: str, item: Any) -> tuple[str, Any]:
    return name, 7 if isinstance(item, str) else "seven"


@pytest.mark.parametrize("kind", JSON_KINDS)
async def test_a_field_that_is_renamed_or_retyped_is_seen(kind: str) -> None:
    """Each field that was recorded, one after the other."""
    messages = recorded(RELEASE, kind)
    before = shape_of_all(messages)
    assert missed(before, before) == []
    for place in before:
        if not place or place.endswith("[]"):
            continue
        changes = [_retyped] if place.endswith(".*") else [_renamed, _retyped]
        for change in changes:
            values = [_changed(message.json, place, change) for message in messages]
            now = [Message("", "", json.dumps(value).encode()) for value in values]
            assert missed(before, shape_of_all(now)), f"{place} of {kind}: {change.__name__}"
