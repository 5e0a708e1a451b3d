"""Parsing requests of the queue: whatever a request holds, the result is a session or an error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natterjack.spec import SessionSpec
from worker.claim import BadRequest, parse_request

SUBJECT = "stt.session.acme.call-7.caller"
ID = "3f2b8c1e-5d1a-4c0e-9b57-0a1b2c3d4e5f"
GOOD: dict[str, Any] = {
    "session_id": ID, "tenant": "acme", "conversation": "call-7", "speaker": "caller",
}  # fmt: skip


def request(**changes: Any) -> bytes:
    return json.dumps(GOOD | changes).encode()


def test_a_good_request_has_no_problem() -> None:
    found = parse_request(SUBJECT, request(sample_rate=8000))
    assert found.problem is None
    assert (found.spec.session_id, found.spec.sample_rate) == (ID, 8000)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sample_rate": "fast"}, "sample_rate"),
        ({"encoding": "mp3"}, "encoding"),
        ({"channels": 0}, "channels"),
        ({"tenant": "a b"}, "tenant"),
        ({"speaker": "agent"}, "its subject says acme.call-7.caller"),
    ],
)
def test_a_bad_request_keeps_its_session_id_and_names_the_field(
    changes: dict[str, Any], named: str
) -> None:
    found = parse_request(SUBJECT, request(**changes))
    assert found.problem is not None
    assert found.problem.startswith("bad request: ")
    assert named in found.problem
    assert found.spec.session_id == ID
    assert str(found.spec.key) == "acme.call-7.caller", "events go to the key of the subject"


@pytest.mark.parametrize(
    ("subject", "payload"),
    [
        (SUBJECT, b""),
        (SUBJECT, b"[]"),
        (SUBJECT, b"{}"),
        (SUBJECT, b"\xff"),
        (SUBJECT, b'{"session_id": 7}'),
        (SUBJECT, b"[" * 100_000),
        ("stt.session.acme.caller", request()),
        ("stt.session.acme.call 7.caller", request()),
    ],
)
def test_a_request_that_names_no_session_is_refused(subject: str, payload: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_request(subject, payload)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@given(st.sampled_from(sorted(SessionSpec.model_fields)), JSON)
def test_no_value_of_any_field_raises_anything_else(field: str, value: Any) -> None:
    try:
        found = parse_request(SUBJECT, request(**{field: value}))
    except BadRequest:
        return
    assert str(found.spec.key) == "acme.call-7.caller"
