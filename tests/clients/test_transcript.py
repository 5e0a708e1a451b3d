"""Transcripts that the client for Node makes are those that Python makes of the same events."""

from __future__ import annotations

import json
import random
import subprocess
from typing import Any

import pytest

from natterjack.events import Event
from natterjack.transcripts.builder import TranscriptBuilder
from natterjack.values import Gap

from ..natterjack.transcripts.events import Session
from ..natterjack.transcripts.events import at as at_time
from ..waiting import bound
from .npm import CLIENT, build, program

pytestmark = pytest.mark.process
WORDS = ["oak", "elm", "柳", "ash", "yew", "fir\tpine"]
CONVERSATIONS = 300


def words_of(rng: random.Random, text: str, start: float, end: float) -> list[dict[str, Any]]:
    """Words with times, of one person or of two."""
    parts = text.split(" ")
    step = (end - start) / len(parts)
    people = rng.choice([(None,), ("1",), ("1", "2")])
    return [
        {"text": part, "start": start + n * step, "end": start + (n + 1) * step,
         "speaker": rng.choice(people), "confidence": rng.choice([None, 0.5])}
        for n, part in enumerate(parts)
    ]  # fmt: skip


def one_session(rng: random.Random, session: Session) -> list[Event]:
    """The events of a session, some of them left out or out of date."""
    events: list[Event] = [session.status("assigned")]
    at = rng.choice([0.0, 1.5])
    for _ in range(rng.randrange(6)):
        start = at + rng.choice([0, 0.4, 3])
        at = start + rng.choice([0.8, 2])
        text = " ".join(rng.choices(WORDS, k=rng.randrange(1, 5)))
        more: dict[str, Any] = {"confidence": rng.choice([None, 0.9])}
        if rng.random() < 0.6:
            more["words"] = words_of(rng, text, start, at)
        if rng.random() < 0.2:
            more["started_at"] = None
        elif rng.random() < 0.1:  # the clock of the machine is set
            more["started_at"] = at_time(session.begin + start + rng.choice([-20, 0.5, 20]))
        stale = session.interim(text, start, at)
        final = session.final(text, start, at, **more)
        events += rng.choice([[final], [stale, final], [final, stale], [final, final], []])
    if rng.random() < 0.3:
        events.append(session.interim("and then", at, at + 1))
    if rng.random() < 0.7:
        gaps = [Gap(start=0.5, end=1.0, cause="busy")] if rng.random() < 0.3 else []
        state = rng.choice(["closed", "closed", "failed"])
        events.append(session.closed(at, state, captured=at + rng.choice([0, 2]), gaps=gaps))
    return events


def one_conversation(rng: random.Random) -> list[Event]:
    """Events of sessions that speak at the same time, continue or repeat each other."""
    sessions = []
    for number in range(rng.randrange(1, 5)):
        links = {}
        if number and rng.random() < 0.5:
            links[rng.choice(["repeats", "continues"])] = f"session-{rng.randrange(number)}"
        begin = rng.choice([0.0, 0.25, 7.000001])
        speaker = rng.choice(["agent", "caller"])
        sessions.append(
            one_session(rng, Session(f"session-{number}", speaker, begin=begin, **links))
        )
    events: list[Event] = []
    while any(sessions):
        events.append(rng.choice([session for session in sessions if session]).pop(0))
    return events


def test_node_makes_the_same_transcripts_as_python() -> None:
    build()
    rng = random.Random(16)
    conversations = [one_conversation(rng) for _ in range(CONVERSATIONS)]
    lines = [f"[{','.join(e.encode().decode() for e in events)}]" for events in conversations]
    done = subprocess.run(
        [program("node"), CLIENT / "test" / "build.mjs"], cwd=CLIENT, input="\n".join(lines),
        capture_output=True, text=True, check=False, timeout=bound(60),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = done.stdout.split("\n")[:-1]
    assert len(made) == CONVERSATIONS
    seen: set[str] = set()
    for events, theirs in zip(conversations, made, strict=True):
        builder = TranscriptBuilder()
        for event in events:
            builder.add(event)
        ours = json.loads(builder.build().to_json())
        assert json.loads(theirs) == ours
        seen |= {key for key in ("gaps", "interims") if ours[key]}
        seen |= {"label" for line in ours["lines"] if "label" in line}
        seen |= {"merged" for line in ours["lines"] if len(line["segments"]) > 1}
    assert seen == {"gaps", "interims", "label", "merged"}
