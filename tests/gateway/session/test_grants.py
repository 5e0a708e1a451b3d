"""A client's session is made from the client's wishes and the grant of its key."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.access import Grant, Refused
from gateway.session import Opening
from gateway.session.opening import session_key, with_grant


def test_the_key_decides_on_providers_labels_and_limits() -> None:
    grant = Grant(
        "k", "acme", provider=("sherpa", "deepgram"), model="nova-3", language="de",
        keyterms=("Quux",), options={"punctuate": True, "numerals": True}, labels={"team": "a"},
        max_session_seconds=60,
    )  # fmt: skip
    opening = Opening(
        provider="speechmatics", model="nova-2", keyterms=("Frob", "Quux"),
        options={"numerals": False}, labels={"team": "b", "call": "1"}, max_seconds=600,
    )  # fmt: skip
    made = with_grant(grant, opening)
    assert made.provider == ("sherpa", "deepgram")
    assert (made.model, made.language) == ("nova-2", "de")
    assert made.keyterms == ("Frob", "Quux")
    assert made.options == {"punctuate": True, "numerals": False}
    assert made.labels == {"team": "a", "call": "1"}
    assert made.max_seconds == 60


def test_a_key_without_settings_leaves_all_to_the_client() -> None:
    opening = Opening(provider="speechmatics", model="m", keyterms=("a",), max_seconds=5)
    assert with_grant(Grant("k", "acme"), opening) == opening


def test_the_conversation_is_one_that_the_key_allows() -> None:
    grant = Grant("k", "acme", conversations=("call-*",))
    assert session_key(grant, Opening("call-1")).conversation == "call-1"
    with pytest.raises(Refused, match="may not use the conversation standup"):
        session_key(grant, Opening("standup"))
    assert session_key(grant, Opening()).conversation.startswith("call-")
    bound = Grant("k", "acme", conversation="standup")
    assert session_key(bound, Opening()) == ("acme", "standup", "speaker")


def test_a_client_that_comes_back_has_the_same_speaker() -> None:
    grant = Grant("k", "acme", conversations=("call-*",))
    first, second = (session_key(grant, Opening(rejoin="client 1")) for _ in range(2))
    assert first.speaker == second.speaker
    assert first.conversation != second.conversation, "it may have several sessions at once"
    assert session_key(grant, Opening(rejoin="client 2")).speaker != first.speaker
    assert session_key(replace(grant, key_id="l"), Opening(rejoin="client 1")).speaker != (
        first.speaker
    )
