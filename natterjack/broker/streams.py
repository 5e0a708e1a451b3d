"""The definition of the streams, consumers and buckets; created or checked at start."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RePublish,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    StreamInfo,
)  # fmt: skip
from nats.js.errors import APIError, NotFoundError

from natterjack.errors import StreamMismatch, StreamMissing
from natterjack.settings import Kind, Storage, StreamSettings
from natterjack.subjects import (
    AUDIO_PREFIX,
    DEAD_PREFIX,
    DIAL_PREFIX,
    DURABLE_KINDS,
    REPUBLISHED_PREFIX,
    SESSION_PREFIX,
    SLOT_PREFIX,
    SPEECH_PREFIX,
    TEXT_PREFIX,
    TRANSCRIPT_PREFIX,
    VOICE_EVENT_KINDS,
    VOICE_EVENT_PREFIX,
    VOICE_SESSION_PREFIX,
)
from natterjack.telemetry.log import fields
from natterjack.voice.spec import MAX_PIECE_BYTES

from . import store_limits
from .connection import Broker
from .differences import check_stream
from .refusals import translated

log = logging.getLogger(__name__)

SESSIONS = "STT_SESSIONS"
AUDIO = "STT_AUDIO"
TRANSCRIPTS = "STT_TRANSCRIPTS"
SLOTS = "STT_SLOTS"
DEAD_LETTERS = "STT_DEAD_LETTERS"
VOICE_SESSIONS = "TTS_SESSIONS"
TEXT = "TTS_TEXT"
SPEECH = "TTS_AUDIO"
VOICE_EVENTS = "TTS_EVENTS"
CHECKPOINTS_BUCKET = "stt_sessions"
VOICE_CHECKPOINTS_BUCKET = "tts_sessions"
WORKERS_BUCKET = "stt_workers"
USAGE_BUCKET = "stt_usage"
BUDGETS_BUCKET = "stt_budgets"
PROVIDERS_BUCKET = "stt_providers"
DURABLES_BUCKET = "stt_durables"
ENROLLMENTS_BUCKET = "stt_enrollments"
EDGES_BUCKET = "stt_edges"
CONSUMER = "workers"
QUEUES: Mapping[Kind, str] = {"transcribe": SESSIONS, "speak": VOICE_SESSIONS}
"""The work queue of each kind of session. Each has a consumer `workers`."""

MAX_SPEC_BYTES = 64 * 1024
_HEADER_BYTES = 1024
"""Room for the headers of a message in the size limits of a stream, which count them."""
DUPLICATE_WINDOW_S = 120
_CHECKPOINT_MAX_AGE_S = 7 * 24 * 3600
_USAGE_MAX_AGE_S = 400 * 24 * 3600
_PROVIDERS_MAX_AGE_S = 3600

MAX_PRESENCE_BYTES = 32 * 1024
_MAX_EDGES, _EDGES_MAX_AGE_S = 10_000, 30 * 24 * 3600
"""The limit for all tenants together. Edges beyond it are not stored."""
_MAX_PROGRESS_BYTES = 64 * 1024
_MAX_DEAD_LETTERS = 10_000
"""The limit for all durable consumers together. Beyond it, the oldest are dropped."""
_NOT_NEEDED = (
    DEAD_LETTERS, f"KV_{DURABLES_BUCKET}", f"KV_{ENROLLMENTS_BUCKET}", f"KV_{EDGES_BUCKET}",
)  # fmt: skip
"""Streams that only durable consumers, registrars and edges use: workers go on without them."""

_LEAST_AUDIO_BYTES = 1024 * 1024
"""The smallest limit that is set without being asked for: half a minute of one session."""

_STORAGE: Mapping[Storage, StorageType] = {"file": StorageType.FILE, "memory": StorageType.MEMORY}
_SHRINKING = {AUDIO: "audio_max_bytes", SPEECH: "tts_audio_max_bytes"}
"""The streams whose limit, unless it is set, is halved until the store has room; and its field."""

_NAME_IN_USE = 10058


def stream_configs(settings: StreamSettings) -> list[StreamConfig]:
    """Return the configuration of all streams of the settings' kinds, including those of the
    buckets."""
    found = _transcribe_configs(settings) if "transcribe" in settings.kinds else []
    found += _speak_configs(settings) if "speak" in settings.kinds else []
    found += _common_configs(settings.stream_replicas)
    return sorted(found, key=lambda config: (config.name or "").startswith("KV_"))


def queues(settings: StreamSettings) -> list[str]:
    """Return the work queues of the settings' kinds."""
    return [QUEUES[kind] for kind in settings.kinds]


def _transcribe_configs(settings: StreamSettings) -> list[StreamConfig]:
    replicas = settings.stream_replicas
    return [
        _queue(SESSIONS, SESSION_PREFIX, replicas, settings.sessions_max_bytes),
        StreamConfig(
            name=AUDIO,
            subjects=[f"{AUDIO_PREFIX}.>"],
            storage=_STORAGE[settings.audio_storage],
            num_replicas=replicas,
            max_age=settings.audio_max_age_seconds,
            max_bytes=settings.audio_max_bytes,
            duplicate_window=min(DUPLICATE_WINDOW_S, settings.audio_max_age_seconds),
            allow_direct=True,
        ),
        _events(
            TRANSCRIPTS, TRANSCRIPT_PREFIX, DURABLE_KINDS, replicas,
            settings.transcripts_max_age_seconds,
        ),
        _events(
            DEAD_LETTERS, DEAD_PREFIX, ("*",), replicas, settings.transcripts_max_age_seconds
        ).evolve(max_msgs=_MAX_DEAD_LETTERS),
        _bucket(CHECKPOINTS_BUCKET, replicas, _CHECKPOINT_MAX_AGE_S),
        # Whoever may write one entry must not be able to replace all.
        _bucket(DURABLES_BUCKET, replicas, 0).evolve(
            allow_rollup_hdrs=False, max_msg_size=_MAX_PROGRESS_BYTES
        ),
        _bucket(EDGES_BUCKET, replicas, _EDGES_MAX_AGE_S).evolve(
            allow_rollup_hdrs=False, max_msgs=_MAX_EDGES,
            max_msg_size=MAX_PRESENCE_BYTES + _HEADER_BYTES,
        ),
    ]  # fmt: skip


def _speak_configs(settings: StreamSettings) -> list[StreamConfig]:
    replicas = settings.stream_replicas
    return [
        _queue(VOICE_SESSIONS, VOICE_SESSION_PREFIX, replicas, settings.tts_sessions_max_bytes),
        StreamConfig(
            name=TEXT,
            subjects=[f"{TEXT_PREFIX}.>"],
            storage=StorageType.FILE,
            num_replicas=replicas,
            max_age=settings.tts_text_max_age_seconds,
            max_bytes=settings.tts_text_max_bytes,
            discard=DiscardPolicy.NEW,  # an application that is refused retries; no text vanishes
            max_msg_size=MAX_PIECE_BYTES + _HEADER_BYTES,
            duplicate_window=min(DUPLICATE_WINDOW_S, settings.tts_text_max_age_seconds),
            allow_direct=True,
        ),
        StreamConfig(
            name=SPEECH,
            subjects=[f"{SPEECH_PREFIX}.>"],
            storage=_STORAGE[settings.tts_audio_storage],
            num_replicas=replicas,
            max_age=settings.tts_audio_max_age_seconds,
            max_bytes=settings.tts_audio_max_bytes,
            # As long as its age: a chunk that is published again for a player is stored once.
            duplicate_window=settings.tts_audio_max_age_seconds,
            allow_direct=True,
        ),
        _events(
            VOICE_EVENTS, VOICE_EVENT_PREFIX, VOICE_EVENT_KINDS, replicas,
            settings.tts_events_max_age_seconds,
        ),
        _bucket(VOICE_CHECKPOINTS_BUCKET, replicas, _CHECKPOINT_MAX_AGE_S),
    ]  # fmt: skip


def _common_configs(replicas: int) -> list[StreamConfig]:
    return [
        StreamConfig(
            # One subject for each connection and each dial of a provider account; the message names
            # its holder.
            name=SLOTS,
            subjects=[f"{SLOT_PREFIX}.>", f"{DIAL_PREFIX}.>"],
            storage=StorageType.FILE,
            num_replicas=replicas,
            max_msgs_per_subject=1,
            # Workers that use a limited account receive exactly what was stored.
            republish=RePublish(src="stt.>", dest=f"{REPUBLISHED_PREFIX}.>"),
            allow_direct=True,
        ),
        _bucket(WORKERS_BUCKET, replicas, _CHECKPOINT_MAX_AGE_S),
        _bucket(USAGE_BUCKET, replicas, _USAGE_MAX_AGE_S),
        _bucket(BUDGETS_BUCKET, replicas, 0),
        _bucket(PROVIDERS_BUCKET, replicas, _PROVIDERS_MAX_AGE_S),
        # Only ever read from the leader: what it says decides who is let in.
        _bucket(ENROLLMENTS_BUCKET, replicas, 0).evolve(allow_rollup_hdrs=False),
    ]


def _queue(name: str, prefix: str, replicas: int, max_bytes: int) -> StreamConfig:
    """Return a work queue of requests, each of which stays until its session has ended."""
    return StreamConfig(
        name=name,
        subjects=[f"{prefix}.>"],
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.FILE,
        num_replicas=replicas,
        max_bytes=max_bytes,
        discard=DiscardPolicy.NEW,  # a client that is refused retries; requests that wait are kept
        max_msg_size=MAX_SPEC_BYTES,
        duplicate_window=DUPLICATE_WINDOW_S,
    )


def _events(
    name: str, prefix: str, kinds: Sequence[str], replicas: int, max_age_seconds: float
) -> StreamConfig:
    """Return a stream of durable events."""
    return StreamConfig(
        name=name,
        subjects=[f"{prefix}.*.*.*.{kind}" for kind in kinds],
        storage=StorageType.FILE,
        num_replicas=replicas,
        max_age=max_age_seconds,
        duplicate_window=min(DUPLICATE_WINDOW_S, max_age_seconds),
        allow_direct=True,
    )


def _bucket(name: str, replicas: int, max_age_seconds: float) -> StreamConfig:
    """Return the stream of a bucket, which keeps the last value of each key. A maximum age of 0
    means no limit."""
    return StreamConfig(
        name=f"KV_{name}",
        subjects=[f"$KV.{name}.>"],
        storage=StorageType.FILE,
        num_replicas=replicas,
        max_age=max_age_seconds,
        max_msgs_per_subject=1,
        discard=DiscardPolicy.NEW,
        allow_direct=True,
        allow_rollup_hdrs=True,
        deny_delete=True,
    )


def bucket_subject(bucket: str, key: str) -> str:
    """Return the subject of a bucket's entry; `key` may have wildcards."""
    return f"$KV.{bucket}.{key}"


def usage_erased(tenant: str) -> str:
    """Return the key of `stt_usage` whose deletion tells workers to forget the tenant's usage."""
    return f"all.{tenant}.erased"


def consumer_config(settings: StreamSettings) -> ConsumerConfig:
    """Return the configuration of the durable pull consumer of a queue, which all workers share;
    its ack_wait is the lease time."""
    return ConsumerConfig(
        durable_name=CONSUMER,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=settings.lease_seconds,
        deliver_policy=DeliverPolicy.ALL,
        max_ack_pending=-1,
        max_deliver=-1,
    )


async def ensure(broker: Broker, settings: StreamSettings) -> JetStreamContext:
    """Create what is missing of the streams, consumers and buckets; return JetStream.

    Nothing is created if `settings.create_streams` is off. Existing ones are checked, and never
    changed except for a consumer's ack_wait and, unless that is off, the subjects that a stream of
    an earlier release lacks. Several programs may do this at the same time. Raises: StreamMismatch,
    which names the problem and its remedy (StreamMissing if something is missing);
    BrokerUnreachable.
    """
    js = broker.client.jetstream()
    with translated():
        # Streams that shrink come last: they take what the others leave.
        for wanted in sorted(stream_configs(settings), key=lambda one: one.name in _SHRINKING):
            limit = _SHRINKING.get(wanted.name or "")
            shrinks = limit is not None and limit not in settings.model_fields_set
            with translated(wanted):
                await _ensure_stream(js, wanted, settings.create_streams, shrinks)
        for queue in queues(settings):
            await _ensure_consumer(js, queue, consumer_config(settings), settings.create_streams)
    return js


async def _ensure_stream(
    js: JetStreamContext, wanted: StreamConfig, create: bool, shrinks: bool
) -> None:
    """Create or check a stream. If it `shrinks`, halve its limit until the store has room."""
    name = wanted.name
    assert name is not None
    try:
        info = await js.stream_info(name)
    except NotFoundError:
        if not create:
            if name in _NOT_NEEDED:
                return
            raise StreamMissing(
                f"stream {name} is missing and NATTERJACK_CREATE_STREAMS is off: "
                "run `natterjack streams apply` as a user that may create streams"
            ) from None
        try:
            info = await (_add_smaller(js, wanted) if shrinks else js.add_stream(wanted))
            log.info("stream created", extra=fields(stream=name))
        except APIError as error:
            if error.err_code != _NAME_IN_USE:
                raise
            info = await js.stream_info(name)  # another program created it
    differences = check_stream(info.config, wanted)
    if create and any(difference.field == "subjects" for difference in differences):
        has = info.config.subjects or []
        more = sorted(set(wanted.subjects or ()) - set(has))
        await js.update_stream(info.config.evolve(subjects=[*has, *more]))
        log.info("stream takes more subjects", extra=fields(stream=name, subjects=more))
        differences = [each for each in differences if each.field != "subjects"]
    if differences:
        log.info(
            "stream differs from the settings, not changed: %s",
            "; ".join(map(str, differences)),
            extra=fields(stream=name),
        )


async def _add_smaller(js: JetStreamContext, wanted: StreamConfig) -> StreamInfo:
    """Create the stream with the largest limit that fits, of `wanted` halved again and again."""
    limit = first = wanted.max_bytes or 0
    while True:
        try:
            info = await js.add_stream(wanted.evolve(max_bytes=limit))
        except APIError as error:
            limit //= 2
            if limit < _LEAST_AUDIO_BYTES or not store_limits.too_small(
                error.err_code, error.description
            ):
                raise
            continue
        if limit != first:
            log.warning(
                "the store is too small for the default of %s: limited to %s",
                store_limits.setting(wanted.name or ""),
                store_limits.size(limit),
            )
        return info


def check_consumer(queue: str, found: ConsumerConfig) -> None:
    """Check that workers can use a queue's consumer with this configuration.

    Raises: StreamMismatch.
    """
    if found.ack_policy != AckPolicy.EXPLICIT or found.deliver_subject or found.max_deliver != -1:
        raise StreamMismatch(
            f"consumer {CONSUMER} of {queue} exists and is not a pull consumer with explicit "
            "acknowledgement and unlimited deliveries: `natterjack streams apply --allow-loss` "
            "recreates it"
        )


async def _ensure_consumer(
    js: JetStreamContext, queue: str, wanted: ConsumerConfig, create: bool
) -> None:
    try:
        found = (await js.consumer_info(queue, CONSUMER)).config
    except NotFoundError:
        if not create:
            raise StreamMissing(
                f"consumer {CONSUMER} of {queue} is missing and NATTERJACK_CREATE_STREAMS is "
                "off: run `natterjack streams apply` as a user that may create streams"
            ) from None
        await js.add_consumer(queue, wanted)
        return
    check_consumer(queue, found)
    if found.ack_wait != wanted.ack_wait or found.max_ack_pending != -1:
        if not create:
            log.info(
                "consumer's ack_wait differs from NATTERJACK_LEASE_SECONDS",
                extra=fields(stream=queue, found=found.ack_wait, wanted=wanted.ack_wait),
            )
            return
        new = found.evolve(ack_wait=wanted.ack_wait, max_ack_pending=-1)
        await js.add_consumer(queue, new)  # updates it, since the name exists
        log.info("lease time changed", extra=fields(stream=queue, seconds=wanted.ack_wait))
