from __future__ import annotations

import pytest

from edge_capture.fleet.clock import offset_seconds

NOON = 1_793_707_200.0
AT_NOON = "2026-11-03T12:00:00.000000000Z"


@pytest.mark.parametrize(
    ("before", "after", "stored_at", "offset"),
    [
        (NOON - 0.1, NOON + 0.1, AT_NOON, 0),
        (NOON + 3599.9, NOON + 3600.1, AT_NOON, 3600),
        (NOON - 60.2, NOON - 59.8, AT_NOON, -60),
        (NOON, NOON + 3, AT_NOON, None),
        (NOON, NOON - 1, AT_NOON, None),
        (NOON, NOON, "noon", None),
        (NOON, NOON, "", None),
    ],
)
def test_the_offset_is_that_of_the_middle_of_the_round_trip(
    before: float, after: float, stored_at: str, offset: float | None
) -> None:
    assert offset_seconds(before, after, stored_at) == offset
