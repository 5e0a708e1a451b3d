"""Exactly one agent gets a key, in every order of events: simulated agents, and no broker."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_capture.hold.contest import ANSWER_S, RETURN_S, Contest, Lost
from natterjack.hold import Hold
from natterjack.subjects import SessionKey
from tests.searching import examples

KEY, SECOND = SessionKey("acme", "room", "speaker"), SessionKey("acme", "room", "guest")
START = datetime(2026, 3, 1, 12, 31, 5, tzinfo=UTC)


def hold(name: str, publishing: bool = False, request: int | None = None, since: int = 0) -> Hold:
    return Hold(
        session_id=f"session-{name}",
        agent=name,
        since=START + timedelta(seconds=since),
        publishing=publishing,
        request_sequence=request,
    )


MINE = hold("mine", since=5)


@pytest.fixture
def contest() -> Contest:
    contest = Contest([KEY, SECOND])
    contest.asked(10.0)
    return contest


def test_nothing_is_granted_before_it_asks() -> None:
    contest = Contest([KEY])
    assert contest.due() is None
    contest.decide(1000.0)
    assert not contest.granted


def test_it_is_granted_at_once_if_nobody_listens(contest: Contest) -> None:
    contest.nobody(KEY)
    contest.decide(10.0)
    assert not contest.granted, "somebody may have the other key"
    contest.nobody(SECOND)
    contest.decide(10.0)
    assert contest.granted
    assert contest.due() is None


def test_it_is_granted_when_nobody_answers_in_time(contest: Contest) -> None:
    contest.nobody(KEY)
    assert contest.due() == 10.0 + ANSWER_S
    contest.decide(10.0 + ANSWER_S - 0.01)
    assert not contest.granted
    contest.decide(10.0 + ANSWER_S)
    assert contest.granted


@pytest.mark.parametrize("key", [KEY, SECOND])
def test_one_taken_key_is_enough(contest: Contest, key: SessionKey) -> None:
    contest.nobody(KEY if key == SECOND else SECOND)
    other = hold("other", publishing=True, request=7, since=9)
    contest.heard(key, MINE, other)
    assert contest.lost == Lost(key, other, published=False)
    contest.decide(1000.0)
    assert not contest.granted


def test_an_agent_that_asks_later_changes_nothing(contest: Contest) -> None:
    contest.heard(KEY, MINE, hold("other", since=6))
    assert contest.lost is None
    contest.decide(10.0 + ANSWER_S)
    assert contest.granted


def test_a_granted_key_is_lost_only_to_an_agent_that_took_over(contest: Contest) -> None:
    contest.decide(10.0 + ANSWER_S)
    mine = hold("mine", publishing=True, request=7, since=5)
    contest.heard(KEY, mine, hold("asks", since=0))
    contest.heard(KEY, mine, hold("older", publishing=True, request=6, since=0))
    assert contest.lost is None
    newer = hold("newer", publishing=True, request=8, since=9)
    contest.heard(KEY, mine, newer)
    assert contest.lost == Lost(KEY, newer, published=True)


def test_after_an_outage_it_waits_for_others_to_return(contest: Contest) -> None:
    contest.asked(20.0, outage=True)
    contest.nobody(KEY)
    contest.nobody(SECOND)
    contest.decide(20.0 + RETURN_S - 0.01)
    assert not contest.granted
    contest.decide(20.0 + RETURN_S)
    assert contest.granted


def test_answers_of_a_lost_connection_do_not_count(contest: Contest) -> None:
    contest.nobody(KEY)
    contest.disconnected()
    contest.decide(1000.0)
    assert not contest.granted
    contest.asked(1000.0)
    contest.nobody(SECOND)
    contest.decide(1000.0)
    assert not contest.granted


def test_without_permission_it_is_granted_at_once(contest: Contest) -> None:
    contest.asked(20.0, outage=True)
    contest.not_allowed()
    contest.decide(20.0)
    assert contest.granted


def test_words() -> None:
    now = datetime(2026, 3, 1, 13, 0, tzinfo=UTC)
    other = hold("pi-7", publishing=True)
    assert Lost(KEY, other, published=False).describe(now) == (
        "acme.room.speaker is being captured by agent pi-7 since 12:31:05 (session session-pi-7); "
        "stop it, or choose another speaker or conversation"
    )
    took_over = Lost(KEY, other, published=True).describe(now + timedelta(days=1))
    assert "pi-7 since 2026-03-01 12:31:05 (session session-pi-7), which took over" in took_over


# ---- simulated agents ----------------------------------------------------------------------------


class SimulatedAgent:
    """An agent with what has arrived and what it has not read yet."""

    def __init__(self, number: int, clock_error: int) -> None:
        self.name = f"agent{number}"
        self.contest = Contest([KEY])
        self.since = clock_error
        self.listens = self.frozen = False
        self.request: int | None = None
        self.arrived: deque[tuple[Hold, SimulatedAgent | None] | None] = deque()
        """Messages of others with the agent to answer, or None: nobody else listens."""

    @property
    def here(self) -> bool:
        return self.listens and self.contest.lost is None

    def says(self) -> Hold:
        return hold(self.name, self.contest.granted, self.request, self.since)


class Room:
    """Agents on one key. Messages arrive at once, and are read when an agent gets round to it.

    `agrees` is false for a cluster in which agents do not always see that the others listen.
    """

    def __init__(self, clock_errors: list[int]) -> None:
        self.agents = [SimulatedAgent(n, error) for n, error in enumerate(clock_errors)]
        self.now = 0.0
        self.requests = 0
        self.granted: list[SimulatedAgent] = []

    def ask(self, agent: SimulatedAgent, *, sees_others: bool = True) -> None:
        agent.listens = True
        agent.contest.asked(self.now)
        others = [each for each in self.agents if each is not agent and each.here]
        if not others or not sees_others:
            agent.arrived.append(None)
            return
        for other in others:
            other.arrived.append((agent.says(), agent))

    def read(self, agent: SimulatedAgent) -> None:
        while agent.arrived and not agent.frozen and agent.contest.lost is None:
            message = agent.arrived.popleft()
            if message is None:
                agent.contest.nobody(KEY)
                continue
            other, asks = message
            if asks is not None:
                asks.arrived.append((agent.says(), None))
            agent.contest.heard(KEY, agent.says(), other)

    def decide(self, agent: SimulatedAgent) -> None:
        if agent.frozen or not agent.listens:
            return
        self.read(agent)  # as the program does before it decides
        before = agent.contest.granted
        agent.contest.decide(self.now)
        if agent.contest.granted and not before:
            self.granted.append(agent)

    def open(self, agent: SimulatedAgent) -> None:
        if agent.contest.granted and agent.contest.lost is None and not agent.frozen:
            self.requests += 1
            agent.request = self.requests

    def settle(self) -> list[SimulatedAgent]:
        """Let all agents do what they are about to; return those that have not given up."""
        for agent in self.agents:
            agent.frozen = False
        for _ in range(2 * len(self.agents) + 2):
            for agent in self.agents:
                if agent.here:
                    self.ask(agent)
            for _ in range(2):
                for agent in self.agents:
                    self.read(agent)
            self.now += ANSWER_S
            for agent in self.agents:
                self.decide(agent)
            for agent in self.agents:
                self.open(agent)
        return [agent for agent in self.agents if agent.here]


AGENTS = st.integers(0, 2)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask unseen", "read", "decide", "wait", "open", "freeze", "thaw"]),
        AGENTS,
    ),
    max_size=40,
)
CLOCKS = st.lists(st.integers(-100, 100), min_size=3, max_size=3)


@examples(500)
@given(EVENTS, CLOCKS)
def test_in_every_order_exactly_one_agent_is_left(
    events: list[tuple[str, int]], clocks: list[int]
) -> None:
    """Agents start, freeze for any time, or overlook each other. They never give up all."""
    room = Room(clocks)
    for event, number in events:
        agent = room.agents[number]
        if event in ("ask", "ask unseen"):
            if not agent.frozen and agent.contest.lost is None:
                room.ask(agent, sees_others=event == "ask")
        elif event == "wait":
            room.now += ANSWER_S
        elif event in ("freeze", "thaw"):
            agent.frozen = event == "freeze"
        else:
            {"read": room.read, "decide": room.decide, "open": room.open}[event](agent)
        started = any(each.listens for each in room.agents)
        assert not started or any(each.here for each in room.agents)
    left = room.settle()
    assert len(left) == any(each.listens for each in room.agents)
    assert all(agent.contest.granted for agent in left)


@examples(500)
@given(
    st.lists(st.tuples(st.sampled_from(["ask", "read", "decide", "open"]), AGENTS), max_size=40),
    CLOCKS,
)
def test_an_agent_that_answers_in_time_keeps_its_key(
    events: list[tuple[str, int]], clocks: list[int]
) -> None:
    """It keeps the key whatever its clock says, and however often the others try."""
    room = Room(clocks)
    for event, number in events:
        agent = room.agents[number]
        if event != "ask":
            {"read": room.read, "decide": room.decide, "open": room.open}[event](agent)
        elif agent.contest.lost is None:
            room.ask(agent)
    room.settle()
    assert len(room.granted) <= 1
    assert all(agent.here for agent in room.granted)


@pytest.mark.parametrize("clocks", [[0, 0], [0, 60], [60, 0]])
def test_who_took_over_from_a_frozen_agent_keeps_the_key(clocks: list[int]) -> None:
    room = Room(clocks)
    first, second = room.agents
    room.ask(first)
    room.decide(first)
    room.open(first)
    first.frozen = True
    room.ask(second)
    room.now += ANSWER_S
    room.decide(second)
    room.open(second)
    assert room.settle() == [second]
    assert first.contest.lost is not None
    assert first.contest.lost.published
