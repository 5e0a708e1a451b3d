"""Judgments of `natterjack doctor`: versions, rights, clocks, space, and the table."""

from __future__ import annotations

import asyncio
import re

import pytest

from natterjack.broker.roles import User
from natterjack.doctor.finding import examined, failed, ok, one_line, skipped, warning
from natterjack.doctor.installation import judged_clock
from natterjack.doctor.machine import judged_space
from natterjack.doctor.report import lines
from natterjack.doctor.rights import covers, judged, sentence
from natterjack.doctor.versions import Extra, extras, parse, satisfies
from natterjack.errors import BrokerError


@pytest.mark.parametrize(
    ("version", "specifier", "holds"),
    [
        ("3.11.2", ">=3.11,<3.15", True),
        ("3.15.0", "<3.15,>=3.11", False),
        ("3.9", ">=3.11", False),
        ("2.0", "==2.0.0", True),
        ("2.0.1", "==2.0", False),
        ("0.5.9", "!=0.5.9", False),
        ("1.4.2", "~=1.4", True),
        ("2.0", "~=1.4", False),
        ("1.0rc1", ">=1.0", True),
        ("anything", ">=1.0", True),
        ("1.0", "", True),
    ],
)
def test_versions(version: str, specifier: str, holds: bool) -> None:
    assert satisfies(version, specifier) is holds


def test_requirements_of_metadata() -> None:
    assert parse("aiohttp<3.15,>=3.11; extra == 'worker'") == ("aiohttp", "<3.15,>=3.11", "worker")
    assert parse('natterjack[worker]; extra == "gateway"') == ("natterjack", "", "gateway")
    uvloop = "uvloop<1,>=0.19; platform_system != 'Windows' and extra == 'edge'"
    assert parse(uvloop) == ("uvloop", "<1,>=0.19", "edge")


def test_extras_that_are_missing_or_wrong() -> None:
    versions = {"pydantic": "2.9", "aiohttp": "3.9"}
    needs = ["pydantic>=2", "aiohttp>=3.11; extra == 'worker'", "numpy>=1; extra == 'edge'"]
    assert extras(needs, versions.get) == {
        "": Extra((), ()),
        "worker": Extra((), ("aiohttp 3.9 (>=3.11 is needed)",)),
        "edge": Extra(("numpy",), ()),
    }


@pytest.mark.parametrize(
    ("pattern", "subject", "holds"),
    [
        ("stt.>", "stt.audio.>", True),
        ("stt.audio.>", "stt.>", False),
        ("stt.*.a", "stt.audio.a", True),
        ("stt.*", "stt.audio.a", False),
        ("stt.audio.a", "stt.audio.a", True),
        ("stt.audio.a.>", "stt.audio.>", False),
        (">", "x", True),
    ],
)
def test_patterns(pattern: str, subject: str, holds: bool) -> None:
    assert covers(pattern, subject) is holds


@pytest.mark.parametrize(
    ("user", "may", "some"),
    [
        (User("edge", name="e", tenant="acme"), set(), {"open sessions", "publish audio"}),
        (User("worker"), {"claim sessions", "publish transcripts"}, set()),
        (User("operator"), {"change streams"}, set()),
    ],
)
def test_rights_of_roles(user: User, may: set[str], some: set[str]) -> None:
    found = judged(user.permissions().config())
    assert may <= {action for action, how in found.items() if how == "all"}
    assert some <= {action for action, how in found.items() if how == "some"}
    assert "none" in found.values()


def test_rights_in_words() -> None:
    assert sentence(None) == sentence({}) == "everything"
    assert sentence({"publish": {"deny": [">"]}, "subscribe": {"deny": [">"]}}) == (
        "nothing of natterjack"
    )
    confined = {"publish": {"deny": [">"]}, "subscribe": {"allow": ["stt.transcript.acme.> q"]}}
    assert sentence(confined) == "read transcripts (some)"


def test_a_clock_and_what_the_measurement_may_be_off() -> None:
    assert judged_clock(0.02, 0.01).state == "ok"
    assert "20 ms ahead" in judged_clock(0.02, 0.01).found
    assert judged_clock(-3, 0.01).state == "warning"
    assert "behind" in judged_clock(-3, 0.01).found
    assert judged_clock(1.5, 1.0).state == "ok"  # a slow network


def test_space() -> None:
    states = [judged_space("disk", "/tmp", free).state for free in (2**40, 2**29, 2**20)]
    assert states == ["ok", "warning", "failed"]


async def test_errors_and_timeouts_are_findings() -> None:
    async def ours() -> None:
        raise BrokerError("no\x1b[31m\nway")

    async def defect() -> None:
        raise ZeroDivisionError("what")

    async def hangs() -> None:
        await asyncio.Event().wait()

    found = [
        (await examined(("x", check), 0.05))[0]  # type: ignore[arg-type]
        for check in (ours, defect, hangs)
    ]
    assert [finding.state for finding in found] == ["failed"] * 3
    assert re.fullmatch(r"no.* way", found[0].found)
    assert "\x1b" not in found[0].found
    assert "defect" in found[1].cure
    assert "within 0.05 s" in found[2].found


def test_the_table_has_each_cure_below_its_finding() -> None:
    shown = lines([ok("a", "fine"), failed("b", "broken", "mend it"), skipped("c", "why")])
    assert shown == [
        "ok       a  fine",
        "FAILED   b  broken",
        "            -> mend it",
        "skipped  c  why",
        "",
        "1 of 3 checks failed",
    ]
    assert lines([warning("a", "hm", "")])[-1] == "nothing failed, 1 with a warning"
    assert len(one_line("x" * 1000)) < 310
