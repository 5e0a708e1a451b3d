"""Permissions of each role on a real server with deploy/nats/nats.conf and `natterjack users`."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import json
import os
import re
import signal
import ssl
import stat
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import nkeys
import numpy as np
import pytest
import soundfile
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

import natterjack
from edge_capture.capture.captions import show_captions
from edge_capture.delivery.link import Link
from natterjack.broker import streams
from natterjack.broker.connection import connect, connected
from natterjack.consume.captions import Captions
from natterjack.emulators import tones
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.errors import BrokerUnreachable, NotAllowed, UsageError
from natterjack.events import FinalEvent
from natterjack.local.demo import bundled_recording
from natterjack.process.run import end_tasks
from natterjack.settings import BrokerSettings, load
from natterjack.subjects import SessionKey
from tests.edge_capture.fleet.rooms import Room, reporting
from tests.natterjack.cli.commands import Command, run_async
from tests.natterjack.consume.test_conversation import publish
from tests.natterjack.transcripts.events import Session

from ..waiting import bound, soon, until, within
from ..worker.programs import Speaker, WorkerProcess, closed, spoken
from .secured import USERS, SecuredServer, add_user, apply_streams, guest

pytestmark = pytest.mark.process


def settings_of(server: SecuredServer, user: str) -> BrokerSettings:
    environment = server.environment(user)
    return BrokerSettings(
        url=environment["NATS_URL"],
        ca=Path(environment["NATS_CA"]),
        nkey=Path(environment["NATS_NKEY"]),
        inbox_prefix=environment["NATS_INBOX_PREFIX"],
    )


# ---- the table -----------------------------------------------------------------------------------

KEY, FOREIGN = "acme.call.agent", "other.call.agent"
KINDS = ("interim", "final", "turn", "status", "usage", "notice")
VOICE_KINDS = ("status", "utterance", "usage")
VOICE = (streams.VOICE_SESSIONS, streams.TEXT, streams.SPEECH, streams.VOICE_EVENTS)
STORED = (streams.SESSIONS, streams.AUDIO, streams.TRANSCRIPTS, streams.SLOTS,
          streams.DEAD_LETTERS, *VOICE)  # fmt: skip
BUCKETS = ("stt_sessions", "stt_workers", "stt_usage", "stt_budgets", "stt_providers",
           "stt_durables", "stt_enrollments", "stt_edges", "tts_sessions")  # fmt: skip
ALL_STREAMS = (*STORED, *(f"KV_{bucket}" for bucket in BUCKETS))
AGENTS = ("acme.pi-1", "acme.pi-2", "acme.screen", "other.x")
"""The names of the edges among the users, with their tenants."""


def _presence(agent: str) -> set[str]:
    entry = f"$KV.stt_edges.{agent}"
    return {entry, f"$JS.API.DIRECT.GET.KV_stt_edges.{entry}"}


PUBLISHED = (
    *(
        f"stt.{what}.{key}"
        for what in ("session", "audio", "control", "hold") for key in (KEY, FOREIGN)
    ),
    "stt.audio.acme.call.caller", "tts.played.acme.call.caller",
    *(
        f"tts.{what}.{key}"
        for what in ("session", "text", "audio", "played", "control", "hold")
        for key in (KEY, FOREIGN)
    ),
    *(f"stt.transcript.{key}.{kind}" for key in (KEY, FOREIGN) for kind in KINDS),
    *(f"tts.event.{key}.{kind}" for key in (KEY, FOREIGN) for kind in VOICE_KINDS),
    "stt.slot.deepgram.1", "stt.dial.deepgram.1", "stt.slots.slot.deepgram.1",
    "stt.enroll.A1", "stt.renew.A1",
    "stt.slots.waiting.slot.deepgram",
    *(f"$KV.{bucket}.{KEY}" for bucket in BUCKETS),
    *(subject for agent in (*AGENTS, "acme.wall") for subject in sorted(_presence(agent))),
    *(f"stt.edge.{agent}{reply}" for agent in AGENTS for reply in ("", ".reply")),
    "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.META.LEADER.STEPDOWN",
    *(
        f"$JS.API.STREAM.{verb}.{stream}"
        for verb in ("CREATE", "UPDATE", "INFO", "DELETE", "PURGE", "MSG.GET", "MSG.DELETE",
                     "SNAPSHOT", "RESTORE", "LEADER.STEPDOWN", "PEER.REMOVE")
        for stream in ALL_STREAMS
    ),
    *(f"$JS.API.DIRECT.GET.{stream}" for stream in ALL_STREAMS),
    *(
        f"$JS.API.DIRECT.GET.{streams.TRANSCRIPTS}.stt.transcript.{key}.{kind}"
        for key in (KEY, FOREIGN) for kind in ("final", "status")
    ),
    *(f"$JS.API.DIRECT.GET.{streams.AUDIO}.stt.audio.{key}" for key in (KEY, FOREIGN)),
    *(f"$JS.API.DIRECT.GET.{streams.TEXT}.tts.text.{key}" for key in (KEY, FOREIGN)),
    *(f"$JS.API.DIRECT.GET.{streams.SPEECH}.tts.audio.{key}" for key in (KEY, FOREIGN)),
    *(
        f"$JS.API.DIRECT.GET.{streams.VOICE_EVENTS}.tts.event.{key}.{kind}"
        for key in (KEY, FOREIGN) for kind in ("utterance", "status")
    ),
    *(
        f"$JS.API.CONSUMER.CREATE.TTS_EVENTS.mine.tts.event.{of}.*.*.*"
        for of in ("acme", "other", "*")
    ),
    "$JS.API.CONSUMER.CREATE.TTS_AUDIO.mine.tts.audio.acme.*.*",
    "$JS.API.CONSUMER.CREATE.TTS_EVENTS.mine", "$JS.API.CONSUMER.MSG.NEXT.TTS_EVENTS.mine",
    "$JS.API.CONSUMER.CREATE.STT_TRANSCRIPTS", "$JS.API.CONSUMER.CREATE.STT_TRANSCRIPTS.mine",
    *(
        f"$JS.API.CONSUMER.CREATE.STT_TRANSCRIPTS.mine.stt.transcript.{of}.*.*.*"
        for of in ("acme", "other", "*")
    ),
    "$JS.API.CONSUMER.CREATE.STT_AUDIO.mine.stt.audio.acme.*.*",
    "$JS.API.CONSUMER.DURABLE.CREATE.STT_SESSIONS.workers",
    *(
        f"$JS.API.CONSUMER.{verb}.{stream}.{consumer}"
        for verb in ("INFO", "MSG.NEXT", "DELETE", "PAUSE")
        for stream, consumer in (
            ("STT_SESSIONS", "workers"), ("TTS_SESSIONS", "workers"), ("STT_TRANSCRIPTS", "mine"),
        )
    ),
    "$JS.API.CONSUMER.NAMES.STT_TRANSCRIPTS", "$JS.API.CONSUMER.LIST.STT_TRANSCRIPTS",
    *(
        f"$JS.API.CONSUMER.CREATE.STT_TRANSCRIPTS.mine.stt.transcript.{key}.{kind}"
        for key in ("acme.call.*", "acme.other.*", "other.call.*") for kind in ("final", "turn")
    ),
    *(
        f"$JS.API.CONSUMER.{request}"
        for name in ("index", "billing") for request in (
            f"CREATE.STT_TRANSCRIPTS.{name}.stt.transcript.acme.*.*.*",
            f"CREATE.STT_TRANSCRIPTS.{name}.stt.transcript.*.*.*.*",
            f"DURABLE.CREATE.STT_TRANSCRIPTS.{name}", f"CREATE.STT_TRANSCRIPTS.{name}",
            f"INFO.STT_TRANSCRIPTS.{name}", f"MSG.NEXT.STT_TRANSCRIPTS.{name}",
            f"DELETE.STT_TRANSCRIPTS.{name}",
            f"CREATE.STT_DEAD_LETTERS.mine.stt.dead.acme.*.*.{name}",
        )
    ),
    "$JS.API.CONSUMER.CREATE.STT_DEAD_LETTERS.mine.stt.dead.other.*.*.index",
    "$JS.API.CONSUMER.CREATE.STT_DEAD_LETTERS.mine.stt.dead.acme.>",
    "$JS.API.CONSUMER.MSG.NEXT.STT_DEAD_LETTERS.mine",
    *(
        subject.format(name)
        for name in ("index", "billing") for subject in (
            "stt.durable.{}", "$KV.stt_durables.{}.1", "$JS.ACK.STT_TRANSCRIPTS.{}.1.1.1.1.1",
            "$JS.API.DIRECT.GET.KV_stt_durables.$KV.stt_durables.{}.1",
            f"stt.dead.{KEY}.{{}}", f"stt.dead.{FOREIGN}.{{}}",
        )
    ),
    "$JS.ACK.STT_SESSIONS.workers.1.1.1.1.1", "$JS.ACK.TTS_SESSIONS.workers.1.1.1.1.1",
    "$JS.ACK.STT_TRANSCRIPTS.mine.1.1.1.1.1",
    "$JS.SNAPSHOT.ACK.STT_TRANSCRIPTS.x", "$JS.SNAPSHOT.RESTORE.STT_TRANSCRIPTS.x",
    "$SYS.REQ.SERVER.PING", "$SYS.ACCOUNT.STT.CONNECT",
    *(f"_INBOX_{user}.x" for user in USERS),
    "_INBOX.x", "_R_.x", "anything.else",
)  # fmt: skip
HEARD = (
    *(
        f"stt.{what}.{key}"
        for what in ("session", "audio", "control", "hold") for key in (KEY, FOREIGN)
    ),
    "stt.enroll.A1", "stt.enroll.*", "stt.renew.*",
    *(f"stt.edge.{agent}{reply}" for agent in (*AGENTS, "acme.wall") for reply in ("", ".reply")),
    "stt.edge.acme.*", "stt.edge.*.*", "stt.edge.*.*.*", "stt.edge.>",
    "stt.hold.acme.call.caller", "stt.hold.acme.*.*", "stt.hold.>",
    "stt.durable.index", "stt.durable.billing", "stt.durable.>", "stt.dead.acme.>",
    f"stt.dead.{KEY}.index",
    *(f"stt.transcript.acme.{where}.final" for where in ("call.*", "other.*", "*.*")),
    "stt.transcript.acme.call.>", "tts.event.acme.call.*.status", "tts.event.acme.call.*.utterance",
    *(
        f"tts.{what}.{key}"
        for what in ("session", "text", "audio", "played", "control", "hold")
        for key in (KEY, FOREIGN)
    ),
    "tts.hold.acme.call.caller", "tts.hold.acme.*.*", "tts.hold.>",
    "tts.audio.acme.call.caller", "tts.audio.acme.*.*", "tts.audio.acme.*.agent",
    *(f"tts.{what}.*.*.*" for what in ("session", "text", "audio", "played", "control")),
    *(f"tts.event.{key}.{kind}" for key in (KEY, FOREIGN) for kind in VOICE_KINDS),
    "tts.event.acme.>", "tts.event.acme.*.*.status", "tts.event.acme.*.agent.status", "tts.event.>",
    "tts.>", "stt.transcript.*.*.*.turn",
    *(f"stt.transcript.{key}.{kind}" for key in (KEY, FOREIGN) for kind in KINDS),
    "stt.transcript.acme.>", "stt.transcript.acme.*.*.*", "stt.transcript.acme.*.*.status",
    "stt.transcript.acme.*.agent.status", "stt.transcript.>", "stt.transcript.*.*.*.status",
    "stt.audio.acme.>", "stt.audio.>", "stt.audio.*.*.*", "stt.control.*.*.*", "stt.session.>",
    "stt.slots.slot.deepgram.*", "stt.slots.waiting.slot.deepgram", "stt.slot.>", "stt.dial.>",
    "stt.>", "stt.*.acme.>", "*.>", ">", "$SYS.>", "$JS.>", "$JS.API.>", "$JS.ACK.>", "$JS.EVENT.>",
    *(f"$KV.{bucket}.>" for bucket in BUCKETS), "$KV.>",
    *(f"_INBOX_{user}.x" for user in USERS), "_INBOX.>", "_INBOX.x", "_R_.>", "_GR_.>",
)  # fmt: skip

_OWN_EDGE = (
    f"stt.session.{KEY}", f"stt.audio.{KEY}", f"stt.hold.{KEY}", f"tts.hold.{KEY}",
    f"$JS.API.DIRECT.GET.STT_TRANSCRIPTS.stt.transcript.{KEY}.status",
    f"tts.played.{KEY}", f"$JS.API.DIRECT.GET.TTS_AUDIO.tts.audio.{KEY}",
    f"$JS.API.DIRECT.GET.TTS_EVENTS.tts.event.{KEY}.status",
)  # fmt: skip
_EDGE_HEARS = (
    f"stt.transcript.{KEY}.status", "stt.transcript.acme.*.agent.status", f"stt.hold.{KEY}",
    f"tts.hold.{KEY}", f"tts.audio.{KEY}", "tts.audio.acme.*.agent",
    f"tts.event.{KEY}.status", "tts.event.acme.*.agent.status",
)  # fmt: skip
_LISTEN = (
    "$JS.API.CONSUMER.CREATE.STT_TRANSCRIPTS.mine.stt.transcript.acme.*.*.*",
    *(
        f"$JS.API.CONSUMER.CREATE.STT_TRANSCRIPTS.mine.stt.transcript.acme.{where}.*.{kind}"
        for where in ("call", "other")
        for kind in ("final", "turn")
    ),
    "$JS.API.CONSUMER.INFO.STT_TRANSCRIPTS.mine",
    "$JS.API.CONSUMER.MSG.NEXT.STT_TRANSCRIPTS.mine",
    # A name that no user's --durable has is like any other.
    "$JS.API.CONSUMER.CREATE.STT_TRANSCRIPTS.billing.stt.transcript.acme.*.*.*",
    "$JS.API.CONSUMER.INFO.STT_TRANSCRIPTS.billing",
    "$JS.API.CONSUMER.MSG.NEXT.STT_TRANSCRIPTS.billing",
    f"$JS.API.DIRECT.GET.STT_TRANSCRIPTS.stt.transcript.{KEY}.final",
    f"$JS.API.DIRECT.GET.STT_TRANSCRIPTS.stt.transcript.{KEY}.status",
    "$JS.API.CONSUMER.CREATE.TTS_EVENTS.mine.tts.event.acme.*.*.*",
    "$JS.API.CONSUMER.MSG.NEXT.TTS_EVENTS.mine",
    f"$JS.API.DIRECT.GET.TTS_EVENTS.tts.event.{KEY}.utterance",
    f"$JS.API.DIRECT.GET.TTS_EVENTS.tts.event.{KEY}.status",
)
_DURABLE = (
    "$JS.API.CONSUMER.CREATE.STT_TRANSCRIPTS.index.stt.transcript.acme.*.*.*",
    "$JS.API.CONSUMER.INFO.STT_TRANSCRIPTS.index",
    "$JS.API.CONSUMER.MSG.NEXT.STT_TRANSCRIPTS.index",
    "$JS.ACK.STT_TRANSCRIPTS.index.1.1.1.1.1",
    "stt.durable.index", "$KV.stt_durables.index.1",
    "$JS.API.DIRECT.GET.KV_stt_durables.$KV.stt_durables.index.1",
    f"stt.dead.{KEY}.index",
    "$JS.API.CONSUMER.CREATE.STT_DEAD_LETTERS.mine.stt.dead.acme.*.*.index",
    "$JS.API.CONSUMER.MSG.NEXT.STT_DEAD_LETTERS.mine",
)  # fmt: skip
_ONE_CALL = {
    *(s for s in _LISTEN if "MSG.NEXT.STT" in s or "INFO.STT" in s),
    "$JS.API.CONSUMER.CREATE.STT_TRANSCRIPTS.mine.stt.transcript.acme.call.*.final",
    *(s for s in _LISTEN if s.startswith("$JS.API.DIRECT") and not s.endswith("utterance")),
    "$JS.API.CONSUMER.MSG.NEXT.TTS_EVENTS.mine",
}
_OWN_EVENTS = (
    *(f"stt.transcript.{KEY}.{kind}" for kind in KINDS),
    "stt.transcript.acme.>", "stt.transcript.acme.*.*.*", "stt.transcript.acme.*.*.status",
    "stt.transcript.acme.*.agent.status", "stt.transcript.acme.call.>",
    *(f"stt.transcript.acme.{where}.final" for where in ("call.*", "other.*", "*.*")),
    *(f"tts.event.{KEY}.{kind}" for kind in VOICE_KINDS),
    "tts.event.acme.call.*.status", "tts.event.acme.call.*.utterance",
    "tts.event.acme.>", "tts.event.acme.*.*.status", "tts.event.acme.*.agent.status",
)  # fmt: skip
_ALL_EVENTS = (
    *_OWN_EVENTS, *(f"stt.transcript.{FOREIGN}.{kind}" for kind in KINDS),
    "stt.transcript.>", "stt.transcript.*.*.*.status", "stt.transcript.*.*.*.turn",
    *(f"tts.event.{FOREIGN}.{kind}" for kind in VOICE_KINDS), "tts.event.>",
)  # fmt: skip

MAY_PUBLISH: dict[str, set[str]] = {
    "edge_acme_pi-1": {
        *_OWN_EDGE, *_presence("acme.pi-1"), "stt.audio.acme.call.caller",
        "tts.played.acme.call.caller",
    },
    "edge_acme_pi-2": {*_OWN_EDGE, *_presence("acme.pi-2")},
    "edge_acme_wall": {*_OWN_EDGE, *_presence("acme.screen")},
    "edge_other_x": {*(s.replace("acme", "other") for s in _OWN_EDGE), *_presence("other.x")},
    "subscriber_acme_app": {*_LISTEN, f"stt.control.{KEY}", f"tts.control.{KEY}"},
    "application_acme_bot": {
        *_LISTEN, *(f"tts.{what}.{KEY}" for what in ("session", "text", "control")),
    },
    "subscriber_acme_shown": set(),
    "subscriber_archive": {
        *_LISTEN, *(s.replace(".acme.", ".other.") for s in _LISTEN),
        "$JS.API.CONSUMER.CREATE.STT_TRANSCRIPTS.mine.stt.transcript.*.*.*.*",
        "$JS.API.CONSUMER.CREATE.TTS_EVENTS.mine.tts.event.*.*.*.*",
        "$JS.API.CONSUMER.CREATE.STT_TRANSCRIPTS.billing.stt.transcript.*.*.*.*",
        "$JS.API.STREAM.INFO.STT_TRANSCRIPTS", "$JS.API.STREAM.INFO.TTS_EVENTS",
    },
    "subscriber_acme_index": {*_LISTEN, *_DURABLE},
    "subscriber_acme_call": _ONE_CALL,
    "monitor": {
        "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST",
        *(f"$JS.API.STREAM.INFO.{stream}" for stream in ALL_STREAMS),
        "$JS.API.CONSUMER.INFO.STT_SESSIONS.workers", "$JS.API.CONSUMER.INFO.STT_TRANSCRIPTS.mine",
        *(f"$JS.API.CONSUMER.INFO.STT_TRANSCRIPTS.{name}" for name in ("index", "billing")),
        "$JS.API.CONSUMER.INFO.TTS_SESSIONS.workers",
        "$JS.API.STREAM.MSG.GET.STT_SESSIONS", "$JS.API.STREAM.MSG.GET.TTS_SESSIONS",
        "$JS.API.DIRECT.GET.STT_SLOTS",
        *(f"$JS.API.DIRECT.GET.KV_{b}"
          for b in ("stt_workers", "stt_usage", "stt_budgets", "stt_edges")),
    },
    "gateway": {
        *(
            f"{what}.{key}"
            for what in ("stt.session", "stt.audio", "stt.control", "stt.hold", "tts.session",
                         "tts.text", "tts.played", "tts.control", "tts.hold")
            for key in (KEY, FOREIGN)
        ),
        "stt.audio.acme.call.caller", "tts.played.acme.call.caller",
        *_LISTEN, *(s.replace(".acme.", ".other.") for s in _LISTEN),
        "$JS.API.CONSUMER.CREATE.STT_TRANSCRIPTS.mine.stt.transcript.*.*.*.*",
        "$JS.API.CONSUMER.CREATE.STT_TRANSCRIPTS.billing.stt.transcript.*.*.*.*",
        "$JS.API.CONSUMER.CREATE.TTS_EVENTS.mine.tts.event.*.*.*.*",
        *(f"$JS.API.DIRECT.GET.TTS_AUDIO.tts.audio.{key}" for key in (KEY, FOREIGN)),
        *(f"$JS.API.DIRECT.GET.{s}" for s in ("STT_TRANSCRIPTS", "STT_AUDIO", "TTS_EVENTS")),
        *(f"$JS.API.DIRECT.GET.KV_{b}"
          for b in ("stt_workers", "stt_usage", "stt_budgets", "stt_edges")),
        *(f"$JS.API.STREAM.INFO.{s}"
          for s in ("STT_TRANSCRIPTS", "TTS_EVENTS", "STT_SESSIONS", "TTS_SESSIONS",
                    "KV_stt_edges")),
        *(f"$JS.API.STREAM.MSG.GET.{s}" for s in ("STT_SESSIONS", "TTS_SESSIONS")),
    },
    "worker": {
        *(s for s in PUBLISHED if s.startswith(("stt.transcript.", "tts.audio.", "tts.event."))),
        "stt.slot.deepgram.1", "stt.dial.deepgram.1", "stt.slots.waiting.slot.deepgram",
        *(f"$KV.{b}.{KEY}" for b in BUCKETS
          if b not in ("stt_budgets", "stt_durables", "stt_enrollments", "stt_edges")),
        *(f"$JS.API.STREAM.INFO.{stream}" for stream in ALL_STREAMS),
        *(f"$JS.API.STREAM.MSG.GET.{s}" for s in ("STT_SESSIONS", "STT_TRANSCRIPTS", "STT_SLOTS",
                                                  "TTS_SESSIONS", "TTS_AUDIO", "TTS_EVENTS",
                                                  "KV_tts_sessions", "KV_stt_sessions",
                                                  "KV_stt_usage")),
        *(f"$JS.API.DIRECT.GET.{s}" for s in ALL_STREAMS if s not in (
            "STT_SESSIONS", "STT_TRANSCRIPTS", "TTS_SESSIONS", "TTS_EVENTS", "STT_DEAD_LETTERS",
            "KV_stt_durables", "KV_stt_enrollments")),
        *(s for s in PUBLISHED if s.startswith("$JS.API.DIRECT.GET.KV_stt_edges.")),
        *(f"$JS.API.DIRECT.GET.TTS_{what.upper()}.tts.{what}.{key}"
          for what in ("text", "audio") for key in (KEY, FOREIGN)),
        *(f"$JS.API.DIRECT.GET.STT_AUDIO.stt.audio.{key}" for key in (KEY, FOREIGN)),
        *(f"$JS.API.CONSUMER.{verb}.{queue}_SESSIONS.workers"
          for verb in ("INFO", "MSG.NEXT") for queue in ("STT", "TTS")),
        "$JS.ACK.STT_SESSIONS.workers.1.1.1.1.1", "$JS.ACK.TTS_SESSIONS.workers.1.1.1.1.1",
    },
    "operator": {
        *(s for s in PUBLISHED if s.startswith(("$JS.API.", "$JS.SNAPSHOT."))),
        f"$KV.stt_budgets.{KEY}", f"$KV.stt_enrollments.{KEY}",
        *(f"stt.edge.{agent}" for agent in AGENTS),
        *(f"{prefix}.{what}.{key}" for prefix in ("stt", "tts")
          for what in ("control", "session") for key in (KEY, FOREIGN)),
    },
}  # fmt: skip
MAY_PUBLISH["registrar"] = {
    f"$KV.stt_enrollments.{KEY}", "$JS.API.STREAM.MSG.GET.KV_stt_enrollments",
}  # fmt: skip
MAY_HEAR: dict[str, set[str]] = {
    "edge_acme_pi-1": {
        *_EDGE_HEARS, "stt.transcript.acme.*.*.status", "stt.hold.acme.call.caller",
        "stt.hold.acme.*.*", "tts.hold.acme.call.caller", "tts.hold.acme.*.*",
        "tts.audio.acme.call.caller", "tts.audio.acme.*.*", "tts.event.acme.*.*.status",
        "tts.event.acme.call.*.status", "stt.edge.acme.pi-1",
    },
    "edge_acme_pi-2": {*_EDGE_HEARS, "stt.edge.acme.pi-2"},
    "edge_acme_wall": {
        *_EDGE_HEARS, "stt.edge.acme.screen",
        f"stt.transcript.{KEY}.interim", f"stt.transcript.{KEY}.final",
    },
    "edge_other_x": {
        f"stt.transcript.{FOREIGN}.status", f"stt.hold.{FOREIGN}", f"tts.hold.{FOREIGN}",
        f"tts.audio.{FOREIGN}",
        f"tts.event.{FOREIGN}.status", "stt.edge.other.x",
    },
    "subscriber_acme_app": {*_OWN_EVENTS},
    "subscriber_acme_shown": {*_OWN_EVENTS},
    "application_acme_bot": {*_OWN_EVENTS},
    "subscriber_archive": {*_ALL_EVENTS},
    "subscriber_acme_index": {*_OWN_EVENTS, "stt.durable.index"},
    "subscriber_acme_call": {
        f"stt.transcript.{KEY}.final", f"stt.transcript.{KEY}.status",
        "stt.transcript.acme.call.*.final", f"tts.event.{KEY}.status",
        "tts.event.acme.call.*.status",
    },
    "monitor": set(),
    "registrar": {"stt.enroll.A1", "stt.enroll.*", "stt.renew.*"},
    "gateway": {
        *_ALL_EVENTS, *(s for s in HEARD if s.startswith(("stt.hold.", "tts.hold."))
                        and not s.endswith(">")),
        *(f"tts.audio.{key}" for key in (KEY, FOREIGN, "*.*.*", "acme.call.caller", "acme.*.*",
                                         "acme.*.agent")),
    },
    "worker": {
        *(f"stt.{what}.{key}" for what in ("audio", "control") for key in (KEY, FOREIGN)),
        "stt.audio.*.*.*", "stt.control.*.*.*", "stt.transcript.*.*.*.turn",
        *(f"stt.transcript.{key}.turn" for key in (KEY, FOREIGN)),
        *(f"tts.{what}.{key}" for what in ("text", "played", "control")
          for key in (KEY, FOREIGN, "*.*.*")),
        "stt.slots.slot.deepgram.*", "stt.slots.waiting.slot.deepgram",
        *(f"$KV.{b}.>" for b in ("stt_budgets", "stt_usage", "stt_providers")),
    },
    "operator": {
        *_ALL_EVENTS, "stt.slots.slot.deepgram.*", "stt.slots.waiting.slot.deepgram",
        *(s for s in HEARD if s.startswith("stt.edge.") and s.endswith(".reply")),
        "stt.edge.*.*.*",
    },
}  # fmt: skip


async def test_every_role_has_exactly_the_permissions_of_the_table(
    server: SecuredServer,
) -> None:
    wrong = []
    for user in USERS:
        async with guest(server, user) as one:
            for subject in HEARD:
                own = subject == f"_INBOX_{user}.x"
                if await one.may_subscribe(subject) != (own or subject in MAY_HEAR[user]):
                    wrong.append(f"{user} hears {subject}")
        # Allowed requests are only compared by name, because the operator's would take effect.
        async with guest(server, user) as one:
            for subject in PUBLISHED:
                if user == "operator" and subject.startswith("$JS.API."):
                    continue
                if await one.may_publish(subject) != (subject in MAY_PUBLISH[user]):
                    wrong.append(f"{user} publishes {subject}")
    assert not wrong, "\n".join(wrong)


async def test_an_edge_is_seen_and_steered_from_its_own_account(
    server: SecuredServer, tmp_path: Path
) -> None:
    """It answers under its name alone: it can write no other presence, nor answer for another."""

    async def edges(*arguments: str, status: int = 0) -> str:
        done = await run_async("edges", *arguments, **server.environment("operator"))
        assert done.status == status, done
        return done.out + done.errors

    async def listed() -> dict[str, dict[str, Any]]:
        found = json.loads(await edges("--json"))
        return {f"{each['tenant']}.{each['agent']}": each for each in found}

    async with reporting(settings_of(server, "edge_acme_wall"), Room("screen"), seconds=1):

        async def reports() -> bool:
            shown = (await listed()).get("acme.screen")
            return shown is not None and shown["clock_offset_seconds"] is not None

        await until(reports, "the edge has written its presence, and read it back", 90)
        assert "acme.screen" in await edges("status", "screen")
        assert "acme.screen: muted mic\n" in await edges("mute", "screen", "mic")
        async with (
            guest(server, "edge_acme_pi-1") as own,
            guest(server, "edge_other_x") as other,
            guest(server, "operator") as operator,
        ):
            replies = await operator.client.subscribe("stt.edge.acme.screen.*")
            await operator.client.flush()
            # An acknowledgement goes where a publisher likes, in its own account.
            for stranger, key in ((own, KEY), (other, FOREIGN)):
                for agent in ("acme.screen", "other.x"):
                    for subject in _presence(agent) | {f"stt.edge.{agent}", f"stt.edge.{agent}.a"}:
                        if (stranger, agent) != (other, "other.x"):
                            assert not await stranger.may_publish(subject)
                            assert not await stranger.may_subscribe(subject)
                for reply in ("stt.edge.acme.screen", "$KV.stt_edges.acme.screen"):
                    await stranger.client.publish(f"stt.audio.{key}", b"\0\0", reply=reply)
                await stranger.client.request(f"stt.audio.{key}", b"\0\0", timeout=bound(10))
            await operator.client.flush()
            assert replies.pending_msgs == 0
        assert "acme.screen: muted mic\n" in await edges("mute", "screen")
        assert set(await listed()) == {"acme.screen"}
    answer = await edges("mute", "screen", status=1)
    assert "acme.screen does not answer: it is stopped" in answer


async def test_an_edge_that_only_reaches_https(server: SecuredServer) -> None:
    """It has the rights of its user there, and sees the captions of its sessions. A browser on a
    page of another site is refused."""
    over_websocket = settings_of(server, "edge_acme_wall").model_copy(
        update={"url": server.websocket_url}
    )
    link = Link(over_websocket)
    out = io.StringIO()
    async with (
        connected(over_websocket, name="edge", once=True) as edge,
        connected(settings_of(server, "worker"), name="worker", once=True) as worker,
        asyncio.TaskGroup() as tasks,
    ):
        chunk = await edge.client.request(f"stt.audio.{KEY}", b"\0\0", timeout=bound(10))
        assert json.loads(chunk.data)["stream"] == streams.AUDIO
        refused: asyncio.Queue[NotAllowed] = asyncio.Queue()
        edge.on_refusal.add(refused.put_nowait)
        await edge.client.publish(f"stt.audio.{FOREIGN}", b"\0\0")
        assert (await soon(refused.get(), 10)).subject == f"stt.audio.{FOREIGN}"
        side = [tasks.create_task(link.run())]
        with Captions(out, names=None, states=False) as captions:
            keys = [SessionKey.parse(KEY)]
            side.append(tasks.create_task(show_captions(keys, link, captions)))
            session = Session("session-1", conversation="call")

            async def shown() -> bool:
                await publish(worker, session.final("hello from the room", 0, 1))
                return "hello from the room" in out.getvalue()

            await until(shown, "the caption is shown", 20)
            await end_tasks(side)
        headers = {"Origin": "https://elsewhere.example.org"}
        trusted = ssl.create_default_context(cafile=over_websocket.ca)
        async with aiohttp.ClientSession() as browser:
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await browser.ws_connect(server.websocket_url, headers=headers, ssl=trusted)
    assert caught.value.status == 403


async def test_clients_without_a_key_or_a_certificate_are_refused(server: SecuredServer) -> None:
    for settings, reason in (
        (BrokerSettings(url=server.url, ca=server.home / "tls" / "ca.pem"), "[Aa]uthorization"),
        (settings_of(server, "worker").model_copy(update={"ca": None}), "certificate"),
    ):
        environment = {"NATS_URL": settings.url}
        if settings.ca:
            environment["NATS_CA"] = str(settings.ca)
        async with Command("tail", terminal=False, **environment) as command:
            assert await command.status() == 2
        assert "Traceback" not in command.errors
        assert reason.strip("[]")[-4:].lower() in command.errors.lower()


async def test_acknowledgements_cannot_be_sent_to_other_accounts(server: SecuredServer) -> None:
    """A publisher chooses the subject of its acknowledgement, but only in its own account."""
    targets = (
        *(f"stt.transcript.{FOREIGN}.{kind}" for kind in ("final", "status")),
        f"stt.audio.{FOREIGN}", f"stt.session.{FOREIGN}", f"$KV.stt_sessions.{FOREIGN}",
        "$KV.stt_budgets.tenant.other",
        "$JS.API.STREAM.PURGE.STT_TRANSCRIPTS", "$JS.API.STREAM.MSG.DELETE.STT_TRANSCRIPTS",
        f"stt.control.{FOREIGN}", f"tts.audio.{FOREIGN}", f"tts.text.{FOREIGN}",
    )  # fmt: skip
    async with (
        guest(server, "operator") as operator,
        guest(server, "worker") as worker,
        guest(server, "edge_acme_pi-1") as edge,
        guest(server, "edge_other_x") as other,
    ):
        js = operator.client.jetstream()
        await worker.client.jetstream().publish(f"stt.transcript.{FOREIGN}.turn", b"precious")
        stolen: list[str] = []

        async def steal(message: object) -> None:
            stolen.append(str(message))

        await other.client.subscribe(f"stt.transcript.{FOREIGN}.status", cb=steal)
        await other.client.flush()
        for reply in targets:
            await edge.client.publish(f"stt.audio.{KEY}", b"\0\0", reply=reply)
        # The last message: once it is acknowledged, all others are too.
        acknowledged = await edge.client.request(f"stt.audio.{KEY}", b"\0\0")
        assert json.loads(acknowledged.data)["seq"] == len(targets) + 1
        for stream, subject in (
            (streams.TRANSCRIPTS, f"stt.transcript.{FOREIGN}.final"),
            (streams.TRANSCRIPTS, f"stt.transcript.{FOREIGN}.status"),
            (streams.AUDIO, f"stt.audio.{FOREIGN}"),
            (streams.SPEECH, f"tts.audio.{FOREIGN}"),
            (streams.TEXT, f"tts.text.{FOREIGN}"),
            (streams.SESSIONS, f"stt.session.{FOREIGN}"),
            ("KV_stt_sessions", f"$KV.stt_sessions.{FOREIGN}"),
            ("KV_stt_budgets", "$KV.stt_budgets.tenant.other"),
        ):
            with pytest.raises(NotFoundError):
                await js.get_last_msg(stream, subject)
        kept = await js.get_last_msg(streams.TRANSCRIPTS, f"stt.transcript.{FOREIGN}.turn")
        assert kept.data == b"precious"
        assert not stolen
    assert not [line for line in server.log_path.read_text().splitlines() if "Invalid" in line]


async def test_an_edge_cannot_read_other_tenants(server: SecuredServer) -> None:
    async with guest(server, "worker") as worker, guest(server, "edge_acme_pi-1") as edge:
        for key in (KEY, FOREIGN):
            await worker.client.jetstream().publish(f"stt.transcript.{key}.status", b"secret")
        own = await edge.client.jetstream().get_last_msg(
            streams.TRANSCRIPTS, f"stt.transcript.{KEY}.status", direct=True
        )
        assert own.data == b"secret"
        js = edge.client.jetstream(timeout=1)  # nobody will answer: the broker refuses each request
        for subject in (f"stt.transcript.{FOREIGN}.status", f"stt.transcript.{KEY}.final"):
            with pytest.raises((NatsTimeout, NoRespondersError)):
                await js.get_last_msg(streams.TRANSCRIPTS, subject, direct=True)
            asked = f'"$JS.API.DIRECT.GET.{streams.TRANSCRIPTS}.{subject}"'
            await until(
                lambda asked=asked: [line for line in server.complaints if asked in line], "refused"
            )


async def test_an_edge_plays_the_speech_of_its_tenant_only(server: SecuredServer) -> None:
    """It gets what the worker publishes, the newest chunk from the stream, and is heard."""
    received: asyncio.Queue[Msg] = asyncio.Queue()
    async with guest(server, "worker") as worker, guest(server, "edge_acme_pi-1") as edge:
        await edge.client.subscribe("tts.audio.acme.*.*", cb=received.put)
        played = await worker.client.subscribe("tts.played.*.*.*")
        await edge.client.flush()
        await worker.client.flush()
        headers = {"Nats-Msg-Id": "a-session:0"}
        for key in (FOREIGN, KEY, KEY):  # once more: for a player that missed it
            js = worker.client.jetstream()
            await js.publish(f"tts.audio.{key}", b"\1\0", headers=headers)
            headers = {"Nats-Msg-Id": "a-session:1"}
        async with within(10):
            again = [await received.get(), await received.get()]
        assert [message.subject for message in again] == [f"tts.audio.{KEY}"] * 2
        js = edge.client.jetstream(timeout=1)
        newest = await js.get_last_msg(streams.SPEECH, f"tts.audio.{KEY}", direct=True)
        assert (newest.data, newest.seq) == (b"\1\0", 2)
        with pytest.raises((NatsTimeout, NoRespondersError)):
            await js.get_last_msg(streams.SPEECH, f"tts.audio.{FOREIGN}", direct=True)
        await edge.client.publish(f"tts.played.{FOREIGN}", b"no")
        await edge.client.publish(f"tts.played.{KEY}", b"yes")
        assert (await played.next_msg(10)).data == b"yes"


async def test_an_application_speaks_in_its_tenant_only(server: SecuredServer) -> None:
    settings = settings_of(server, "application_acme_bot")
    async with natterjack.speak("acme", "call", "bot", settings=settings) as speaking:
        await speaking.say("Hello.")
    async with guest(server, "operator") as operator:
        js = operator.client.jetstream()
        assert (await js.get_last_msg(streams.TEXT, "tts.text.acme.call.bot")).data
        state = (await js.stream_info(streams.VOICE_SESSIONS)).state
        assert state.messages == 1
    assert not server.complaints
    with pytest.raises(NotAllowed, match=r"other\.call\.bot"):
        async with natterjack.speak("other", "call", "bot", settings=settings):
            pass


async def test_a_subscriber_of_one_tenant_receives_no_other(server: SecuredServer) -> None:
    received: list[str] = []

    async def hear(message: object) -> None:
        received.append(getattr(message, "subject", ""))

    async with guest(server, "worker") as worker, guest(server, "subscriber_acme_shown") as one:
        await one.client.subscribe("stt.transcript.acme.>", cb=hear)
        await one.client.flush()
        for key in (FOREIGN, KEY):
            await worker.client.publish(f"stt.transcript.{key}.interim", b"{}")
        await until(lambda: f"stt.transcript.{KEY}.interim" in received, "its own")
        # Other tests use the server, too; what they leave running may publish.
        assert all(subject.startswith("stt.transcript.acme.") for subject in received)


# ---- work of each role ---------------------------------------------------------------------------


async def run(server: SecuredServer, user: str, *arguments: str, status: int = 0) -> str:
    """Run a command as a user and return its output, errors included."""
    async with Command(*arguments, terminal=False, **server.environment(user)) as command:
        assert await command.status() == status, command.out + command.errors
    return command.out + command.errors


async def test_a_durable_consumer_works_with_least_privilege(server: SecuredServer) -> None:
    async with guest(server, "worker") as worker:
        js = worker.client.jetstream()
        for tenant, sequence in (("other", 0), ("acme", 0), ("acme", 1)):
            event = FinalEvent(
                session_id=f"session-{tenant}", tenant=tenant, conversation="c", speaker="s",
                epoch=1, sequence=sequence, segment=sequence, text="hello", start=0, end=1,
                published_at=datetime.now(UTC),
            )  # fmt: skip
            await js.publish(f"stt.transcript.{tenant}.c.s.final", event.encode())
    settings = settings_of(server, "subscriber_acme_index")
    begin: dict[str, Any] = {"tenant": "acme", "start": "start"}
    async with natterjack.durable("index", **begin, settings=settings) as deliveries, within(60):
        first = await anext(deliveries)
        assert first.event.id == "session-acme:0"
        await first.reject("no such customer")
        await (await anext(deliveries)).ack()
    letters = [x async for x in natterjack.dead_letters("index", "acme", settings=settings)]
    assert [letter.reason for letter in letters] == ["no such customer"]
    assert not server.complaints
    for user, name in (("subscriber_acme_app", "index"), ("subscriber_acme_index", "other")):
        mine = settings_of(server, user)
        async with natterjack.durable(name, **begin, settings=mine) as deliveries:
            with pytest.raises(NotAllowed, match=rf"users add subscriber --durable {name}`"):
                async with within(60):
                    await anext(deliveries)
        with pytest.raises(NotAllowed):
            async with within(60):
                await anext(natterjack.dead_letters(name, "acme", settings=mine))


async def test_a_transcript_needs_no_more_than_a_subscribers_rights(
    server: SecuredServer, tmp_path: Path
) -> None:
    agent, bot = (Session(f"session-{name}", name, conversation="calls") for name in ("a", "bot"))
    async with guest(server, "worker") as worker:
        spoken = [bot.utterance(0, "finished", 3, text_spoken="Hello."), bot.voice_status("closed")]
        await publish(worker, agent.final("Good morning.", 0, 1), agent.closed(1), *spoken)
    for user in ("subscriber_acme_app", "subscriber_archive", "application_acme_bot", "operator"):
        settings = settings_of(server, user)
        whole = await natterjack.transcript("acme", "calls", settings=settings)
        assert [line.text for line in whole.lines] == ["Good morning.", "Hello."]
        assert not whole.open
    out = await run(
        server, "subscriber_acme_app", "export", "--tenant", "acme", "--since", "1h", "-o",
        str(tmp_path / "out"),
    )  # fmt: skip
    assert "acme.calls" in out
    refused = set(server.complaints)
    assert all("STREAM.INFO.STT_SESSIONS" in line for line in refused), refused
    for user, tenant in (("subscriber_acme_app", "other"), ("subscriber_acme_shown", "acme")):
        with pytest.raises(NotAllowed):
            await natterjack.transcript(tenant, "calls", settings=settings_of(server, user))


async def test_a_consumer_with_a_lasting_name_works_for_its_user(server: SecuredServer) -> None:
    """Any client of NATS makes it, asks about it, pulls and acknowledges."""
    async with guest(server, "worker") as worker:
        await worker.client.jetstream().publish(f"stt.transcript.{KEY}.final", b"hello")
    config = ConsumerConfig(
        durable_name="index", name="index", filter_subject="stt.transcript.acme.*.*.*",
        ack_policy=AckPolicy.EXPLICIT,
    )  # fmt: skip
    async with guest(server, "subscriber_acme_index") as one:
        js = one.client.jetstream()
        await js.add_consumer(streams.TRANSCRIPTS, config)
        pulling = await js.pull_subscribe_bind("index", streams.TRANSCRIPTS)
        (message,) = await pulling.fetch(1, timeout=bound(10))
        await message.ack_sync(timeout=bound(10))
        info = await js.consumer_info(streams.TRANSCRIPTS, "index")
        assert (info.num_ack_pending, info.num_pending) == (0, 0)
    assert not server.complaints


@pytest.mark.slow
async def test_all_programs_work_with_least_privilege(
    server: SecuredServer, tmp_path: Path
) -> None:
    """Run sessions with limits and budgets, kill a worker, control, listen and erase."""
    workers: list[WorkerProcess] = []
    tail = Command(
        "tail", "--tenant", "acme", "--from-start", "--json", terminal=False,
        **server.environment("subscriber_acme_app"),
    )  # fmt: skip
    async with DeepgramEmulator() as emulator, tail:
        await run(server, "operator", "limits", "set", "deepgram", "--connections", "5")
        await run(server, "operator", "budget", "set", "acme", "--seconds-per-day", "100000")

        async def work() -> WorkerProcess:
            environment = server.environment("worker")
            worker = WorkerProcess(environment.pop("NATS_URL"), emulator.url, **environment)
            workers.append(worker)
            await worker.start()
            return worker

        try:
            await work()
            speaker = Speaker(
                settings_of(server, "edge_acme_pi-1"), 60, speed=2, tenant="acme", speaker="agent"
            )
            speaking = asyncio.create_task(speaker.speak())
            await spoken(speaker, 4.0)

            async def shown() -> bool:
                return "acme.c.agent" in await run(server, "monitor", "sessions", "--no-words")

            await until(shown, "the session is shown")
            workers[0].signal(signal.SIGKILL)
            await work()
            await until(lambda: '"final"' in tail.out, "the subscriber hears a final", 30)
            await speaking
            async with connected(settings_of(server, "operator"), name="test") as broker:
                (await closed(broker, speaker.spec)).audit(speaker)
            await until(lambda: '"closed"' in tail.out, "the subscriber hears the end", 30)
            assert "deepgram: 5 connections" in await run(server, "operator", "limits", "list")
            assert "acme" in await run(server, "operator", "budget", "usage")
            await _edge_program(server)
            erased = await run(server, "operator", "erase", "--tenant", "acme", "--stop", "--yes")
            assert "removed" in erased
        finally:
            for worker in workers:
                await worker.stop()
    assert not server.complaints


async def test_a_changed_consumer_is_corrected_in_place(
    server: SecuredServer,
) -> None:
    """The cure for NatterjackQueueStuck: without the consumer, workers would exit."""
    async with guest(server, "operator") as operator:
        js = operator.client.jetstream()
        before = await js.consumer_info(streams.SESSIONS, streams.CONSUMER)
        await js.add_consumer(streams.SESSIONS, before.config.evolve(max_ack_pending=1))
        changed = await js.consumer_info(streams.SESSIONS, streams.CONSUMER)
        assert changed.config.max_ack_pending == 1
        output = await run(server, "operator", "streams", "apply")
        assert "max_ack_pending 1 -> -1" in output
        assert "LOSES" not in output
        after = await js.consumer_info(streams.SESSIONS, streams.CONSUMER)
        assert (after.config, after.created) == (before.config, before.created)


async def test_an_operator_backs_up_and_restores_a_stream(server: SecuredServer) -> None:
    """Send the requests of `nats stream backup` and `nats stream restore`."""
    words = [b"one", b"two", b"three"]
    async with guest(server, "worker") as worker:
        for word in words:
            await worker.client.jetstream().publish(f"stt.transcript.{KEY}.final", word)
    async with guest(server, "operator") as operator:
        client, api = operator.client, "$JS.API.STREAM"
        inbox = client.new_inbox()
        coming = await client.subscribe(inbox)

        async def ask(subject: str, payload: bytes) -> dict[str, Any]:
            answer = await client.request(subject, payload, timeout=bound(10))
            response: dict[str, Any] = json.loads(answer.data or b"{}")
            assert "error" not in response, response
            return response

        wanted = json.dumps({"deliver_subject": inbox}).encode()
        found = await ask(f"{api}.SNAPSHOT.{streams.TRANSCRIPTS}", wanted)
        chunks = []
        while (message := await coming.next_msg(bound(10))).data:
            chunks.append(message.data)
            if message.reply:
                await client.publish(message.reply)
        await client.jetstream().delete_stream(streams.TRANSCRIPTS)
        backup = json.dumps({"config": found["config"], "state": found["state"]}).encode()
        place = (await ask(f"{api}.RESTORE.{streams.TRANSCRIPTS}", backup))["deliver_subject"]
        for chunk in [*chunks, b""]:
            await ask(place, chunk)
        await apply_streams(server)  # reports no difference
        js = client.jetstream()
        read = [await js.get_msg(streams.TRANSCRIPTS, seq) for seq in (1, 2, 3)]
        assert [message.data for message in read] == words


async def _edge_program(server: SecuredServer) -> None:
    """Run the edge with a recording."""
    process = await asyncio.create_subprocess_exec(
        *_edge_arguments(), env={**_clean(), **server.environment("edge_acme_pi-1")},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await soon(process.communicate(), 60)
    assert process.returncode == 0, out.decode()


def _edge_arguments() -> list[str]:
    return [
        sys.executable, "-m", "edge_capture", "file", str(bundled_recording()), "--speed", "0",
        "--tenant", "acme", "--conversation", "file", "--speaker", "agent",
    ]  # fmt: skip


def _clean() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("NATS_", "EDGE_"))}


async def test_a_tenants_edges_leave_connections_to_others(server: SecuredServer) -> None:
    users = server.home / "users"
    command = Command("users", "config", "--dir", str(users), "--edge-connections", "3")
    async with command:
        assert await command.status() == 0
    assert '"max_connections": 3' in command.out
    await add_user(server.home, "edge", "--tenant", "acme", "--name", "late")  # keeps the limit
    server.reload()
    async with contextlib.AsyncExitStack() as guests:
        for user in ("edge_acme_pi-1", "edge_acme_pi-1", "edge_acme_late"):
            await guests.enter_async_context(guest(server, user))
        with pytest.raises(BrokerUnreachable, match="maximum account active connections exceeded"):
            await connect(settings_of(server, "edge_acme_pi-2"), name="test", once=True)
        async with guest(server, "worker"), guest(server, "edge_other_x") as other:
            assert await other.may_publish(f"stt.audio.{FOREIGN}")


# ---- missing settings and rights -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "arguments", "expected"),
    [
        ("worker", ("streams", "apply", "--lease-seconds", "7"),
         r"may not publish to \$JS.API.CONSUMER.\S*CREATE.STT_SESSIONS.workers: .*operator"),
        ("subscriber_acme_app", ("streams", "apply"), r"may not publish to \$JS.API.STREAM.INFO."),
        ("edge_acme_pi-1", ("streams", "apply"), r"may not publish to \$JS.API.STREAM.INFO."),
        ("worker", ("erase", "--tenant", "acme", "--yes"),
         r"may not publish to \$JS.API.STREAM.PURGE.STT_AUDIO: .*operator"),
        ("monitor", ("budget", "set", "acme", "--seconds-per-day", "9"),
         r"may not publish to \$KV.stt_budgets.tenant.acme"),
        ("subscriber_acme_shown", ("tail", "--tenant", "acme", "--from-start"),
         r"may not publish to \$JS.API.CONSUMER.CREATE.STT_TRANSCRIPTS"),
        ("subscriber_acme_app", ("tail", "--tenant", "other"),
         r"may not subscribe to stt.transcript.other"),
    ],
)  # fmt: skip
async def test_a_user_without_a_permission_learns_which(
    server: SecuredServer, user: str, arguments: tuple[str, ...], expected: str
) -> None:
    began = time.monotonic()
    assert re.search(expected, await run(server, user, *arguments, status=2))
    assert time.monotonic() - began < bound(4)  # it does not wait for a response


@pytest.mark.parametrize(
    ("user", "arguments"),
    [
        ("operator", ("streams", "apply")),
        ("monitor", ("sessions", "--no-words")),
        ("subscriber_archive", ("tail",)),
    ],
)
async def test_a_missing_inbox_prefix_is_named(
    server: SecuredServer, user: str, arguments: tuple[str, ...]
) -> None:
    environment = {**server.environment(user), "NATS_INBOX_PREFIX": "_INBOX"}
    async with Command(*arguments, terminal=False, **environment) as command:
        assert await command.status() == 2, command.errors
    assert "set NATS_INBOX_PREFIX" in command.errors


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"NATS_INBOX_PREFIX": "_INBOX"}, "set NATS_INBOX_PREFIX"),
        ({"NATTERJACK_CREATE_STREAMS": "true", "NATTERJACK_LEASE_SECONDS": "7"},
         "set NATTERJACK_CREATE_STREAMS=false"),
    ],
)  # fmt: skip
async def test_a_worker_names_its_missing_setting(
    server: SecuredServer, changed: dict[str, str], expected: str
) -> None:
    environment = {**_clean(), **server.environment("worker"), **changed}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker",
        env={**environment, "WORKER_HTTP_PORT": "0", "WORKER_PROVIDER": "deepgram",
             "DEEPGRAM_API_KEY": "x"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await soon(process.communicate(), 30)
    assert process.returncode == 2
    assert expected in out.decode()


async def test_an_edge_names_its_missing_setting(server: SecuredServer) -> None:
    environment = {**_clean(), **server.environment("edge_acme_pi-1")}
    process = await asyncio.create_subprocess_exec(
        *_edge_arguments(), env={**environment, "NATS_INBOX_PREFIX": "_INBOX"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output = b""
    try:
        assert process.stdout is not None
        async with within(30):
            while b"set NATS_INBOX_PREFIX" not in output:
                line = await process.stdout.readline()
                assert line, output
                output += line
    finally:
        process.kill()
        await process.communicate()


# ---- users ---------------------------------------------------------------------------------------


async def test_a_user_is_added_and_removed_while_the_server_runs(server: SecuredServer) -> None:
    users = server.home / "users"
    await add_user(server.home, "edge", "--tenant", "acme", "--name", "new")
    seed = users / "edge_acme_new.nk"
    assert stat.S_IMODE(seed.stat().st_mode) == 0o600
    secret = seed.read_text().strip()
    assert secret not in (users / "users.conf").read_text() + (users / "users.json").read_text()
    server.reload()
    async with guest(server, "edge_acme_new") as one:
        assert await one.may_publish(f"stt.audio.{KEY}")
        async with Command("users", "remove", "--dir", str(users), "edge_acme_new") as command:
            assert await command.status() == 0, command.errors
        assert not seed.exists()
        server.reload()
        await until(lambda: not one.client.is_connected, "its connection is ended")


async def test_a_user_is_rotated_while_the_server_runs(server: SecuredServer) -> None:
    """A program follows its file to the new key before the old one is removed."""
    users, user = str(server.home / "users"), "edge_acme_pi-1"
    async with connected(settings_of(server, user), name="test") as broker:
        for arguments, reconnects in (((user,), 0), ((user, "--finish"), 1)):
            async with Command("users", "rotate", "--dir", users, *arguments) as command:
                assert await command.status() == 0, command.errors
            server.reload()
            async with guest(server, user) as one:
                assert await one.may_publish(f"stt.audio.{KEY}")
            await until(lambda n=reconnects: broker.reconnects == n, "it stays or reconnects")
        await until(lambda: broker.connected, "it is connected with the new key")


async def test_a_tenant_is_added_while_the_server_runs(server: SecuredServer) -> None:
    async with guest(server, "edge_acme_pi-1") as theirs:
        output = await add_user(server.home, "edge", "--tenant", "brand", "--name", "new")
        assert "reload the server twice" in output
        server.reload()
        server.reload()
        async with guest(server, "edge_brand_new") as one:
            answer = await one.client.request("stt.audio.brand.call.agent", b"\0\0", timeout=10)
            assert json.loads(answer.data)["seq"] == 1
            assert not await one.may_publish(f"stt.audio.{KEY}")
        answer = await theirs.client.request(f"stt.audio.{KEY}", b"\0\0", timeout=10)
        assert json.loads(answer.data)["seq"] == 2
        assert "twice" not in await add_user(
            server.home, "edge", "--tenant", "brand", "--name", "second"
        )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("edge", "--tenant", "acme"), "--name"),
        (("edge", "--name", "x"), "--tenant"),
        (("edge", "--tenant", "a.b", "--name", "x"), "not valid"),
        (("subscriber",), "--name"),
        (("worker", "--tenant", "acme"), "no tenant"),
        (("worker", "--speaker", "x"), "for edges"),
        (("operator", "--control"), "for subscribers"),
        (("operator",), "already"),
        (("monitor", "--name", "m", "--public-key", "SUAB"), "56 characters"),
    ],
)
async def test_mistakes_are_named(
    tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    await add_user(tmp_path, "operator")
    before = (tmp_path / "users" / "users.conf").read_text()
    async with Command("users", "add", "--dir", str(tmp_path / "users"), *arguments) as command:
        assert await command.status() == 2
    assert expected in command.errors
    assert "Traceback" not in command.errors
    assert (tmp_path / "users" / "users.conf").read_text() == before


def _public_key() -> str:
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    public: str = nkeys.from_seed(seed).public_key.decode()
    return public


async def test_an_imported_key_stores_no_seed(tmp_path: Path) -> None:
    public = _public_key()
    out = await add_user(tmp_path, "monitor", "--public-key", public)
    assert "NATS_NKEY" not in out
    assert not (tmp_path / "users" / "monitor.nk").exists()
    assert public in (tmp_path / "users" / "users.conf").read_text()


async def test_an_invalid_or_duplicate_key_is_refused(tmp_path: Path) -> None:
    """With such a key a server does not start, or gives one user the permissions of another."""
    public = _public_key()
    await add_user(tmp_path, "operator", "--public-key", public)
    before = (tmp_path / "users" / "users.conf").read_text()
    wrong = "A" if public[20] != "A" else "B"
    account = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_ACCOUNT)
    for key, expected in (
        (public, "the user operator already has this key"),
        (public[:20] + wrong + public[21:], "checksum"),
        (public[:20] + "1" + public[21:], "checksum"),  # not a letter of base 32
        (public.lower(), "begins with U"),
        (nkeys.from_seed(account).public_key.decode(), "begins with U"),
    ):
        command = Command(
            "users", "add", "--dir", str(tmp_path / "users"), "monitor", "--public-key", key
        )
        async with command:
            assert await command.status() == 2
        assert expected in command.errors
    assert (tmp_path / "users" / "users.conf").read_text() == before


async def test_users_added_concurrently_are_all_stored(tmp_path: Path) -> None:
    names = [f"pi-{n}" for n in range(8)]
    await asyncio.gather(
        *(add_user(tmp_path, "edge", "--tenant", "acme", "--name", name) for name in names)
    )
    users = tmp_path / "users"
    assert {u["name"] for u in json.loads((users / "users.json").read_text())} == {*names}
    configuration = (users / "users.conf").read_text()
    assert all(f"edge_acme_{name}\n" in configuration for name in names)
    assert not list(users.glob("*.partial"))


def _waits_for_lock(path: Path) -> bool:
    """Whether a process waits for a lock on `path`: the kernel lists it after an arrow."""
    inode = f":{path.stat().st_ino} "
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and inode in line for line in lines)


async def test_adding_a_user_waits_for_the_lock(tmp_path: Path) -> None:
    await add_user(tmp_path, "operator")
    users = tmp_path / "users"
    directory = os.open(users, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        adding = asyncio.create_task(add_user(tmp_path, "worker"))
        await until(lambda: _waits_for_lock(users), "the command waits for the lock")
        assert not adding.done()
        assert len(json.loads((users / "users.json").read_text())) == 1
    finally:
        os.close(directory)
    await adding
    assert len(json.loads((users / "users.json").read_text())) == 2


async def test_an_ambiguous_name_is_explained(tmp_path: Path) -> None:
    await add_user(tmp_path, "edge", "--tenant", "a_b", "--name", "c")
    command = Command(
        "users", "add", "--dir", str(tmp_path / "users"), "edge", "--tenant", "a", "--name", "b_c"
    )
    async with command:
        assert await command.status() == 2
    assert "the edge of the tenant a_b with the name c in " in command.errors
    assert "is also called edge_a_b_c: choose another --name" in command.errors
    assert "remove" not in command.errors


def test_settings_have_an_inbox_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_INBOX_PREFIX", "_INBOX_worker")
    assert load(BrokerSettings).inbox_prefix == "_INBOX_worker"
    monkeypatch.setenv("NATS_INBOX_PREFIX", "a.>")
    with pytest.raises(UsageError, match="NATS_INBOX_PREFIX"):
        load(BrokerSettings)


async def test_control_requests_without_the_right_are_refused_in_one_line(
    server: SecuredServer,
) -> None:
    for command in ("stop", "finalize", "interrupt"):
        environment = server.environment("subscriber_acme_shown")
        done = await run_async(command, KEY, **environment)
        assert done.status == 2, done
        assert re.search(
            rf"^natterjack {command}: this user may not publish to .*.control.{KEY}: it takes an "
            "operator, or a subscriber or an application with --control$",
            done.errors,
            re.M,
        )
    done = await run_async("stop", KEY, **server.environment("subscriber_acme_app"))
    assert done.status == 1
    assert done.errors.endswith(
        f"natterjack stop: no worker holds session {KEY}: there is none, or it waits for a worker\n"
    )


@pytest.mark.parametrize("user", ["edge_acme_pi-1", "subscriber_acme_app"])
async def test_a_user_that_lacks_a_right_transcribes_nothing_and_is_told(
    server: SecuredServer, tmp_path: Path, user: str
) -> None:
    """It takes the rights of an edge, and of a subscriber."""
    soundfile.write(tmp_path / "a.wav", [0.0] * 8000, 8000)
    arguments = ("transcribe", str(tmp_path / "a.wav"), "--tenant", "acme")
    environment = {**server.environment(user), "XDG_STATE_HOME": str(tmp_path / "state")}
    async with Command(*arguments, terminal=False, folder="", **environment) as command:
        assert await command.status() == 2, command.errors
    last = command.errors.splitlines()[-1]
    assert re.fullmatch(
        r"natterjack transcribe: this user may not .*: it takes the rights of a subscriber, and "
        r"those of an edge \(--edge-nkey .* name another user\)",
        last,
    )
    assert not (tmp_path / "state").exists()


async def test_two_users_transcribe_a_recording(server: SecuredServer, tmp_path: Path) -> None:
    """A subscriber reads what an edge publishes."""
    spoken_words = tones.sequence(6)
    samples = np.frombuffer(tones.encode(spoken_words), "<i2")
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    reader = {
        **server.environment("subscriber_acme_app"),
        "TRANSCRIBE_EDGE_NKEY": server.environment("edge_acme_pi-1")["NATS_NKEY"],
        "TRANSCRIBE_EDGE_INBOX_PREFIX": "_INBOX_edge_acme_pi-1",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    arguments = ("transcribe", str(tmp_path / "a.wav"), "--tenant", "acme", "-o", "-")
    async with DeepgramEmulator() as emulator:
        environment = server.environment("worker")
        worker = WorkerProcess(environment.pop("NATS_URL"), emulator.url, **environment)
        await worker.start()
        try:
            async with Command(*arguments, terminal=False, folder="", **reader) as command:
                assert await command.status() == 0, command.errors
        finally:
            worker.signal(signal.SIGTERM)
            await worker.wait()
    assert tones.words_of(command.out.partition("] ")[2]) == spoken_words
