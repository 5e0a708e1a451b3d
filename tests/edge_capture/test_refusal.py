"""How a publisher interprets JetStream's replies, and when it retries."""

from __future__ import annotations

import pytest

from edge_capture.delivery.replies import NO_STREAM, overdue, refusal, stored_sequence
from edge_capture.delivery.request import Backoff
from natterjack.errors import NotAllowed


@pytest.mark.parametrize(
    ("headers", "data", "reason"),
    [
        (None, b'{"stream":"STT_AUDIO","seq":7}', None),
        (None, b'{"stream":"STT_AUDIO","seq":7,"duplicate":true}', None),
        (b"NATS/1.0 503\r\n\r\n", b"", NO_STREAM),
        (b"NATS/1.0 408 Request Timeout\r\n\r\n", b"", "unexpected reply NATS/1.0 408 Request"),
        (None, b"", "unexpected reply "),
        (
            None,
            b'{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"}}',
            "refused by the broker: maximum bytes exceeded (10077)",
        ),
        (
            None,
            b'{"error":{"code":503,"err_code":10023,"description":"insufficient resources"}}',
            "refused by the broker: insufficient resources (10023): the broker's store is full, so "
            "STT_AUDIO accepts nothing: free space, raise max_file_store",
        ),
        (
            None,
            b'{"error":{"code":503,"err_code":{},"description":[]}}',
            "unexpected reply b'",
        ),
        (None, b'{"error": "what"}', "unexpected reply b'"),
        (None, b'{"error": ', "unexpected reply b'"),
    ],
)
def test_replies(headers: bytes | None, data: bytes, reason: str | None) -> None:
    found = refusal(headers, data)
    if reason is None:
        assert found is None
    else:
        assert found is not None
        assert found.startswith(reason)


def test_delays_grow_to_a_limit_and_start_afresh_after_a_calm_time() -> None:
    backoff, now, delays = Backoff(), 1000.0, []
    for _ in range(10):
        backoff.failed(now)
        delays.append(backoff.due - now)
        now = backoff.due
    assert 0.125 <= delays[0] <= 0.25
    assert all(2.5 <= delay <= 5 for delay in delays[5:])
    backoff.failed(now + 10.1)
    assert backoff.due - (now + 10.1) <= 0.25


@pytest.mark.parametrize(
    ("data", "sequence"),
    [
        (b'{"stream":"STT_SESSIONS","seq":7}', 7),
        (b'{"stream":"STT_SESSIONS","seq":7,"duplicate":true}', 7),
        (b'{"stream":"STT_SESSIONS"}', None),
        (b'{"seq":0}', None),
        (b'{"seq":1e999}', None),
        (b'{"seq":9223372036854775808}', None),
        (b'{"seq":[]}', None),
        (b"[]", None),
        (b"", None),
    ],
)
def test_the_position_of_a_stored_message(data: bytes, sequence: int | None) -> None:
    assert stored_sequence(data) == sequence


def test_what_the_server_does_not_permit_is_why_nothing_is_acknowledged() -> None:
    refusals = [
        (90.0, NotAllowed("stt.audio.a.b.c", publishes=True)),
        (90.0, NotAllowed("stt.audio.a.b.d", publishes=False)),
    ]
    reason = overdue(5, refusals, "stt.audio.a.b.c", 100)
    assert reason.startswith("this user may not publish to stt.audio.a.b.c: the tenant and the")
    for subject, now in (("stt.audio.a.b.d", 100.0), ("stt.audio.a.b.c", 200.0)):
        assert overdue(5, refusals, subject, now) == "no acknowledgement for 5 s"
