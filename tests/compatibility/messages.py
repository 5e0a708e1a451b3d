"""What goes over the wire and is stored, by kind, and how two recordings of it are compared."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

FIXTURES = Path(__file__).parent / "fixtures"
RELEASE = "0.1.0"
"""The newest recorded release. What is written today is held to it."""
EARLY = "0.1.0-early"
"""Of a day before the first release: checkpoints without holders and ledgers."""

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
"""By kind. `control_reply` is what answers a control request, on whatever inbox that names."""
REPLY = "control_reply"
KINDS = (*SUBJECTS, REPLY)
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
}
"""By which a release reads each kind."""

MAPS = {
    *("providers", "usage", "labels", "options", "configured", "settings"),
    *("gap_seconds", "bad_chunks", "recoveries", "waiting"),
}
"""Members that hold names of the users' or the providers' making, not fields."""
_TELLING = ("state", "event", "command", "closed", "ok", "low", "draining", "limit_reason")
"""Fields of which each value is worth a sample."""
_MOST_SAMPLES = 16


class Message(NamedTuple):
    """A message as the broker had it."""

    subject: str
    headers: str
    """As they are on the wire; empty without any."""
    payload: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.payload)

    @property
    def header_names(self) -> set[str]:
        return {line.split(":")[0] for line in self.headers.split("\r\n")[1:] if line}

    def as_dict(self) -> dict[str, str]:
        """For a fixture: JSON as the text that it is, sound in base64."""
        common = {"subject": self.subject, "headers": self.headers}
        if self.payload[:1] == b"{" and "Audio-Seq" not in self.headers:
            return {**common, "payload": self.payload.decode()}
        return {**common, "base64": base64.b64encode(self.payload).decode()}

    @classmethod
    def of(cls, told: dict[str, str]) -> Message:
        if "payload" in told:
            payload = told["payload"].encode()
        else:
            payload = base64.b64decode(told["base64"])
        return cls(told["subject"], told["headers"], payload)


def kind_of(subject: str) -> str | None:
    """Of what kind a message on `subject` is, if it is one of ours."""
    found = (kind for kind, pattern in SUBJECTS.items() if re.fullmatch(pattern, subject))
    return next(found, None)


def recorded(version: str, kind: str) -> list[Message]:
    """The fixture of one kind; empty if that release has no such messages."""
    path = FIXTURES / version / f"{kind}.json"
    if not path.exists():
        return []
    return [Message.of(told) for told in json.loads(path.read_text())["messages"]]


def spool_files(version: str) -> dict[str, bytes]:
    """By path: what an edge of that release has left in its spool."""
    told = json.loads((FIXTURES / version / "spool.json").read_text())["files"]
    return {name: gzip.decompress(base64.b64decode(content)) for name, content in told.items()}


def samples(kind: str, messages: Iterable[Message]) -> list[Message]:
    """Of many messages of a kind those that show something which the ones before do not, and the
    last."""
    every = list(messages)
    if kind == "chunk":
        ends = [message for message in every if "Audio-End" in message.headers]
        return [*every[:2], *ends[:1]]
    chosen: list[Message] = []
    seen: set[tuple[str, str]] = set()
    for message in every:
        shows = set(_flat(shape(message.json))) | _values(message.json)
        if shows - seen and len(chosen) < _MOST_SAMPLES:
            seen |= shows
            chosen.append(message)
    return chosen if every[-1:] == chosen[-1:] else [*chosen, every[-1]]


def _values(value: Any) -> set[tuple[str, str]]:
    if isinstance(value, list):
        return {found for item in value for found in _values(item)}
    if not isinstance(value, dict):
        return set()
    own = {(name, str(value[name])) for name in _TELLING if name in value}
    return own | {found for item in value.values() for found in _values(item)}


# ---- shapes -------------------------------------------------------------------------------------

Shape = dict[str, set[str]]
"""Types of JSON by path; `[]` stands for any item, `*` for any name in MAPS."""


def shape(value: Any) -> Shape:
    """What fields a message has, and of which types."""
    found: Shape = {}
    _look(value, "", found)
    return found


def _look(value: Any, path: str, found: Shape) -> None:
    found.setdefault(path, set()).add(_type(value))
    if isinstance(value, list):
        for item in value:
            _look(item, f"{path}[]", found)
    elif isinstance(value, dict):
        name = path.rpartition(".")[2]
        for key, item in value.items():
            _look(item, f"{path}.{'*' if name in MAPS else key}", found)


def _type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"  # whole or not is told by the schemas
    names = ((str, "string"), (list, "array"), (dict, "object"))
    return next((name for kind, name in names if isinstance(value, kind)), "null")


def _flat(some: Shape) -> set[tuple[str, str]]:
    return {(path, kind) for path, kinds in some.items() for kind in kinds}


def shape_of_all(messages: Iterable[Message]) -> Shape:
    """The shapes of many messages in one."""
    found: Shape = {}
    for message in messages:
        for path, kinds in shape(message.json).items():
            found.setdefault(path, set()).update(kinds)
    return found


def missed(before: Shape, now: Shape) -> list[str]:
    """What a reader that knows `before` would miss in `now`: fields that are gone, types that it
    has never seen."""
    problems = []
    for path, kinds in sorted(before.items()):
        if path not in now:
            problems.append(f"{path or 'the message'} is gone")
        elif strange := now[path] - kinds:
            problems.append(f"{path} is {', '.join(sorted(strange))}, was {', '.join(kinds)}")
    return problems


def with_news(value: Any, name: str = "") -> Any:
    """The same message from a release that has one more field in each object."""
    if isinstance(value, list):
        return [with_news(item) for item in value]
    if not isinstance(value, dict):
        return value
    newer = {key: with_news(item, key) for key, item in value.items()}
    if name not in MAPS:
        newer["from_a_newer_release"] = {"of": ["whatever", 1, None]}
    return newer
