"""`natterjack stop`, `finalize`, `configure` and `interrupt`: requests to a session."""

from __future__ import annotations

import argparse
import json
from typing import Any

from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from natterjack.broker.connection import Broker, connected
from natterjack.broker.control import control_session, control_voice
from natterjack.broker.streams import SESSIONS, TRANSCRIPTS, VOICE_EVENTS, VOICE_SESSIONS
from natterjack.control import ControlReply, ControlRequest
from natterjack.errors import BadEvent, NatterjackError, NotAllowed, NotHeld, UsageError
from natterjack.events import StatusEvent, parse_event
from natterjack.process.terminal import plain
from natterjack.settings import BrokerSettings, add_flags, load
from natterjack.subjects import (
    SessionKey,
    session_subject,
    transcript_subject,
    voice_event_subject,
    voice_session_subject,
)
from natterjack.voice.control import VoiceReply, VoiceRequest
from natterjack.voice.events import VoiceStatusEvent, parse_voice_event

COMMANDS = ("stop", "finalize", "configure", "interrupt")
_EXIT = (
    "Exit status: 0 the request was carried out; 1 it was not: there is no such session, nobody "
    "holds it now, or its provider cannot do it; 2 wrong usage, no connection to NATS, or no right "
    "to send requests."
)
_WAIT_S = 2.0
"""How long the state of a session is looked for that nobody holds."""


class NotDone(NatterjackError):
    """A request was not carried out; the message says why."""


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommands."""
    about = {
        "stop": "end a session: what was captured becomes final. With --voice, a voice session: "
        "when its text has been spoken",
        "finalize": "ask for the finals of all that a session has captured so far",
        "configure": "change settings of a session's provider from now on",
        "interrupt": "stop the speech of a voice session, and drop the text that was not heard",
    }
    for name in COMMANDS:
        text = about[name]
        command = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=_EXIT
        )
        command.add_argument("key", metavar="KEY", help="TENANT.CONVERSATION.SPEAKER")
        if name == "configure":
            command.add_argument(
                "settings",
                nargs="+",
                type=_setting,
                metavar="NAME=VALUE",
                help='such as keyterms=["Grimsby"]; a VALUE that is not JSON is a string',
            )
        if name in ("stop", "configure"):
            command.add_argument(
                "--voice", action="store_true", help="the voice session of this key"
            )
        if name in ("stop", "interrupt"):
            command.add_argument("--reason", help="why, for the events of the session")
        command.add_argument("--json", action="store_true", help="print the reply as JSON")
        add_flags(command, BrokerSettings, "nats-")


async def run(flags: argparse.Namespace) -> int:
    """Run one of the commands. Raises: NotDone; UsageError, also without the right; BrokerError."""
    key = SessionKey.parse(flags.key)
    voice = flags.command == "interrupt" or getattr(flags, "voice", False)
    async with connected(
        load(BrokerSettings, flags), name=f"natterjack-{flags.command}", once=True
    ) as broker:
        try:
            async with broker.raising_refusals():
                reply = await _ask(broker, key, flags, voice=voice)
        except NotAllowed as error:
            raise UsageError(
                f"{error}: it takes an operator, or a subscriber or an application with --control"
            ) from None
        except NotHeld:
            raise NotDone(await _absence(broker, key, voice=voice)) from None
    if flags.json:
        print(reply.model_dump_json(exclude_none=True))
    if not reply.ok:
        raise NotDone(plain(reply.error or "the worker gave no reason"))
    if not flags.json:
        print(_done(flags.command, key, reply))
    return 0


async def _ask(
    broker: Broker, key: SessionKey, flags: argparse.Namespace, *, voice: bool
) -> ControlReply | VoiceReply:
    settings = dict(getattr(flags, "settings", ()))
    reason = getattr(flags, "reason", None)
    if reason is not None and len(reason) > 200:
        raise UsageError("--reason may have 200 characters")
    if voice:
        command = "close" if flags.command == "stop" else flags.command
        return await control_voice(
            broker, key, VoiceRequest(command=command, settings=settings, reason=reason)
        )
    return await control_session(
        broker, key, ControlRequest(command=flags.command, settings=settings, reason=reason)
    )


def _done(command: str, key: SessionKey, reply: ControlReply | VoiceReply) -> str:
    """Describe in one line the outcome of a command."""
    at = "" if reply.position is None else f" at {reply.position:.1f} s"
    provider = f" ({plain(reply.provider)})" if reply.provider else ""
    if command == "interrupt":
        if isinstance(reply, VoiceReply) and reply.utterance is None:
            return f"{key}: nothing was being said"
        return f"{key}: interrupted{at}"
    words = {
        "stop": "ends",
        "finalize": "final up to here",
        "configure": "new settings are in effect",
    }
    return f"{key}: {words[command]}{at}{provider}"


async def _absence(broker: Broker, key: SessionKey, *, voice: bool) -> str:
    """Say why nobody holds a session, as far as this user may know."""
    what = "voice session" if voice else "session"
    event = await _last_event(broker, key, voice=voice)
    if event is not None and not event.closing:
        return f"no worker holds {what} {key} now, which is {plain(event.state)}; try again later"
    queued = await _is_queued(broker, key, voice=voice)
    if queued:
        return f"{what} {key} waits for a worker: is one running?"
    if event is not None:
        reason = f" ({plain(event.reason)})" if event.reason else ""
        when = f"{event.published_at.astimezone():%Y-%m-%d %H:%M:%S}"
        return f"{what} {key} has ended at {when}: {event.state}{reason}"
    other = None if voice else await _last_event(broker, key, voice=True)
    if other is not None and not other.closing:
        return f"there is no session {key}, but a voice session: --voice, or natterjack interrupt"
    if queued is None:
        return f"no worker holds {what} {key}: there is none, or it waits for a worker"
    return f"there is no {what} {key} (natterjack sessions lists those that are open)"


async def _message(broker: Broker, stream: str, subject: str) -> bytes | None:
    """The last message of a subject; None if there is none, or this user may not read it."""
    jetstream = broker.client.jetstream(timeout=_WAIT_S)
    try:
        async with broker.raising_refusals():
            return (await jetstream.get_last_msg(stream, subject, direct=True)).data
    except (NotFoundError, NotAllowed, NatsError, TimeoutError):
        return None


async def _last_event(
    broker: Broker, key: SessionKey, *, voice: bool
) -> StatusEvent | VoiceStatusEvent | None:
    stream = VOICE_EVENTS if voice else TRANSCRIPTS
    subject = voice_event_subject(key, "status") if voice else transcript_subject(key, "status")
    data = await _message(broker, stream, subject)
    if not data:
        return None
    try:
        event = parse_voice_event(data) if voice else parse_event(data)
    except BadEvent:
        return None
    return event if isinstance(event, StatusEvent | VoiceStatusEvent) else None


async def _is_queued(broker: Broker, key: SessionKey, *, voice: bool) -> bool | None:
    """Whether a request is in the queue; None if this user may not know."""
    stream = VOICE_SESSIONS if voice else SESSIONS
    subject = voice_session_subject(key) if voice else session_subject(key)
    jetstream = broker.client.jetstream(timeout=_WAIT_S)
    try:
        async with broker.raising_refusals():
            return (await jetstream.get_last_msg(stream, subject)).data is not None
    except NotFoundError:
        return False
    except (NotAllowed, NatsError, TimeoutError):
        return None
