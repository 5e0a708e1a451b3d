"""`natterjack sessions retry`: transcribe ended sessions again from their stored audio."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from pydantic import ValidationError

from natterjack.audio import SESSION_ID, decode_chunk_headers
from natterjack.broker import streams
from natterjack.broker.buckets import broker_of, store_of
from natterjack.broker.connection import Broker
from natterjack.broker.stored import Stored, StreamStore
from natterjack.errors import BadChunk, BadEvent, InvalidKey, UsageError, first_problem
from natterjack.events import StatusEvent, parse_event
from natterjack.process.table import table
from natterjack.process.terminal import plain
from natterjack.settings import BrokerSettings, add_flags
from natterjack.spec import SessionSpec
from natterjack.subjects import (
    SESSION_PREFIX,
    TRANSCRIPT_PREFIX,
    SessionKey,
    audio_subject,
    check_token,
    session_subject,
)

from .arguments import parse_time

_NAME = "natterjack-sessions-retry"
_TIMEOUT_S = 5.0
_BATCH, _BATCH_BYTES = 500, 4 * 1024 * 1024
_COLUMNS = ["SESSION", "REPEATS", "ENDED", "RESULT"]


class Problem(Exception):
    """A session cannot be repeated; the message says why."""


@dataclass
class History:
    """The sessions of the status events that were read, by session ID."""

    ended: dict[str, StatusEvent] = field(default_factory=dict)
    """The closing event of each session, in the order in which they ended."""
    repeated: dict[str, dict[str, str]] = field(default_factory=dict)
    """The sessions that repeat a session, with the last state of each."""
    continued: dict[str, str] = field(default_factory=dict)
    """The session that continues a session."""

    def add(self, event: StatusEvent) -> None:
        """Add a status event. Call it in the order of the stream."""
        if event.closing:
            self.ended[event.session_id] = event
        if event.repeats is not None:
            self.repeated.setdefault(event.repeats, {})[event.session_id] = event.state
        elif event.continues is not None:
            self.continued[event.continues] = event.session_id

    def failed(self, since: datetime) -> list[StatusEvent]:
        """The sessions that failed at `since` or later, except those that a closed session has
        repeated or any session has continued. A repetition that failed is not among them, but the
        session that it repeats is."""
        return [
            event
            for event in self.ended.values()
            if event.state == "failed"
            and event.published_at >= since
            and event.repeats is None
            and event.session_id not in self.continued
            and "closed" not in self.repeated.get(event.session_id, {}).values()
        ]

    def last(self, session_id: str | None) -> StatusEvent:
        """The closing event of a session, by default the one that ended last. Raises Problem."""
        if session_id is None:
            if not self.ended:
                raise Problem("no session of this key has ended, as far as events are stored")
            return next(reversed(self.ended.values()))
        if session_id not in self.ended:
            raise Problem(f"no session {session_id} of this key has ended")
        return self.ended[session_id]

    def request(self, event: StatusEvent, now: datetime) -> SessionSpec:
        """The request that repeats an ended session. Raises Problem.

        A session that another one continues is repeated up to there. Two commands at the same time
        make the same request, which the broker then stores once.
        """
        if event.request is None:
            raise Problem(
                "its closing event has no request: the request was invalid, deeply nested or "
                "larger than 16 KiB, or the session is from an earlier release"
            )
        try:
            spec = SessionSpec.model_validate(event.request)
        except ValidationError as error:
            raise Problem(f"its request cannot be read: {first_problem(error)}") from None
        source = spec.repeats or spec.session_id
        number = len(self.repeated.get(source, {}))
        new = uuid5(NAMESPACE_URL, f"natterjack:repeats:{source}:{number}")
        links = {"repeats": source, "continues": None, "successor": None}
        update: dict[str, Any] = {"session_id": str(new), **links, "opened_at": now}
        end = self.ended.get(source, event).audio_position
        if end is not None and (other := self.continued.get(source)):
            own = (end - spec.start_position) / spec.sample_rate
            if own <= 0:
                raise Problem(f"session {other} has all of its audio: repeat that one")
            update["max_seconds"] = min(own, spec.max_seconds or own)
        return spec.model_copy(update=update)


def no_audio(event: StatusEvent, max_age_seconds: float, now: datetime) -> str:
    """Why the audio of a session is not stored."""
    if event.account is not None and not event.account.received_seconds:
        return "no audio of it was ever received"
    gone = event.published_at + timedelta(seconds=max_age_seconds)
    if max_age_seconds and gone <= now:
        return (
            f"its audio has been gone since {_clock(gone)} at the latest: it ended at "
            f"{_clock(event.published_at)}, and {streams.AUDIO} keeps audio for "
            f"{max_age_seconds:g} s (NATTERJACK_AUDIO_MAX_AGE_SECONDS)"
        )
    return (
        f"its audio is gone, although the session ended only at {_clock(event.published_at)}: "
        f"it was erased, or {streams.AUDIO} was full (NATTERJACK_AUDIO_MAX_BYTES)"
    )


def _clock(at: datetime) -> str:
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}"


def add_to(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `sessions retry`."""
    command = actions.add_parser(
        "retry",
        help="transcribe an ended session again from its stored audio",
        description="Transcribe a failed or closed session again, from the audio that the broker "
        "still stores. It becomes a new session of the same key, whose events name the session "
        "that it repeats. Providers bill its audio again. No edge is needed.",
        epilog="Exit status: 0 all sessions are repeated, or --dry-run found that they can be; 1 a "
        "session cannot be repeated; 2 wrong usage, no connection to NATS, or the server refused.",
    )
    command.add_argument(
        "key", nargs="?", metavar="KEY", help="tenant.conversation.speaker of the session"
    )
    command.add_argument(
        "--session", metavar="ID", help="the session of KEY (default: the one that ended last)"
    )
    command.add_argument(
        "--tenant", dest="of_tenant", metavar="TENANT",
        help="repeat all failed sessions of this tenant that were not repeated yet; with --since",
    )  # fmt: skip
    command.add_argument(
        "--since", metavar="TIME",
        help="only sessions that failed since then: 2h, or 2026-11-29T14:00 (local time)",
    )  # fmt: skip
    command.add_argument(
        "--dry-run", action="store_true", help="list what would be repeated, and repeat nothing"
    )
    add_flags(command, BrokerSettings, "nats-")


async def run(flags: argparse.Namespace) -> int:
    """Run the command and return the exit status. Raises UsageError, BrokerError."""
    now = datetime.now(UTC)
    key, since = _target(flags, now)
    place = str(key) if key is not None else f"{check_token('tenant', flags.of_tenant)}.*.*"
    async with broker_of(flags, _NAME) as broker:
        history = await _history(broker, f"{TRANSCRIPT_PREFIX}.{place}.status")
        if key is not None:
            try:
                events = [history.last(flags.session)]
            except Problem as problem:
                raise UsageError(f"{key}: {problem}") from None
        else:
            events = history.failed(since)
        lines, problems = await _repeat(broker, history, events, place, now, flags.dry_run)
    if not events:
        print(f"no session of {flags.of_tenant} has failed since {_clock(since)}")
        return 0
    print(*table([_COLUMNS, *lines]), sep="\n")
    if flags.dry_run:
        print("\ndry run: nothing was repeated")
    return 1 if problems else 0


def _target(flags: argparse.Namespace, now: datetime) -> tuple[SessionKey | None, datetime]:
    """The key, or None and the time since when. Raises UsageError."""
    if (flags.key is None) == (flags.of_tenant is None):
        raise UsageError("sessions retry: give either a KEY or --tenant with --since")
    if flags.key is not None:
        if flags.since is not None:
            raise UsageError("--since is for --tenant; give --session to choose a session of a KEY")
        try:
            return SessionKey.parse(flags.key), now
        except InvalidKey as error:
            raise UsageError(str(error)) from None
    if flags.since is None or flags.session is not None:
        raise UsageError("--tenant needs --since, and takes no --session")
    return None, parse_time(flags.since, now)


async def _history(broker: Broker, subject: str) -> History:
    """Read all stored status events on a subject."""
    history, sequence, left = History(), 1, 1
    async with store_of(broker, streams.TRANSCRIPTS) as store:
        while left:
            messages, left = await store.read(
                subject, sequence, batch=_BATCH, max_bytes=_BATCH_BYTES
            )
            if not messages:
                break
            sequence = messages[-1].sequence + 1
            for event in _statuses(messages):
                history.add(event)
    return history


def _statuses(messages: Iterable[Stored]) -> Iterable[StatusEvent]:
    for message in messages:
        try:
            event = parse_event(message.data)
        except BadEvent:  # of a later release
            continue
        if isinstance(event, StatusEvent):
            yield event


async def _repeat(
    broker: Broker,
    history: History,
    events: list[StatusEvent],
    place: str,
    now: datetime,
    dry_run: bool,
) -> tuple[list[list[str]], int]:
    """Request the repetition of sessions, unless `dry_run`. Return a line for each, and the number
    of those that cannot be repeated."""
    js = broker.client.jetstream()
    queue = await js.stream_info(streams.SESSIONS, subjects_filter=f"{SESSION_PREFIX}.{place}")
    busy = queue.state.subjects or {}
    age = float((await js.stream_info(streams.AUDIO)).config.max_age or 0)
    lines, problems = [], 0
    async with store_of(broker, streams.AUDIO) as store:
        for event in events:
            try:
                if session_subject(event.key) in busy:
                    raise Problem("a session uses the key now; try again when it has ended")
                spec = history.request(event, now)
                gone = await _gone_seconds(store, spec)
                if gone is None or gone >= (spec.max_seconds or math.inf):
                    source = history.ended.get(spec.repeats or "", event)
                    raise Problem(no_audio(source, age, now))
                result = "can be repeated" if dry_run else f"session {spec.session_id}"
                if gone:
                    result += f", without its first {gone:.1f} s, which are gone"
                if not dry_run:
                    await js.publish(
                        session_subject(spec.key), spec.model_dump_json().encode(),
                        timeout=_TIMEOUT_S, headers={"Nats-Msg-Id": spec.session_id},
                    )  # fmt: skip
                repeats = spec.repeats or ""
            except Problem as problem:
                repeats, result = event.repeats or event.session_id, str(problem)
                problems += 1
            ended = f"{event.state} {_clock(event.published_at)}"
            lines.append([plain(str(event.key)), plain(repeats), ended, plain(result)])
    return lines, problems


async def _gone_seconds(store: StreamStore, spec: SessionSpec) -> float | None:
    """The length of the session's audio that is no longer stored; None if none is stored."""
    subject, sequence, left = audio_subject(spec.key), 1, 1
    while left:
        messages, left = await store.read(subject, sequence, batch=_BATCH, max_bytes=_BATCH_BYTES)
        if not messages:
            return None
        sequence = messages[-1].sequence + 1
        for message in messages:
            if message.headers.get(SESSION_ID) != spec.audio_session_id:
                continue
            try:
                size = spec.decoded_bytes(message.data)
                header = decode_chunk_headers(message.headers, size, spec.audio_format)
            except BadChunk:
                continue
            return max(0, header.pos - spec.start_position) / spec.sample_rate
    return None
