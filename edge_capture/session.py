"""One session at the edge: its request, its chunker, its publisher and its status."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

from pydantic import ValidationError

from natterjack.audio import MAX_CHUNK_BYTES, MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, AudioFormat
from natterjack.broker.streams import MAX_SPEC_BYTES
from natterjack.errors import UsageError, problem_text
from natterjack.notices import DROPPED, GAP_CAUSES, MUTED, RESUMED, Note
from natterjack.spec import SessionSpec
from natterjack.subjects import SessionKey

from .chunks import Chunk, Chunker, resume_frame
from .delivery.backlog import AHEAD_CHUNKS, Backlog
from .delivery.chain import Chain
from .delivery.flac import flac_encoder
from .delivery.publisher import Publisher
from .delivery.token_bucket import TokenBucket
from .keep.background import BackgroundRecorder
from .level import level_dbfs
from .settings import DeliverySettings, EdgeSettings, PublishSettings, RequestSettings
from .sources import Block
from .spool import POWER_CUT_GAP_S, Origin, Spool, SpooledBacklog

_NS = 1_000_000_000
_SPEC_HEADROOM_BYTES = 4 * 1024  # the stream's limit includes headers


class EdgeSession:
    """One session, from the source's blocks to the broker."""

    def __init__(self, chunker: Chunker, chain: Chain, source_rate: int) -> None:
        self.chain = chain
        self.publisher = chain.publisher
        self.status = chain.status
        self.spec = self.publisher.spec
        """The request of the first session: its key, its format, and the ID that chunks have."""
        self._chunker = chunker
        flac = self.spec.encoding == "flac"
        self._encode = flac_encoder(self.spec.sample_rate, self.spec.channels) if flac else None
        self.recorder: BackgroundRecorder | None = None
        """Keeps the audio on this machine, too."""
        self.resumed = False
        """Whether an earlier run started the session and more audio follows."""
        self.continued = False
        """Whether an earlier run started the session."""
        self._last_payload = b""
        self._resumed_ns: int | None = None
        """Wall clock of the end of an earlier run's live audio, until the first block arrives."""
        self._min_gap_s = 0.0
        self._source_rate = source_rate
        self.muted = False
        """Whether no audio is published, although it is captured."""
        self._muted_frames = 0
        """Source frames that were muted, until the first block after them arrives."""
        self._lost: Counter[str] = Counter()
        """Source frames that this run lost before they were cut into chunks, by cause."""

    @property
    def seconds(self) -> float:
        """Audio captured so far, in whole chunks."""
        return self.published_seconds(self._chunker.position)

    @property
    def waiting_seconds(self) -> float:
        """Audio in chunks that is not known to be stored: whole chunks, so a little more or less
        than there is. Gaps and what an earlier run has sent are no part of it."""
        return self.published_seconds(self.publisher.unacknowledged * self._chunker.chunk_frames)

    @property
    def gap_seconds(self) -> dict[str, float]:
        """Seconds of this run that are not published, by cause."""
        gaps = {cause: frames / self._source_rate for cause, frames in self._lost.items()}
        if self.publisher.dropped_frames:
            gaps[DROPPED] = self.published_seconds(self.publisher.dropped_frames)
        return gaps

    @property
    def wanted_frames(self) -> int:
        """Number of source frames (at least 1) below which no chunk can be complete."""
        return self._chunker.wanted_frames

    def published_seconds(self, frames: int) -> float:
        """Return the duration of `frames` frames at the published rate."""
        return self.spec.audio_format.seconds(frames)

    def level_dbfs(self) -> float:
        """Return the level of the last chunk."""
        return level_dbfs(self._last_payload, self.spec.audio_format.encoding)

    def note(self, note: Note) -> None:
        """Have the next chunk say that a condition begins or ends."""
        self._chunker.note(note)

    def mute(self) -> None:
        """Publish no audio from now on. The time until `unmute` becomes a gap. Idempotent."""
        if self.muted or self.publisher.backlog.ended:
            return
        self.muted = True
        self.publisher.sounding.clear()
        # A session that is resumed is muted from where it stopped.
        self._begin(Note(MUTED), self._resumed_ns or time.time_ns())

    def unmute(self) -> None:
        """Publish audio again, from the next block on. Idempotent."""
        self.muted = False
        self.publisher.sounding.set()

    def _begin(self, note: Note, time_ns: int) -> None:
        """Say that a condition has begun with which the audio stops."""
        self._last_payload = b""
        for chunk in self._chunker.mark(note, time_ns):
            self._offer(chunk)

    def feed(self, block: Block) -> bool:
        """Offer the chunks that `block` completes. Returns whether there are any."""
        if self.publisher.backlog.ended:
            return False  # an earlier run captured everything
        chunks: list[Chunk] = []
        lost_frames, cause = block.lost_frames, block.cause
        if self._resumed_ns is not None:
            # The time is negative if the clock was set back.
            elapsed_s = max((block.time_ns - self._resumed_ns) / 1e9, self._min_gap_s)
            lost_frames = max(int(elapsed_s * self._source_rate), lost_frames)
            cause, self._resumed_ns = RESUMED, None
        if self.muted:
            self._muted_frames += lost_frames + len(block.samples)
            return False
        if self._muted_frames:
            lost_frames, cause = lost_frames + self._muted_frames, MUTED
            self._muted_frames = 0
        for note in block.notes:
            if note.code in GAP_CAUSES and not note.ended:
                self._begin(note, block.time_ns)
            else:
                self._chunker.note(note)
        if lost_frames:
            chunks = self._skip(lost_frames, cause)
        if len(block.samples):
            chunks += self._chunker.feed(block.samples, block.time_ns)
        for chunk in chunks:
            self._offer(chunk)
            self._last_payload = chunk.payload
        return bool(chunks)

    def _skip(self, lost_frames: int, cause: str) -> list[Chunk]:
        self._lost[cause] += max(0, lost_frames - self._chunker.marked_frames)
        return self._chunker.skip(lost_frames, cause)

    def _offer(self, chunk: Chunk) -> None:
        if self.recorder is not None:
            if not self.publisher.abandoned:
                self.recorder.write(chunk)
            if chunk.end or self.publisher.abandoned:
                self.recorder.close()
        if self._encode is not None:
            chunk = chunk._replace(payload=self._encode(chunk.payload))
        self.publisher.offer(chunk)

    def finish(self) -> None:
        """Offer the last chunk. To be called once."""
        if self.publisher.backlog.ended:
            return
        self.unmute()
        skipped = self._skip(self._muted_frames, MUTED) if self._muted_frames else []
        for chunk in (*skipped, self._chunker.finish()):
            self._offer(chunk)

    def resume_file(self, pos: int, source_frame: int) -> None:
        """Continue at position `pos` with blocks that start at `source_frame` of the file.

        To be called before the first `feed`.
        """
        self._chunker.resume(pos, source_frame)
        self.continued = True
        self.resumed = not self.publisher.backlog.ended

    def resume_live(self, pos: int, end_time_ns: int, min_gap_s: float) -> None:
        """Continue after `pos` and a gap as long as the time since `end_time_ns`.

        The gap ends when the first block arrives and is at least `min_gap_s` long. To be called
        before the first `feed`.
        """
        self._chunker.resume(pos)
        self._resumed_ns, self._min_gap_s = end_time_ns, min_gap_s
        self.continued = self.resumed = True


def readable_token() -> str:
    """Return a unique name for a conversation that contains its start in local time."""
    return f"{datetime.now().astimezone():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def published_format(source: AudioFormat, settings: PublishSettings, split: bool) -> AudioFormat:
    """Return the format in which a source is published.

    Raises: UsageError if its rate is not allowed, or its chunks would be too large.
    """
    if source.encoding == "linear16":
        published = AudioFormat("linear16", settings.sample_rate or source.sample_rate, 1)
        setting, key = "EDGE_SAMPLE_RATE", "publish_sample_rate"
    else:
        published = source._replace(channels=1 if split else source.channels)
        setting, key = "EDGE_STDIN_SAMPLE_RATE", "sample_rate"
    if not MIN_SAMPLE_RATE <= published.sample_rate <= MAX_SAMPLE_RATE:
        raise UsageError(
            f"{setting}: audio cannot be published at {published.sample_rate} Hz; use a rate from "
            f"{MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz (in a configuration file: {key})"
        )
    chunk_bytes = published.sample_rate * settings.chunk_ms // 1000 * published.frame_bytes
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise UsageError(
            f"EDGE_CHUNK_MS (chunk_ms): chunks of {settings.chunk_ms} ms have {chunk_bytes} bytes, "
            f"over {MAX_CHUNK_BYTES}; lower it, or EDGE_SAMPLE_RATE (publish_sample_rate)"
        )
    if settings.encoding == "flac" and published.encoding != "linear16":
        raise UsageError(
            f"EDGE_ENCODING: {published.encoding} is published as it is; use linear16, or convert "
            "the input first (in a configuration file: publish_encoding)"
        )
    return published


def split_speakers(text: str | None) -> list[str] | None:
    """Parse EDGE_SPLIT_CHANNELS. Raises: UsageError if a name appears twice."""
    if text is None:
        return None
    speakers = [speaker.strip() for speaker in text.split(",")]
    if len(set(speakers)) < len(speakers):
        raise UsageError(f"`split_channels` {text}: each channel needs a speaker of its own")
    return speakers


def make_keys(settings: EdgeSettings) -> list[SessionKey]:
    """Return the key of each session of this run. To be called once. Raises: UsageError."""
    conversation = settings.conversation or readable_token()
    speakers = split_speakers(settings.split_channels) or [settings.speaker]
    return [SessionKey.checked(settings.tenant, conversation, speaker) for speaker in speakers]


def make_sessions(
    keys: list[SessionKey],
    source: AudioFormat,
    can_wait: bool,
    edge: EdgeSettings,
    publish: PublishSettings,
    request: RequestSettings,
    spool: Spool | None = None,
    origin: Origin | None = None,
) -> list[EdgeSession]:
    """Create one session for all channels, or one for each channel if they are split.

    With `spool` and `origin`, the sessions are stored in the spool.

    Raises: UsageError if the number of speakers and channels differ, or the request is invalid.
    SpoolError.
    """
    split = edge.split_channels is not None
    if split and len(keys) != source.channels:
        raise UsageError(
            f"`split_channels` names {len(keys)} speakers, the audio has {source.channels} channels"
        )
    published = published_format(source, publish, split)
    wire = {**published._asdict(), "encoding": publish.encoding}
    if published.encoding != "linear16":
        wire["encoding"] = published.encoding
    specs = [_spec(key, wire, edge, request, live=not can_wait) for key in keys]
    ahead_chunks = AHEAD_CHUNKS if can_wait else None
    backlogs = [
        Backlog(spec, max_seconds=edge.buffer_seconds, ahead_chunks=ahead_chunks)
        if spool is None or origin is None
        else spool.create(spec, origin, run=specs[0].session_id)
        for spec in specs
    ]
    return _sessions(backlogs, source, can_wait, edge, publish)


def resume_sessions(
    backlogs: list[SpooledBacklog],
    source: AudioFormat,
    can_wait: bool,
    edge: EdgeSettings,
    publish: PublishSettings,
    source_frame: int | None,
) -> list[EdgeSession]:
    """Create sessions that continue where `backlogs` end.

    `source_frame` is the frame from which a file is read, or None for live audio.

    Raises: SpoolError.
    """
    sessions = _sessions(backlogs, source, can_wait, edge, publish, earlier=True)
    # Channels whose last chunks differ continue together.
    latest = max(backlogs, key=lambda backlog: backlog.head.pos)
    pos, end_time_ns = latest.head.pos, latest.end_time_ns
    min_gap_s = POWER_CUT_GAP_S if any(backlog.chunks_missing for backlog in backlogs) else 0.0
    for session, backlog in zip(sessions, backlogs, strict=True):
        if source_frame is None:
            session.resume_live(pos, end_time_ns, min_gap_s)
            for code in backlog.conditions:  # if one holds still, that is found again
                session.note(Note(code, ended=True))
        else:
            session.resume_file(backlog.head.pos, source_frame)
        if not backlog.ended:
            backlog.resume()
    return sessions


def file_start(backlogs: list[SpooledBacklog], source_rate: int) -> tuple[int, int | None]:
    """Return the frame from which to read a file for all of `backlogs`, and its wall clock.

    The wall clock is None if there was no audio. A file's wall clock continues without a gap.
    """
    first = min(backlogs, key=lambda backlog: backlog.head.pos)
    rate, head = first.spec.sample_rate, first.head
    frame = resume_frame(head.pos, source_rate, rate)
    if head.time_ns is None:
        return frame, None
    return frame, head.time_ns - head.pos * _NS // rate + frame * _NS // source_rate


def _sessions(
    backlogs: Sequence[Backlog],
    source: AudioFormat,
    can_wait: bool,
    edge: EdgeSettings,
    publish: PublishSettings,
    *,
    earlier: bool = False,
) -> list[EdgeSession]:
    sessions = []
    for index, backlog in enumerate(backlogs):
        channel = None if edge.split_channels is None else index
        chunker = Chunker(source, backlog.spec.audio_format, channel, publish.chunk_ms)
        if isinstance(backlog, SpooledBacklog):
            backlog.set_limits(edge.buffer_seconds, can_wait=can_wait)
        chain = Chain(make_publisher(backlog, edge), live=not can_wait, earlier=earlier)
        sessions.append(EdgeSession(chunker, chain, source.sample_rate))
    return sessions


def make_leftover(backlog: SpooledBacklog, settings: DeliverySettings) -> Chain:
    """Create what sends the rest of an earlier session. Its end must have been put."""
    # Requests of an earlier release name no successor; those of a microphone are live.
    live = backlog.spec.successor is not None or backlog.origin.command == "mic"
    return Chain(make_publisher(backlog, settings), live=live, earlier=True)


def make_publisher(backlog: Backlog, settings: DeliverySettings) -> Publisher:
    """Create a session's publisher, whose rate limit includes what an earlier run has sent."""
    rate_limit = TokenBucket(
        settings.burst_seconds, settings.catch_up_rate,
        spent_seconds=backlog.sent_seconds, ago_s=backlog.sent_ago_s,
    )  # fmt: skip
    return Publisher(
        backlog, window_chunks=settings.window_chunks, rate_limit=rate_limit, unhurried=True
    )


def _spec(
    key: SessionKey,
    published: dict[str, Any],
    edge: EdgeSettings,
    request: RequestSettings,
    *,
    live: bool,
) -> SessionSpec:
    providers = [name.strip() for name in (edge.provider or "").split(",") if name.strip()]
    try:
        spec = SessionSpec(
            **key._asdict(),
            **published,
            language=edge.language,
            provider=providers[0] if len(providers) == 1 else (providers or None),
            model=edge.model,
            keyterms=request.keyterms,
            options=request.options,
            max_seconds=edge.max_seconds,
            successor=str(uuid4()) if live else None,
            labels=request.labels,
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = " ".join(str(part) for part in first["loc"])
        raise UsageError(f"invalid session request: {field}: {problem_text(first)}") from None
    size = len(spec.model_dump_json())
    if size > MAX_SPEC_BYTES - _SPEC_HEADROOM_BYTES:
        raise UsageError(
            f"the session request has {size} bytes; use fewer keyterms, options or labels"
        )
    return spec
