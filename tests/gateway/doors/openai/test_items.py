"""Which messages tell the items of a realtime session."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from gateway.doors.openai.items import UNCOMMITTED_S, Items
from natterjack.events import FinalEvent, InterimEvent, StatusEvent, TurnEvent
from natterjack.values import Word

COMMON: dict[str, Any] = {
    "session_id": "s", "tenant": "t", "conversation": "c", "speaker": "p", "epoch": 1,
    "published_at": datetime(2026, 1, 1, tzinfo=UTC),
}  # fmt: skip
PREFIX = "conversation.item.input_audio_transcription"


def said(text: str, start: float, *, final: bool = False, segment: int = 0) -> Any:
    """Words of half a second each."""
    words = [
        Word(text=word, start=start + number / 2, end=start + number / 2 + 0.4)
        for number, word in enumerate(text.split())
    ]
    end = words[-1].end if words else start
    fields = {**COMMON, "segment": segment, "text": text, "words": words, "start": start}
    if final:
        return FinalEvent(**fields, end=end, sequence=segment + 1)
    return InterimEvent(**fields, end=end)


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    return [
        one["type"].removeprefix("input_audio_buffer.").removeprefix(PREFIX) for one in messages
    ]


def deltas(messages: list[dict[str, Any]]) -> str:
    return "".join(one["delta"] for one in messages if one["type"] == f"{PREFIX}.delta")


def transcripts(messages: list[dict[str, Any]]) -> list[str]:
    return [one["transcript"] for one in messages if one["type"] == f"{PREFIX}.completed"]


def test_a_turn() -> None:
    items = Items()
    first = items.receive(said("one", 1.0), 2.0)
    assert kinds(first) == ["speech_started"]
    assert first[0]["audio_start_ms"] == 1000
    assert not items.receive(said("one too", 1.0), 2.5)[1:]
    last = items.receive(said("One, two.", 1.0, final=True), 3.0)
    assert kinds(last) == [
        ".delta", "speech_stopped", "committed", "conversation.item.added",
        "conversation.item.done", ".completed",
    ]  # fmt: skip
    assert transcripts(last) == ["One, two."]
    assert last[1]["audio_end_ms"] == 1900
    assert items.quiet


def test_deltas_have_words_that_two_interims_agree_on() -> None:
    items = Items()
    told = ""
    for text in ("I", "I scream", "ice cream is", "ice cream is good", "ice cream is good today"):
        told += deltas(items.receive(said(text, 0.0), 3.0))
    assert told == "ice cream is"
    told += deltas(items.receive(said("ice cream is good today now", 0.0, final=True), 4.0))
    assert told == "ice cream is good today now"


def test_a_correction_is_in_completed_alone() -> None:
    items = Items()
    told = ""
    for text in ("a b c", "a b c d"):
        told += deltas(items.receive(said(text, 0.0), 3.0))
    assert told == "a b"
    assert not items.receive(said("x b c d e", 0.0), 3.0)
    last = items.receive(said("x b c d e", 0.0, final=True), 3.0)
    assert told + deltas(last) == "a b c d e"
    assert transcripts(last) == ["x b c d e"]


def test_a_turn_of_several_finals_is_one_item() -> None:
    items = Items()
    turn: dict[str, Any] = {**COMMON, "turn": 0}
    items.receive(TurnEvent(**turn, event="started", start=0.5, sequence=1), 1.0)
    messages = items.receive(said("one two", 0.5, final=True, segment=1), 2.0)
    messages += items.receive(said("three", 2.0, final=True, segment=2), 3.0)
    assert not transcripts(messages)
    ended = TurnEvent(**turn, event="ended", start=0.5, end=2.6, sequence=4)
    messages += items.receive(ended, 3.5)
    assert transcripts(messages) == ["one two three"]
    assert deltas(messages) == "one two three"


def test_commits_divide_words_by_their_times() -> None:
    items = Items()
    items.detects = False
    assert kinds(items.commit(1.0))[0] == "committed"
    assert kinds(items.commit(2.0))[0] == "committed"
    messages = items.receive(said("a b c d e", 0.0, final=True), 3.0)
    assert transcripts(messages) == ["a b", "c d"]
    [first, second] = [one for one in messages if one["type"] == f"{PREFIX}.completed"]
    assert first["item_id"] != second["item_id"]
    assert not items.finalized(True)
    assert not items.finalized(True)
    assert kinds(items.commit(3.0))[0] == "committed"
    assert transcripts(items.finalized(True)) == ["e"]


def test_a_commit_without_words_is_completed_when_all_is_final() -> None:
    items = Items()
    items.detects = False
    items.commit(1.0)
    assert transcripts(items.finalized(True)) == [""]


def test_a_backend_that_cannot_finalize() -> None:
    """The text of the item is that of the interim, and comes only once."""
    items = Items()
    items.detects = False
    items.receive(said("a b", 0.0), 1.0)
    items.commit(1.0)
    assert transcripts(items.finalized(False)) == ["a b"]
    items.receive(said("a b c", 0.0, final=True), 2.0)
    items.commit(2.0)
    assert transcripts(items.finalized(True)) == ["c"]


def test_cleared_audio_has_no_text() -> None:
    items = Items()
    items.detects = False
    assert kinds(items.clear(1.0)) == ["cleared"]
    assert not items.receive(said("a b", 0.0), 1.5)
    items.receive(said("a b c", 0.0, final=True), 2.0)
    committed = items.commit(2.0)
    assert committed[0]["previous_item_id"] is None
    assert transcripts(items.finalized(True)) == ["c"]


def test_without_commits_items_end_with_turns_after_a_while() -> None:
    items = Items()
    items.detects = False
    assert not transcripts(items.receive(said("a", 0.0, final=True), 1.0))
    late = UNCOMMITTED_S + 1
    messages = items.receive(said("b", late - 1, final=True, segment=1), late)
    assert transcripts(messages) == ["a b"]
    assert "speech_started" not in kinds(messages)
    messages = items.receive(said("c", late, final=True, segment=2), late + 1)
    assert transcripts(messages) == ["c"]


def test_the_end_of_the_session_completes_what_was_committed() -> None:
    items = Items()
    items.detects = False
    items.receive(said("a", 0.0, final=True), 1.0)
    items.commit(3.0)
    closing = StatusEvent(**COMMON, state="closed", worker="w", sequence=9)
    assert transcripts(items.receive(closing, 3.0)) == ["a"]


def test_items_that_get_no_text() -> None:
    items = Items()
    items.detects = False
    items.commit(3.0)
    [failed] = items.failed("no provider")
    assert failed["type"] == f"{PREFIX}.failed"
    assert failed["error"]["message"] == "no provider"


def test_languages_without_spaces() -> None:
    items = Items()
    event = said("今日 は", 0.0, final=True).model_copy(update={"language": "ja", "text": "今日は"})
    messages = items.receive(event, 1.0)
    assert deltas(messages) == "今日は"
    assert transcripts(messages) == ["今日は"]
    assert messages[-1]["languages"] == [{"code": "ja"}]
