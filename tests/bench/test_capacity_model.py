"""The arithmetic of docs/explanation/scaling.md, checked by hand."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

import pytest

from bench.capacity_model import (
    STEPS,
    Inputs,
    cells,
    first_limit,
    kept_bytes,
    kept_voice_bytes,
    leader_bytes_per_s,
    loads,
    main,
    markdown,
    need,
    resident_bytes,
    sessions_per_worker,
    stored_bytes_per_s,
    stored_speech_bytes_per_s,
    stored_text_bytes_per_s,
    workers,
    written_bytes_per_s,
)
from natterjack.broker.streams import DUPLICATE_WINDOW_S

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "scaling.md"
ROUND = Inputs(
    chunk_ms=100, bytes_per_s=32_000, header_bytes=200, worker_cpu_s_per_hour=3.6,
    worker_core_use=0.5, worker_sessions=400, worker_base_mb=70, worker_session_kb=102.4,
    spare_workers=1, lease_s=3, account_connections=100, replicas=3, kept_s=1000,
    disk_per_byte=1.25, written_per_byte=2, node_cpu_s_per_hour=7.2, events_per_s=0.5,
    event_bytes=1000, events_kept_s=86_400, session_s=600, record_bytes=500, id_bytes=100,
    subject_bytes=200, stream_messages_per_s=10_000, node_cores=8, node_core_use=0.5,
    node_gbit_per_s=10, node_network_use=0.5, node_gb=16, node_memory_use=0.5, disk_gb=1000,
    disk_mb_per_s=500, disk_use=0.8, heartbeats_per_s=10_000, news_per_s=100_000, slot_news_s=5,
    speech_bytes_per_s=48_000, speech_chunk_ms=100, speech_header_bytes=200, speech_kept_s=100,
    text_pieces_per_s=5, text_piece_bytes=200, text_kept_s=1000, voice_events_per_s=0.2,
    voice_event_bytes=1000,
)  # fmt: skip
"""Round numbers, for calculations by hand."""


def test_needs_of_one_session() -> None:
    assert stored_bytes_per_s(ROUND) == 34_000  # 10 chunks a second of 3,200 + 200 bytes
    assert leader_bytes_per_s(ROUND) == 102_000  # two followers and a worker
    # 34,000 x 1,000 s of audio and 500 bytes x 86,400 s of events, a quarter more on the disk
    assert kept_bytes(ROUND) == (34_000_000 + 43_200_000) * 1.25
    assert written_bytes_per_s(ROUND) == (34_000 + 500 + 500) * 2
    # 10 ids a second for two minutes; four subjects of each of 144 sessions of a day
    assert resident_bytes(ROUND) == 1200 * 100 + 4 * 144 * 200


def test_voice_sessions_need_their_streams_slots_and_leases() -> None:
    """One voice session for every two that transcribe."""
    voice = replace(ROUND, voice_share=0.5)
    assert stored_speech_bytes_per_s(voice) == 50_000  # 10 chunks a second of 4,800 + 200 bytes
    assert stored_text_bytes_per_s(voice) == 1000
    # 50,000 x 100 s of speech, 1,000 x 1,000 s of text, 200 bytes x 86,400 s of events
    assert kept_voice_bytes(voice) == (5_000_000 + 1_000_000 + 17_280_000) * 1.25
    assert kept_bytes(voice) == kept_bytes(ROUND) + kept_voice_bytes(voice) / 2
    assert leader_bytes_per_s(voice) == (34_000 + 25_500) * 3
    assert written_bytes_per_s(voice) == (35_000 + 51_700 / 2) * 2
    # IDs: 10 chunks a second for 100 s, 5 pieces a second for two minutes; subjects: three
    assert resident_bytes(voice) == resident_bytes(ROUND) + (1600 * 100 + 3 * 144 * 200) / 2
    found = {load.what: load.needed for load in loads(1000, voice)}
    assert found["chunks into TTS_AUDIO"] == 5000
    assert found["lease renewals"] == 1500
    assert found["cores of the leader"] == 3
    assert workers(800, voice) == 4  # 1,200 slots of 400, and one to spare
    assert need(1000, voice).worker_cores == 1.5
    assert need(1000, voice).connections == 1000


def test_ids_are_kept_for_the_deduplication_window() -> None:
    only_ids = replace(ROUND, subject_bytes=1e-9)
    assert resident_bytes(only_ids) == pytest.approx(DUPLICATE_WINDOW_S * 10 * 100)
    brief = replace(only_ids, kept_s=60)
    assert resident_bytes(brief) == pytest.approx(60 * 10 * 100)


@pytest.mark.parametrize(
    ("changes", "sessions"),
    [
        ({}, 400),  # limited by its slots
        ({"worker_sessions": 1000}, 500),  # half a core: 1,800 s / 3.6 s
        ({"worker_sessions": 1000, "worker_core_use": 1.0}, 1000),
        ({"worker_cpu_s_per_hour": 36_000}, 1),  # at least one
    ],
)
def test_sessions_per_worker(changes: dict[str, float], sessions: int) -> None:
    assert sessions_per_worker(replace(ROUND, **changes)) == sessions  # type: ignore[arg-type]


@pytest.mark.parametrize(("sessions", "count"), [(1, 1), (2, 2), (400, 2), (401, 3), (4000, 11)])
def test_workers_include_a_spare_one(sessions: int, count: int) -> None:
    assert workers(sessions, ROUND) == count


def test_loads_per_cell() -> None:
    expected = {
        "chunks into STT_AUDIO": (10_000, 10_000),
        "chunks into TTS_AUDIO": (0, 10_000),
        "cores of the leader": (2, 4),
        "network of the leader": (0.816, 5),
        "memory of a node": (0.2352, 8),
        "disk of a node": (96.5, 800),
        "writes of a node": (70, 400),
        "lease renewals": (1000, 10_000),
        "permit messages": (800, 100_000),  # 1,000 permits every 5 s, sent to 4 workers
    }
    found = {load.what: load for load in loads(1000, ROUND)}
    assert found.keys() == expected.keys()
    for what, (needed, allowed) in expected.items():
        assert found[what].needed == pytest.approx(needed), what
        assert found[what].allowed == pytest.approx(allowed), what
    assert first_limit(1000, ROUND).what == "chunks into STT_AUDIO"
    assert first_limit(1000, ROUND).share == 1


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("cores of the leader", {"node_cores": 1}),
        ("network of the leader", {"node_gbit_per_s": 1}),
        ("memory of a node", {"node_gb": 0.25}),
        ("disk of a node", {"disk_gb": 50}),
        ("writes of a node", {"disk_mb_per_s": 10}),
        ("lease renewals", {"heartbeats_per_s": 100}),
        ("permit messages", {"news_per_s": 100}),
    ],
)
def test_the_scarcest_resource_is_the_first_limit(what: str, changes: dict[str, float]) -> None:
    assert first_limit(1000, replace(ROUND, **changes)).what == what  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sessions", "count"), [(1, 1), (1000, 1), (1001, 2), (2000, 2), (2001, 3), (100_000, 100)]
)
def test_cells_are_as_few_as_possible(sessions: int, count: int) -> None:
    assert cells(sessions, ROUND) == count


def test_quadratic_loads_need_fewer_cells_than_their_share() -> None:
    """Every worker of a cell receives all messages: half the sessions make a quarter of them."""
    inputs = replace(ROUND, news_per_s=2000, stream_messages_per_s=1e9)
    share = first_limit(4000, inputs).share
    assert share == pytest.approx(4000 / 5 * 11 / 2000)  # 4.4 times the limit
    assert cells(4000, inputs) == 3  # 1,334 sessions and 5 workers each: 1,334 of 2,000


def test_needs_of_a_fleet() -> None:
    found = need(4000, ROUND)
    assert (found.cells, found.nodes, found.workers) == (4, 12, 16)
    assert found.worker_cores == 4
    assert found.worker_mb == 110
    assert found.chunks_per_s == 40_000
    assert found.gbit_per_s == pytest.approx(1.088)
    assert found.leader_gbit_per_s == pytest.approx(0.816)
    assert found.kept_gb == pytest.approx(96.5)
    assert found.written_mb_per_s == pytest.approx(70)
    assert (found.connections, found.accounts) == (4000, 40)


def test_impossible_inputs_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="chunk_ms must be more than 0"):
        replace(ROUND, chunk_ms=0)
    with pytest.raises(ValueError, match="voice_share must be 0 or more"):
        replace(ROUND, voice_share=-1)
    with pytest.raises(ValueError, match="sessions must be 1 or more"):
        need(0, ROUND)
    with pytest.raises(ValueError, match="a cell cannot carry one session: disk of a node"):
        need(5, replace(ROUND, disk_gb=0.01))


def test_every_input_is_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    for field in fields(Inputs):
        assert f"--{field.name.replace('_', '-')}" in output


def test_flags_change_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--sessions", "1000", "--stream-messages-per-s", "1250", "--loads"]) == 0
    output = capsys.readouterr().out
    assert "chunks into STT_AUDIO, 100%" in output
    assert "one of 10 cells, 100 sessions" in output
    for each in fields(Inputs):
        if each.type == "float":
            value = str(getattr(Inputs(), each.name) + 0.5)
            assert main(["--sessions", "1", f"--{each.name.replace('_', '-')}", value]) == 0
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["--chunk-ms", "-1"])
    assert ended.value.code == 2
    assert "chunk_ms must be more than 0" in capsys.readouterr().err


def test_the_page_has_the_table() -> None:
    needs = [need(sessions, Inputs()) for sessions in STEPS]
    assert markdown(needs) in PAGE.read_text(), (
        "run: python -m bench.capacity_model --markdown, and put it into "
        "docs/explanation/scaling.md"
    )
    assert all(math.isfinite(found.first.share) for found in needs)
