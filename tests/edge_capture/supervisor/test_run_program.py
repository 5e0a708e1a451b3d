"""The program `natterjack-edge run` as a process."""

from __future__ import annotations

import signal
from pathlib import Path

from natterjack.broker.connection import Broker
from tests.edge_capture.conftest import RunEdge, StartEdge
from tests.edge_capture.supervisor.agents import (
    BLOCK,
    Counter,
    counting,
    joined,
    pipe,
    sessions,
    source,
    until_stored,
)


async def test_a_killed_agent_goes_on_where_it_was(
    tmp_path: Path, counters: list[Counter], ready_broker: Broker, start_edge: StartEdge
) -> None:
    """After SIGKILL, the next start resumes the sessions that it would have now, and sends the
    rest of others: nothing that was in the spool is lost or doubled."""
    a, b = counters
    path, spool = tmp_path / "edge.toml", tmp_path / "spool"
    text = (
        f'agent = "hall"\n[spool]\ndirectory = "{spool}"\n'
        + pipe("a", a, 'speaker = "a"', 'conversation = "room-{source}"')
        + pipe("b", b, 'speaker = "b"', 'conversation = "room-{source}"')
    )
    path.write_text(text)
    edge = start_edge("run", "--config", path)
    await a.write(60)
    await b.write(60, 0.02)  # the time between is measured
    for name in ("a", "b"):
        await until_stored(ready_broker, name, 48 * BLOCK)
    edge.kill()
    for each in counters:
        each.close()
    kept = {name: (await sessions(ready_broker, name))[0] for name in ("a", "b")}

    path.write_text(text.replace('"room-{source}"', '"hall-{source}"', 1))  # of a alone
    edge = start_edge("run", "--config", path)
    starts = {each: each.written for each in counters}
    await a.write(60)
    await b.write(60)
    await edge.says("resuming the session where it stopped")
    for name in ("a", "b"):
        await until_stored(ready_broker, name, 96 * BLOCK)
    # A hang-up reloads: b is removed and a goes on; a file that is wrong changes nothing.
    path.write_text("nonsense")
    edge.process.send_signal(signal.SIGHUP)
    await edge.says("not reloaded: " + str(path))
    await a.write(25)
    path.write_text(
        text.replace('"room-{source}"', '"hall-{source}"', 1)
        .partition('name = "b"')[0]
        .removesuffix("[[sources]]\n")
    )
    edge.process.send_signal(signal.SIGHUP)
    await edge.says("reloaded: b removed")
    await a.write(25)
    edge.process.send_signal(signal.SIGTERM)
    assert await edge.exit_code() == 0
    assert not list(spool.iterdir()), "everything is stored"

    first, second = await sessions(ready_broker, "a")
    assert [first.spec.conversation, second.spec.conversation] == ["room-a", "hall-a"]
    assert (first.samples == counting(len(first.samples))).all()
    assert len(first.samples) >= len(kept["a"].samples)
    assert first.headers[-1].end
    second.check_whole()
    assert (second.samples == counting(a.written)[starts[a] :]).all()
    (resumed,) = await sessions(ready_broker, "b")
    gaps = [header for header in resumed.headers if header.note]
    assert [header.note for header in gaps] == ["resumed:end"]
    before = len(joined([resumed])) - (b.written - starts[b])
    assert before >= len(kept["b"].samples)
    assert (resumed.samples[:before] == counting(before)).all()
    assert (resumed.samples[before:] == counting(b.written)[starts[b] :]).all()
    assert [header.seq for header in resumed.headers] == list(range(len(resumed.headers)))


async def test_two_agents_do_not_share_a_key(
    tmp_path: Path, counters: list[Counter], ready_broker: Broker, start_edge: StartEdge
) -> None:
    """The second one says so, tries again, and captures what is its own meanwhile."""
    a, b = counters
    same = ('speaker = "same"', 'conversation = "room"')
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text(pipe("a", a, *same))
    command = "while :; do head -c 640 /dev/zero; sleep 0.02; done"
    two.write_text(
        source("b", "command", f'command = ["sh", "-c", "{command}"]', *same)
        + pipe("own", b, 'speaker = "own"')
    )
    first = start_edge("run", "--config", one)
    await a.write(60)
    await until_stored(ready_broker, "same", 40 * BLOCK)
    second = start_edge("run", "--config", two)
    await second.says("default.room.same is being captured by agent")
    await b.write(60)
    await until_stored(ready_broker, "own", 40 * BLOCK)
    second.process.send_signal(signal.SIGTERM)
    await second.exit_code()
    await a.write(10)
    first.process.send_signal(signal.SIGTERM)
    assert await first.exit_code() == 0
    (recording,) = [each for each in await sessions(ready_broker, "same") if each.payloads]
    assert (recording.samples == counting(a.written)).all()


def test_a_file_that_is_not_usable_ends_it(run_edge: RunEdge, tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    ended = run_edge("run", "--config", path)
    assert (ended.code, "there is no file" in ended.stderr) == (2, True)
    path.write_text(source("a", "microphone", "langage = 'en'"))
    ended = run_edge("run", "--config", path)
    assert ended.code == 2
    assert '[[sources]] "a": langage is not a key; did you mean language?' in ended.stderr
    path.write_text(source("a", "microphone", "language = 'en'"))
    ended = run_edge("run", "--config", path, "--check-config", "--agent", "hall")
    assert ended.code == 0
    assert ended.stdout == f"{path}: agent hall, tenant default: a\n"
    path.write_text('[nats]\npassword_file = "none"\n' + source("a", "microphone"))
    ended = run_edge("run", "--config", path)
    assert (ended.code, "password_file: none: No such file" in ended.stderr) == (2, True)
    ended = run_edge("run", "--config", path, environment={"NATS_URL": "x:y:z"})
    assert ended.code == 2
