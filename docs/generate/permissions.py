"""docs/reference/permissions.md: what each role may publish and subscribe to."""

from __future__ import annotations

from natterjack.broker.roles import ROLES, Role, User

from .markdown import heading, sentence

_EXAMPLES: dict[Role, User] = {
    "edge": User("edge", "NAME", "TENANT", captions=True),
    "worker": User("worker"),
    "gateway": User("gateway"),
    "subscriber": User("subscriber", "NAME", "TENANT", control=True, durable="DURABLE"),
    "application": User("application", "NAME", "TENANT"),
    "registrar": User("registrar"),
    "monitor": User("monitor"),
    "operator": User("operator"),
}


def page() -> str:
    """The page."""
    parts = [
        heading(
            "Permissions",
            "`natterjack/broker/login/permissions.py`",
            "The subjects that `natterjack users` allows each role. NATS refuses everything else. "
            "An edge with `--speaker` has that speaker in place of `*`, and one without "
            "`--captions` lacks the events `interim` and `final`. A subscriber or an application "
            "without `--tenant` may use those of all tenants. A subscriber without "
            "`--control` lacks `stt.control` and `tts.control`, and with `--live` it publishes to "
            "no `$JS.API` subject. One without `--durable` lacks all subjects with `DURABLE` and "
            "those of `STT_DEAD_LETTERS`. One with `--conversation` or `--kinds` has these in "
            "place of `*`, and an entry for each kind in place of `>`. One without `--tenant` has "
            "`$JS.API.STREAM.INFO` of the streams that it reads. Requests `CREATE`, `INFO` and "
            "`MSG.NEXT` for the durable consumer of one user are denied to all others. An "
            "application with `--control` has `stt.control`, too.",
        )
    ]
    for role, about in ROLES.items():
        permissions = _EXAMPLES[role].permissions()
        publish = "\n".join(permissions.publish)
        subscribe = "\n".join(permissions.subscribe)
        answers = "\nIt may also reply to requests.\n" if permissions.responds else ""
        parts.append(
            f"## {role}\n\n{sentence(about)}\n\nPublish:\n\n```text\n{publish}\n```\n\n"
            f"Subscribe:\n\n```text\n{subscribe}\n```\n{answers}"
        )
    return "\n".join(parts)
