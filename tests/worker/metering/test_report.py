"""How the worker's record is split into pages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.searching import examples
from worker.metering.report import _paged

MOST = 4000
PARTS = st.lists(st.integers(1, MOST + 500).map("x".__mul__), max_size=8)


def test_an_idle_worker_still_has_one_page() -> None:
    assert _paged([], [], MOST) == [([], [])]


@examples(100)
@given(PARTS, PARTS)
def test_every_part_is_on_one_page_in_order_and_pages_fit(
    sessions: list[str], usage: list[str]
) -> None:
    pages = _paged(sessions, usage, MOST)
    assert [part for page in pages for part in page[0]] == sessions
    assert [part for page in pages for part in page[1]] == usage
    for page in pages:
        parts = [*page[0], *page[1]]
        assert sum(map(len, parts)) <= MOST or len(parts) == 1
