from __future__ import annotations

from datetime import datetime

import pytest

from edge_capture.config.naming import Template

AT = datetime(2026, 3, 7, 9, 5, 8)


def template(text: str, agent: str = "hall") -> Template:
    return Template(text, agent=agent, host="pc-7", source="table")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("room-12-%Y%m%d-%H", "room-12-20260307-09"),
        ("{agent}_{source}_{host}", "hall_table_pc-7"),
        ("{source}-{time}", "table-20260307-090508"),
        ("w%G-%V-%u", "w2026-10-6"),
        ("d%j%y%M%S", "d066260508"),
        ("fixed", "fixed"),
    ],
)
def test_a_name_has_the_time_and_the_names(text: str, name: str) -> None:
    made = template(text)
    assert made.render(AT) == name
    assert made.matches(name)
    assert not made.matches(name + "x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("room 12", "' ' cannot be part"),
        ("a.%H", "'.' cannot be part"),
        ("%A", "'%A' is not possible"),
        ("100%", "'%' is not possible"),
        ("{room}", "{room} is not a placeholder; use {agent}"),
        ("a{b", "'{' cannot be part"),
        ("", "0 characters"),
        ("x" * 58 + "%Y%m%d", "have 66 characters"),
    ],
)
def test_a_template_that_makes_no_valid_name_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"possible|placeholder|part") as error:
        template(text)
    assert words in str(error.value)


def test_the_names_of_another_template_do_not_match() -> None:
    assert not template("a-%Y").matches("b-2026")
    assert not template("a-%Y").matches("a-26")
