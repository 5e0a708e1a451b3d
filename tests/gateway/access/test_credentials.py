"""Where real clients put their secrets."""

from __future__ import annotations

import pytest

from gateway.access import Credentials, credentials

KEY = "nj_0123abcd_x-Y_z"


@pytest.mark.parametrize(
    ("header", "offered", "query", "door", "expected"),
    [
        # Python SDK: a key; access_token.
        (f"Token {KEY}", [], {}, "deepgram", (KEY, None)),
        ("bearer a.b.c", [], {}, "deepgram", ("a.b.c", None)),
        ("TOKEN   x", [], {}, "deepgram", ("x", None)),
        # JS SDK 5 in a browser; the user's own protocols come first.
        ("", ["token", KEY, "x-deepgram-session-id", "u"], {}, "deepgram", (KEY, "token")),
        ("", ["bearer", "a.b.c", "x-deepgram-session-id", "u"], {}, "deepgram",
         ("a.b.c", "bearer")),
        ("", ["mine", "token", KEY], {}, "deepgram", (KEY, "token")),
        ("", ["token"], {}, "deepgram", (None, "token")),
        ("", ["mine"], {}, "deepgram", (None, "mine")),
        # A header counts more, and the offer is answered still.
        (f"Token {KEY}", ["mine", "other"], {}, "deepgram", (KEY, "mine")),
        # OpenAI in a browser.
        ("", ["realtime", f"openai-insecure-api-key.{KEY}", "openai-beta.realtime-v1"], {},
         "openai", (KEY, "realtime")),
        ("", [f"openai-insecure-api-key.{KEY}", "realtime"], {}, "openai", (KEY, "realtime")),
        ("", ["openai-insecure-api-key."], {}, "openai", (None, None)),
        # Speechmatics' JS client; EventSource; other doors take no secret from the query.
        ("", [], {"jwt": KEY}, "speechmatics", (KEY, None)),
        ("", [], {"jwt": ""}, "speechmatics", (None, None)),
        ("", [], {"token": "a.b.c"}, "api", ("a.b.c", None)),
        ("", [], {"token": KEY, "jwt": KEY}, "deepgram", (None, None)),
        (f"Bearer {KEY}", [], {"jwt": "other"}, "speechmatics", (KEY, None)),
        # Nothing, or not a scheme of ours.
        ("", [], {}, "deepgram", (None, None)),
        ("Basic dTpw", [], {}, "deepgram", (None, None)),
        ("Token", [], {}, "deepgram", (None, None)),
        ("Token ", [], {}, "deepgram", (None, None)),
    ],
)  # fmt: skip
def test_the_secret_and_the_subprotocol_to_name(
    header: str,
    offered: list[str],
    query: dict[str, str],
    door: str,
    expected: tuple[str | None, str | None],
) -> None:
    found = credentials({"Authorization": header} if header else {}, query, offered, door)
    assert found == Credentials(*expected)
