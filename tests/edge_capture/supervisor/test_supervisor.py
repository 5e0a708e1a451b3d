from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_capture.config.load import read_config
from edge_capture.errors import SteeringError
from edge_capture.session import make_sessions
from edge_capture.settings import SpoolSettings
from edge_capture.sources import Block as SourceBlock
from edge_capture.spool import Spool
from edge_capture.supervisor.plans import Plan
from edge_capture.supervisor.supervisor import Supervisor
from natterjack.audio import AudioFormat
from natterjack.broker.connection import Broker
from natterjack.events import FinalEvent
from natterjack.settings import BrokerSettings
from natterjack.subjects import SessionKey
from tests.edge_capture.supervisor.agents import (
    BLOCK,
    Counter,
    counting,
    joined,
    pipe,
    running,
    sessions,
    source,
    until_stored,
)
from tests.waiting import until

pytestmark = pytest.mark.process


@pytest.fixture
def config(
    tmp_path: Path, broker_settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setenv("NATS_URL", broker_settings.url)
    return tmp_path / "edge.toml"


def state(agent: Supervisor, name: str) -> str:
    return next(each.state for each in agent.presence().sources if each.name == name)


async def test_a_source_goes_on_whatever_happens_to_others(
    config: Path, counters: list[Counter], ready_broker: Broker
) -> None:
    """Rotation loses no sample, and neither does a reload of what did not change."""
    a, b = counters
    text = (
        'agent = "hall"\n'
        + pipe("a", a, 'speaker = "a"', 'conversation = "room-%Y"')
        + pipe("b", b, 'speaker = "b"', 'labels = { floor = "1" }')
        + source("broken", "command", 'command = ["/no/such/program"]')
    )
    config.write_text(text)
    async with running(config) as agent:
        await a.write(50)
        await b.write(50)
        await until(lambda: agent.presence().sources[2].error, "the broken source has failed")
        assert [each.state for each in agent.presence().sources] == [
            "capturing", "capturing", "failed",
        ]  # fmt: skip
        assert "is not installed" in (agent.presence().sources[2].error or "")
        assert agent.status() == "2 capturing, 1 failed"
        await until_stored(ready_broker, "a", 40 * BLOCK)

        assert await agent.act("rotate", "a") == "a: rotated"
        await a.write(50)

        # An unusable file changes nothing, and says why.
        config.write_text(text.replace('speaker = "b"', 'speeker = "b"'))
        with pytest.raises(SteeringError, match="speeker is not a key; did you mean speaker"):
            await agent.act("reload", None)
        assert "speeker" in (agent.presence().last_error or "")
        config.write_text(text.replace("hall", "other"))
        with pytest.raises(SteeringError, match="agent cannot be changed by a reload"):
            await agent.reload()

        # The audio is captured without a break: new sessions begin with the next sample.
        config.write_text(
            text.replace('"1"', '"2"').replace("broken", "quiet")
            + source("late", "command", 'command = ["sleep", "60"]')
        )
        detail = await agent.act("reload", None)
        assert detail == (
            "broken removed, b changed with the next session, quiet added, late added"
        )
        await a.write(50)
        await b.write(50)
        assert [each.name for each in agent.presence().sources] == ["a", "b", "quiet", "late"]
    first, second = await sessions(ready_broker, "a")
    first.check_whole()
    second.check_whole()
    assert (joined([first, second]) == counting(a.written)).all()
    gap_ns = second.headers[0].time_ns - first.headers[0].time_ns - round(first.seconds * 1e9)
    assert abs(gap_ns) < 1e6
    one, two = await sessions(ready_broker, "b")
    assert (joined([one, two]) == counting(b.written)).all()
    assert [one.spec.labels, two.spec.labels] == [{"floor": "1"}, {"floor": "2"}]
    assert one.spec.conversation.startswith("b-20")


@pytest.mark.parametrize("held", [True, False])
async def test_earlier_sessions_are_sent_before_a_source_has_audio(
    config: Path, counters: list[Counter], ready_broker: Broker, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, held: bool,
) -> None:  # fmt: skip
    """At once, if it does not resume them, and else after a while."""
    a, _ = counters
    config.write_text(
        f'[spool]\ndirectory = "{tmp_path}/spool"\n' + pipe("a", a, 'conversation = "room"')
    )
    monkeypatch.setattr("edge_capture.supervisor.running._HOLD_S", 300 if held else 0)
    read = read_config(config, host="pc")
    plan, keeper = Plan(read, read.sources[0], "pc"), Spool(SpoolSettings(spool=tmp_path / "spool"))
    kind = AudioFormat("linear16", 16_000, 1)
    for conversation in ("other", "room"):
        key = SessionKey("default", conversation, "speaker")
        (session,) = make_sessions(
            [key], kind, False, plan.edge, plan.publish, plan.request, keeper, plan.origin(kind)
        )
        session.feed(SourceBlock(np.ones((16_000, 1), np.int16), time.time_ns()))
    await keeper.close()
    async with running(config) as agent:
        await until_stored(ready_broker, "speaker", 14_000 if held else 28_000)
        assert state(agent, "a") == "waiting"
        await a.write(50)
        await until(lambda: state(agent, "a") == "capturing", "a is captured")
    found = await sessions(ready_broker, "speaker")
    rooms = [each for each in found if each.spec.conversation == "room"]
    assert len(rooms) == (1 if held else 2)
    assert all(each.headers[-1].end for each in found)


async def test_a_source_that_was_muted_is_muted_after_a_restart(
    config: Path, counters: list[Counter], ready_broker: Broker, tmp_path: Path
) -> None:
    a, _ = counters
    config.write_text(
        f'[spool]\ndirectory = "{tmp_path}/spool"\n' + pipe("a", a, 'conversation = "x-{time}"')
    )
    async with running(config) as agent:
        assert await agent.act("mute", "a") == "a: muted"
    async with running(config) as agent:
        await a.write(50)
        await until(lambda: state(agent, "a") == "muted", "it is muted still")
        await until(lambda: _taken(agent, a), "the muted audio was read")
        assert await agent.act("unmute", "a") == "a: no longer muted"
        await a.write(50)
    (recording,) = await sessions(ready_broker, "speaker")
    notes = [header.note for header in recording.headers if "muted" in header.note]
    assert notes == ["muted", "muted:end"]
    a.close()  # so that the next write waits for the next reader
    async with running(config) as agent:
        await a.write(5)
        await until(lambda: state(agent, "a") == "capturing", "it is no longer muted")


async def test_what_would_be_read_later_is_not_muted(
    config: Path, counters: list[Counter], ready_broker: Broker, tmp_path: Path
) -> None:
    """A source that was muted and becomes a file is read, too."""
    a, b = counters
    recording = tmp_path / "a.wav"
    soundfile.write(recording, counting(16_000), 16_000)
    file = (f'path = "{recording}"', 'speed = "max"')
    others = pipe("w", b, "live = false", 'speaker = "w"', "start = false") + source(
        "f", "file", *file, 'speaker = "f"', "start = false"
    )
    config.write_text(pipe("a", a, "start = false") + others)
    async with running(config) as agent:
        with pytest.raises(SteeringError, match=r"^f: a file cannot be muted.*; stop it instead$"):
            await agent.act("mute", "f")
        with pytest.raises(SteeringError, match=r"^w: a pipe with live = false cannot be muted"):
            await agent.act("mute", "w")
        said = await agent.act("mute", None)
        assert said.startswith("w: a pipe")
        assert "f: a file" in said
        assert said.endswith("; a: muted; only until it ends, as it has no spool")
        assert await agent.act("unmute", "f") == "f: it is not muted"
        config.write_text(source("a", "file", *file) + others)
        assert await agent.act("reload", None) == "a changed"
        await until_stored(ready_broker, "speaker", 16_000)


async def test_sources_are_steered_one_by_one(
    config: Path, counters: list[Counter], ready_broker: Broker, tmp_path: Path
) -> None:
    a, b = counters
    config.write_text(
        f'[spool]\ndirectory = "{tmp_path}/spool"\n'
        + pipe("a", a, 'speaker = "a"', 'conversation = "x"')
        + pipe("b", b, 'speaker = "b"', "start = false")
    )
    async with running(config) as agent:
        assert state(agent, "b") == "stopped"
        await a.write(50)
        await until(lambda: state(agent, "a") == "capturing", "a is captured")
        with pytest.raises(SteeringError, match="there is no source 'c'; the sources are: a, b"):
            await agent.act("stop", "c")
        assert await agent.act("mute", "a") == "a: muted"
        assert state(agent, "a") == "muted"
        await a.write(50)
        await until(lambda: _taken(agent, a), "the muted audio was read")
        assert await agent.act("unmute", "a") == "a: no longer muted"
        await a.write(50)
        await until(lambda: _taken(agent, a), "the rest was read")
        assert await agent.act("stop", None) == "a: stopped; b: it is stopped already"
        await until(lambda: state(agent, "a") == "stopped", "a is stopped")
        assert await agent.act("start", "a") == "a: started"
        a.close()
        before = a.written
        await a.write(25)
        await until_stored(ready_broker, "a", 100 * BLOCK)
    first, second = await sessions(ready_broker, "a")
    expected = counting(before)
    begun, over = (header for header in first.headers if header.note)
    assert (begun.note, over.note) == ("muted", "muted:end")
    gap = before - len(first.samples)
    assert 0 < gap <= 100 * BLOCK
    at = over.pos - gap
    assert (first.samples[: begun.pos] == expected[: begun.pos]).all()
    assert not first.samples[begun.pos : at].any(), "a moment of silence has the note"
    assert (first.samples[at:] == expected[over.pos :]).all()
    assert first.headers[-1].end
    assert second.spec.conversation == first.spec.conversation
    assert (second.samples == counting(a.written)[before:]).all()


async def test_a_source_that_waits_follows_a_reload(
    config: Path, counters: list[Counter], ready_broker: Broker
) -> None:
    counter, _ = counters
    config.write_text(pipe("a", counter))
    async with running(config) as agent:
        await until(lambda: state(agent, "a") == "waiting", "nobody writes yet")
        seconds = [datetime.now(UTC) + timedelta(seconds=n) for n in range(600)]
        times = ", ".join(f"{at:%H:%M:%S}" for at in seconds)
        config.write_text(pipe("a", counter, 'time_zone = "UTC"', f"rotate.at = [{times}]"))
        assert await agent.reload() == "a changed"
        await counter.write(10)
        await until(lambda: agent.sources[0].session, "it is captured")
        first = agent.sources[0].session

        async def rotated() -> bool:
            await counter.write(5, 0.02)
            return agent.sources[0].session is not first

        await until(rotated, "it is rotated at the new times")
        counter.close()


async def test_another_file_in_place_of_one_that_has_ended_is_published(
    config: Path, ready_broker: Broker, tmp_path: Path
) -> None:
    for name, frames in (("one", 1600), ("two", 3200)):
        soundfile.write(tmp_path / f"{name}.wav", np.ones(frames, np.int16), 16_000)

    def text(name: str) -> str:
        return source("a", "file", f'path = "{tmp_path / name}.wav"', 'speaker = "a"')

    config.write_text(text("one"))
    async with running(config) as agent:
        await until(lambda: state(agent, "a") == "stopped", "the file has ended")
        config.write_text(text("two"))
        assert await agent.reload() == "a changed"
        await until_stored(ready_broker, "a", 4800)


async def test_a_spool_that_cannot_be_searched_ends_nothing(
    config: Path,
    counters: list[Counter],
    ready_broker: Broker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("edge_capture.supervisor.supervisor._ADOPT_S", 0.05)
    spool = tmp_path / "spool"
    config.write_text(f'[spool]\ndirectory = "{spool}"\n' + pipe("a", counters[0]))
    async with running(config) as agent:
        spool.rmdir()
        spool.touch()
        await until(lambda: "the spool cannot be searched" in caplog.text, "it is said")
        spool.unlink()
        spool.mkdir()
        await counters[0].write(25)
        await until(lambda: state(agent, "a") == "capturing", "the agent goes on")
        counters[0].close()


def _taken(agent: Supervisor, counter: Counter) -> bool:
    """Whether all that was written has been read from the pipe, up to a part of a chunk."""
    reading = agent.sources[0].reading
    return reading is not None and counter.written - reading.frames < 4 * BLOCK


async def test_flac_recordings_and_captions_are_keys_of_the_file(
    config: Path,
    counters: list[Counter],
    ready_broker: Broker,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They apply to each take: a rotation begins another recording and shows other captions."""
    a, b = counters
    keys = ('conversation = "room-{source}-%H%M%S"', 'publish_encoding = "flac"')
    config.write_text(
        f'tenant = "acme"\n[keep]\ndirectory = "{tmp_path}/kept"\n'
        + pipe("a", a, 'speaker = "a"', "captions = true", *keys)
        + pipe("b", b, 'speaker = "b"', *keys)
    )
    async with running(config) as agent:
        await a.write(50)
        await b.write(50)
        await until_stored(ready_broker, "a", 40 * BLOCK)
        await until_stored(ready_broker, "b", 40 * BLOCK)
        for number in (1, 2):
            for source in agent.sources:
                assert source.session is not None
                key = source.session.spec.key
                final = FinalEvent(
                    **key._asdict(), session_id=source.session.spec.session_id, epoch=1,
                    provider="p", published_at=datetime.now(UTC), sequence=0, segment=0,
                    text=f"{key.speaker} says {number}", start=0, end=1,
                )  # fmt: skip
                subject = f"stt.transcript.{key}.final"
                shown = ""

                async def seen(subject: str = subject, final: FinalEvent = final) -> bool:
                    nonlocal shown
                    await ready_broker.client.publish(subject, final.encode())
                    shown += capsys.readouterr().out
                    return f"{final.speaker} says" in shown or final.speaker == "b"

                await until(seen, "the final is shown")
                assert f"room-{source.name}" in shown or source.name == "b"
                assert "b says" not in shown
            if number == 1:
                await agent.act("rotate", "a")
                await a.write(50)
                await until_stored(ready_broker, "a", 90 * BLOCK)
    found = await sessions(ready_broker, "a")
    assert [each.spec.encoding for each in found] == ["flac", "flac"]
    assert np.array_equal(joined(found), counting(100 * BLOCK))
    kept = [soundfile.read(path, dtype="int16")[0] for path in sorted(tmp_path.glob("kept/*a.2*"))]
    assert len(kept) == 2
    assert np.array_equal(np.concatenate(kept), counting(100 * BLOCK))
    assert len(list(tmp_path.glob("kept/acme.room-b-*.b.2*.flac"))) == 1
