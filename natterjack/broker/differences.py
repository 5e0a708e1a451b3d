"""What a stream or consumer on the broker has otherwise than our definition. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from nats.js.api import (
    ConsumerConfig,
    DiscardPolicy,
    RePublish,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

STORED, COPIES = "what is stored", "copies"


@dataclass(frozen=True)
class Difference:
    """What a stream or consumer is on the broker, and what it is to be."""

    what: str
    found: object
    wanted: object
    loses: str = ""
    """To change it would drop this: STORED, or COPIES of it."""

    def __str__(self) -> str:
        return f"{self.what} is {plain(self.found)}, wanted {plain(self.wanted)}"


def plain(value: object) -> object:
    if isinstance(value, RePublish):
        return value.dest
    return value.value if isinstance(value, Enum) else value


def _shorter(found: float | None, wanted: float | None) -> str:
    """What a bound that is lower than it was drops; none, 0 and -1 are no bound."""
    return STORED if wanted and wanted > 0 and not (found and 0 < found <= wanted) else ""


def overlap(one: str, other: str) -> bool:
    """Whether two subject filters have a subject in common."""
    ours, theirs = one.split("."), other.split(".")
    for mine, its in zip(ours, theirs, strict=False):
        if ">" in (mine, its):
            return True
        if mine != its and "*" not in (mine, its):
            return False
    return len(ours) == len(theirs)


def _subjects(found: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Those that are wanted, and whatever else the stream has that is not of them: a stream must
    not have two that overlap."""
    beside = [s for s in found if not any(overlap(s, ours) for ours in wanted)]
    return sorted({*beside, *wanted})


def stream_differences(found: StreamConfig, wanted: StreamConfig) -> list[Difference]:
    """All that our definition says and the broker has otherwise; what an operator has set beside it
    is left alone."""
    differences = []

    def compare(what: str, default: object = None, *, loses: str = "") -> None:
        has, wants = getattr(found, what), getattr(wanted, what)
        has, wants = (default if has is None else has), (default if wants is None else wants)
        if has != wants:
            differences.append(Difference(what, has, wants, loses))

    has, wants = found.subjects or [], wanted.subjects or []
    if not set(wants) <= set(has):
        differences.append(Difference("subjects", has, _subjects(has, wants)))
    compare("retention", RetentionPolicy.LIMITS, loses=STORED)
    compare("storage", StorageType.FILE, loses=STORED)
    compare("sealed", False, loses=STORED)
    fewer = (wanted.num_replicas or 1) < (found.num_replicas or 1)
    compare("num_replicas", 1, loses=COPIES if fewer else "")
    compare("max_age", 0, loses=_shorter(found.max_age, wanted.max_age))
    # One that refuses what is new drops nothing for its size.
    drops = (
        "" if wanted.discard == DiscardPolicy.NEW else _shorter(found.max_bytes, wanted.max_bytes)
    )
    compare("max_bytes", -1, loses=drops)
    most = "max_msgs_per_subject"
    compare(most, -1, loses=_shorter(found.max_msgs_per_subject, wanted.max_msgs_per_subject))
    compare("max_msg_size", -1)
    compare("discard", DiscardPolicy.OLD)
    for what in ("no_ack", "allow_direct", "allow_rollup_hdrs", "deny_delete"):
        compare(what, False)
    if wanted.duplicate_window:
        compare("duplicate_window")
    if wanted.republish is not None and not (
        found.republish
        and (found.republish.src, found.republish.dest)
        == (wanted.republish.src, wanted.republish.dest)
    ):
        differences.append(Difference("republish", found.republish, wanted.republish))
    return differences


REMAKE_STREAM = ("retention", "storage", "sealed")
"""What the server does not change in a stream that is there."""
REMAKE_CONSUMER = ("ack_policy", "deliver_policy", "deliver_subject")
PUSHED = ("deliver_group", "flow_control", "idle_heartbeat", "rate_limit_bps")
"""Of a consumer with a deliver_subject only."""


def consumer_differences(found: ConsumerConfig, wanted: ConsumerConfig) -> list[Difference]:
    """All that keeps the consumer from giving workers every request, in the way they expect."""
    differences = []

    def compare(what: str, *, loses: str = "") -> None:
        has, wants = getattr(found, what), getattr(wanted, what)
        if (has or None) != (wants or None):
            differences.append(Difference(what, has, wants, loses))

    for what in REMAKE_CONSUMER:
        # Sessions that are under way would be delivered as if for the first time.
        compare(what, loses=STORED)
    for what in (
        "ack_wait", "max_ack_pending", "max_deliver", "backoff", "filter_subject",
        "filter_subjects", "headers_only", "inactive_threshold", "pause_until",
    ):  # fmt: skip
        compare(what)
    return differences
