"""How the worker's record is split into pages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.metering.report import _PAGE_BYTES, _paged

PARTS = st.lists(st.integers(1, _PAGE_BYTES // 2).map("x".__mul__), max_size=8)


def test_an_idle_worker_still_has_one_page() -> None:
    assert _paged([], []) == [([], [])]


@given(PARTS, PARTS)
def test_every_part_is_on_one_page_in_order_and_pages_fit(
    sessions: list[str], usage: list[str]
) -> None:
    pages = _paged(sessions, usage)
    assert [part for page in pages for part in page[0]] == sessions
    assert [part for page in pages for part in page[1]] == usage
    for page in pages:
        assert sum(len(part) + 1 for parts in page for part in parts) <= _PAGE_BYTES + 16
