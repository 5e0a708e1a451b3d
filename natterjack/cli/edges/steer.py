"""`natterjack edges mute` and so on: requests to an edge; `forget`: an edge that is gone."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import secrets
from collections.abc import Sequence

from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeout

from natterjack.broker import streams
from natterjack.broker.buckets import broker_of
from natterjack.broker.connection import Broker
from natterjack.errors import NatterjackError, UsageError
from natterjack.fleet.edge_reader import EdgeRow, EdgesReader
from natterjack.fleet.edges import (
    ABSENT,
    STOPPED,
    EdgeOp,
    EdgeReply,
    EdgeRequest,
    parse_reply,
    presence_subject,
)
from natterjack.process.terminal import plain
from natterjack.settings import BrokerSettings, add_flags
from natterjack.subjects import check_token, edge_subject

from .rows import ago, lines_of

_NAME = "natterjack-edges"
_TIMEOUT_S = 10.0
_ABOUT: dict[EdgeOp, str] = {
    "status": "ask an edge for its state now, beside what it last reported",
    "start": "start to capture a source that was stopped, or all sources of an edge",
    "stop": "end the sessions of a source, or of all sources of an edge, until they are started",
    "mute": "capture nothing from a source, or from all; the session goes on, with a gap",
    "unmute": "capture a muted source again, or all",
    "rotate": "end the session of a source, or of all, and go on in a new one without a gap",
    "reload": "have an edge read its configuration file again",
}


class NoAnswer(NatterjackError):
    """The edge does not answer, or refuses; the message says why, and the cure."""


def add_to(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the actions."""
    for op, about in _ABOUT.items():
        command = actions.add_parser(
            op, help=about, description=f"{about[0].upper()}{about[1:]}.",
            epilog="Exit status: 0 done; 1 the edge does not answer, or refuses; 2 wrong usage, no "
            "such edge, no permission, or no connection to NATS.",
        )  # fmt: skip
        _add_edge(command)
        if op != "reload":
            command.add_argument("source", nargs="?", metavar="SOURCE", help="one of its sources")
        if op == "status":
            command.add_argument(
                "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON"
            )
        add_flags(command, BrokerSettings, "nats-")
    forget = actions.add_parser(
        "forget",
        help="list an absent edge no longer, until it reports again",
        description="Remove an absent or stopped edge from the list, until it reports again.",
        epilog="Exit status: 0 done; 1 the edge still reports; 2 wrong usage, no such edge, no "
        "permission, or no connection to NATS.",
    )
    _add_edge(forget)
    add_flags(forget, BrokerSettings, "nats-")


def _add_edge(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "agent", metavar="AGENT", help="the edge: its name, or <tenant>.<name> if several have it"
    )
    command.add_argument("--tenant", default=argparse.SUPPRESS, help="its tenant")


async def run(flags: argparse.Namespace) -> int:
    """Run an action and return the exit status. Raises: UsageError, BrokerError, NoAnswer."""
    tenant, _, agent = flags.agent.rpartition(".")
    check_token("agent", agent)
    if tenant:
        check_token("tenant", tenant)
    if tenant and flags.tenant not in (None, tenant):
        raise UsageError(f"{flags.agent} is not an edge of the tenant {flags.tenant}")
    source = getattr(flags, "source", None)
    if source is not None:
        check_token("source", source)
    async with broker_of(flags, _NAME) as broker:
        reader = EdgesReader(broker)
        await reader.start()
        known = (await reader.read(tenant or flags.tenant)).rows
        row = chosen(flags.agent, known)
        if flags.action == "forget":
            return await _forget(broker, row)
        reply = await _ask(broker, row, EdgeRequest(op=flags.action, source=source))
    if not reply.ok:
        raise NoAnswer(f"{row.name}: {plain(reply.detail) or 'refused'}")
    if flags.action != "status":
        print(f"{row.name}: {plain(reply.detail) or 'done'}")
        return 0
    _show(row, reply, source, as_json=flags.json)
    return 0


def chosen(name: str, known: Sequence[EdgeRow]) -> EdgeRow:
    """Return the edge with this name, with or without its tenant.

    Raises: UsageError if there is none, with the name that was probably meant, or several.
    """
    found = [row for row in known if name in (row.name, row.presence.agent)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(row.name for row in found)
        raise UsageError(f"{name} is the name of several edges: give one of {names}")
    candidates = {each: row.name for row in known for each in (row.name, row.presence.agent)}
    near = difflib.get_close_matches(name, candidates, 1, 0.6)
    hint = f"; did you mean {candidates[near[0]]}?" if near else "; `natterjack edges` lists them"
    raise UsageError(f"no edge {name} is known{hint}")


async def _ask(broker: Broker, row: EdgeRow, request: EdgeRequest) -> EdgeReply:
    presence = row.presence
    subject = edge_subject(presence.tenant, presence.agent)
    data = await _request(broker, subject, request.model_dump_json(exclude_none=True).encode())
    if data is None:
        if row.state in (ABSENT, STOPPED):
            why = f"it is {row.state}, last seen {ago(row.seen_seconds_ago)} ago"
        else:
            why = (
                "it reports, but may not be asked: give its user the rights of this release "
                "(`natterjack users config`)"
            )
        raise NoAnswer(f"{row.name} does not answer: {why}")
    reply = parse_reply(data)
    if reply is None:
        raise NoAnswer(f"{row.name} sent no valid reply: is it of another release?")
    return reply


async def _request(broker: Broker, subject: str, data: bytes) -> bytes | None:
    """Return the reply to a request, or None if there is none in time.

    The edge is in the account of its tenant, from which replies cross by this subject alone: it has
    no way to an inbox.
    """
    reply = f"{subject}.{secrets.token_hex(16)}"
    subscription = await broker.client.subscribe(reply)
    try:
        await broker.client.publish(subject, data, reply=reply)
        message = await subscription.next_msg(_TIMEOUT_S)
    except NatsTimeout:
        return None
    finally:
        with contextlib.suppress(NatsError):
            await subscription.unsubscribe()
    nobody = not message.data and (message.headers or {}).get("Status") == "503"
    return None if nobody else message.data


def _show(row: EdgeRow, reply: EdgeReply, source: str | None, *, as_json: bool) -> None:
    presence = reply.presence or row.presence
    if source is not None:
        found = [each for each in presence.sources if each.name == source]
        if not found:
            names = ", ".join(each.name for each in presence.sources) or "none"
            raise NoAnswer(f"{row.name} has no source {source}; its sources: {names}")
        presence = presence.model_copy(update={"sources": found})
    if as_json:
        print(json.dumps(presence.model_dump(mode="json"), indent=2))
    else:
        now = EdgeRow(state=presence.state, seen_seconds_ago=0, presence=presence)
        print(*lines_of([now]), sep="\n")


async def _forget(broker: Broker, row: EdgeRow) -> int:
    if row.state not in (ABSENT, STOPPED):
        raise NoAnswer(f"{row.name} still reports, and would be listed again: stop it first")
    presence = row.presence
    js = broker.client.jetstream()
    subject = presence_subject(presence.tenant, presence.agent)
    await js.purge_stream(f"KV_{streams.EDGES_BUCKET}", subject=subject)
    print(f"{row.name}: forgotten; it was {row.state}, last seen {ago(row.seen_seconds_ago)} ago")
    return 0
