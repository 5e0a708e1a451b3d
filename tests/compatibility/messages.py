"""Kinds of published and stored messages, their fixtures, and the comparison of recordings."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

FIXTURES = Path(__file__).parent / "fixtures"
RELEASE = "0.1.0"
"""The newest recorded release. Today's output is compared with it."""
VOICE = "0.1.0-voice"
"""The recording of voice sessions, which that release does not know. It is compared as well."""
EARLY = "0.1.0-early"
"""A recording from before the first release: checkpoints without holders and ledgers."""

_TOKEN = r"[^.]+"
_KEY = rf"{_TOKEN}\.{_TOKEN}\.{_TOKEN}"
SUBJECTS = {
    "request": rf"stt\.session\.{_KEY}",
    "chunk": rf"stt\.audio\.{_KEY}",
    "interim": rf"stt\.transcript\.{_KEY}\.interim",
    "final": rf"stt\.transcript\.{_KEY}\.final",
    "turn": rf"stt\.transcript\.{_KEY}\.turn",
    "status": rf"stt\.transcript\.{_KEY}\.status",
    "usage": rf"stt\.transcript\.{_KEY}\.usage",
    "checkpoint": rf"\$KV\.stt_sessions\.{_KEY}",
    "roster": rf"\$KV\.stt_workers\.{_TOKEN}\.\d+",
    "day_use": rf"\$KV\.stt_usage\.\d{{4}}-\d\d-\d\d\.{_TOKEN}\.{_TOKEN}",
    "budget": rf"\$KV\.stt_budgets\.(default|tenant\.{_TOKEN})",
    "limit": rf"\$KV\.stt_budgets\.account\.{_TOKEN}",
    "provider_news": rf"\$KV\.stt_providers\.{_TOKEN}",
    "slot": rf"stt\.slot\.{_TOKEN}\.\d+",
    "dial": rf"stt\.dial\.{_TOKEN}\.\d+",
    "waiting": rf"stt\.slots\.waiting\.slot\.{_TOKEN}",
    "control_request": rf"stt\.control\.{_KEY}",
}
"""Subject pattern of each kind. A `control_reply` has none: it goes to the request's inbox."""
REPLY = "control_reply"
KINDS = (*SUBJECTS, REPLY)
VOICE_SUBJECTS = {
    "voice_request": rf"tts\.session\.{_KEY}",
    "text": rf"tts\.text\.{_KEY}",
    "speech": rf"tts\.audio\.{_KEY}",
    "played": rf"tts\.played\.{_KEY}",
    "voice_status": rf"tts\.event\.{_KEY}\.status",
    "utterance": rf"tts\.event\.{_KEY}\.utterance",
    "voice_usage": rf"tts\.event\.{_KEY}\.usage",
    "voice_checkpoint": rf"\$KV\.tts_sessions\.{_KEY}",
    "player_hold": rf"tts\.hold\.{_KEY}",
    "voice_control_request": rf"tts\.control\.{_KEY}",
    **{kind: SUBJECTS[kind] for kind in ("roster", "day_use")},
}
"""As SUBJECTS, for voice sessions."""
VOICE_REPLY = "voice_control_reply"
VOICE_KINDS = (*VOICE_SUBJECTS, VOICE_REPLY)
AUDIO_KINDS = ("chunk", "speech")
"""Kinds whose payload is not JSON."""
EVENTS = ("interim", "final", "turn", "status", "usage")
MODELS = {
    "request": "natterjack.spec:SessionSpec",
    "interim": "natterjack.events:InterimEvent",
    "final": "natterjack.events:FinalEvent",
    "turn": "natterjack.events:TurnEvent",
    "status": "natterjack.events:StatusEvent",
    "usage": "natterjack.events:UsageEvent",
    "checkpoint": "worker.session.checkpoint:Checkpoint",
    "roster": "natterjack.fleet.roster:WorkerPage",
    "day_use": "natterjack.fleet.usage:DayUsage",
    "budget": "natterjack.fleet.budgets:Budget",
    "limit": "natterjack.fleet.limits:AccountLimit",
    "provider_news": "worker.capacity.governor:Refusal",
    "slot": "worker.capacity.permits:Holder",
    "dial": "worker.capacity.permits:Holder",
    "control_request": "natterjack.control:ControlRequest",
    "control_reply": "natterjack.control:ControlReply",
    "voice_request": "natterjack.voice.spec:VoiceSpec",
    "text": "natterjack.voice.spec:TextPiece",
    "played": "natterjack.voice.spec:Played",
    "voice_status": "natterjack.voice.events:VoiceStatusEvent",
    "utterance": "natterjack.voice.events:UtteranceEvent",
    "voice_usage": "natterjack.voice.events:VoiceUsage",
    "voice_checkpoint": "worker.voice.checkpoint:VoiceCheckpoint",
    "player_hold": "natterjack.hold:Hold",
    "voice_control_request": "natterjack.voice.control:VoiceRequest",
    "voice_control_reply": "natterjack.voice.control:VoiceReply",
}
"""The model that reads each kind, as `module:name`."""

MAPS = {
    *("providers", "usage", "labels", "options", "configured", "settings"),
    *("gap_seconds", "bad_chunks", "recoveries", "waiting"),
}
"""Members whose keys are chosen by users or providers, and are not fields."""
_SAMPLED_VALUES = ("state", "event", "command", "closed", "ok", "low", "draining", "limit_reason")
"""Fields for which every distinct value gets a sample."""
_MAX_SAMPLES = 16
_NEW_FIELD = "from_a_newer_release"


class Message(NamedTuple):
    """A message as the broker delivered it."""

    subject: str
    headers: str
    """The raw header block; empty if there are no headers."""
    payload: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.payload)

    @property
    def header_names(self) -> set[str]:
        return {line.split(":")[0] for line in self.headers.split("\r\n")[1:] if line}

    def as_dict(self) -> dict[str, str]:
        """Return the message for a fixture, with JSON as text and audio in base64."""
        common = {"subject": self.subject, "headers": self.headers}
        if self.payload[:1] == b"{" and "Audio-Seq" not in self.headers:
            return {**common, "payload": self.payload.decode()}
        return {**common, "base64": base64.b64encode(self.payload).decode()}

    @classmethod
    def from_dict(cls, stored: dict[str, str]) -> Message:
        """Return the message that `as_dict` wrote."""
        if "payload" in stored:
            payload = stored["payload"].encode()
        else:
            payload = base64.b64decode(stored["base64"])
        return cls(stored["subject"], stored["headers"], payload)


def kind_of(subject: str) -> str | None:
    """Return the kind of a message on `subject`, or None if the subject is unknown."""
    patterns = {**SUBJECTS, **VOICE_SUBJECTS}
    found = (kind for kind, pattern in patterns.items() if re.fullmatch(pattern, subject))
    return next(found, None)


def recorded(version: str, kind: str) -> list[Message]:
    """Load the fixture of one kind. Empty if that release has no such messages."""
    path = FIXTURES / version / f"{kind}.json"
    if not path.exists():
        return []
    return [Message.from_dict(stored) for stored in json.loads(path.read_text())["messages"]]


def described() -> Iterator[tuple[str, Message]]:
    """Every recorded message of every release that has a model, with the name of that model."""
    for kind, model in MODELS.items():
        for version in (RELEASE, EARLY, VOICE):
            for message in recorded(version, kind):
                yield model.partition(":")[2], message


def spool_files(version: str) -> dict[str, bytes]:
    """Return the files that an edge of that release left in its spool, by path."""
    files = json.loads((FIXTURES / version / "spool.json").read_text())["files"]
    return {name: gzip.decompress(base64.b64decode(content)) for name, content in files.items()}


def samples(kind: str, messages: Iterable[Message]) -> list[Message]:
    """Choose the messages of a kind that show a shape or value for the first time, and the last."""
    received = list(messages)
    if kind in AUDIO_KINDS:
        ends = [message for message in received if "Audio-End" in message.headers]
        cuts = [message for message in received if "Audio-Cut" in message.headers]
        return [*received[:2], *ends[:1], *cuts[:1]]
    chosen: list[Message] = []
    seen: set[tuple[str, str]] = set()
    for message in received:
        traits = set(_flat(shape(message.json))) | _values(message.json)
        if traits - seen and len(chosen) < _MAX_SAMPLES:
            seen |= traits
            chosen.append(message)
    return chosen if received[-1:] == chosen[-1:] else [*chosen, received[-1]]


def _values(value: Any) -> set[tuple[str, str]]:
    if isinstance(value, list):
        return {found for item in value for found in _values(item)}
    if not isinstance(value, dict):
        return set()
    own = {(name, str(value[name])) for name in _SAMPLED_VALUES if name in value}
    return own | {found for item in value.values() for found in _values(item)}


# ---- shapes -------------------------------------------------------------------------------------

Shape = dict[str, set[str]]
"""Types of JSON by path; `[]` stands for any item, `*` for any name in MAPS."""


def shape(value: Any) -> Shape:
    """Return the fields of a message and their types."""
    found: Shape = {}
    _collect(value, "", found)
    return found


def _collect(value: Any, path: str, found: Shape) -> None:
    found.setdefault(path, set()).add(_type(value))
    if isinstance(value, list):
        for item in value:
            _collect(item, f"{path}[]", found)
    elif isinstance(value, dict):
        name = path.rpartition(".")[2]
        for key, item in value.items():
            _collect(item, f"{path}.{'*' if name in MAPS else key}", found)


def _type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"  # the schemas distinguish integers
    names = ((str, "string"), (list, "array"), (dict, "object"))
    return next((name for kind, name in names if isinstance(value, kind)), "null")


def _flat(some: Shape) -> set[tuple[str, str]]:
    return {(path, kind) for path, kinds in some.items() for kind in kinds}


def shape_of_all(messages: Iterable[Message]) -> Shape:
    """Merge the shapes of many messages."""
    found: Shape = {}
    for message in messages:
        for path, kinds in shape(message.json).items():
            found.setdefault(path, set()).update(kinds)
    return found


def missed(before: Shape, now: Shape, *, null_shows_no_type: bool = False) -> list[str]:
    """List what breaks a reader of `before` in `now`: missing fields and unknown types.

    `null_shows_no_type` leaves out fields that were null in every message of `before`, and those
    that are null now: whether they may be, the recorded model says.
    """
    problems = []
    absent = {"null"} if null_shows_no_type else set()
    for path, kinds in sorted(before.items()):
        if path not in now:
            problems.append(f"{path or 'the message'} is gone")
        elif null_shows_no_type and kinds == {"null"}:
            continue
        elif strange := now[path] - kinds - absent:
            problems.append(f"{path} is {', '.join(sorted(strange))}, was {', '.join(kinds)}")
    return problems


def with_new_fields(value: Any, name: str = "") -> Any:
    """Return the message as a newer release would write it, with one more field per object."""
    if isinstance(value, list):
        return [with_new_fields(item) for item in value]
    if not isinstance(value, dict):
        return value
    newer = {key: with_new_fields(item, key) for key, item in value.items()}
    if name not in MAPS:
        newer[_NEW_FIELD] = {"of": ["whatever", 1, None]}
    return newer


def without_new_fields(value: Any) -> Any:
    """Undo `with_new_fields`: a message may contain another as it is."""
    if isinstance(value, list):
        return [without_new_fields(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: without_new_fields(item) for key, item in value.items() if key != _NEW_FIELD}
