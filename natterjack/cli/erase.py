"""`natterjack erase`: remove what the broker keeps of a tenant, a conversation or a speaker."""

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
from natterjack.broker.control import control_session
from natterjack.broker.stored import Stored
from natterjack.control import ControlRequest
from natterjack.errors import (
    BrokerError,
    InvalidKey,
    NatterjackError,
    StreamMismatch,
    UsageError,
)
from natterjack.settings import BrokerSettings, add_flags
from natterjack.subjects import (
    AUDIO_PREFIX,
    DIAL_PREFIX,
    SESSION_PREFIX,
    SLOT_PREFIX,
    TRANSCRIPT_PREFIX,
    SessionKey,
    check_token,
    parse_key,
)

_NAME = "natterjack-erase"
_TIMEOUT_S = 60.0
_ANSWER_S = 5.0
_LOOK_S = 0.2
_LONGEST_PAUSE_S = 2.0
"""Longer than it takes whoever speaks on to send the next chunk, of a second at most."""
_LOOKS = 2
"""What was on its way when the sessions were ended comes before the first of them."""
_SHOWN = 10


class StillOpen(NatterjackError):
    """Sessions are under way, and would go on to write."""


class Place(NamedTuple):
    """Messages of one stream that are to go."""

    what: str
    stream: str
    subjects: tuple[str, ...]


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command `erase`."""
    command = commands.add_parser(
        "erase",
        help="remove what the broker keeps of a tenant",
        description="Removes sound, transcripts and checkpoints of a tenant, a conversation or one "
        "speaker from the broker, for good. What was used (seconds and cost, no content) stays "
        "for the invoice unless --usage is given. Sound that an edge keeps in its spool, and what "
        "subscribers have stored, is not reached by it. Remove the tenant's users first, or its "
        "agents begin anew.",
        epilog="Exit status: 0 all is gone, or --dry-run; 1 sessions are open, somebody goes on "
        "writing, or it was not confirmed; 2 wrong usage, no NATS, or it refuses.",
    )
    command.add_argument("--tenant", required=True, help="whose")
    command.add_argument("--conversation", help="only this one")
    command.add_argument("--speaker", help="only this one, of the conversation")
    command.add_argument(
        "--usage", action="store_true", help="also what it has used, and its budget"
    )
    command.add_argument(
        "--stop", action="store_true", help="end sessions that are open first; those that wait go"
    )
    command.add_argument("--dry-run", action="store_true", help="count, remove nothing")
    command.add_argument("--yes", action="store_true", help="do not ask")
    add_flags(command, BrokerSettings, "nats-")


def places(
    tenant: str, conversation: str | None, speaker: str | None, *, usage: bool
) -> list[Place]:
    """Where there may be something. Raises InvalidKey, UsageError."""
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
        Place("sound", streams.AUDIO, (f"{AUDIO_PREFIX}.{key}",)),
        Place("events", streams.TRANSCRIPTS, (f"{TRANSCRIPT_PREFIX}.{events}",)),
        Place(
            "checkpoints", f"KV_{streams.BUCKET}", (streams.bucket_subject(streams.BUCKET, key),)
        ),
    ]
    if usage:
        if conversation is not None:
            raise UsageError("--usage is of a whole tenant: leave out --conversation")
        used = streams.bucket_subject(streams.USAGE_BUCKET, f"*.{tenant}.>")
        budget = streams.bucket_subject(streams.BUDGETS_BUCKET, f"tenant.{tenant}")
        found.append(Place("usage", f"KV_{streams.USAGE_BUCKET}", (used,)))
        found.append(Place("budget", f"KV_{streams.BUDGETS_BUCKET}", (budget,)))
    return found


async def run(flags: argparse.Namespace) -> int:
    """Do what `flags` say; the exit status. Raises UsageError, BrokerError, StillOpen."""
    chosen = places(flags.tenant, flags.conversation, flags.speaker, usage=flags.usage)
    name = ".".join(t for t in (flags.tenant, flags.conversation, flags.speaker) if t)
    async with broker_of(flags, _NAME) as broker:
        counts = {place: await _count(broker, place) for place in chosen}
        waiting, odd = await _open(broker, flags)
        slots = await _slots(broker, flags)
        for place, count in counts.items():
            print(f"{place.what:14}{count:>10}  {place.stream}")
        print(f"{'open sessions':14}{len(waiting):>10}  {streams.SESSIONS}")
        for what, found, stream in (
            ("bad requests", odd, streams.SESSIONS), ("slots", slots, streams.SLOTS),
        ):  # fmt: skip
            if found:
                print(f"{what:14}{len(found):>10}  {stream}")
        if flags.dry_run:
            print("\ndry run: nothing was removed")
            return 0
        if waiting and not flags.stop:
            shown = ", ".join(map(str, waiting[:_SHOWN])) + (
                " ..." if len(waiting) > _SHOWN else ""
            )
            raise StillOpen(
                f"{len(waiting)} sessions are open and would go on to write: {shown}. "
                "End them, or give --stop; nothing was removed"
            )
        if not flags.yes and not _confirmed(name):
            print("nothing was removed", file=sys.stderr)
            return 1
        if waiting:
            await _stop(broker, flags, waiting)
        if flags.usage:
            await _announce(broker, flags.tenant)
        chosen += [Place("requests", streams.SESSIONS, (subject,)) for subject in odd]
        removed = sum([await _purge(broker, place) for place in chosen])
        for slot in await _slots(broker, flags):
            removed += await _purge(broker, Place("slot", streams.SLOTS, (slot.subject,)), slot)
        for _ in range(_LOOKS):
            print("looking whether anything comes in still ...", file=sys.stderr)
            await asyncio.sleep(_LONGEST_PAUSE_S)
            came: Counter[str] = Counter()
            for place in chosen:
                came[place.what] += await _purge(broker, place)
            removed += came.total()
            if not came.total():
                break
    print(f"\nremoved {removed} messages of {name}")
    if came.total():
        told = ", ".join(f"{what} {count}" for what, count in came.items() if count)
        raise StillOpen(
            f"somebody goes on writing, and will after this: {told} in {_LONGEST_PAUSE_S:g} s. "
            "Remove the tenant's users first (`natterjack users remove`, and reload the server), "
            "or end its agents; then run it again"
        )
    return 0


def _confirmed(name: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("--yes is needed where nobody can be asked")
    print(f"\nRemove all this for good? Type {name} to confirm: ", end="", flush=True)
    return sys.stdin.readline().strip() == name


async def _ask(broker: Broker, subject: str, question: dict[str, object]) -> dict[str, object]:
    """What the JetStream API answers. Raises StreamMismatch."""
    reply = await broker.client.request(subject, json.dumps(question).encode(), _TIMEOUT_S)
    answer: dict[str, object] = json.loads(reply.data)
    error = answer.get("error")
    if isinstance(error, dict):
        raise StreamMismatch(f"{subject}: {error.get('description')}")
    return answer


async def _subjects(broker: Broker, stream: str, subject: str) -> dict[str, int]:
    """How many messages there are on each subject that the filter `subject` matches."""
    found: dict[str, int] = {}
    offset, total = 0, 1
    while offset < total:
        question: dict[str, object] = {"subjects_filter": subject, "offset": offset}
        answer = await _ask(broker, f"$JS.API.STREAM.INFO.{stream}", question)
        state = answer.get("state")
        subjects = state.get("subjects") if isinstance(state, dict) else None
        more: dict[str, int] = subjects if isinstance(subjects, dict) else {}
        found |= more
        total = int(str(answer.get("total") or 0))
        offset += len(more) or total
    return found


async def _count(broker: Broker, place: Place) -> int:
    counted = [await _subjects(broker, place.stream, subject) for subject in place.subjects]
    return sum(sum(found.values()) for found in counted)


async def _purge(broker: Broker, place: Place, last: Stored | None = None) -> int:
    """How many are gone. Up to `last`, if that is given."""
    removed = 0
    for subject in place.subjects:
        question: dict[str, object] = {"filter": subject}
        if last is not None:
            question["seq"] = last.sequence + 1  # the first that stays
        answer = await _ask(broker, f"$JS.API.STREAM.PURGE.{place.stream}", question)
        removed += int(str(answer.get("purged") or 0))
    return removed


async def _open(broker: Broker, flags: argparse.Namespace) -> tuple[list[SessionKey], list[str]]:
    """Sessions that a worker holds, or that wait for one; and subjects of requests that no worker
    can take, since their keys are none."""
    tokens = [t for t in (flags.tenant, flags.conversation, flags.speaker) if t]
    subject = ".".join([SESSION_PREFIX, *tokens, *([] if len(tokens) == 3 else [">"])])
    keys, odd = [], []
    for found in await _subjects(broker, streams.SESSIONS, subject):
        with contextlib.suppress(InvalidKey):
            key = parse_key(found)
            if found == f"{SESSION_PREFIX}.{key}":
                keys.append(key)
                continue
        odd.append(found)
    return sorted(keys), odd


async def _slots(broker: Broker, flags: argparse.Namespace) -> list[Stored]:
    """Slots of providers' accounts that the tenant has, or had when its worker died."""
    if flags.conversation is not None:
        return []
    async with store_of(broker, streams.SLOTS) as store:
        taken = [
            stored
            for prefix in (SLOT_PREFIX, DIAL_PREFIX)
            for stored in await store.read_all(f"{prefix}.>")
        ]
    return [stored for stored in taken if _holder(stored.data) == flags.tenant]


def _holder(claim: bytes) -> str | None:
    """The tenant that a slot's entry names."""
    with contextlib.suppress(ValueError):
        told = json.loads(claim)
        if isinstance(told, dict):
            return str(told.get("tenant"))
    return None


async def _announce(broker: Broker, tenant: str) -> None:
    """Have every worker forget what the tenant has used, and its budget: a purge is not heard."""
    js = broker.client.jetstream()
    for subject in (
        streams.bucket_subject(streams.USAGE_BUCKET, streams.usage_erased(tenant)),
        streams.bucket_subject(streams.BUDGETS_BUCKET, f"tenant.{tenant}"),
    ):
        await js.publish(subject, b"", timeout=_ANSWER_S, headers={"KV-Operation": "PURGE"})
    await asyncio.sleep(_LOOK_S)


async def _stop(broker: Broker, flags: argparse.Namespace, keys: list[SessionKey]) -> None:
    """End sessions, and return when none is open. Raises StillOpen."""
    request = ControlRequest(command="stop", reason="erased")

    async def stop(key: SessionKey) -> None:
        try:
            await control_session(broker, key, request)
        except BrokerError:  # no worker has it: nobody will, without its request
            subject = f"{SESSION_PREFIX}.{key}"
            await _purge(broker, Place("request", streams.SESSIONS, (subject,)))

    print(f"ending {len(keys)} sessions ...", file=sys.stderr)
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            for start in range(0, len(keys), 50):
                await asyncio.gather(*(stop(key) for key in keys[start : start + 50]))
            while (await _open(broker, flags))[0]:  # noqa: ASYNC110 - the queue says nothing of itself
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        raise StillOpen("sessions do not end within a minute; nothing was removed") from None
