"""The subjects that each kind of broker user may publish to and subscribe to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from natterjack.subjects import (
    AUDIO_PREFIX,
    CONTROL_PREFIX,
    DEAD_PREFIX,
    DIAL_PREFIX,
    DURABLE_PREFIX,
    EDGE_PREFIX,
    ENROLL_PREFIX,
    HOLD_PREFIX,
    PLAYED_PREFIX,
    PLAYER_HOLD_PREFIX,
    RENEW_PREFIX,
    REPUBLISHED_PREFIX,
    SESSION_PREFIX,
    SLOT_PREFIX,
    SPEECH_PREFIX,
    TEXT_PREFIX,
    TRANSCRIPT_PREFIX,
    VOICE_CONTROL_PREFIX,
    VOICE_EVENT_PREFIX,
    VOICE_SESSION_PREFIX,
    EventKind,
)

from .. import streams

API = "$JS.API"
CAPTION_KINDS: tuple[EventKind, ...] = ("interim", "final")
"""The kinds of event that are shown as captions."""


@dataclass(frozen=True)
class Permissions:
    """Subjects, with wildcards, that a user may publish and subscribe to."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    denied: tuple[str, ...] = ()
    """Subjects that the user may not publish to, although `publish` includes them."""
    responds: bool = False
    """True if the user may reply to requests that it receives."""

    def config(self) -> dict[str, Any]:
        """Return the permissions in the form of nats-server's configuration."""
        # An empty list would allow everything.
        publish = {"allow": list(self.publish)} if self.publish else {"deny": [">"]}
        if self.publish and self.denied:
            publish["deny"] = list(self.denied)
        config: dict[str, Any] = {
            "publish": publish,
            "subscribe": {"allow": list(self.subscribe)},
        }
        if self.responds:
            # A minute, because a control request may wait for a provider. Edges reply at once.
            config["allow_responses"] = {"max": 1, "expires": "1m"}
        return config


def reads(stream: str, subjects: tuple[str, ...]) -> tuple[str, ...]:
    """Requests that read a stream's messages on `subjects`. The filter is part of the request's
    subject, which confines them to a tenant."""
    return (
        *(f"{API}.CONSUMER.CREATE.{stream}.*.{subject}" for subject in subjects),
        f"{API}.CONSUMER.INFO.{stream}.*",
        f"{API}.CONSUMER.MSG.NEXT.{stream}.*",
        *(f"{API}.DIRECT.GET.{stream}.{subject}" for subject in subjects),
    )


def durable_use(name: str, key: str) -> tuple[str, ...]:
    """Return the subjects that a durable consumer publishes to beside the requests that read:
    acknowledgements, its progress, signs of life, and dead letters."""
    progress = streams.bucket_subject(streams.DURABLES_BUCKET, f"{name}.>")
    dead = f"{DEAD_PREFIX}.{key}.{name}"
    return (
        f"$JS.ACK.{streams.TRANSCRIPTS}.{name}.>",
        progress,
        f"{API}.DIRECT.GET.KV_{streams.DURABLES_BUCKET}.{progress}",
        f"{DURABLE_PREFIX}.{name}",
        dead,
        *reads(streams.DEAD_LETTERS, (dead,)),
    )


def requests_of(name: str) -> tuple[str, ...]:
    """Requests about a durable consumer, whose name can be guessed: they are its user's."""
    return (
        f"{API}.CONSUMER.CREATE.{streams.TRANSCRIPTS}.{name}.>",
        f"{API}.CONSUMER.INFO.{streams.TRANSCRIPTS}.{name}",
        f"{API}.CONSUMER.MSG.NEXT.{streams.TRANSCRIPTS}.{name}",
    )


def edge(key: str, agent: str, own: tuple[str, ...], *, captions: bool = False) -> Permissions:
    """Return the permissions of an edge for sessions whose keys match `key`. `agent` is its tenant
    and its name, as in the bucket `stt_edges`. With `captions`, it also receives the text of the
    sessions while they speak; stored text stays out of its reach."""
    presence = streams.bucket_subject(streams.EDGES_BUCKET, agent)
    status = f"{TRANSCRIPT_PREFIX}.{key}.status"
    holds = (f"{HOLD_PREFIX}.{key}", f"{PLAYER_HOLD_PREFIX}.{key}")
    speech, voice_status = f"{SPEECH_PREFIX}.{key}", f"{VOICE_EVENT_PREFIX}.{key}.status"
    return Permissions(
        publish=(
            f"{SESSION_PREFIX}.{key}",
            f"{AUDIO_PREFIX}.{key}",
            *holds,
            f"{PLAYED_PREFIX}.{key}",
            # The newest status of a session, and its newest chunk of speech, by their subjects.
            f"{API}.DIRECT.GET.{streams.TRANSCRIPTS}.{status}",
            f"{API}.DIRECT.GET.{streams.VOICE_EVENTS}.{voice_status}",
            f"{API}.DIRECT.GET.{streams.SPEECH}.{speech}",
            presence,
            f"{API}.DIRECT.GET.KV_{streams.EDGES_BUCKET}.{presence}",
            "$SYS.REQ.USER.INFO",  # about itself: its rights, and the server's clock
        ),
        subscribe=(
            *own,
            status,
            *holds,
            speech,
            voice_status,
            f"{EDGE_PREFIX}.{agent}",
            *((f"{TRANSCRIPT_PREFIX}.{key}.{kind}" for kind in CAPTION_KINDS) if captions else ()),
        ),
        responds=True,  # to other edges that ask for its keys, and to the center
    )


def worker(own: tuple[str, ...]) -> Permissions:
    """Return the permissions of a worker."""
    written = (
        streams.CHECKPOINTS_BUCKET, streams.VOICE_CHECKPOINTS_BUCKET, streams.WORKERS_BUCKET,
        streams.USAGE_BUCKET, streams.PROVIDERS_BUCKET,
    )  # fmt: skip
    read = (
        streams.AUDIO, streams.TEXT, streams.SPEECH,
        *(f"KV_{bucket}" for bucket in (*written, streams.BUDGETS_BUCKET, streams.EDGES_BUCKET)),
        streams.SLOTS,
    )  # fmt: skip
    # Answered by the leader; a replica may lag behind.
    read_from_leader = (
        *streams.QUEUES.values(), streams.TRANSCRIPTS, streams.VOICE_EVENTS, streams.SPEECH,
        streams.SLOTS, f"KV_{streams.CHECKPOINTS_BUCKET}", f"KV_{streams.VOICE_CHECKPOINTS_BUCKET}",
        f"KV_{streams.USAGE_BUCKET}",
    )  # fmt: skip
    queues = [f"{queue}.{streams.CONSUMER}" for queue in streams.QUEUES.values()]
    return Permissions(
        publish=(
            f"{TRANSCRIPT_PREFIX}.*.*.*.*",
            f"{SPEECH_PREFIX}.*.*.*",
            f"{VOICE_EVENT_PREFIX}.*.*.*.*",
            f"{SLOT_PREFIX}.>",
            f"{DIAL_PREFIX}.>",
            f"{REPUBLISHED_PREFIX}.waiting.>",
            *(streams.bucket_subject(bucket, ">") for bucket in written),
            *(f"{API}.CONSUMER.INFO.{queue}" for queue in queues),
            *(f"{API}.CONSUMER.MSG.NEXT.{queue}" for queue in queues),
            *(f"$JS.ACK.{queue}.>" for queue in queues),
            f"{API}.STREAM.INFO.*",
            *(f"{API}.STREAM.MSG.GET.{stream}" for stream in read_from_leader),
            *(f"{API}.DIRECT.GET.{stream}" for stream in read),
            *(f"{API}.DIRECT.GET.{stream}.>" for stream in read),
        ),
        subscribe=(
            *own,
            f"{AUDIO_PREFIX}.*.*.*",
            f"{CONTROL_PREFIX}.*.*.*",
            f"{TEXT_PREFIX}.*.*.*",
            f"{PLAYED_PREFIX}.*.*.*",
            f"{VOICE_CONTROL_PREFIX}.*.*.*",
            f"{TRANSCRIPT_PREFIX}.*.*.*.turn",  # a speaker's turn interrupts a voice
            f"{REPUBLISHED_PREFIX}.>",
            streams.bucket_subject(streams.BUDGETS_BUCKET, ">"),
            streams.bucket_subject(streams.USAGE_BUCKET, ">"),
            streams.bucket_subject(streams.PROVIDERS_BUCKET, ">"),
        ),
        responds=True,
    )


def gateway(own: tuple[str, ...], reserved: Iterable[str]) -> Permissions:
    """Return the permissions of a gateway. `reserved` are the names of all durable consumers."""
    transcripts, voice_events = f"{TRANSCRIPT_PREFIX}.>", f"{VOICE_EVENT_PREFIX}.>"
    holds = (f"{HOLD_PREFIX}.*.*.*", f"{PLAYER_HOLD_PREFIX}.*.*.*")
    speech = f"{SPEECH_PREFIX}.*.*.*"
    queues = tuple(streams.QUEUES.values())
    buckets = (
        streams.WORKERS_BUCKET, streams.BUDGETS_BUCKET, streams.USAGE_BUCKET, streams.EDGES_BUCKET,
    )  # fmt: skip
    sent = (
        SESSION_PREFIX, AUDIO_PREFIX, CONTROL_PREFIX,
        VOICE_SESSION_PREFIX, TEXT_PREFIX, PLAYED_PREFIX, VOICE_CONTROL_PREFIX,
    )  # fmt: skip
    events = (streams.TRANSCRIPTS, streams.VOICE_EVENTS)
    return Permissions(
        publish=(
            *(f"{prefix}.*.*.*" for prefix in sent),
            *holds,
            *reads(streams.TRANSCRIPTS, (transcripts,)),
            *reads(streams.VOICE_EVENTS, (voice_events,)),
            f"{API}.DIRECT.GET.{streams.SPEECH}.{speech}",
            # Batches, whose requests name the subjects in their payload.
            *(f"{API}.DIRECT.GET.{stream}" for stream in (*events, streams.AUDIO)),
            *(f"{API}.DIRECT.GET.KV_{bucket}" for bucket in buckets),
            *(
                f"{API}.STREAM.INFO.{stream}"
                for stream in (*events, *queues, f"KV_{streams.EDGES_BUCKET}")
            ),
            *(f"{API}.STREAM.MSG.GET.{queue}" for queue in queues),
        ),
        subscribe=(*own, transcripts, voice_events, *holds, speech),
        denied=tuple(request for name in sorted(set(reserved)) for request in requests_of(name)),
        responds=True,  # to gateways that ask whether a client is still there
    )


def monitor(own: tuple[str, ...]) -> Permissions:
    """Return the permissions of a monitor."""
    return Permissions(
        publish=(
            f"{API}.INFO",
            f"{API}.STREAM.NAMES",
            f"{API}.STREAM.LIST",
            f"{API}.STREAM.INFO.*",
            f"{API}.CONSUMER.INFO.*.*",
            *(f"{API}.STREAM.MSG.GET.{queue}" for queue in streams.QUEUES.values()),
            f"{API}.DIRECT.GET.KV_{streams.WORKERS_BUCKET}",
            f"{API}.DIRECT.GET.KV_{streams.USAGE_BUCKET}",
            f"{API}.DIRECT.GET.KV_{streams.BUDGETS_BUCKET}",
            f"{API}.DIRECT.GET.KV_{streams.EDGES_BUCKET}",
            f"{API}.DIRECT.GET.{streams.SLOTS}",
        ),
        subscribe=own,
    )


def registrar(own: tuple[str, ...]) -> Permissions:
    """Return the permissions of a registrar: its requests, and the bucket of invitations and
    agents."""
    entries = streams.bucket_subject(streams.ENROLLMENTS_BUCKET, ">")
    return Permissions(
        publish=(entries, f"{API}.STREAM.MSG.GET.KV_{streams.ENROLLMENTS_BUCKET}"),
        subscribe=(*own, f"{ENROLL_PREFIX}.*", f"{RENEW_PREFIX}.*"),
        responds=True,
    )


def operator(own: tuple[str, ...]) -> Permissions:
    """Return the permissions of an operator."""
    return Permissions(
        publish=(
            f"{API}.>",
            # Acknowledgements of a backup, and the data of a restore.
            "$JS.SNAPSHOT.>",
            streams.bucket_subject(streams.BUDGETS_BUCKET, ">"),
            streams.bucket_subject(streams.USAGE_BUCKET, streams.usage_erased("*")),
            streams.bucket_subject(streams.ENROLLMENTS_BUCKET, ">"),
            f"{CONTROL_PREFIX}.>",
            f"{VOICE_CONTROL_PREFIX}.>",
            f"{EDGE_PREFIX}.*.*",
            f"{SESSION_PREFIX}.*.*.*",
            f"{VOICE_SESSION_PREFIX}.*.*.*",
        ),
        subscribe=(
            *own,
            f"{TRANSCRIPT_PREFIX}.>",
            f"{VOICE_EVENT_PREFIX}.>",
            f"{REPUBLISHED_PREFIX}.>",
            f"{EDGE_PREFIX}.*.*.*",  # replies of edges
        ),
    )
