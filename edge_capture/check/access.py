"""Whether a broker user may do what an agent needs, and nothing more. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from natterjack.broker.login.permissions import Permissions
from natterjack.broker.roles import User
from natterjack.broker.streams import CONSUMER, QUEUES, TRANSCRIPTS
from natterjack.doctor.finding import Finding, failed, ok, warning
from natterjack.doctor.rights import covers, judge
from natterjack.subjects import (
    AUDIO_PREFIX,
    CONTROL_PREFIX,
    HOLD_PREFIX,
    RENEW_PREFIX,
    SESSION_PREFIX,
    TEXT_PREFIX,
    TRANSCRIPT_PREFIX,
)

NOBODY = "natterjack-check"
"""A tenant that nobody has: what is allowed for it is allowed for all."""
_NEEDED = {
    ("publish", SESSION_PREFIX): "open sessions",
    ("publish", AUDIO_PREFIX): "publish audio",
}
"""Rights without which no agent can run, in the form of `_USEFUL`."""
_USEFUL = {
    ("publish", HOLD_PREFIX): "notice another agent on its key",
    ("subscribe", HOLD_PREFIX): "notice another agent on its key",
    ("subscribe", TRANSCRIPT_PREFIX): "learn that its session has ended",
    ("publish", f"$JS.API.DIRECT.GET.{TRANSCRIPTS}"): "learn that its session has ended",
    ("publish", "stt.edge"): "report to the center",
    ("publish", "$KV.stt_edges"): "report to the center",
    ("subscribe", "stt.edge"): "be steered from the center",
}
"""Rights that an agent can run without, by direction and start of the subject, with what each of
them lets it do. The remaining rights of the edge role, e.g. to play speech, are needed by some
agents only."""

TOO_MUCH: dict[str, tuple[str, str]] = {
    "read the transcripts of all tenants": (
        "subscribe", f"{TRANSCRIPT_PREFIX}.{NOBODY}.*.*.final",
    ),
    "listen to the audio of all tenants": ("subscribe", f"{AUDIO_PREFIX}.{NOBODY}.*.*"),
    "publish audio for all tenants": ("publish", f"{AUDIO_PREFIX}.{NOBODY}.*.*"),
    "open sessions for all tenants": ("publish", f"{SESSION_PREFIX}.{NOBODY}.*.*"),
    "control the sessions of all tenants": ("publish", f"{CONTROL_PREFIX}.{NOBODY}.*.*"),
    "publish text to speak for all tenants": ("publish", f"{TEXT_PREFIX}.{NOBODY}.*.*"),
    "read stored transcripts": ("publish", f"$JS.API.CONSUMER.CREATE.{TRANSCRIPTS}.x"),
    "claim sessions": (
        "publish", f"$JS.API.CONSUMER.MSG.NEXT.{QUEUES['transcribe']}.{CONSUMER}",
    ),
    "forge transcripts": ("publish", f"{TRANSCRIPT_PREFIX}.{NOBODY}.*.*.final"),
    "change and delete streams": ("publish", f"$JS.API.STREAM.DELETE.{TRANSCRIPTS}"),
}  # fmt: skip
"""Actions that no agent needs, each with the direction and a subject that it requires."""


def _role(agent: str, tenant: str, speaker: str | None, inbox_prefix: str) -> Permissions:
    """Return the permissions of the edge role, for the inbox that this agent uses. If `speaker` is
    None, they are the widest that an edge of this name may be given."""
    user = User("edge", name=agent, tenant=tenant, speaker=speaker, captions=speaker is None)
    found = user.permissions()
    replies = tuple(subject.replace(user.inbox_prefix, inbox_prefix) for subject in found.subscribe)
    return Permissions(found.publish, replies, found.denied, found.responds)


def rights(
    permissions: dict[str, Any] | None,
    agent: str,
    keys: Sequence[tuple[str, str]],
    inbox_prefix: str,
    user: str,
) -> list[Finding]:
    """Judge the permissions of the server's answer to `$SYS.REQ.USER.INFO`; None permits all.

    `keys` are the tenant and the speaker of each source.
    """
    needed, useful = _missing(permissions, agent, keys, inbox_prefix)
    cure = f"use a user for tenant {keys[0][0]} that `natterjack users add edge` has made"
    if needed:
        return [failed("rights", f"{user} may not {', '.join(needed)}", cure)]
    if useful:
        cure = (
            "`natterjack users config` of this release, and a reload of NATS, permit it; until "
            "then, the agent goes on without"
        )
        found = [warning("rights", f"{user} may not {', '.join(useful)}", cure)]
    else:
        found = [ok("rights", f"{user} may do what an agent needs")]
    tenants = sorted({tenant for tenant, _ in keys})
    if more := excess(permissions, agent, tenants, inbox_prefix):
        found.append(excessive(user, more))
    elif not useful:
        found = [ok("rights", f"{user} may do what an agent needs, and nothing more")]
    return found


def excessive(user: str, more: Sequence[str]) -> Finding:
    """The warning about rights that no agent needs: whoever takes the machine has them, too."""
    shown = ", ".join(more[:6]) + (f" and {len(more) - 6} more" if len(more) > 6 else "")
    cure = (
        "use a user of this tenant that `natterjack users add edge` has made: whoever takes this "
        "machine has these rights, too"
    )
    return warning("rights", f"{user} may do more than an agent needs: {shown}", cure)


def _missing(
    permissions: dict[str, Any] | None,
    agent: str,
    keys: Sequence[tuple[str, str]],
    inbox_prefix: str,
) -> tuple[list[str], list[str]]:
    """Return two lists of actions that the user is not permitted: the first has those of `_NEEDED`,
    the second those of `_USEFUL`."""
    needed: dict[str, None] = {}  # a dict keeps their order, and each once
    useful: dict[str, None] = {}
    for tenant, speaker in keys:
        role = _role(agent, tenant, speaker, inbox_prefix)
        for direction, subjects in (("publish", role.publish), ("subscribe", role.subscribe)):
            rules = (permissions or {}).get(direction) or {}
            for subject in subjects:
                if judge(rules, subject) == "all":
                    continue
                if subject == f"{inbox_prefix}.>":
                    needed[f"receive replies on {subject} (NATS_INBOX_PREFIX)"] = None
                for table, found in ((_NEEDED, needed), (_USEFUL, useful)):
                    for (way, prefix), name in table.items():
                        if way == direction and subject.startswith(f"{prefix}."):
                            found[f"{name} as {tenant}.*.{speaker}"] = None
    return list(needed), list(useful)


def excess(
    permissions: dict[str, Any] | None, agent: str, tenants: Sequence[str], inbox_prefix: str
) -> list[str]:
    """Return, in words, the permissions that the user has beyond the edge role of these tenants."""
    more = [
        name
        for name, (direction, subject) in TOO_MUCH.items()
        if judge((permissions or {}).get(direction) or {}, subject) != "none"
    ]
    roles = [_role(agent, tenant, None, inbox_prefix) for tenant in tenants]
    for direction in ("publish", "subscribe"):
        rules = (permissions or {}).get(direction) or {}
        permitted = [subject for role in roles for subject in getattr(role, direction)]
        for entry in rules.get("allow") or ():
            subject = entry.split(" ")[0]
            named = any(
                way == direction and covers(subject, other) for way, other in TOO_MUCH.values()
            )
            if named or judge(rules, subject) == "none":
                continue  # it is in the list already, or is denied
            renewal = subject.startswith(f"{RENEW_PREFIX}.") and "*" not in subject
            if renewal and ">" not in subject:
                continue  # an enrolled edge renews its own credentials
            if not any(covers(each, subject) for each in permitted):
                more.append(f"{direction} {subject}")
    return more
