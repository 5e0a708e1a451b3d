"""The judgment of rights: all that an agent needs, and nothing more."""

from __future__ import annotations

from typing import Any

import pytest

from edge_capture.check.access import TOO_MUCH, excess, rights
from natterjack.broker.roles import User
from natterjack.doctor.finding import Finding

KEYS = [("acme", "s")]


def permissions(user: User) -> dict[str, Any]:
    """As the server tells them of a user that `natterjack users` has made."""
    config = user.permissions().config()
    return {way: config.get(way) for way in ("publish", "subscribe")}


def judged(user: User, *keys: tuple[str, str]) -> list[Finding]:
    return rights(permissions(user), "e", keys or KEYS, user.inbox_prefix, user.id)


@pytest.mark.parametrize("speaker", [None, "s"])
def test_an_edge_has_what_it_needs_and_nothing_more(speaker: str | None) -> None:
    (finding,) = judged(User("edge", name="e", tenant="acme", speaker=speaker))
    assert (finding.state, finding.cure) == ("ok", "")
    assert finding.found == "edge_acme_e may do what an agent needs, and nothing more"


@pytest.mark.parametrize(
    ("user", "keys"),
    [
        (User("edge", name="e", tenant="other"), KEYS),
        (User("edge", name="e", tenant="acme", speaker="t"), KEYS),
        (User("edge", name="e", tenant="acme", speaker="s"), [*KEYS, ("acme", "t")]),
        (User("subscriber", name="r", tenant="acme"), KEYS),
        (User("monitor"), KEYS),
    ],
    ids=lambda value: getattr(value, "id", None),
)
def test_a_user_that_may_not_publish_fails(user: User, keys: list[tuple[str, str]]) -> None:
    finding = judged(user, *keys)[0]
    assert finding.state == "failed"
    assert "may not open sessions as acme.*." in finding.found
    assert "publish audio as acme.*." in finding.found
    assert "natterjack users add edge" in finding.cure


def test_an_enrolled_edge_may_renew_its_own_credentials_alone() -> None:
    user = User("edge", name="e", tenant="acme")
    given = permissions(user)
    given["publish"]["allow"].append("stt.renew.UCAQCW")
    assert [each.state for each in rights(given, "e", KEYS, user.inbox_prefix, user.id)] == ["ok"]
    given["publish"]["allow"].append("stt.renew.*")
    assert excess(given, "e", ["acme"], user.inbox_prefix) == ["publish stt.renew.*"]


def test_replies_need_the_inbox_of_the_settings() -> None:
    user = User("edge", name="e", tenant="acme")
    (finding, *_) = rights(permissions(user), "e", KEYS, "_INBOX", user.id)
    assert finding.state == "failed"
    assert "receive replies on _INBOX.> (NATS_INBOX_PREFIX)" in finding.found


def test_what_an_agent_can_do_without_is_a_warning() -> None:
    """A user that an earlier release has made."""
    user = User("edge", name="e", tenant="acme")
    given = permissions(user)
    for way in given.values():
        way["allow"] = [s for s in way["allow"] if not s.startswith(("stt.hold", "stt.edge"))]
    (finding,) = rights(given, "e", KEYS, user.inbox_prefix, user.id)
    assert finding.state == "warning"
    missing = ("notice another agent on its key", "be steered from the center")
    assert finding.found == "edge_acme_e may not " + ", ".join(f"{w} as acme.*.s" for w in missing)
    assert "users config" in finding.cure


def test_a_user_without_permissions_may_do_too_much() -> None:
    needed, more = rights(None, "e", KEYS, "_INBOX", "anybody")
    assert (needed.state, more.state) == ("ok", "warning")
    assert "read the transcripts of all tenants" in more.found
    assert "and 4 more" in more.found
    assert excess(None, "e", ["acme"], "_INBOX") == list(TOO_MUCH)


@pytest.mark.parametrize(
    ("user", "name"),
    [
        (User("worker"), "claim sessions"),
        (User("gateway"), "open sessions for all tenants"),
        (User("subscriber", name="r"), "read the transcripts of all tenants"),
        (User("operator"), "change and delete streams"),
    ],
    ids=lambda value: getattr(value, "id", None),
)
def test_the_rights_of_other_roles_are_named(user: User, name: str) -> None:
    assert name in excess(permissions(user), "e", ["acme"], user.inbox_prefix)


def test_the_right_to_captions_is_not_too_much() -> None:
    user = User("edge", name="e", tenant="acme", captions=True)
    assert excess(permissions(user), "e", ["acme"], user.inbox_prefix) == []


def test_another_tenants_subject_is_named() -> None:
    user = User("edge", name="e", tenant="acme")
    given = permissions(user)
    given["subscribe"]["allow"].append("stt.transcript.other.>")
    assert excess(given, "e", ["acme"], user.inbox_prefix) == ["subscribe stt.transcript.other.>"]
    given["subscribe"]["deny"] = ["stt.transcript.other.>"]
    assert excess(given, "e", ["acme"], user.inbox_prefix) == []
    assert excess(permissions(user), "e", ["acme", "other"], user.inbox_prefix) == []
    assert "publish stt.audio.acme.*.*" in excess(
        permissions(user), "e", ["other"], user.inbox_prefix
    )


def test_the_right_to_captions_is_no_excess() -> None:
    (finding,) = judged(User("edge", name="e", tenant="acme", captions=True))
    assert finding.state == "ok"


def test_a_user_of_another_agent_cannot_report_to_the_center() -> None:
    finding, more = judged(User("edge", name="x", agent="other", tenant="acme"))
    assert (finding.state, more.state) == ("warning", "warning")
    assert "report to the center" in finding.found
    assert "be steered from the center" in finding.found
    assert "subscribe stt.edge.acme.other" in more.found
