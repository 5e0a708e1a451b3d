"""Comparing streams and consumers with their definition, without a broker."""

from __future__ import annotations

from typing import Any

import pytest
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    RePublish,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from natterjack.broker import streams
from natterjack.broker.changes import Change
from natterjack.broker.differences import (
    COPIES,
    STORED,
    check_stream,
    consumer_differences,
    overlap,
    plain,
    stream_differences,
)
from natterjack.errors import StreamMismatch
from natterjack.settings import KINDS, StreamSettings

WANTED = StreamConfig(
    name="S",
    subjects=["a.>"],
    storage=StorageType.FILE,
    num_replicas=1,
    max_age=60.0,
    max_bytes=100,
)


@pytest.mark.parametrize(
    ("changes", "field", "loss"),
    [
        ({"retention": RetentionPolicy.WORK_QUEUE}, "retention", STORED),
        ({"storage": StorageType.MEMORY}, "storage", STORED),
        ({"sealed": True}, "sealed", STORED),
        ({"num_replicas": 3}, "num_replicas", COPIES),
        ({"max_age": 120.0}, "max_age", STORED),
        ({"max_age": 30.0}, "max_age", ""),
        ({"max_age": 0.0}, "max_age", STORED),
        ({"max_bytes": 200}, "max_bytes", STORED),
        ({"max_bytes": 50}, "max_bytes", ""),
        ({"max_bytes": -1}, "max_bytes", STORED),
        ({"max_msgs_per_subject": 1}, "max_msgs_per_subject", ""),
        ({"max_msg_size": 10}, "max_msg_size", ""),
        ({"discard": DiscardPolicy.NEW}, "discard", ""),
        ({"no_ack": True}, "no_ack", ""),
        ({"subjects": ["b.>"]}, "subjects", ""),
    ],
)
def test_one_field_differs(changes: dict[str, Any], field: str, loss: str) -> None:
    [difference] = stream_differences(WANTED.evolve(**changes), WANTED)
    assert (difference.field, difference.loss) == (field, loss)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_age": None}, {"subjects": ["a.>", "theirs"]}, {"description": "ours"},
        {"duplicate_window": 5.0}, {"republish": RePublish(src=">", dest="copy.>")},
        {"retention": None}, {"max_msg_size": -1},
    ],
)  # fmt: skip
def test_what_is_unset_or_beyond_the_definition_does_not_differ(changes: dict[str, Any]) -> None:
    wanted = WANTED.evolve(max_age=0.0)
    assert stream_differences(wanted.evolve(**changes), wanted) == []


def test_a_full_stream_that_refuses_new_messages_loses_none() -> None:
    wanted = WANTED.evolve(discard=DiscardPolicy.NEW)
    [difference] = stream_differences(wanted.evolve(max_bytes=200), wanted)
    assert (difference.field, difference.loss) == ("max_bytes", "")


def test_subjects_that_do_not_overlap_are_kept() -> None:
    found = WANTED.evolve(subjects=["a.b", "theirs.*", "a"])
    [difference] = stream_differences(found, WANTED)
    assert difference.wanted == ["a", "a.>", "theirs.*"]


def test_a_missing_republication_differs() -> None:
    wanted = WANTED.evolve(republish=RePublish(src="a.>", dest="copy.>"))
    [difference] = stream_differences(WANTED, wanted)
    assert str(difference) == "republish is None, wanted copy.>"
    other = wanted.evolve(republish=RePublish(src="a.>", dest="elsewhere.>"))
    assert [d.field for d in stream_differences(other, wanted)] == ["republish"]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("a", "a", True), ("a", "b", False), ("a.*", "*.b", True), ("a.>", "a.b.c", True),
        ("a.>", "a", False), (">", "a", True), ("a.b", "a.b.c", False), ("a.*.c", "a.b.d", False),
    ],
)  # fmt: skip
def test_overlap(one: str, other: str, expected: bool) -> None:
    assert overlap(one, other) is expected
    assert overlap(other, one) is expected


def test_a_consumer_like_its_definition_does_not_differ() -> None:
    wanted = streams.consumer_config(StreamSettings())
    assert consumer_differences(wanted.evolve(description="ours", backoff=[]), wanted) == []


@pytest.mark.parametrize(
    ("changes", "field", "loss"),
    [
        ({"ack_policy": AckPolicy.NONE}, "ack_policy", STORED),
        ({"deliver_subject": "push"}, "deliver_subject", STORED),
        ({"ack_wait": 99.0}, "ack_wait", ""),
        ({"max_deliver": 3}, "max_deliver", ""),
        ({"filter_subject": "stt.session.t.>"}, "filter_subject", ""),
        ({"headers_only": True}, "headers_only", ""),
    ],
)
def test_a_consumer_that_differs(changes: dict[str, Any], field: str, loss: str) -> None:
    wanted: ConsumerConfig = streams.consumer_config(StreamSettings())
    [difference] = consumer_differences(wanted.evolve(**changes), wanted)
    assert (difference.field, difference.loss) == (field, loss)


def test_a_change_loses_the_most_of_its_differences() -> None:
    wanted = WANTED.evolve(max_age=30.0)
    both = stream_differences(WANTED.evolve(num_replicas=3), wanted)
    assert Change("S", "change", tuple(both), wanted).loss == STORED
    assert Change("S", "change", tuple(d for d in both if d.loss != STORED), wanted).loss == COPIES
    assert Change("S", "same", (), wanted).loss == ""


def test_values_in_a_form_to_print() -> None:
    assert plain(RetentionPolicy.LIMITS) == "limits"
    assert plain(RePublish(src="a", dest="b")) == "b"
    assert plain(5) == 5


def test_every_stream_is_like_its_own_definition() -> None:
    """And every name and subject is used once."""
    configs = streams.stream_configs(StreamSettings(kinds=KINDS))
    for config in configs:
        assert stream_differences(config, config) == []
    subjects = [subject for config in configs for subject in config.subjects or ()]
    for index, subject in enumerate(subjects):
        assert not any(overlap(subject, other) for other in subjects[index + 1 :])


def test_a_stream_must_have_the_fields_that_guard_against_loss() -> None:
    for wanted in streams.stream_configs(StreamSettings(kinds=KINDS)):
        assert check_stream(wanted, wanted) == []
        for changes in ({"subjects": ["a"]}, {"sealed": True}, {"no_ack": True}):
            with pytest.raises(StreamMismatch, match=f"{wanted.name} .*{next(iter(changes))} is"):
                check_stream(wanted.evolve(**changes), wanted)


def test_a_stream_of_an_earlier_release_lacks_notices() -> None:
    (wanted,) = (
        each
        for each in streams.stream_configs(StreamSettings())
        if each.name == streams.TRANSCRIPTS
    )
    earlier = [subject for subject in wanted.subjects or () if not subject.endswith(".notice")]
    (difference,) = check_stream(wanted.evolve(subjects=earlier), wanted)
    assert difference.field == "subjects"
    with pytest.raises(StreamMismatch, match="subjects is"):
        check_stream(wanted.evolve(subjects=earlier[1:]), wanted)


def test_an_operator_may_choose_sizes_and_ages() -> None:
    wanted = streams.stream_configs(StreamSettings())[1]
    theirs = wanted.evolve(max_age=1.0, max_bytes=10**6, num_replicas=3)
    fields = [difference.field for difference in check_stream(theirs, wanted)]
    assert fields == ["num_replicas", "max_age", "max_bytes"]


@pytest.mark.parametrize(
    "changes", [{"ack_policy": AckPolicy.ALL}, {"deliver_subject": "push"}, {"max_deliver": 5}]
)
def test_a_consumer_that_workers_cannot_use(changes: dict[str, Any]) -> None:
    wanted = streams.consumer_config(StreamSettings())
    streams.check_consumer(streams.SESSIONS, wanted.evolve(ack_wait=99.0, description="ours"))
    with pytest.raises(StreamMismatch, match="streams apply --allow-loss"):
        streams.check_consumer(streams.SESSIONS, wanted.evolve(**changes))
