"""Fair sharing of permits among tenants."""

from __future__ import annotations

from collections import Counter

from worker.capacity.share import Waiting, share


def test_a_permit_goes_to_the_tenant_that_holds_fewest() -> None:
    waiting = [Waiting("big", 9, "a"), Waiting("big", 8, "a"), Waiting("small", 1, "b")]
    assert [w.tenant for w in share(2, {"big": 1}, waiting)] == ["small", "big"]


def test_among_equal_tenants_the_longest_wait_wins() -> None:
    waiting = [Waiting("x", 1, "a"), Waiting("y", 2, "b"), Waiting("x", 3, "c")]
    assert [w.seconds for w in share(9, {}, waiting)] == [3, 2, 1]


def test_permits_are_shared_evenly_up_to_what_each_tenant_needs() -> None:
    waiting = [Waiting("big", 99, "a")] * 50 + [Waiting("b", 1, "b")] * 9 + [Waiting("c", 1, "c")]
    assert Counter(w.tenant for w in share(11, {}, waiting)) == {"big": 5, "b": 5, "c": 1}


def test_no_free_permits_or_no_sessions_give_an_empty_plan() -> None:
    assert share(0, {}, [Waiting("x", 1, "a")]) == []
    assert share(3, {"x": 2}, []) == []
