"""Which conversations a grant may use, and which it gives to clients that name none."""

from __future__ import annotations

import pytest

from gateway.access import Grant, Reason, Refused
from natterjack.subjects import check_token


@pytest.mark.parametrize(
    ("patterns", "conversation", "allowed"),
    [
        ((), "any", True),
        (("call-*",), "call-1", True),
        (("call-*",), "call-", True),
        (("call-*",), "xcall-1", False),
        (("a", "*-b"), "x-b", True),
        (("a", "*-b"), "a1", False),
        (("*",), "any", True),
        (("a**b",), "a-b", True),
    ],
)
def test_patterns(patterns: tuple[str, ...], conversation: str, allowed: bool) -> None:
    assert Grant("k", "t", conversations=patterns).may_use(conversation) is allowed


def test_a_pattern_of_many_stars_is_not_slow() -> None:
    assert not Grant("k", "t", conversations=("*a" * 32,)).may_use("a" * 20 + "b" * 44)


def test_a_token_is_bound_to_its_conversation_and_the_patterns_of_its_key() -> None:
    grant = Grant("k", "t", conversations=("a*",), conversation="b")
    assert not grant.may_use("b")
    with pytest.raises(Refused):
        grant.conversation_for()


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a.b", "*", ">", "", "x" * 65, "ü"])
def test_a_conversation_that_cannot_be_a_token_is_refused(name: str) -> None:
    with pytest.raises(Refused, match="is not valid") as caught:
        Grant("k", "t").conversation_for(name)
    assert caught.value.reason is Reason.CONVERSATION


def test_the_conversation_of_a_client_that_names_none() -> None:
    assert Grant("k", "t", conversation="standup").conversation_for() == "standup"
    assert Grant("k", "t", conversations=("standup",)).conversation_for() == "standup"
    made = Grant("k", "t", conversations=("x" * 60 + "*", "call-*-x")).conversation_for()
    assert made.startswith("call-")
    assert made.endswith("-x")
    one, other = (Grant("k", "t").conversation_for() for _ in range(2))
    assert one != other
    for name in (made, one):
        check_token("conversation", name)
