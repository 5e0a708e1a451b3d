"""One session at the edge: its request, its cutter, its publisher, and what its worker says."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime

from pydantic import ValidationError

from natterjack.audio import MAX_CHUNK_BYTES, AudioFormat
from natterjack.broker.streams import MAX_SPEC_BYTES
from natterjack.errors import UsageError
from natterjack.spec import SessionSpec
from natterjack.subjects import SessionKey

from .allowance import Allowance
from .backlog import AHEAD_CHUNKS, Backlog
from .chunks import Chunk, Cutter, level_dbfs, resume_frame
from .publish import Publisher
from .settings import DeliverySettings, EdgeSettings, PublishSettings, RequestSettings
from .sources import Block
from .spool import UNSURE_S, Origin, Spool, SpooledBacklog
from .status import SessionStatus

_NS = 1_000_000_000
_SPEC_HEADROOM_BYTES = 4 * 1024  # the stream's limit counts headers too


class EdgeSession:
    """From the source's blocks to the broker."""

    def __init__(self, spec: SessionSpec, cutter: Cutter, publisher: Publisher) -> None:
        self.spec = spec
        self.publisher = publisher
        self.status = SessionStatus(spec)
        self._cutter = cutter
        self.resumed = False
        """Whether a former run began it, and more sound comes."""
        self._last_payload = b""
        self._resumed_ns: int | None = None
        """Wall clock at which a former run of a live source ended, until its first sound comes."""
        self._least_jump_s = 0.0

    @property
    def seconds(self) -> float:
        """Captured so far, in whole chunks."""
        return self.published_seconds(self._cutter.position)

    @property
    def wanted_frames(self) -> int:
        """Frames of the source, 1 at least, without which no chunk can be complete."""
        return self._cutter.wanted_frames

    def published_seconds(self, frames: int) -> float:
        """Duration of `frames` frames at the published rate."""
        return self.spec.audio_format.seconds(frames)

    def level_dbfs(self) -> float:
        """Of the last chunk."""
        return level_dbfs(self._last_payload, self.spec.encoding)

    def feed(self, block: Block) -> bool:
        """Offer the chunks that `block` completes; whether there are any."""
        if self.publisher.backlog.ended:
            return False  # a former run gave it all
        chunks: list[Chunk] = []
        if self._resumed_ns is not None:
            self._jump_to(block)
        elif block.lost_frames:
            chunks = self._cutter.skip(block.lost_frames)
        chunks += self._cutter.feed(block.samples, block.time_ns)
        for chunk in chunks:
            self.publisher.offer(chunk)
            self._last_payload = chunk.payload
        return bool(chunks)

    def finish(self) -> None:
        """Offer the last chunk. To be called once."""
        if not self.publisher.backlog.ended:
            self.publisher.offer(self._cutter.finish())

    def resume_file(self, pos: int, source_frame: int) -> None:
        """Go on at `pos`, before anything is fed: what is fed begins at `source_frame`."""
        self._cutter.resume(pos, source_frame)
        self.resumed = not self.publisher.backlog.ended

    def resume_live(self, pos: int, heard_ns: int, least_jump_s: float) -> None:
        """Go on at `pos`, before anything is fed, and at the time that has passed since `heard_ns`
        when sound comes, `least_jump_s` at least."""
        self._cutter.resume(pos)
        self._resumed_ns, self._least_jump_s = heard_ns, least_jump_s
        self.resumed = True

    def _jump_to(self, block: Block) -> None:
        """Leave out the time since a former run; none if the clock was set back."""
        assert self._resumed_ns is not None
        passed_s = (block.time_ns - self._resumed_ns) / 1e9
        self._resumed_ns = None
        self._cutter.skip_time(max(passed_s, self._least_jump_s), block.lost_frames)


def readable_token() -> str:
    """A conversation's name that is unique and says when it began, in local time."""
    return f"{datetime.now().astimezone():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def published_format(source: AudioFormat, settings: PublishSettings, split: bool) -> AudioFormat:
    """How a source is published. Raises: UsageError when its chunks would be too large."""
    if source.encoding == "linear16":
        published = AudioFormat("linear16", settings.sample_rate or source.sample_rate, 1)
    else:
        published = source._replace(channels=1 if split else source.channels)
    chunk_bytes = published.sample_rate * settings.chunk_ms // 1000 * published.frame_bytes
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise UsageError(
            f"EDGE_CHUNK_MS: chunks of {settings.chunk_ms} ms would have {chunk_bytes} bytes, "
            f"and {MAX_CHUNK_BYTES} are allowed; lower it, or EDGE_SAMPLE_RATE"
        )
    return published


def split_speakers(text: str | None) -> list[str] | None:
    """The names in EDGE_SPLIT_CHANNELS. Raises: UsageError when one comes twice."""
    if text is None:
        return None
    speakers = [speaker.strip() for speaker in text.split(",")]
    if len(set(speakers)) < len(speakers):
        raise UsageError(f"--split-channels {text}: each channel needs a speaker of its own")
    return speakers


def make_keys(settings: EdgeSettings) -> list[SessionKey]:
    """The key of each session, to be made once, before anything is opened. Raises: UsageError."""
    conversation = settings.conversation or readable_token()
    speakers = split_speakers(settings.split_channels) or [settings.speaker]
    return [SessionKey.checked(settings.tenant, conversation, speaker) for speaker in speakers]


def make_sessions(
    keys: list[SessionKey],
    source: AudioFormat,
    waits: bool,
    edge: EdgeSettings,
    publish: PublishSettings,
    request: RequestSettings,
    spool: Spool | None = None,
    origin: Origin | None = None,
) -> list[EdgeSession]:
    """One session for all channels, or one for each if so wanted; in `spool`, with its `origin`.

    Raises: UsageError: as many speakers as channels are needed; or the request is not valid.
    SpoolError.
    """
    split = edge.split_channels is not None
    if split and len(keys) != source.channels:
        raise UsageError(
            f"--split-channels names {len(keys)} speakers, the sound has {source.channels} channels"
        )
    published = published_format(source, publish, split)
    specs = [_spec(key, published, edge, request) for key in keys]
    ahead_chunks = AHEAD_CHUNKS if waits else None
    backlogs = [
        Backlog(spec, most_seconds=edge.buffer_seconds, ahead_chunks=ahead_chunks)
        if spool is None or origin is None
        else spool.create(spec, origin, run=specs[0].session_id)
        for spec in specs
    ]
    return _sessions(backlogs, source, waits, edge, publish)


def resume_sessions(
    backlogs: list[SpooledBacklog],
    source: AudioFormat,
    waits: bool,
    edge: EdgeSettings,
    publish: PublishSettings,
    source_frame: int | None,
) -> list[EdgeSession]:
    """Sessions that go on where `backlogs` end; `source_frame` is where a file begins to be read.

    Raises: SpoolError.
    """
    sessions = _sessions(backlogs, source, waits, edge, publish)
    # Channels that were cut off one after the other go on together.
    latest = max(backlogs, key=lambda backlog: backlog.head.pos)
    pos, heard_ns = latest.head.pos, latest.heard_ns
    least_jump_s = UNSURE_S if any(backlog.unsure for backlog in backlogs) else 0.0
    for session, backlog in zip(sessions, backlogs, strict=True):
        if source_frame is None:
            session.resume_live(pos, heard_ns, least_jump_s)
        else:
            session.resume_file(backlog.head.pos, source_frame)
        if not backlog.ended:
            backlog.go_on()
    return sessions


def file_start(backlogs: list[SpooledBacklog], source_rate: int) -> tuple[int, int | None]:
    """The frame of a file at `source_rate` at which reading goes on for all of `backlogs`, and its
    wall clock if there is one: a file's time runs on as if nothing had happened."""
    first = min(backlogs, key=lambda backlog: backlog.head.pos)
    rate, head = first.spec.sample_rate, first.head
    frame = resume_frame(head.pos, source_rate, rate)
    if head.time_ns is None:
        return frame, None
    return frame, head.time_ns - head.pos * _NS // rate + frame * _NS // source_rate


def _sessions(
    backlogs: Sequence[Backlog],
    source: AudioFormat,
    waits: bool,
    edge: EdgeSettings,
    publish: PublishSettings,
) -> list[EdgeSession]:
    sessions = []
    for index, backlog in enumerate(backlogs):
        channel = None if edge.split_channels is None else index
        cutter = Cutter(source, backlog.spec.audio_format, channel, publish.chunk_ms)
        if isinstance(backlog, SpooledBacklog):
            backlog.bound(edge.buffer_seconds, waits=waits)
        sessions.append(EdgeSession(backlog.spec, cutter, make_publisher(backlog, edge)))
    return sessions


def make_publisher(backlog: Backlog, settings: DeliverySettings) -> Publisher:
    """A session's way to the broker, with what a former run may have spent of its allowance."""
    allowance = Allowance(
        settings.burst_seconds,
        settings.catch_up_rate,
        spent_seconds=backlog.sent_seconds,
        ago_s=backlog.sent_ago_s,
    )
    return Publisher(backlog, window_chunks=settings.window_chunks, allowance=allowance)


def _spec(
    key: SessionKey, published: AudioFormat, edge: EdgeSettings, request: RequestSettings
) -> SessionSpec:
    providers = [name.strip() for name in (edge.provider or "").split(",") if name.strip()]
    try:
        spec = SessionSpec(
            **key._asdict(),
            **published._asdict(),
            language=edge.language,
            provider=providers[0] if len(providers) == 1 else (providers or None),
            model=edge.model,
            keyterms=request.keyterms,
            options=request.options,
            max_seconds=edge.max_seconds,
            labels=request.labels,
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = " ".join(str(part) for part in first["loc"])
        raise UsageError(f"the session cannot be asked for: {field}: {first['msg']}") from None
    size = len(spec.model_dump_json())
    if size > MAX_SPEC_BYTES - _SPEC_HEADROOM_BYTES:
        raise UsageError(f"the session request has {size} bytes: fewer keyterms, options or labels")
    return spec
