"""Whether a session may be taken over, and what is assumed of its former holder."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from natterjack.events import StatusEvent
from natterjack.fleet.roster import REPORT_SECONDS, SessionRecord
from natterjack.spec import SessionSpec
from natterjack.values import Account, ProviderUsage
from worker.audio.marks import Mark
from worker.session import takeover
from worker.session.checkpoint import Checkpoint
from worker.session.states import State
from worker.session.takeover import Claimant, Estimate, Queued, decide

OPENED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RATE = 1000
SPEC = SessionSpec(
    session_id="session-1", tenant="t", conversation="c", speaker="s", opened_at=OPENED
)
MINE = Claimant("session-1", 7, 2, "w2", "holder-2", "w2-b")


def stored(**changes: Any) -> Checkpoint:
    former = Checkpoint(
        session_id="session-1", epoch=1, worker="w1", holder="holder-1", instance="w1-a",
        state="streaming", provider="deepgram", position=5000, request_sequence=7,
        opened_at=OPENED, sent_until=6000,
    )  # fmt: skip
    return replace(former, **changes)


def test_a_first_session_starts_when_its_request_is_the_first_of_the_key() -> None:
    assert decide(None, MINE) == takeover.Ask(1)
    assert decide(None, MINE, Queued(7)) == takeover.Start()


@pytest.mark.parametrize("first", [3, None])
def test_an_earlier_request_for_the_key_comes_first(first: int | None) -> None:
    """None: the request itself has left the queue, as one does whose session another worker has
    just closed."""
    assert decide(None, MINE, Queued(first)) == takeover.Busy()
    assert decide(stored(session_id="session-0"), MINE, Queued(first)) == takeover.Busy()


def test_a_session_starts_behind_an_earlier_one_of_the_key() -> None:
    former = stored(session_id="session-0", closed_before=["older"])
    assert decide(former, MINE) == takeover.Ask(1)
    assert decide(former, MINE, Queued(7)) == takeover.Start(former)


def test_the_list_of_earlier_sessions_is_bounded() -> None:
    former = stored(session_id="last", closed_before=[f"s{n}" for n in range(50)])
    started = takeover.started(MINE, SPEC, former)
    assert len(started.closed_before) == 50
    assert started.closed_before[-2:] == ["s49", "last"]


def test_a_session_that_was_closed_before_later_ones_stays_closed() -> None:
    former = stored(session_id="session-5", closed_before=["session-1"])
    assert decide(former, MINE) == takeover.Finished()


def test_a_closed_session_stays_closed() -> None:
    assert decide(stored(closed=True), MINE) == takeover.Finished()


def test_an_open_session_is_adopted_by_a_greater_epoch() -> None:
    former = stored()
    assert decide(former, MINE) == takeover.Adopt(former)


@pytest.mark.parametrize("epoch", [2, 3])
def test_the_greater_epoch_wins(epoch: int) -> None:
    assert decide(stored(epoch=epoch), MINE) == takeover.HeldElsewhere("w1", epoch)


def test_a_second_request_for_a_session_in_progress_is_only_acknowledged() -> None:
    former = stored(request_sequence=4)
    assert decide(former, MINE) == takeover.Ask(4)
    assert decide(former, MINE, Queued(4)) == takeover.Finished()


@pytest.mark.parametrize("first", [7, None])
def test_a_request_takes_the_place_of_one_that_has_left_the_queue(first: int | None) -> None:
    former = stored(request_sequence=4)
    assert decide(former, MINE, Queued(first)) == takeover.Adopt(former)
    assert decide(replace(former, epoch=9), MINE, Queued(first)) == takeover.HeldElsewhere("w1", 9)


def test_an_early_release_did_not_store_the_request() -> None:
    former = stored(request_sequence=0)
    assert decide(former, MINE) == takeover.Adopt(former)


@pytest.mark.parametrize(
    ("state", "crashes"),
    [
        (State.CONNECTING, 4),
        (State.STREAMING, 4),
        (State.FINISHING, 4),
        (State.WAITING, 0),
        (State.QUEUED, 0),
        (State.RECOVERING, 0),
        (State.TAKING_OVER, 0),
        (State.HANDED_OVER, 0),
    ],
)
def test_a_worker_that_died_with_an_open_stream_may_have_died_of_it(
    state: State, crashes: int
) -> None:
    assert takeover.crashes(stored(state=state.value, crashes=3)) == crashes


def test_a_session_that_kills_its_workers_is_given_up() -> None:
    assert takeover.give_up_reason(10) is None
    assert takeover.give_up_reason(11) == "gave up after 11 attempts without progress"


def test_what_the_claimant_stores_of_an_adopted_session() -> None:
    former = stored(crashes=1, slot="account.0.x", configured={"a": 1}, account=Account())
    adopted = takeover.adopted(former, MINE, SPEC)
    assert (adopted.epoch, adopted.worker, adopted.holder) == (2, "w2", "holder-2")
    assert (adopted.instance, adopted.state, adopted.crashes) == ("w2-b", "taking over", 2)
    assert (adopted.position, adopted.slot, adopted.configured) == (5000, "account.0.x", {"a": 1})
    assert adopted.account is None
    assert takeover.started(MINE, SPEC).position == 0


def successor(**changes: Any) -> SessionSpec:
    """The request of a session that continues session-0 from position 4000 on."""
    links = {"continues": "session-0", "audio_of": "session-0", "start_position": 4000}
    return SPEC.model_copy(update=links | changes)


BEFORE = stored(
    session_id="session-0", closed=True, position=4000, mark_position=3500, mark_seq=35,
    mark_stream_sequence=90, crashes=3, slot="x", limit=9, configured={"a": 1}, gaps_until=9.0,
)  # fmt: skip


def test_a_session_takes_the_mark_and_the_crashes_from_the_one_that_it_continues() -> None:
    started = takeover.started(MINE, successor(), BEFORE)
    places: Any = {"position": 4000, "start_position": 4000, "sent_until": 4000}
    marks: Any = {"mark_position": 3500, "mark_seq": 35, "mark_stream_sequence": 90}
    fresh = takeover.started(MINE, SPEC)
    assert started == replace(
        fresh, audio_of="session-0", closed_before=["session-0"], crashes=3, **places, **marks
    )


def test_audio_that_kills_workers_has_one_attempt_in_each_later_session() -> None:
    given_up = replace(BEFORE, crashes=11)
    assert takeover.give_up_reason(given_up.crashes)
    second = takeover.started(MINE, successor(), given_up)
    assert takeover.give_up_reason(second.crashes) is None
    second.state = State.STREAMING.value
    second = takeover.adopted(second, MINE, successor())
    assert takeover.give_up_reason(second.crashes)
    third = successor(session_id="session-2", continues="session-1")
    again = takeover.started(MINE, third, second)
    assert takeover.give_up_reason(again.crashes + 1)
    later = third.model_copy(update={"start_position": 4001})
    assert takeover.started(MINE, later, second).crashes == 0, "other audio"
    assert takeover.started(MINE, SPEC, given_up).crashes == 0, "another session's audio"


@pytest.mark.parametrize(("wanted", "start"), [(0, 4000), (4000, 4000), (7000, 7000)])
def test_no_word_is_in_both_sessions(wanted: int, start: int) -> None:
    started = takeover.started(MINE, successor(start_position=wanted), BEFORE)
    assert (started.start_position, started.position) == (start, start)


@pytest.mark.parametrize(
    "changes",
    [
        {"continues": "session-9"},  # which another session has followed since
        {"continues": None},
        {"audio_of": "session-9"},
        {"audio_of": None, "start_position": 0},  # the edge began anew
        {"audio_of": None, "continues": None, "repeats": "session-0", "start_position": 0},
    ],
)
def test_only_the_session_that_goes_on_with_the_audio_uses_its_mark(changes: Any) -> None:
    spec = successor(**changes)
    started = takeover.started(MINE, spec, BEFORE)
    assert started.mark == Mark()
    assert started.position == spec.start_position


def closing(position: int | None, **request: Any) -> StatusEvent:
    """The closing event of session-0."""
    return StatusEvent(
        session_id="session-0", tenant="t", conversation="c", speaker="s", epoch=1, sequence=9,
        state="failed", worker="w1", position=position, published_at=OPENED,
        request=request or None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "continues", "other"),
    [
        (BEFORE, "session-0", None),
        (BEFORE, None, None),
        (None, None, None),
        (None, "session-0", "session-0"),
        (replace(BEFORE, session_id="session-8"), "session-0", "session-0"),
    ],
    ids=["the last", "first", "first of the key", "no checkpoint", "another since"],
)
def test_the_end_of_a_session_that_others_have_followed_is_to_be_read(
    before: Checkpoint | None, continues: str | None, other: str | None
) -> None:
    assert takeover.separated_from(before, successor(continues=continues)) == other


@pytest.mark.parametrize("before", [None, replace(BEFORE, session_id="session-8", position=9000)])
@pytest.mark.parametrize(
    ("end", "start"),
    [
        (None, 4000),
        (closing(None), 4000),
        (closing(3000), 4000),
        (closing(7000), 7000),
        (closing(7000, session_id="session-0"), 7000),
        (closing(7000, audio_of="session-9"), 4000),
    ],
    ids=["gone", "no position", "earlier", "later", "same audio", "other audio"],
)
def test_a_session_starts_where_one_ended_that_others_have_followed(
    end: StatusEvent | None, start: int, before: Checkpoint | None
) -> None:
    started = takeover.started(MINE, successor(), before, end)
    assert (started.start_position, started.position, started.sent_until) == (start,) * 3
    assert started.mark == Mark()
    assert started.crashes == 0


def test_a_successor_that_an_older_worker_held_starts_at_its_first_frame() -> None:
    """That worker has read none of its audio, and knows nothing of where it starts."""
    adopted = takeover.adopted(stored(position=0, sent_until=0), MINE, successor())
    assert (adopted.start_position, adopted.position, adopted.sent_until) == (4000, 4000, 4000)
    assert adopted.audio_session_id == "session-0"
    later = takeover.adopted(stored(position=5000, sent_until=6000), MINE, successor())
    assert (later.start_position, later.position, later.sent_until) == (4000, 5000, 6000)


def test_the_audio_of_a_chain_of_sessions_is_known() -> None:
    second = takeover.started(MINE, successor(), BEFORE)
    second.position = 6000
    third = successor(session_id="session-2", continues="session-1")
    assert takeover.continued(second, third)
    assert takeover.started(MINE, third, second).position == 6000
    assert not takeover.continued(second, third.model_copy(update={"audio_of": "session-1"}))


# The usage of the former holder


def usage(sent: float) -> ProviderUsage:
    return ProviderUsage(sent_seconds=sent, currency="USD")


def record(**changes: Any) -> SessionRecord:
    fields = {
        "key": "t.c.s", "session_id": "session-1", "epoch": 1, "holder": "holder-1",
        "state": "streaming", "provider": "deepgram", "opened_at": OPENED,
        "captured_seconds": 9.0, "sent_until": 8000, "providers": {"deepgram": usage(8.0)},
    }  # fmt: skip
    return SessionRecord(**{**fields, **changes})


ACCOUNT = Account(captured_seconds=7.0, providers={"deepgram": usage(6.0)})


def former_usage(
    former: Checkpoint, told: SessionRecord | None, instance: str = "w2-b"
) -> takeover.FormerUsage:
    return takeover.former_usage(former, ACCOUNT, told, instance=instance, sample_rate=RATE)


def test_a_holder_that_handed_over_or_named_no_instance_has_used_what_it_stored() -> None:
    assert takeover.may_have_used_more(stored())
    assert not takeover.may_have_used_more(stored(state="handed over"))
    assert not takeover.may_have_used_more(stored(instance=""))


def test_without_a_roster_record_the_checkpoint_counts() -> None:
    assert former_usage(stored(), None) == takeover.FormerUsage(
        {"deepgram": usage(6.0)}, 6000, 7.0, None
    )


def test_a_killed_holder_is_assumed_to_have_sent_for_half_a_report_more() -> None:
    used = former_usage(stored(), record())
    assert used.providers == {"deepgram": usage(8.0)}
    assert used.captured_seconds == 9.0
    assert used.estimate == Estimate("deepgram", REPORT_SECONDS / 2)
    assert used.sent_until == 8000 + REPORT_SECONDS / 2 * RATE


def test_a_checkpoint_newer_than_the_record_counts() -> None:
    older = record(sent_until=3000, captured_seconds=4.0, providers={"deepgram": usage(3.0)})
    used = former_usage(stored(state="waiting"), replace_state(older, "waiting"))
    assert used == takeover.FormerUsage({"deepgram": usage(6.0)}, 6000, 7.0, None)


def replace_state(told: SessionRecord, state: str) -> SessionRecord:
    return told.model_copy(update={"state": state})


def test_a_provider_that_only_the_record_has_is_added() -> None:
    used = former_usage(stored(), record(providers={"speechmatics": usage(1.0)}))
    assert used.providers == {"deepgram": usage(6.0), "speechmatics": usage(1.0)}


@pytest.mark.parametrize("state", ["waiting", "recovering"])
def test_a_holder_without_a_stream_sent_nothing_more(state: str) -> None:
    assert former_usage(stored(state=state), record(state=state)).estimate is None
    # The checkpoint is newer: it opened a stream after its last report.
    assert former_usage(stored(), record(state=state)).estimate is not None


def test_an_earlier_attempt_of_this_process_is_known_in_full() -> None:
    used = former_usage(stored(), record(), instance="w1-a")
    assert used.estimate is None
    assert used.sent_until == 8000


def test_a_holder_that_never_had_a_provider_sent_nothing() -> None:
    assert former_usage(stored(provider=None), record(provider=None)).estimate is None
