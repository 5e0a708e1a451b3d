"""The actions that the permissions of a broker user allow. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from natterjack.broker.differences import overlap
from natterjack.broker.streams import CONSUMER, QUEUES
from natterjack.subjects import (
    AUDIO_PREFIX,
    SESSION_PREFIX,
    TEXT_PREFIX,
    TRANSCRIPT_PREFIX,
    VOICE_EVENT_PREFIX,
)

_ALL = ">"
ACTIONS: dict[str, tuple[str, str]] = {
    "open sessions": ("publish", f"{SESSION_PREFIX}.>"),
    "publish audio": ("publish", f"{AUDIO_PREFIX}.>"),
    "read transcripts": ("subscribe", f"{TRANSCRIPT_PREFIX}.*.*.*.final"),
    "publish text to speak": ("publish", f"{TEXT_PREFIX}.>"),
    "claim sessions": (
        "publish", f"$JS.API.CONSUMER.MSG.NEXT.{QUEUES['transcribe']}.{CONSUMER}",
    ),
    "publish transcripts": ("publish", f"{TRANSCRIPT_PREFIX}.*.*.*.final"),
    "publish voice events": ("publish", f"{VOICE_EVENT_PREFIX}.*.*.*.status"),
    "change streams": ("publish", f"$JS.API.STREAM.UPDATE.{QUEUES['transcribe']}"),
}  # fmt: skip
"""Each action, with the direction and the subjects that it needs."""


def covers(pattern: str, subject: str) -> bool:
    """Whether a pattern with wildcards matches all that `subject` matches."""
    ours, theirs = pattern.split("."), subject.split(".")
    for n, mine in enumerate(ours):
        if mine == ">":
            return len(theirs) > n
        if n >= len(theirs) or theirs[n] == ">":
            return False
        if mine != "*" and mine != theirs[n]:
            return False
    return len(ours) == len(theirs)


def judged(permissions: dict[str, Any] | None) -> dict[str, str]:
    """Judge each action: `all`, `some` (of the subjects), or `none`.

    `permissions` are those of the server's answer to `$SYS.REQ.USER.INFO`; None permits all.
    """
    return {
        action: judge((permissions or {}).get(direction) or {}, subject)
        for action, (direction, subject) in ACTIONS.items()
    }


def judge(rules: dict[str, Sequence[str]], subject: str) -> str:
    """Judge by `allow` and `deny` of one direction how much of what `subject` matches is allowed:
    `all`, `some` or `none`."""
    allowed, denied = rules.get("allow") or [_ALL], rules.get("deny") or []
    allowed = [entry.split(" ")[0] for entry in allowed]  # a queue group may follow
    if any(covers(entry, subject) for entry in denied):
        return "none"
    if any(covers(entry, subject) for entry in allowed):
        return "some" if any(overlap(entry, subject) for entry in denied) else "all"
    return "some" if any(overlap(entry, subject) for entry in allowed) else "none"


def sentence(permissions: dict[str, Any] | None) -> str:
    """Describe in one line what the user may do."""
    found = judged(permissions)
    if set(found.values()) == {"all"}:
        return "everything"
    parts = [action for action, how in found.items() if how == "all"]
    parts += [f"{action} (some)" for action, how in found.items() if how == "some"]
    return ", ".join(parts) or "nothing of natterjack"
