"""Replies of the broker to what is published."""

from __future__ import annotations

import json
from collections.abc import Iterable

from natterjack.broker.store_limits import explain_refused_message
from natterjack.broker.streams import AUDIO
from natterjack.errors import NotAllowed

NO_STREAM = "waiting for a worker to create the streams"
_RECENT_S = 30.0
NO_RESPONDERS = b"NATS/1.0 503"
"""How the headers begin with which the broker replies to a message that nobody receives."""


def overdue(
    seconds: float, refusals: Iterable[tuple[float, NotAllowed]], subject: str, now: float
) -> str:
    """Return why there is no acknowledgement for so long of what is published on `subject`:
    because the server has refused it lately, of which `refusals` has the times, or unknown."""
    for at, refused in refusals:
        if refused.publishes and refused.subject == subject and now - at <= _RECENT_S:
            return (
                f"{refused}: the tenant and the speaker of the session have to be those of the user"
            )
    return f"no acknowledgement for {seconds:.0f} s"


def stored_sequence(data: bytes) -> int | None:
    """Return the stream sequence in JetStream's acknowledgement, or None if it has none."""
    try:
        sequence = int(json.loads(data)["seq"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
    return sequence if 0 < sequence < 2**63 else None


def refusal(headers: bytes | None, data: bytes, stream: str = AUDIO) -> str | None:
    """Return why JetStream has not stored a message in `stream`, from its reply; None if it has."""
    if not data:
        if (headers or b"").startswith(NO_RESPONDERS):
            return NO_STREAM
        status = (headers or b"").partition(b"\r\n")[0].decode(errors="replace")
        return f"unexpected reply {status}"
    if b'"error"' not in data:
        return None
    try:
        error = json.loads(data)["error"]
        code, description = error["err_code"], str(error["description"])
        explained = explain_refused_message(stream, code, description)
        return f"refused by the broker: {description} ({code}){explained.removeprefix(description)}"
    except (ValueError, KeyError, TypeError):
        return f"unexpected reply {data[:100]!r}"
