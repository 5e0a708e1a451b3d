"""Figures of usage: adding, differences, and the two forms in which they are stored."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from natterjack.values import ProviderUsage
from tests.searching import examples
from worker.metering.usage import Usage

SECONDS = st.floats(0, 1e7)
USAGES = st.builds(
    Usage,
    connections=st.integers(0, 1000),
    sent=SECONDS,
    replayed=SECONDS,
    estimated=SECONDS,
    connected=SECONDS,
    reported=st.none() | SECONDS,
    billed=st.floats(-10, 1e7),
    cost=st.floats(0, 1e5),
    recovery_cost=st.floats(0, 1e5),
)


@examples(100)
@given(USAGES)
def test_the_quick_json_reads_as_the_record(usage: Usage) -> None:
    quick = ProviderUsage.model_validate(json.loads(usage.json("EUR")))
    record = usage.to_record("EUR")
    for name in ProviderUsage.model_fields:
        ours, theirs = getattr(quick, name), getattr(record, name)
        if isinstance(ours, float):
            assert abs(ours - theirs) <= 0.001, name
        else:
            assert ours == theirs, name


@examples(100)
@given(USAGES)
def test_a_record_reads_back_within_its_rounding(usage: Usage) -> None:
    again = Usage.from_record(usage.to_record("USD"))
    assert again.connections == usage.connections
    assert abs(again.sent - usage.sent) <= 0.001
    assert abs(again.cost - usage.cost) <= 0.000001
    assert (again.reported is None) == (usage.reported is None)


def test_since_returns_the_use_added_after_a_snapshot() -> None:
    usage = Usage(1, 10.0, 1.0, 0.0, 12.0, 9.0, 9.0, 0.5, 0.1)
    before = Usage()
    before.add(usage)
    usage.add(Usage(1, 5.0, 0.5, 0.25, 6.0, 4.0, 4.0, 0.25, 0.05))
    assert usage.since(before) == Usage(1, 5.0, 0.5, 0.25, 6.0, 4.0, 4.0, 0.25, 0.05000000000000002)
