"""`natterjack erase`: remove the stored data of a tenant, a conversation or a speaker."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from collections import Counter
from typing import NamedTuple

from natterjack.broker import streams
from natterjack.broker.buckets import broker_of, store_of
from natterjack.broker.connection import Broker
from natterjack.broker.control import control_session, control_voice
from natterjack.broker.stored import Stored
from natterjack.control import ControlRequest
from natterjack.errors import (
    BrokerError,
    InvalidKey,
    NatterjackError,
    StreamMismatch,
    UsageError,
)
from natterjack.process.table import table
from natterjack.settings import BrokerSettings, add_flags
from natterjack.subjects import (
    AUDIO_PREFIX,
    DEAD_PREFIX,
    DIAL_PREFIX,
    SESSION_PREFIX,
    SLOT_PREFIX,
    SPEECH_PREFIX,
    TEXT_PREFIX,
    TRANSCRIPT_PREFIX,
    VOICE_EVENT_PREFIX,
    VOICE_SESSION_PREFIX,
    SessionKey,
    check_token,
    parse_key,
)
from natterjack.voice.control import VoiceCommand, VoiceRequest

_NAME = "natterjack-erase"
_TIMEOUT_S = 60.0
_PUBLISH_TIMEOUT_S = 5.0
_POLL_S = 0.2
_RECHECK_DELAY_S = 2.0
"""A client that is still writing sends a chunk, of at most one second, within this time."""
_RECHECKS = 2
"""The first recheck may find messages that were in flight when the sessions ended."""
_MAX_KEYS_SHOWN = 10
_NOT_FOUND = 10059
_PREFIXES = {streams.SESSIONS: SESSION_PREFIX, streams.VOICE_SESSIONS: VOICE_SESSION_PREFIX}
"""The queues, and the subjects of their requests."""


class NoStream(StreamMismatch):
    """The broker does not have the stream."""


class StillOpen(NatterjackError):
    """Sessions or other clients are still writing."""


class Target(NamedTuple):
    """Messages of one stream to remove."""

    label: str
    stream: str
    subjects: tuple[str, ...]


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `erase`."""
    command = commands.add_parser(
        "erase",
        help="remove the stored data of a tenant from the broker",
        description="Remove audio, transcripts, text, speech and checkpoints of a tenant, a "
        "conversation or one speaker from the broker, permanently. Usage records (seconds and "
        "cost, no content) are kept for invoices unless --usage is given. Audio in an edge's spool "
        "and data that subscribers have stored are not removed. Remove the tenant's users first; "
        "otherwise its edges and applications open new sessions.",
        epilog="Exit status: 0 everything was removed, or --dry-run was given; 1 sessions are "
        "open, another client is still writing, or the removal was not confirmed; 2 wrong usage, "
        "no connection to NATS, or the server refused.",
    )
    command.add_argument("--tenant", required=True, help="tenant whose data is removed")
    command.add_argument("--conversation", help="remove only this conversation")
    command.add_argument("--speaker", help="remove only this speaker of the conversation")
    command.add_argument(
        "--usage", action="store_true", help="also remove the tenant's usage records and budget"
    )
    command.add_argument(
        "--stop",
        action="store_true",
        help="end open sessions first, and remove requests that are still waiting",
    )
    command.add_argument("--dry-run", action="store_true", help="count messages, remove nothing")
    command.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    add_flags(command, BrokerSettings, "nats-")


def targets(
    tenant: str,
    conversation: str | None,
    speaker: str | None,
    *,
    usage: bool,
    voice: bool,
    dead: bool = True,
) -> list[Target]:
    """The messages to remove, by stream and subject; with those of voice sessions if `voice`, and
    dead letters if `dead`.

    Raises InvalidKey, UsageError.
    """
    tokens = [check_token("tenant", tenant)]
    if conversation is not None:
        tokens.append(check_token("conversation", conversation))
    if speaker is not None:
        if conversation is None:
            raise UsageError("--speaker needs --conversation")
        tokens.append(check_token("speaker", speaker))
    whole = len(tokens) == 3
    key = ".".join(tokens) + ("" if whole else ".>")
    events = key + ".>" if whole else key
    found = [
        Target("audio", streams.AUDIO, (f"{AUDIO_PREFIX}.{key}",)),
        Target("events", streams.TRANSCRIPTS, (f"{TRANSCRIPT_PREFIX}.{events}",)),
        Target(
            "checkpoints",
            f"KV_{streams.CHECKPOINTS_BUCKET}",
            (streams.bucket_subject(streams.CHECKPOINTS_BUCKET, key),),
        ),
    ]
    if dead:
        found.append(Target("dead letters", streams.DEAD_LETTERS, (f"{DEAD_PREFIX}.{events}",)))
    if voice:
        checkpoint = streams.bucket_subject(streams.VOICE_CHECKPOINTS_BUCKET, key)
        found += [
            Target("text", streams.TEXT, (f"{TEXT_PREFIX}.{key}",)),
            Target("speech", streams.SPEECH, (f"{SPEECH_PREFIX}.{key}",)),
            Target("voice events", streams.VOICE_EVENTS, (f"{VOICE_EVENT_PREFIX}.{events}",)),
            Target("voice checkpoints", f"KV_{streams.VOICE_CHECKPOINTS_BUCKET}", (checkpoint,)),
        ]
    if usage:
        if conversation is not None:
            raise UsageError("--usage applies to a whole tenant: omit --conversation")
        used = streams.bucket_subject(streams.USAGE_BUCKET, f"*.{tenant}.>")
        budget = streams.bucket_subject(streams.BUDGETS_BUCKET, f"tenant.{tenant}")
        found.append(Target("usage", f"KV_{streams.USAGE_BUCKET}", (used,)))
        found.append(Target("budget", f"KV_{streams.BUDGETS_BUCKET}", (budget,)))
    return found


async def run(flags: argparse.Namespace) -> int:
    """Run the command and return the exit status. Raises UsageError, BrokerError, StillOpen."""
    place = (flags.tenant, flags.conversation, flags.speaker)
    targets(*place, usage=flags.usage, voice=True)  # so that mistakes are found without a broker
    name = ".".join(token for token in place if token)
    async with broker_of(flags, _NAME) as broker:
        voice = await _exists(broker, streams.VOICE_SESSIONS)
        queues = [streams.SESSIONS, *([streams.VOICE_SESSIONS] if voice else [])]
        dead = await _exists(broker, streams.DEAD_LETTERS)  # not before a worker of this release
        chosen = targets(*place, usage=flags.usage, voice=voice, dead=dead)
        counts = [(t.label, await _count(broker, t), t.stream) for t in chosen]
        open_keys: dict[str, list[SessionKey]] = {}
        for queue in queues:
            open_keys[queue], invalid = await _open(broker, queue, flags)
            label = "open sessions" if queue == streams.SESSIONS else "open voice sessions"
            counts.append((label, len(open_keys[queue]), queue))
            counts += [("invalid requests", len(invalid), queue)] if invalid else []
            chosen += [Target("requests", queue, (subject,)) for subject in invalid]
        slots = await _slots(broker, flags)
        counts += [("slots", len(slots), streams.SLOTS)] if slots else []
        keys = sorted({key for found in open_keys.values() for key in found})
        lines = [[label, str(count), stream] for label, count, stream in counts]
        print(*table(lines, right=(1,)), sep="\n")
        if flags.dry_run:
            print("\ndry run: nothing was removed")
            return 0
        number = sum(map(len, open_keys.values()))
        if number and not flags.stop:
            shown = ", ".join(map(str, keys[:_MAX_KEYS_SHOWN]))
            more = " ..." if len(keys) > _MAX_KEYS_SHOWN else ""
            raise StillOpen(
                f"{number} sessions are open and still write: {shown}{more}. "
                "End them, or give --stop; nothing was removed"
            )
        if not flags.yes and not _confirmed(name):
            print("nothing was removed", file=sys.stderr)
            return 1
        for queue, held in open_keys.items():
            if held:
                await _stop(broker, queue, flags, held)
        if flags.usage:
            await _announce(broker, flags.tenant)
        removed = sum([await _purge(broker, target) for target in chosen])
        for slot in await _slots(broker, flags):
            removed += await _purge(broker, Target("slot", streams.SLOTS, (slot.subject,)), slot)
        for _ in range(_RECHECKS):
            print("checking whether any client is still writing ...", file=sys.stderr)
            await asyncio.sleep(_RECHECK_DELAY_S)
            arrived: Counter[str] = Counter()
            for target in chosen:
                arrived[target.label] += await _purge(broker, target)
            removed += arrived.total()
            if not arrived.total():
                break
    print(f"\nremoved {removed} messages of {name}")
    if arrived.total():
        shown = ", ".join(f"{label} {count}" for label, count in arrived.items() if count)
        raise StillOpen(
            f"another client is still writing: {shown} in {_RECHECK_DELAY_S:g} s. Remove the "
            "tenant's users first (`natterjack users remove`, then reload the server) or stop its "
            "edges, and run this command again"
        )
    return 0


def _confirmed(name: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("--yes is needed when standard input is not a terminal")
    print(f"\nRemove all this permanently? Type {name} to confirm: ", end="", flush=True)
    return sys.stdin.readline().strip() == name


async def _ask(broker: Broker, subject: str, request: dict[str, object]) -> dict[str, object]:
    """Send a request to the JetStream API and return its reply. Raises StreamMismatch."""
    message = await broker.client.request(subject, json.dumps(request).encode(), _TIMEOUT_S)
    reply: dict[str, object] = json.loads(message.data)
    error = reply.get("error")
    if isinstance(error, dict):
        missing = error.get("err_code") == _NOT_FOUND
        raise (NoStream if missing else StreamMismatch)(f"{subject}: {error.get('description')}")
    return reply


async def _exists(broker: Broker, stream: str) -> bool:
    try:
        await _ask(broker, f"$JS.API.STREAM.INFO.{stream}", {})
    except NoStream:
        return False
    return True


async def _subjects(broker: Broker, stream: str, subject: str) -> dict[str, int]:
    """The number of messages on each subject that the filter `subject` matches."""
    found: dict[str, int] = {}
    offset, total = 0, 1
    while offset < total:
        request: dict[str, object] = {"subjects_filter": subject, "offset": offset}
        reply = await _ask(broker, f"$JS.API.STREAM.INFO.{stream}", request)
        state = reply.get("state")
        subjects = state.get("subjects") if isinstance(state, dict) else None
        page: dict[str, int] = subjects if isinstance(subjects, dict) else {}
        found |= page
        total = int(str(reply.get("total") or 0))
        offset += len(page) or total
    return found


async def _count(broker: Broker, target: Target) -> int:
    counted = [await _subjects(broker, target.stream, subject) for subject in target.subjects]
    return sum(sum(found.values()) for found in counted)


async def _purge(broker: Broker, target: Target, last: Stored | None = None) -> int:
    """Remove messages, up to and including `last` if given. Returns how many were removed."""
    removed = 0
    for subject in target.subjects:
        request: dict[str, object] = {"filter": subject}
        if last is not None:
            request["seq"] = last.sequence + 1  # the first message to keep
        reply = await _ask(broker, f"$JS.API.STREAM.PURGE.{target.stream}", request)
        removed += int(str(reply.get("purged") or 0))
    return removed


async def _open(
    broker: Broker, queue: str, flags: argparse.Namespace
) -> tuple[list[SessionKey], list[str]]:
    """Keys of sessions that are in the queue or held by a worker, and subjects of invalid requests.

    An invalid request has a subject without a session key, so no worker can claim it.
    """
    tokens = [t for t in (flags.tenant, flags.conversation, flags.speaker) if t]
    prefix = _PREFIXES[queue]
    subject = ".".join([prefix, *tokens, *([] if len(tokens) == 3 else [">"])])
    keys, invalid = [], []
    for found in await _subjects(broker, queue, subject):
        with contextlib.suppress(InvalidKey):
            key = parse_key(found)
            if found == f"{prefix}.{key}":
                keys.append(key)
                continue
        invalid.append(found)
    return sorted(keys), invalid


async def _slots(broker: Broker, flags: argparse.Namespace) -> list[Stored]:
    """Stored slots of provider accounts that belong to the tenant, also those of dead workers."""
    if flags.conversation is not None:
        return []
    async with store_of(broker, streams.SLOTS) as store:
        stored_slots = [
            stored
            for prefix in (SLOT_PREFIX, DIAL_PREFIX)
            for stored in await store.read_all(f"{prefix}.>")
        ]
    return [stored for stored in stored_slots if _tenant(stored.data) == flags.tenant]


def _tenant(slot: bytes) -> str | None:
    """The tenant in a slot's entry."""
    with contextlib.suppress(ValueError):
        entry = json.loads(slot)
        if isinstance(entry, dict):
            return str(entry.get("tenant"))
    return None


async def _announce(broker: Broker, tenant: str) -> None:
    """Make all workers forget the tenant's usage and budget: they receive no event of a purge."""
    js = broker.client.jetstream()
    for subject in (
        streams.bucket_subject(streams.USAGE_BUCKET, streams.usage_erased(tenant)),
        streams.bucket_subject(streams.BUDGETS_BUCKET, f"tenant.{tenant}"),
    ):
        await js.publish(
            subject, b"", timeout=_PUBLISH_TIMEOUT_S, headers={"KV-Operation": "PURGE"}
        )
    await asyncio.sleep(_POLL_S)


async def _stop(
    broker: Broker, queue: str, flags: argparse.Namespace, keys: list[SessionKey]
) -> None:
    """End sessions of a queue and return when none is open. Raises StillOpen."""

    async def stop(key: SessionKey) -> None:
        try:
            if queue == streams.SESSIONS:
                request = ControlRequest(command="stop", reason="erased")
                await control_session(broker, key, request)
            else:
                commands: tuple[VoiceCommand, ...] = ("interrupt", "close")
                for command in commands:
                    await control_voice(broker, key, VoiceRequest(command=command, reason="erased"))
        except BrokerError:  # no worker holds it, and none can claim it without its request
            await _purge(broker, Target("request", queue, (f"{_PREFIXES[queue]}.{key}",)))

    print(f"ending {len(keys)} sessions ...", file=sys.stderr)
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            for start in range(0, len(keys), 50):
                await asyncio.gather(*(stop(key) for key in keys[start : start + 50]))
            while (await _open(broker, queue, flags))[0]:  # noqa: ASYNC110 - it sends no events
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise StillOpen("the sessions did not end within a minute; nothing was removed") from None
