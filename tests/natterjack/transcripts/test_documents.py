"""Transcripts as text, Markdown and JSON."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import jsonschema
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from natterjack.transcripts.documents import escaped
from natterjack.transcripts.text import clean, join
from natterjack.transcripts.transcript import Transcript, schema
from natterjack.values import Gap
from tests.natterjack.transcripts.events import Session, words
from tests.natterjack.transcripts.test_builder import built
from tests.searching import examples

CALL = "call_7_"


def conversation() -> Transcript:
    """One with everything that a transcript may have."""
    agent = Session("session-a", conversation=CALL)
    caller = Session("session-c", "caller", begin=1, conversation=CALL)
    assistant = Session("session-v", "assistant", conversation=CALL)
    spoken = [*words(("Yes", 2, 3), speaker="S1"), *words(("no", 3, 3.5), speaker="S2")]
    return built(
        [
            agent.status("assigned"),
            agent.final("Good *morning*.", 1, 2, confidence=0.9, language="en"),
            caller.final("Yes no", 2, 3.5, words=spoken),
            assistant.utterance(0, "interrupted", 8, text_spoken="I am", text_remaining="here"),
            agent.closed(9, gaps=[Gap(start=5, end=6.5, cause="missing")]),
            caller.interim("Well", 9, 10),
        ]
    )


def test_text_has_a_line_for_each_line_and_gap() -> None:
    assert conversation().to_txt() == (
        "[0:00:01] agent: Good *morning*.\n"
        "[0:00:03] caller (S1): Yes\n"
        "[0:00:04] caller (S2): no\n"
        "[0:00:05] agent: [gap of 1.5 s: missing]\n"
        "[0:00:08] assistant: I am [interrupted]\n"
    )


def test_text_of_one_speaker_may_be_that_alone() -> None:
    alone = built([Session("session-a").final("Good morning.", 0, 1)])
    assert alone.to_txt(times=False) == "Good morning.\n"
    assert alone.to_txt(times=False, speakers=True) == "agent: Good morning.\n"


def test_markdown_has_a_heading_and_a_paragraph_for_each_line() -> None:
    assert conversation().to_md() == (
        "# call\\_7\\_\n\n"
        "2026-11-30 12:00:00 UTC, 0:00:08\n\n"
        "**0:00:01 agent:** Good \\*morning\\*.\n\n"
        "**0:00:03 caller (S1):** Yes\n\n"
        "**0:00:04 caller (S2):** no\n\n"
        "**0:00:05 agent:** *\\[gap of 1.5 s: missing\\]*\n\n"
        "**0:00:08 assistant:** I am *\\[interrupted\\]*\n"
    )


class _Text(HTMLParser):
    """The text of a page, and its elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags = "", set[str]()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@given(
    st.text(st.sampled_from("ab1 *_`[]()<>!&#|~\\$-+.:/=\"'{}^@\n"), max_size=30).map(clean)
    | st.text(max_size=20).map(clean)
)
@examples(600)
def test_markdown_shows_any_text_unchanged(text: str) -> None:
    page = _Text(MarkdownIt("gfm-like", {"linkify": False}).render(f"**0:00:01:** {escaped(text)}"))
    assert page.text.strip("\n") == f"0:00:01: {text}".rstrip(" ")
    assert page.tags == {"p", "strong"}


def test_json_has_everything_and_follows_its_schema() -> None:
    transcript = conversation()
    found = json.loads(transcript.to_json())
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(found, schema())
    assert found["version"] == 1
    assert found["started_at"] == "2026-11-30T12:00:00Z"
    assert [line["text"] for line in found["lines"]] == [line.text for line in transcript.lines]
    assert found["lines"][0] == {
        "speaker": "agent",
        "start": 1.0,
        "end": 2.0,
        "text": "Good *morning*.",
        "kind": "transcribed",
        "segments": [
            {
                "session_id": "session-a",
                "segment": 0,
                "text": "Good *morning*.",
                "start": 1.0,
                "end": 2.0,
                "words": [],
                "confidence": 0.9,
                "language": "en",
                "interrupted": False,
            }
        ],
    }
    assert found["interims"][0]["text"] == "Well"
    assert found["gaps"][0]["cause"] == "missing"
    assert [session["open"] for session in found["sessions"]] == [False, True, True]


def test_the_schema_refuses_what_is_not_a_transcript() -> None:
    found = json.loads(conversation().to_json())
    for member, wrong in (("lines", {}), ("version", 2), ("open", "yes"), ("started_at", None)):
        checked = jsonschema.Draft202012Validator(schema())
        assert list(checked.iter_errors({**found, member: wrong})), member


def test_texts_are_joined_as_their_script_is_written() -> None:
    assert join(["One", "two.", "", "Three"]) == "One two. Three"
    assert join(["你好。", "谢谢"]) == "你好。谢谢"
    assert join(["สวัสดี", "ครับ"]) == "สวัสดีครับ"
    assert join(["안녕", "하세요"]) == "안녕 하세요"
