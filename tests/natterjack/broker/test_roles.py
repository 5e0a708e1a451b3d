"""Permissions of broker users, without a broker."""

from __future__ import annotations

from typing import Any

import pytest

from natterjack.broker import streams
from natterjack.broker.differences import overlap
from natterjack.broker.login.permissions import Permissions
from natterjack.broker.roles import ROLES, Role, User
from natterjack.errors import UsageError

EDGE = User("edge", name="desk", tenant="acme")
EVERYBODY = (
    EDGE,
    User("worker"),
    User("gateway"),
    User("subscriber", name="crm", tenant="acme"),
    User("application", name="bot", tenant="acme"),
    User("registrar"),
    User("monitor"),
    User("operator"),
)


def allows(filters: tuple[str, ...], subject: str) -> bool:
    return any(overlap(one, subject) for one in filters)


@pytest.mark.parametrize(
    ("role", "values", "message"),
    [
        ("edge", {"name": "desk"}, "needs --tenant and --name"),
        ("edge", {"tenant": "acme"}, "needs --tenant and --name"),
        ("edge", {"name": "desk", "tenant": "a.b"}, "tenant"),
        ("subscriber", {}, "needs --name"),
        ("worker", {"tenant": "acme"}, "a worker has no tenant"),
        ("gateway", {"tenant": "acme"}, "a gateway has no tenant"),
        ("registrar", {"tenant": "acme"}, "a registrar has no tenant"),
        ("worker", {"speaker": "s"}, "--speaker is for edges"),
        ("worker", {"agent": "desk"}, "--agent is for edges"),
        ("edge", {"name": "desk", "tenant": "acme", "agent": "*"}, "agent"),
        ("application", {"tenant": "acme"}, "an application needs --name"),
        ("monitor", {"control": True}, "--control is for subscribers and applications"),
        ("edge", {"name": "desk", "tenant": "acme", "live": True}, "--live is for subscribers"),
        ("subscriber", {"name": "crm", "captions": True}, "--captions is for edges"),
        ("application", {"name": "bot", "live": True}, "--live is for subscribers"),
        ("application", {"name": "bot", "durable": "x"}, "--durable is for subscribers"),
        ("worker", {"kinds": ("final",)}, "--kinds is for subscribers"),
        ("subscriber", {"name": "crm", "durable": "a.b"}, "durable"),
        ("subscriber", {"name": "crm", "durable": "x", "live": True}, "--live forbids"),
        ("subscriber", {"name": "crm", "conversation": "c"}, "--conversation needs --tenant"),
        ("subscriber", {"name": "crm", "kinds": ("finals",)}, "'finals' is none of interim, final"),
    ],
)
def test_impossible_combinations(role: Role, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        User(role, **values)


def test_every_role_has_a_user_here() -> None:
    assert {user.role for user in EVERYBODY} == set(ROLES)


@pytest.mark.parametrize("agent", [None, "room-12"])
def test_an_edge_reports_and_is_steered_under_its_own_name_alone(agent: str | None) -> None:
    user = User("edge", name="desk", tenant="acme", agent=agent)
    publish, subscribe = user.permissions().publish, user.permissions().subscribe
    own, entry = f"acme.{agent or 'desk'}", "$KV.stt_edges"
    assert [one for one in publish if entry in one] == [
        f"{entry}.{own}", f"$JS.API.DIRECT.GET.KV_stt_edges.{entry}.{own}",
    ]  # fmt: skip
    assert [one for one in subscribe if one.startswith("stt.edge.")] == [f"stt.edge.{own}"]
    assert not allows(publish, f"stt.edge.{own}")
    assert not allows(subscribe, f"{entry}.{own}")


def test_operators_alone_steer_edges() -> None:
    steering = [
        user.role for user in EVERYBODY if allows(user.permissions().publish, "stt.edge.a.b")
    ]
    assert steering == ["operator"]


def test_inboxes_are_private() -> None:
    prefixes = [user.inbox_prefix for user in EVERYBODY]
    assert len(set(prefixes)) == len(prefixes)
    for user in EVERYBODY:
        for other in EVERYBODY:
            reply = f"{other.inbox_prefix}.reply"
            assert allows(user.permissions().subscribe, reply) == (user is other)


def test_an_edge_is_confined_to_its_tenant_and_speaker() -> None:
    permissions = EDGE.permissions()
    for prefix in ("stt.session", "stt.audio"):
        assert allows(permissions.publish, f"{prefix}.acme.call.agent")
        assert not allows(permissions.publish, f"{prefix}.other.call.agent")
        assert not allows(permissions.subscribe, f"{prefix}.acme.call.agent")
    for filters in (permissions.publish, permissions.subscribe):
        for hold in ("stt.hold", "tts.hold"):
            assert allows(filters, f"{hold}.acme.call.agent")
            assert not allows(filters, f"{hold}.other.call.agent")
    assert permissions.responds
    assert allows(permissions.subscribe, "stt.transcript.acme.call.agent.status")
    assert not allows(permissions.subscribe, "stt.transcript.acme.call.agent.final")
    confined = User("edge", name="desk", tenant="acme", speaker="agent").permissions()
    assert allows(confined.publish, "stt.audio.acme.call.agent")
    assert not allows(confined.publish, "stt.audio.acme.call.customer")
    assert not allows(confined.subscribe, "stt.hold.acme.call.customer")


def test_an_edge_with_captions_hears_the_text_of_its_own_sessions() -> None:
    plain = User("edge", name="desk", tenant="acme", speaker="agent").permissions()
    captions = User(
        "edge", name="desk", tenant="acme", speaker="agent", captions=True
    ).permissions()
    assert captions.publish == plain.publish, "it may not read stored text"
    assert set(captions.subscribe) - set(plain.subscribe) == {
        "stt.transcript.acme.*.agent.interim", "stt.transcript.acme.*.agent.final",
    }  # fmt: skip


def test_a_subscriber_of_a_tenant_reads_its_transcripts_only() -> None:
    plain = User("subscriber", name="crm", tenant="acme").permissions()
    assert allows(plain.subscribe, "stt.transcript.acme.c.s.final")
    assert not allows(plain.subscribe, "stt.transcript.other.c.s.final")
    assert not allows(plain.publish, "stt.control.acme.c.s")
    control = User("subscriber", name="crm", tenant="acme", control=True).permissions()
    assert allows(control.publish, "stt.control.acme.c.s")
    assert not allows(control.publish, "stt.control.other.c.s")
    everything = User("subscriber", name="crm").permissions()
    assert allows(everything.subscribe, "stt.transcript.other.c.s.final")


def may_publish(permissions: Permissions, subject: str) -> bool:
    return allows(permissions.publish, subject) and not allows(permissions.denied, subject)


def test_a_subscriber_may_be_confined_to_a_conversation_and_to_kinds_of_event() -> None:
    confined = User(
        "subscriber", name="crm", tenant="acme", conversation="call", kinds=("final", "interim")
    ).permissions()
    create = "$JS.API.CONSUMER.CREATE.STT_TRANSCRIPTS.x.stt.transcript"
    assert allows(confined.subscribe, "stt.transcript.acme.call.s.interim")
    assert may_publish(confined, f"{create}.acme.call.s.final")
    for place in ("acme.other.s.final", "other.call.s.final", "acme.call.s.turn"):
        assert not allows(confined.subscribe, f"stt.transcript.{place}")
        assert not may_publish(confined, f"{create}.{place}")
    assert not any("tts" in subject for subject in (*confined.publish, *confined.subscribe))
    wide = User("subscriber", name="crm", tenant="acme", conversation="call").permissions()
    assert allows(wide.subscribe, "tts.event.acme.call.s.utterance")
    assert not allows(wide.subscribe, "tts.event.acme.other.s.utterance")


def test_a_durable_consumer_is_its_users_alone() -> None:
    one = User("subscriber", name="crm", tenant="acme", durable="crm")
    other = User("subscriber", name="index", durable="index")
    app = User("application", name="bot")
    for user in (one, other, app):
        permissions = user.permissions(["crm", "index"])
        for name in ("crm", "index"):
            mine = user.durable == name
            for subject in (
                f"$JS.API.CONSUMER.CREATE.STT_TRANSCRIPTS.{name}.stt.transcript.acme.*.*.*",
                f"$JS.API.CONSUMER.INFO.STT_TRANSCRIPTS.{name}",
                f"$JS.API.CONSUMER.MSG.NEXT.STT_TRANSCRIPTS.{name}",
                f"$JS.ACK.STT_TRANSCRIPTS.{name}.1.1.1.1.1",
                f"$KV.stt_durables.{name}.0",
                f"stt.dead.acme.c.s.{name}",
                f"stt.durable.{name}",
            ):
                assert may_publish(permissions, subject) == mine, (user.id, subject)
        assert may_publish(permissions, "$JS.API.CONSUMER.MSG.NEXT.STT_TRANSCRIPTS.random")
    crm = one.permissions()
    assert not may_publish(crm, "stt.dead.other.c.s.crm")
    assert not may_publish(crm, "stt.transcript.acme.c.s.final")
    assert not may_publish(User("subscriber", name="x").permissions(), "stt.dead.acme.c.s.crm")


def test_only_who_reads_all_tenants_may_list_their_subjects() -> None:
    request = "$JS.API.STREAM.INFO.STT_TRANSCRIPTS"
    assert may_publish(User("subscriber", name="crm").permissions(), request)
    assert not may_publish(User("subscriber", name="crm", tenant="acme").permissions(), request)


def test_an_edge_plays_the_speech_of_its_tenant() -> None:
    confined = User("edge", name="desk", tenant="acme", speaker="bot").permissions()
    for permissions, other in ((EDGE.permissions(), "other.call.bot"), (confined, "acme.call.x")):
        for subject in ("tts.audio.{}", "tts.event.{}.status"):
            assert allows(permissions.subscribe, subject.format("acme.call.bot"))
            assert not allows(permissions.subscribe, subject.format(other))
        for subject in ("tts.played.{}", "$JS.API.DIRECT.GET.TTS_AUDIO.tts.audio.{}"):
            assert allows(permissions.publish, subject.format("acme.call.bot"))
            assert not allows(permissions.publish, subject.format(other))
        assert not allows(permissions.publish, "$JS.API.DIRECT.GET.TTS_AUDIO")
        assert not allows(permissions.publish, "tts.text.acme.call.bot")
        assert not allows(permissions.subscribe, "tts.event.acme.call.bot.utterance")


def test_an_application_speaks_in_its_tenant_and_reads_its_events() -> None:
    application = User("application", name="bot", tenant="acme").permissions()
    everywhere = User("application", name="bot").permissions()
    for subject in (
        "tts.session.{}", "tts.text.{}", "tts.control.{}",
        "$JS.API.CONSUMER.CREATE.TTS_EVENTS.x.tts.event.{}.*",
        "$JS.API.CONSUMER.CREATE.STT_TRANSCRIPTS.x.stt.transcript.{}.*",
    ):  # fmt: skip
        assert allows(application.publish, subject.format("acme.call.bot"))
        assert not allows(application.publish, subject.format("other.call.bot"))
        assert allows(everywhere.publish, subject.format("other.call.bot"))
    for subject in ("stt.control.acme.c.s", "tts.audio.acme.c.s", "tts.played.acme.c.s",
                    "stt.audio.acme.c.s", "tts.event.acme.c.s.status"):  # fmt: skip
        assert not allows(application.publish, subject)
    for subject in ("tts.event.{}.utterance", "stt.transcript.{}.final"):
        assert allows(application.subscribe, subject.format("acme.call.bot"))
        assert not allows(application.subscribe, subject.format("other.call.bot"))
    assert not allows(application.subscribe, "tts.text.acme.call.bot")
    control = User("application", name="bot", tenant="acme", control=True).permissions()
    assert allows(control.publish, "stt.control.acme.c.s")


def test_a_gateway_does_what_its_clients_ask_and_writes_no_transcripts() -> None:
    gateway = User("gateway").permissions(["crm"])
    assert gateway.responds
    for tenant in ("acme", "other"):
        key = f"{tenant}.call.agent"
        for subject in (f"stt.session.{key}", f"stt.audio.{key}", f"stt.control.{key}",
                        f"tts.session.{key}", f"tts.text.{key}", f"tts.played.{key}"):  # fmt: skip
            assert may_publish(gateway, subject)
        for subject in (f"stt.transcript.{key}.final", f"tts.event.{key}.status",
                        f"tts.audio.{key}"):  # fmt: skip
            assert not may_publish(gateway, subject)
            assert allows(gateway.subscribe, subject)
        assert not allows(gateway.subscribe, f"stt.audio.{key}")
    for subject in (
        "$JS.API.STREAM.DELETE.STT_AUDIO", "$JS.API.CONSUMER.CREATE.STT_AUDIO.x.stt.audio.>",
        "$JS.API.CONSUMER.MSG.NEXT.STT_SESSIONS.workers",
        "$JS.API.CONSUMER.MSG.NEXT.STT_TRANSCRIPTS.crm",
        streams.bucket_subject(streams.BUDGETS_BUCKET, "x"),
        streams.bucket_subject(streams.WORKERS_BUCKET, "x"),
    ):  # fmt: skip
        assert not may_publish(gateway, subject), subject


def test_a_live_subscriber_publishes_nothing() -> None:
    live = User("subscriber", name="crm", live=True).permissions()
    assert live.publish == ()
    assert live.config()["publish"] == {"deny": [">"]}


def test_a_monitor_reads_no_transcripts_and_changes_nothing() -> None:
    permissions = User("monitor").permissions()
    assert not allows(permissions.subscribe, "stt.transcript.t.c.s.final")
    for subject in (
        "stt.session.t.c.s",
        "$JS.API.STREAM.DELETE.STT_AUDIO",
        f"$JS.API.DIRECT.GET.{streams.TRANSCRIPTS}",
        streams.bucket_subject(streams.BUDGETS_BUCKET, "x"),
    ):
        assert not allows(permissions.publish, subject)


def test_a_worker_may_not_change_streams_or_budgets() -> None:
    publish = User("worker").permissions().publish
    assert not allows(publish, "$JS.API.STREAM.UPDATE.STT_AUDIO")
    assert not allows(publish, streams.bucket_subject(streams.BUDGETS_BUCKET, "tenant.acme"))
    assert allows(publish, streams.bucket_subject(streams.USAGE_BUCKET, "all.acme"))


def test_configuration_of_the_server() -> None:
    worker = User("worker").permissions()
    assert worker.config()["allow_responses"] == {"max": 1, "expires": "1m"}
    plain = Permissions(("a",), ("b",)).config()
    assert plain == {"publish": {"allow": ["a"]}, "subscribe": {"allow": ["b"]}}
    denied = Permissions(("a.*",), ("b",), denied=("a.x",)).config()
    assert denied["publish"] == {"allow": ["a.*"], "deny": ["a.x"]}


def test_ids() -> None:
    assert EDGE.id == "edge_acme_desk"
    assert EDGE.inbox_prefix == "_INBOX_edge_acme_desk"
    assert User("worker").id == "worker"
