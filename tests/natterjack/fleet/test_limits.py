"""Limits of provider accounts: the entries of the bucket."""

from __future__ import annotations

import pytest

from natterjack.errors import UsageError
from natterjack.fleet.limits import AccountLimit, limit_key, parse_account_limit


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ('{"connections": 50}', AccountLimit(connections=50)),
        ('{"dials_per_second": 5}', AccountLimit(dials_per_second=5)),
        ("{}", AccountLimit()),
        (
            '{"connections": 50, "dials_per_second": null}',
            AccountLimit(connections=50, dials_per_second=None),
        ),
    ],
)
def test_entries(text: str, limit: AccountLimit) -> None:
    assert parse_account_limit(text) == limit


@pytest.mark.parametrize(
    "text", ["", "50", "[]", '{"connections": 0}', '{"connections": "5"}', '{"connection": 5}']
)
def test_invalid_entries_show_the_correct_form(text: str) -> None:
    with pytest.raises(UsageError, match=r'a limit looks like \{"connections": 50'):
        parse_account_limit(text)


def test_key() -> None:
    assert limit_key("deepgram") == "account.deepgram"
