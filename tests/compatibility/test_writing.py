"""The previous release can read today's messages: all its fields exist, with known types and
values."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from natterjack.broker.differences import LATER_SUBJECTS

from .messages import (
    AUDIO_KINDS,
    FIXTURES,
    KINDS,
    MAPS,
    MODELS,
    RELEASE,
    VOICE,
    VOICE_KINDS,
    Message,
    missed,
    recorded,
    shape,
    shape_of_all,
    spool_files,
)
from .record import Recording, record
from .record_voice import record_voice

JSON_KINDS = [
    *((RELEASE, kind) for kind in KINDS if kind not in AUDIO_KINDS),
    *((VOICE, kind) for kind in VOICE_KINDS if kind not in AUDIO_KINDS),
]
_RULES = "docs/explanation/compatibility.md has the rules"
_STREAM_FIELDS = (
    *("subjects", "retention", "storage", "max_msgs_per_subject", "allow_direct", "republish"),
    *("max_msg_size", "durable_name", "ack_policy", "max_deliver", "max_ack_pending"),
)
"""Stream settings on which programs rely."""


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(300)
async def test_the_recorded_release_reads_what_this_one_writes() -> None:
    """The programs of this checkout run the recorded scenario."""
    today = await record()
    problems = [*_messages(RELEASE, KINDS, today), *_streams(RELEASE, today), *_spool(today)]
    assert not problems, "\n".join([_RULES, *problems])


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(300)
async def test_recorded_programs_read_the_voice_sessions_of_this_one() -> None:
    today = await record_voice()
    problems = [*_messages(VOICE, VOICE_KINDS, today), *_streams(VOICE, today)]
    assert not problems, "\n".join([_RULES, *problems])


def _messages(version: str, kinds: Iterable[str], today: Recording) -> list[str]:
    """List what the recorded release could not read in today's messages."""
    problems: list[str] = []
    for kind in kinds:
        messages = today.messages[kind]
        if not messages:
            problems.append(f"{kind}: no messages: has the subject changed?")
            continue
        found = _headers(version, kind, messages)
        if kind not in AUDIO_KINDS:
            # A value may be absent in every recorded message and, with other timing, present in
            # today's: the recorded model, which `_refused` asks, says which types it may have.
            before, now = shape_of_all(recorded(version, kind)), shape_of_all(messages)
            found += missed(before, now, null_shows_no_type=kind in MODELS)
        if kind in MODELS:
            found += _refused(version, kind, messages)
        problems += [f"{kind}: {problem}" for problem in found]
    return problems


def _fixture(version: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FIXTURES / version / f"{name}.json").read_text())
    return found


def _headers(version: str, kind: str, messages: list[Message]) -> list[str]:
    """List the headers that are no longer written."""

    def names(some: list[Message]) -> set[str]:
        return {name for message in some for name in message.header_names}

    gone = names(recorded(version, kind)) - names(messages)
    return [f"header {name} is gone" for name in sorted(gone)]


def _refused(version: str, kind: str, messages: list[Message]) -> list[str]:
    """List the violations of the recorded release's models: an unknown value, a number that is no
    longer an integer, a missing field."""
    validator = jsonschema.Draft202012Validator(_fixture(version, "schemas")[kind])
    found = {
        f"{problem.json_path}: {problem.message[:200]}"
        for message in messages
        for problem in validator.iter_errors(message.json)
    }
    return sorted(found)


def _streams(version: str, today: Recording) -> list[str]:
    """List the stream settings that differ from the recorded release's. A stream may take more
    subjects, which a release that does not know them leaves alone."""
    found = []
    for name, config in _fixture(version, "streams").items():
        for part in _STREAM_FIELDS:
            now, was = today.streams.get(name, {}).get(part), config.get(part)
            if part == "subjects" and now:
                now = [subject for subject in now if subject not in LATER_SUBJECTS]
            if now != was:
                found.append(f"{name}: {part} is {now}, was {was}")
    return found


def _spool(today: Recording) -> list[str]:
    """List what the recorded release's edge could not read in a spool written today."""
    before, now = (
        {Path(name).name.partition(".")[2]: content for name, content in files.items()}
        for files in (spool_files(RELEASE), today.spool)
    )
    found = missed(shape(json.loads(before["json"])), shape(json.loads(now["json"])))
    if json.loads(before["json"])["version"] != json.loads(now["json"])["version"]:
        found.append(".version has changed")
    if before["sent"][:8] != now["sent"][:8]:
        found.append(f"segments begin with {now['sent'][:8]!r}")
    return [f"spool: {problem}" for problem in found]


# ---- the comparison itself ----------------------------------------------------------------------


Change = Callable[[str, Any], tuple[str, Any]]


def _changed(value: Any, place: str, change: Change, path: str = "") -> Any:
    """Return `value` with `change` applied to every field at the path `place` of its shape."""
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


@pytest.mark.parametrize(("version", "kind"), JSON_KINDS)
def test_a_renamed_or_retyped_field_is_detected(version: str, kind: str) -> None:
    """Every recorded field is changed once."""
    messages = recorded(version, kind)
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
