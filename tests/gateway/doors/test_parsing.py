"""JSON that a client should not send: what is taken can be passed on, and sent back."""

from __future__ import annotations

import json

import pytest

from gateway.doors.parsing import parsed

BAD = {
    "nothing": "",
    "half of a surrogate pair": '{"type": "\\ud800"}',
    "not a number": '{"type": NaN}',
    "without a bound": '{"type": Infinity}',
    "deep": "[" * 100_000,
    "deep, and closed": "[" * 1000 + "]" * 1000,
    "a number of many digits": "9" * 5000,
    "a rest": "{} {}",
}


@pytest.mark.parametrize("text", BAD.values(), ids=list(BAD))
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"line \d+ column \d+"):
        parsed(text)


def test_json_is_taken() -> None:
    content = {"type": "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), "n": 1.5}
    assert parsed(json.dumps(content)) == parsed(json.dumps(content).encode()) == content
