"""Differences between a stream or consumer on the broker and its definition, and which of them
matter. Pure."""

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

from natterjack.errors import StreamMismatch
from natterjack.subjects import TRANSCRIPT_PREFIX

STORED, COPIES = "what is stored", "copies"

_REQUIRED = (
    "subjects", "retention", "sealed", "no_ack", "allow_direct", "republish",
    "max_msgs_per_subject",
)  # fmt: skip
"""Fields that must match, or messages may be lost or duplicated. The rest is up to an operator."""


@dataclass(frozen=True)
class Difference:
    """One field of a configuration that is not as it is defined."""

    field: str
    found: object
    wanted: object
    loss: str = ""
    """The data that changing the field would delete: STORED, COPIES, or nothing."""

    def __str__(self) -> str:
        return f"{self.field} is {plain(self.found)}, wanted {plain(self.wanted)}"


def plain(value: object) -> object:
    """Return a configuration value in a form to print."""
    if isinstance(value, RePublish):
        return value.dest
    return value.value if isinstance(value, Enum) else value


def _loss_of_limit(found: float | None, wanted: float | None) -> str:
    """Return what lowering a limit would delete. None, 0 and -1 mean no limit."""
    return STORED if wanted and wanted > 0 and not (found and 0 < found <= wanted) else ""


def overlap(one: str, other: str) -> bool:
    """Return True if two subject filters have a subject in common."""
    ours, theirs = one.split("."), other.split(".")
    for mine, its in zip(ours, theirs, strict=False):
        if ">" in (mine, its):
            return True
        if mine != its and "*" not in (mine, its):
            return False
    return len(ours) == len(theirs)


def _subjects(found: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Return the wanted subjects and those found that do not overlap with them: the subjects of a
    stream must not overlap."""
    others = [s for s in found if not any(overlap(s, ours) for ours in wanted)]
    return sorted({*others, *wanted})


def stream_differences(
    found: StreamConfig, wanted: StreamConfig, stored_bytes: int | None = None
) -> list[Difference]:
    """Return the fields of our definition that differ. What an operator has set beyond it does not
    count. A lower limit of the size loses nothing if it is twice the `stored_bytes` or more."""
    differences = []

    def compare(field: str, default: object = None, *, loss: str = "") -> None:
        has, wants = getattr(found, field), getattr(wanted, field)
        has, wants = (default if has is None else has), (default if wants is None else wants)
        if has != wants:
            differences.append(Difference(field, has, wants, loss))

    has, wants = found.subjects or [], wanted.subjects or []
    if not set(wants) <= set(has):
        differences.append(Difference("subjects", has, _subjects(has, wants)))
    compare("retention", RetentionPolicy.LIMITS, loss=STORED)
    compare("storage", StorageType.FILE, loss=STORED)
    compare("sealed", False, loss=STORED)
    fewer = (wanted.num_replicas or 1) < (found.num_replicas or 1)
    compare("num_replicas", 1, loss=COPIES if fewer else "")
    compare("max_age", 0, loss=_loss_of_limit(found.max_age, wanted.max_age))
    # A full stream that refuses new messages keeps the old ones.
    kept = wanted.discard == DiscardPolicy.NEW or (
        stored_bytes is not None and 2 * stored_bytes <= (wanted.max_bytes or 0)
    )
    lost = "" if kept else _loss_of_limit(found.max_bytes, wanted.max_bytes)
    compare("max_bytes", -1, loss=lost)
    most = "max_msgs_per_subject"
    compare(most, -1, loss=_loss_of_limit(found.max_msgs_per_subject, wanted.max_msgs_per_subject))
    compare("max_msg_size", -1)
    compare("discard", DiscardPolicy.OLD)
    for field in ("no_ack", "allow_direct", "allow_rollup_hdrs", "deny_delete"):
        compare(field, False)
    if wanted.duplicate_window:
        compare("duplicate_window")
    if wanted.republish is not None and not (
        found.republish
        and (found.republish.src, found.republish.dest)
        == (wanted.republish.src, wanted.republish.dest)
    ):
        differences.append(Difference("republish", found.republish, wanted.republish))
    return differences


LATER_SUBJECTS = {f"{TRANSCRIPT_PREFIX}.*.*.*.notice"}
"""Subjects that a stream of an earlier release lacks, and that a worker can do without. They are
added where programs may create streams."""


def check_stream(found: StreamConfig, wanted: StreamConfig) -> list[Difference]:
    """Return the differences that an operator may have intended.

    Raises: StreamMismatch if a stream with this configuration cannot be used.
    """
    differences = stream_differences(found, wanted)
    usable = set(wanted.subjects or ()) - set(found.subjects or ()) <= LATER_SUBJECTS
    required = [field for field in _REQUIRED if not (usable and field == "subjects")]
    if wrong := [d for d in differences if d.field in required]:
        raise StreamMismatch(
            f"stream {wanted.name} exists and cannot be used: {'; '.join(map(str, wrong))}. "
            "`natterjack streams apply` corrects it"
        )
    return differences


REMAKE_STREAM = ("retention", "storage", "sealed")
"""Fields that the server cannot change in an existing stream."""
REMAKE_CONSUMER = ("ack_policy", "deliver_policy", "deliver_subject")
"""Fields that the server cannot change in an existing consumer."""
PUSH_ONLY = ("deliver_group", "flow_control", "idle_heartbeat", "rate_limit_bps")
"""Fields of a push consumer, which has a deliver_subject."""


def consumer_differences(found: ConsumerConfig, wanted: ConsumerConfig) -> list[Difference]:
    """Return the fields that keep the consumer from delivering every request as workers expect."""
    differences = []

    def compare(field: str, *, loss: str = "") -> None:
        has, wants = getattr(found, field), getattr(wanted, field)
        if (has or None) != (wants or None):
            differences.append(Difference(field, has, wants, loss))

    for field in REMAKE_CONSUMER:
        # Running sessions would be delivered as if for the first time.
        compare(field, loss=STORED)
    for field in (
        "ack_wait", "max_ack_pending", "max_deliver", "backoff", "filter_subject",
        "filter_subjects", "headers_only", "inactive_threshold", "pause_until",
    ):  # fmt: skip
        compare(field)
    return differences
