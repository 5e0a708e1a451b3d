from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natterjack.broker.streams import MAX_PRESENCE_BYTES
from natterjack.fleet.edges import (
    MAX_REQUEST_BYTES,
    MAX_SOURCES,
    EdgePresence,
    SourcePresence,
    parse_presence,
    parse_request,
    presence_subject,
)
from tests.searching import examples

NOW = datetime(2026, 11, 3, 9, 30, tzinfo=UTC)
SUBJECT = "$KV.stt_edges.acme.room-12"


def presence(**changes: Any) -> dict[str, Any]:
    source = {"name": "mic", "state": "capturing", "level": {"peak_dbfs": -12.5, "zeros": 0.01}}
    return {
        "tenant": "acme",
        "agent": "room-12",
        "started_at": NOW.isoformat(),
        "seen_at": NOW.isoformat(),
        "sources": [source],
        **changes,
    }


def parsed(subject: str = SUBJECT, **changes: Any) -> EdgePresence | None:
    return parse_presence(subject, json.dumps(presence(**changes)).encode())


def test_a_presence_is_read_as_it_was_written() -> None:
    found = parsed(interval_seconds=5, spool={"bytes": 10, "limit_bytes": 40})
    assert found is not None
    assert parse_presence(presence_subject("acme", "room-12"), found.encode()) == found
    assert found.spool is not None
    assert found.spool.share == 0.25


def test_what_a_later_release_adds_is_ignored() -> None:
    found = parsed(weather="rain", state="dreaming")
    assert found is not None
    assert found.state == "dreaming"


@pytest.mark.parametrize(
    ("subject", "changes"),
    [
        ("$KV.stt_edges.other.room-12", {}),
        ("$KV.stt_edges.acme.room-13", {}),
        (SUBJECT, {"tenant": "acme.room"}),
        (SUBJECT, {"agent": ""}),
        (SUBJECT, {"sources": [{"name": "a b", "state": "capturing"}]}),
        (SUBJECT, {"seen_at": "2026-11-03T09:30:00"}),
        (SUBJECT, {"seen_at": "9999-12-31T23:59:59Z"}),
        (SUBJECT, {"sources": "all"}),
        (SUBJECT, {"last_error": "x" * MAX_PRESENCE_BYTES}),
    ],
)
def test_an_entry_about_another_edge_or_none_is_left_out(
    subject: str, changes: dict[str, Any]
) -> None:
    assert parsed(subject, **changes) is None


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 20_000, b'"x"'])
def test_what_is_not_a_presence_is_left_out(data: bytes) -> None:
    assert parse_presence(SUBJECT, data) is None
    assert parse_request(data) is None


def test_text_is_bounded_and_has_no_control_characters() -> None:
    odd = {"state": "capt\x00uring", "device": "\x1b]0;x\x07", "findings": ["f\n"] * 99}
    found = parsed(
        host="\x1b[2Jroom\n12\u202e", last_error="e" * 5000, sources=[{"name": "mic", **odd}]
    )
    assert found is not None
    (source,) = found.sources
    assert found.host.isprintable()
    assert source.state.isprintable()
    assert source.device is not None
    assert source.device.isprintable()
    assert found.last_error == "e" * 200
    assert source.findings == ["f"] * 32


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -1e300, "loud", True, [], -201, 10**400, -(10**400)]
)
def test_a_level_that_is_no_level_is_unknown(value: object) -> None:
    level = {"peak_dbfs": value, "rms_dbfs": -20, "zeros": value}
    found = parsed(sources=[{"name": "mic", "state": "capturing", "level": level}])
    assert found is not None
    assert found.sources[0].level is not None
    assert found.sources[0].level.peak_dbfs is None
    assert found.sources[0].level.rms_dbfs == -20


def test_an_edge_cannot_name_an_interval_that_hides_its_absence() -> None:
    found = parsed(interval_seconds=1e9)
    assert found is not None
    assert found.interval_seconds is None
    assert found.state_after(0) == "running"
    assert found.state_after(60) == "absent"
    stopped = parsed(state="stopped")
    assert stopped is not None
    assert stopped.state_after(1e6) == "stopped"


def test_a_presence_that_would_be_too_large_names_fewer_sources() -> None:
    whole = EdgePresence.model_validate(presence())
    source = SourcePresence(name="mic", state="capturing", device="d" * 200, error="ü" * 200)
    whole = whole.model_copy(update={"sources": [source] * 10 * MAX_SOURCES})
    data = whole.encode()
    assert len(data) <= MAX_PRESENCE_BYTES
    found = parse_presence(SUBJECT, data)
    assert found is not None
    assert found.sources


def test_more_sources_than_the_limit_are_left_out() -> None:
    found = parsed(sources=[{"name": f"s{n}", "state": "x"} for n in range(2 * MAX_SOURCES)])
    assert found is not None
    assert len(found.sources) == MAX_SOURCES


def test_requests() -> None:
    request = parse_request(b'{"op": "mute", "source": "mic", "later": 1}')
    assert request is not None
    assert (request.op, request.source) == ("mute", "mic")
    for bad in ({"op": "format"}, {"op": "mute", "source": "a.b"}, {"source": "mic"}):
        assert parse_request(json.dumps(bad).encode()) is None
    assert parse_request(b'{"op": "mute"' + b" " * MAX_REQUEST_BYTES + b"}") is None


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=8,
)
_FIELDS = st.sampled_from(sorted(EdgePresence.model_fields))


@examples(100)
@given(st.dictionaries(_FIELDS, _JSON, max_size=4))
def test_no_value_of_any_field_hurts_a_reader(changes: dict[str, Any]) -> None:
    found = parsed(**changes)
    if found is None:
        return
    assert (found.tenant, found.agent) == ("acme", "room-12")
    text = found.model_dump_json()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert found.host.isprintable()
    assert found.state.isprintable()
    assert parse_presence(SUBJECT, found.encode()) == found
