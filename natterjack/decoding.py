"""Decoding events of this release and of later ones."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic_core import from_json

from .errors import BadEvent, first_problem
from .events import CommonFields, Event, parse_event, remember_source
from .position import Position


class UnknownEvent(CommonFields):
    """An event that this release does not know: its type, its state or the event of its turn is new
    in a later release, or a field has an unexpected form. `raw` has all of it."""

    type: Literal["unknown"] = "unknown"
    kind: Annotated[str, Field(description="the event's own `type`")]
    sequence: Annotated[int | None, Field(ge=0, description="absent if it is not stored")] = None
    problem: Annotated[str, Field(description="why this release cannot decode it")]

    @property
    def id(self) -> str | None:
        return None if self.sequence is None else f"{self.session_id}:{self.sequence}"

    @property
    def closing(self) -> bool:
        """Whether the session ends with this event: it is a status event with an account."""
        return self.kind == "status" and self.raw.get("account") is not None

    def encode(self) -> bytes:
        """The JSON that was published."""
        return self.source


AnyEvent = Event | UnknownEvent
"""An event that `listen()` yields."""


def decode_event(
    payload: bytes, position: Position | None = None, subject: bytes | None = None
) -> AnyEvent:
    """Decode an event from a message's payload, and keep the payload for `raw`.

    `position` is where the message is in the stream. Raises: BadEvent if the payload is no JSON
    object, lacks the fields that all events have, or is of another session than its `subject`, to
    which the rights of users apply.
    """
    try:
        event: AnyEvent = parse_event(payload)
    except BadEvent as error:
        event = _unknown(payload, error)
    check_subject(event, subject)
    remember_source(event, payload, position)
    return event


def check_subject(event: CommonFields, subject: bytes | None) -> None:
    """Raises: BadEvent if the event does not belong on its subject."""
    if subject is not None and subject.split(b".")[2:5] != [part.encode() for part in event.key]:
        raise BadEvent(f"an event of {str(event.key)!r} is on another subject")


def _unknown(payload: bytes, error: BadEvent) -> UnknownEvent:
    problem = str(error).removeprefix("not an event: ")
    try:
        raw: Any = from_json(payload)
    except ValueError:
        raise error from None
    if not isinstance(raw, dict) or not isinstance(raw.get("type"), str):
        raise error
    own = {"type": "unknown", "kind": raw["type"], "problem": problem}
    try:
        return UnknownEvent.model_validate(raw | own)
    except ValidationError as missing:
        raise BadEvent(f"not an event: {first_problem(missing)}") from None
