"""Parsing requests of the queue: whatever a request holds, the result is a session or an error."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.pull import Puller
from natterjack.process.run import end_tasks
from natterjack.spec import SessionSpec
from tests.searching import examples
from tests.waiting import soon, until
from worker.capacity.slots import Slots
from worker.claim import BadRequest, Claimer, parse_request
from worker.services import Services

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


@examples(100)
@given(st.sampled_from(sorted(SessionSpec.model_fields)), JSON)
def test_no_value_of_any_field_raises_anything_else(field: str, value: Any) -> None:
    try:
        found = parse_request(SUBJECT, request(**{field: value}))
    except BadRequest:
        return
    assert str(found.spec.key) == "acme.call-7.caller"


async def test_a_request_that_comes_when_held_sessions_have_taken_their_slots_back_is_given_back(
    ready_broker: Broker,
) -> None:
    """Not kept until a slot is free: its lease would run out meanwhile."""
    js = ready_broker.client.jetstream()

    async def consumer() -> Any:
        return await js.consumer_info(streams.SESSIONS, streams.CONSUMER)

    await js.add_consumer(streams.SESSIONS, (await consumer()).config.evolve(ack_wait=3600))
    slots = Slots(3)
    services = SimpleNamespace(broker=ready_broker, slots=slots)
    claimer = Claimer(cast(Services, services))
    async with asyncio.TaskGroup() as tasks:
        claiming = tasks.create_task(claimer._claim(tasks, set()))

        async def requested() -> bool:
            return bool((await consumer()).num_waiting)

        await until(requested, "it asks for requests")
        for _ in range(slots.total):
            slots.take()
        await js.publish(SUBJECT, request())

        async def returned() -> bool:
            return bool((await consumer()).delivered.consumer_seq >= 2)

        await until(returned, "the request was given back once")
        other = Puller(ready_broker, streams.SESSIONS, streams.CONSUMER)
        await other.start()
        message = await soon(other.next(1, 3600), 10)
        assert message is not None
        assert message.subject == SUBJECT
        await other.stop()
        await end_tasks([claiming])
